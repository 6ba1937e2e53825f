//! How a source or a sink stands with its broker, for readiness and metrics.
//!
//! ```text
//! connector ─► Health::{ready, waiting, degraded, ails, away, reconnected, show} ─► Health::report ─► whoever watches
//!                                                                             └─► Health::flow ─► whoever counts time
//! ```
//!
//! One handle for each source and sink, shared by all that work for it. Telling the same again costs a comparison and changes
//! nothing, so it may be told on every turn. A handle outlives its source and then says what was last told.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use tokio::{sync::watch, time::Instant};

/// Characters of a reason. What comes from a broker may be long.
const WHY_CHARS_MAX: usize = 300;

/// Figures that one source or sink shows, at the most: some for each partition of a large source.
const FIGURES_MAX: usize = 4_096;

/// Whether messages flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// They do, as far as is known.
    Ready,
    /// Nothing is wrong, but it is not our turn: another process has what we wait for.
    Waiting {
        /// For what, and who has it where that is known.
        why: String,
    },
    /// The broker is there and does not do what we want of it: it is short of memory, it refuses, a queue is full.
    Degraded {
        /// What, and what a person can do.
        why: String,
    },
    /// The broker can't be reached, or does not answer.
    Away {
        /// What was last heard.
        why: String,
    },
}

impl Standing {
    /// The word for it: `ready`, `waiting`, `degraded`, `away`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Waiting { .. } => "waiting",
            Self::Degraded { .. } => "degraded",
            Self::Away { .. } => "away",
        }
    }

    /// Why it is not ready.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Ready => None,
            Self::Waiting { why } | Self::Degraded { why } | Self::Away { why } => Some(why),
        }
    }

    /// Whether messages flow.
    pub fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

/// From which of its channels a source can hand out messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// From each of them, as far as is known.
    All,
    /// From all but these, by the names of the channels, each once, in their order.
    AllBut(Arc<[String]>),
    /// From none.
    Nothing,
}

/// Whether a figure goes up and down, or only up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeasureKind {
    /// A level, as it is now.
    Gauge,
    /// A count since the source or sink was opened.
    Counter,
}

/// What a figure means. A constant of the connector that shows it: names never come from outside.
#[derive(Debug, PartialEq, Eq)]
pub struct Measure {
    /// In snake case, with its unit at the end, as OpenMetrics wants it; a counter without `_total`.
    pub name: &'static str,
    /// One sentence for people, without a full stop.
    pub help: &'static str,
    /// Level or count.
    pub kind: MeasureKind,
}

/// One value of a measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it means.
    pub measure: &'static Measure,
    /// What it is about: a topic, a partition, a broker. Few values each, and none that a message can choose.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// All that a source or sink says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Whether messages flow.
    pub standing: Standing,
    /// Since when it stands so.
    pub since: Instant,
    /// How often the connection was lost and built anew.
    pub reconnects: u64,
    /// What the connector wants to show, as last told.
    pub figures: Vec<Figure>,
}

/// The handle. Clones are one.
#[derive(Debug, Clone)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    standing: watch::Sender<Stands>,
    reconnects: AtomicU64,
    figures: Mutex<Vec<Figure>>,
}

#[derive(Debug, Clone)]
struct Stands {
    standing: Standing,
    since: Instant,
    /// The channels that ail while the others deliver; none where it stands for all of them.
    ailing: Arc<[String]>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Ready, and nothing to show.
    pub fn new() -> Self {
        let (standing, since) = (Standing::Ready, Instant::now());
        Self(Arc::new(Shared {
            standing: watch::Sender::new(Stands { standing, since, ailing: Arc::default() }),
            reconnects: AtomicU64::new(0),
            figures: Mutex::default(),
        }))
    }

    /// Messages flow.
    pub fn ready(&self) {
        self.stands(Standing::Ready, &[]);
    }

    /// It is not our turn.
    pub fn waiting(&self, why: impl Into<String>) {
        self.stands(Standing::Waiting { why: shortened(why.into()) }, &[]);
    }

    /// The broker is there and does not do what we want of it.
    pub fn degraded(&self, why: impl Into<String>) {
        self.stands(Standing::Degraded { why: shortened(why.into()) }, &[]);
    }

    /// The broker does not do what we want of it with these channels; what comes from the others flows.
    pub fn ails(&self, mut channels: Vec<String>, why: impl Into<String>) {
        channels.sort_unstable();
        channels.dedup();
        self.stands(Standing::Degraded { why: shortened(why.into()) }, &channels);
    }

    /// The broker can't be reached.
    pub fn away(&self, why: impl Into<String>) {
        self.stands(Standing::Away { why: shortened(why.into()) }, &[]);
    }

