//! Subjects that are measured in turns, A B A B …, so that whatever else the machine does meets all of them alike.
//!
//! What stands beside what is a ratio of the same turn; its median and its ends are of all turns.

use super::{
    Error,
    figures::{Measured, Spread},
};
use async_trait::async_trait;
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

/// How often, and for how long.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Turns {
    /// Rounds of each subject; medians are reported, with the smallest and the largest.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// No further round is begun after so many seconds; one is always made.
    #[arg(long, default_value_t = 300)]
    pub seconds_max: u64,
}

/// Somebody who is measured.
#[async_trait]
pub(super) trait Subject: Send {
    /// What people call it; no other subject of the same run has this name.
    fn name(&self) -> String;

    /// Measures once.
    async fn round(&mut self) -> Result<Measured, Error>;
}

/// What all subjects measured, in the order of their turns.
#[derive(Debug, Default)]
pub(super) struct Measurements(Vec<(String, Vec<Measured>)>);

/// Gives each subject its turn, again and again.
pub(super) async fn alternate(
    turns: Turns,
    subjects: &mut [Box<dyn Subject + '_>],
) -> Result<Measurements, Error> {
    let begun = Instant::now();
    let mut all: Vec<_> = subjects.iter().map(|subject| (subject.name(), Vec::new())).collect();
    for round in 0..turns.rounds.max(1) {
        if round > 0 && begun.elapsed() >= Duration::from_secs(turns.seconds_max) {
            break;
        }
        for (subject, (_, measured)) in subjects.iter_mut().zip(&mut all) {
            measured.push(subject.round().await?);
        }
    }
    Ok(Measurements(all))
}

impl Measurements {
    /// A figure of a subject, over all rounds.
    pub(super) fn spread(&self, subject: &str, figure: &str) -> Option<Spread> {
        Spread::of(&self.values(subject, figure))
    }

    /// A figure of one subject divided by the same or another one of another subject, round by round.
    pub(super) fn ratio(&self, above: (&str, &str), below: (&str, &str)) -> Option<Spread> {
        self.each_round(above, below, |above, below| above / below)
    }

    /// How much larger a figure of one subject is than one of another, round by round.
    pub(super) fn difference(&self, above: (&str, &str), below: (&str, &str)) -> Option<Spread> {
        self.each_round(above, below, |above, below| above - below)
    }

    fn each_round(
        &self,
        above: (&str, &str),
        below: (&str, &str),
        of: impl Fn(f64, f64) -> f64,
    ) -> Option<Spread> {
        let (above, below) = (self.values(above.0, above.1), self.values(below.0, below.1));
        let rounds: Vec<f64> =
            above.iter().zip(&below).map(|(above, below)| of(*above, *below)).collect();
        Spread::of(&rounds)
    }

    fn values(&self, subject: &str, figure: &str) -> Vec<f64> {
        let measured = self.0.iter().find(|(name, _)| name == subject);
        let rounds = measured.map(|(_, rounds)| rounds.iter()).into_iter().flatten();
        rounds.filter_map(|round| round.get(figure).copied()).collect()
    }

    /// Every figure of every subject: `{ subject: { figure: spread } }`.
    pub(super) fn json(&self) -> Value {
        let subjects = self.0.iter().map(|(subject, rounds)| {
            let names: std::collections::BTreeSet<&str> =
                rounds.iter().flat_map(|round| round.keys().copied()).collect();
            let figures = names.into_iter().filter_map(|name| {
                let spread = self.spread(subject, name)?;
                Some((name.to_owned(), spread.json()))
            });
            (subject.clone(), Value::Object(figures.collect::<Map<_, _>>()))
        });
        Value::Object(subjects.collect::<Map<_, _>>())
    }
}

/// Ratios by name, without those that could not be taken.
pub(super) fn named(ratios: impl IntoIterator<Item = (String, Option<Spread>)>) -> Value {
    let known = ratios.into_iter().filter_map(|(name, spread)| Some((name, spread?.json())));
    Value::Object(known.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Counting {
        name: &'static str,
        turns: Arc<Mutex<Vec<&'static str>>>,
        value: f64,
    }

    #[async_trait]
    impl Subject for Counting {
        fn name(&self) -> String {
            self.name.into()
        }

        async fn round(&mut self) -> Result<Measured, Error> {
            self.turns.lock().unwrap().push(self.name);
            self.value += 1.0;
            Ok(Measured::from([("value", self.value)]))
        }
    }

    #[tokio::test]
    async fn subjects_take_turns_and_are_compared_round_by_round() {
        let turns = Arc::new(Mutex::new(Vec::new()));
        let of = |name, value| {
            Box::new(Counting { name, turns: Arc::clone(&turns), value }) as Box<dyn Subject>
        };
        let mut subjects = [of("a", 3.0), of("b", 1.0)];
        let limits = Turns { rounds: 3, seconds_max: 60 };
        let measured = alternate(limits, &mut subjects).await.unwrap();
        assert_eq!(*turns.lock().unwrap(), ["a", "b", "a", "b", "a", "b"]);
        let ratio = measured.ratio(("a", "value"), ("b", "value")).unwrap();
        assert_eq!((ratio.min, ratio.max, ratio.rounds), (1.5, 2.0, 3));
        assert_eq!(measured.difference(("a", "value"), ("b", "value")).unwrap().median, 2.0);
        assert_eq!(measured.json()["b"]["value"]["median"], 3.0);
    }

    #[tokio::test]
    async fn one_round_is_made_though_there_is_no_time_for_it() {
        let turns = Arc::new(Mutex::new(Vec::new()));
        let subject = Counting { name: "a", turns: Arc::clone(&turns), value: 0.0 };
        let mut subjects = [Box::new(subject) as Box<dyn Subject>];
        alternate(Turns { rounds: 9, seconds_max: 0 }, &mut subjects).await.unwrap();
        assert_eq!(turns.lock().unwrap().len(), 1);
    }
}