    /// A lost connection was built anew. Says nothing about whether messages flow.
    pub fn reconnected(&self) {
        self.0.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    /// Shows these figures instead of those before. Beyond [`FIGURES_MAX`] the last ones are left out.
    pub fn show(&self, mut figures: Vec<Figure>) {
        figures.truncate(FIGURES_MAX);
        *self.0.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }

    /// How it stands now.
    pub fn standing(&self) -> Standing {
        self.0.standing.borrow().standing.clone()
    }

    /// Of a source: from which of its channels messages flow.
    pub fn flow(&self) -> Flow {
        let stands = self.0.standing.borrow();
        match stands.standing {
            Standing::Ready => Flow::All,
            Standing::Degraded { .. } if !stands.ailing.is_empty() => {
                Flow::AllBut(stands.ailing.clone())
            }
            Standing::Waiting { .. } | Standing::Degraded { .. } | Standing::Away { .. } => {
                Flow::Nothing
            }
        }
    }

    /// All that was told.
    pub fn report(&self) -> Report {
        let Stands { standing, since, .. } = self.0.standing.borrow().clone();
        let figures = self.0.figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Report { standing, since, reconnects: self.0.reconnects.load(Ordering::Relaxed), figures }
    }

    /// Waits until it stands as is wanted.
    pub async fn until(&self, mut wanted: impl FnMut(&Standing) -> bool) -> Standing {
        let mut watching = self.0.standing.subscribe();
        let found = watching.wait_for(|stands| wanted(&stands.standing)).await;
        found.expect("this handle keeps the sender").standing.clone()
    }

    fn stands(&self, standing: Standing, ailing: &[String]) {
        self.0.standing.send_if_modified(|known| {
            if known.standing == standing && *known.ailing == *ailing {
                return false;
            }
            // The reason may change while the state goes on: its beginning is what people ask for.
            if known.standing.name() != standing.name() {
                known.since = Instant::now();
            }
            (known.standing, known.ailing) = (standing, ailing.into());
            true
        });
    }
}

fn shortened(mut why: String) -> String {
    if let Some((end, _)) = why.char_indices().nth(WHY_CHARS_MAX) {
        why.truncate(end);
        why.push('…');
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LAG: Measure = Measure { name: "lag_messages", help: "Lag", kind: MeasureKind::Gauge };

    #[tokio::test(start_paused = true)]
    async fn a_state_keeps_its_beginning_while_only_its_reason_changes() {
        let health = Health::new();
        tokio::time::advance(Duration::from_secs(5)).await;
        health.away("refused");
        let away = health.report();
        assert_eq!(away.standing, Standing::Away { why: "refused".into() });
        tokio::time::advance(Duration::from_secs(5)).await;
        health.away("reset");
        assert_eq!(health.report().since, away.since);
        assert_eq!(health.standing().why(), Some("reset"));
        health.ready();
        assert_eq!(health.report().since, away.since + Duration::from_secs(5));
    }

    #[tokio::test]
    async fn clones_are_one_and_a_watcher_sees_what_another_tells() {
        let health = Health::new();
        let watcher = health.clone();
        let watching = tokio::spawn(async move { watcher.until(|now| !now.is_ready()).await });
        health.reconnected();
        health.degraded("short of memory");
        let seen = watching.await.expect("no panic");
        assert_eq!((seen.name(), seen.why()), ("degraded", Some("short of memory")));
        assert_eq!(health.report().reconnects, 1);
    }

    #[test]
    fn messages_flow_from_all_channels_but_those_that_ail() {
        let health = Health::new();
        assert_eq!(health.flow(), Flow::All);
        health.ails(vec!["b".into(), "a".into(), "b".into()], "two queues do not answer");
        assert_eq!(health.standing().name(), "degraded");
        assert_eq!(health.flow(), Flow::AllBut(["a".to_owned(), "b".to_owned()].into()));
        health.ails(vec!["b".into()], "two queues do not answer");
        assert_eq!(health.flow(), Flow::AllBut(["b".to_owned()].into()), "the reason is the same");
        for of_all in [Health::degraded, Health::away, Health::waiting] {
            of_all(&health, "it refuses us");
            assert_eq!(health.flow(), Flow::Nothing);
        }
        health.ready();
        assert_eq!(health.flow(), Flow::All);
    }

    #[test]
    fn what_a_broker_says_is_cut_and_figures_have_a_bound() {
        let health = Health::new();
        health.waiting("ü".repeat(10_000));
        let why = health.standing();
        assert_eq!(why.why().map(|why| why.chars().count()), Some(WHY_CHARS_MAX + 1));
        let figure = Figure { measure: &LAG, labels: vec![("partition", "0".into())], value: 1.0 };
        health.show(vec![figure; FIGURES_MAX + 1]);
        assert_eq!(health.report().figures.len(), FIGURES_MAX);
        health.show(Vec::new());
        assert!(health.report().figures.is_empty());
    }
}
