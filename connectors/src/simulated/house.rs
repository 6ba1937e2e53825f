//! What both kinds of simulated broker have in common: who is connected, what is amiss by command or by dice, and what is told.
//!
//! Plain data under one lock. Nothing here waits: what is over in time is tidied up by whoever comes next ([`House::advance`]), and
//! every reader that waits wakes up for it.

use super::{
    Life, SimEvent, SimKind, SimSettings, What,
    events::{Place, Unsettled},
    faults::injected,
};
use crate::{
    ChannelKind, ConnectorError, Health, Message, Sent, UnsentReason,
    random::{Random, mixed},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::Notify, time::Instant};

/// What people call this connector in errors.
pub(super) const NAME: &str = "simulated";

/// The shortest time for which anything is away, so that time goes on.
pub(super) const TROUBLE_MIN: Duration = Duration::from_millis(1);

/// As good as for ever.
pub(super) const EVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// Number of a source or sink.
pub(super) type ConnId = u64;

/// An open source or sink.
pub(super) struct Conn {
    pub(super) life: Arc<Life>,
    pub(super) health: Health,
    /// Told when there may be something to read.
    pub(super) wake: Arc<Notify>,
    /// Of a source: the channels it reads.
    pub(super) reads: Vec<Arc<str>>,
    pub(super) broken_until: Option<Instant>,
    /// How often it broke: whoever waits for an answer since before hears none.
    pub(super) breaks: u64,
    /// Who has its group or queues instead.
    pub(super) lost_to: Option<String>,
    /// The beginning of the last freeze that was looked at.
    pub(super) freeze_seen: Option<Instant>,
}

/// What is amiss with a channel by command, and until when.
#[derive(Debug, Default)]
struct Rule {
    silent: Option<Instant>,
    unroutable: Option<Instant>,
    refused: Option<(String, Instant)>,
    slow: Option<(Duration, Instant)>,
}

pub(super) struct House {
    pub(super) settings: SimSettings,
    pub(super) random: Random,
    pub(super) conns: BTreeMap<ConnId, Conn>,
    conn_next: ConnId,
    begun: Instant,
    away: Option<Instant>,
    rules: BTreeMap<String, Rule>,
    /// When the next of all that is over in time is over.
    due: Option<Instant>,
    injected: BTreeMap<&'static str, u64>,
    /// Whether anybody wants to be told.
    pub(super) watched: bool,
    pub(super) told: Vec<SimEvent>,
}

impl House {
    pub(super) fn new(settings: SimSettings) -> Self {
        Self {
            random: Random::new(settings.seed),
            settings,
            conns: BTreeMap::new(),
            conn_next: 1,
            begun: Instant::now(),
            away: None,
            rules: BTreeMap::new(),
            due: None,
            injected: BTreeMap::new(),
            watched: false,
            told: Vec::new(),
        }
    }

    // What is told.

    pub(super) fn since_begun(&self, now: Instant) -> Duration {
        now.duration_since(self.begun)
    }

    /// Tells whoever watches. `what` is only made where somebody does.
    pub(super) fn tell(&mut self, now: Instant, life: u32, what: impl FnOnce() -> What) {
        if self.watched {
            self.told.push(SimEvent { at: self.since_begun(now), life, what: what() });
        }
    }

    pub(super) fn inject(&mut self, now: Instant, life: u32, fault: &'static str) {
        *self.injected.entry(fault).or_default() += 1;
        self.tell(now, life, || What::Injected { fault });
    }

    pub(super) fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.injected.clone()
    }

    /// Rolls the dice for a fault, and counts it.
    pub(super) fn strikes(
        &mut self,
        now: Instant,
        life: u32,
        rate: u16,
        fault: &'static str,
    ) -> bool {
        let strikes = self.random.chance(rate);
        if strikes {
            self.inject(now, life, fault);
        }
        strikes
    }

    // Time.

    /// How long one way of an operation takes.
    pub(super) fn takes(&mut self, now: Instant, life: u32) -> Duration {
        let usual = self.random.between(&self.settings.latency);
        if self.strikes(now, life, self.settings.faults.slow, injected::SLOW) {
            return usual + self.random.between(&self.settings.faults.slow_by);
        }
        usual
    }

    /// A time drawn for a trouble.
    pub(super) fn trouble(
        &mut self,
        range: impl Fn(&SimSettings) -> &std::ops::Range<Duration>,
    ) -> Duration {
        self.random.between(range(&self.settings)).max(TROUBLE_MIN)
    }

    /// When the next of what is over in time is over.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Ends what is over. Cheap where nothing is.
    pub(super) fn advance(&mut self, now: Instant) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.away = self.away.filter(|until| *until > now);
        for rule in self.rules.values_mut() {
            rule.silent = rule.silent.filter(|until| *until > now);
            rule.unroutable = rule.unroutable.filter(|until| *until > now);
            rule.slow = rule.slow.filter(|(_, until)| *until > now);
            rule.refused = rule.refused.take().filter(|(_, until)| *until > now);
        }
        self.rules.retain(|_, rule| rule.ends().is_some());
        for conn in self.conns.values_mut() {
            if conn.broken_until.is_some_and(|until| until <= now) {
                conn.broken_until = None;
                conn.health.reconnected();
            }
        }
        self.changed();
    }

    /// Something began or ended: tells all who are connected how they stand, and wakes them up.
    pub(super) fn changed(&mut self) {
        let broken = self.conns.values().filter_map(|conn| conn.broken_until);
        let rules = self.rules.values().filter_map(Rule::ends);
        self.due = self.away.into_iter().chain(broken).chain(rules).min();
        for conn in self.conns.values() {
            self.stands(conn);
            conn.wake.notify_one();
        }
    }

    fn stands(&self, conn: &Conn) {
        let name = &self.settings.name;
        let health = &conn.health;
        let rule = |of: fn(&Rule) -> bool| {
            conn.reads.iter().find(|channel| self.rules.get(&***channel).is_some_and(of))
        };
        if let Some(owner) = &conn.lost_to {
            health.degraded(format!("another process owns the group: {owner}"));
        } else if self.away.is_some() {
            health.away(format!("{name} is away"));
        } else if conn.broken_until.is_some() {
            health.away(format!("the connection to {name} was lost"));
        } else if let Some(channel) = rule(|rule| rule.refused.is_some()) {
            health.degraded(format!("{name} refuses to let {channel} be read"));
        } else if let Some(first) = rule(|rule| rule.silent.is_some()) {
            let silent = conn.reads.iter().filter(|channel| self.is_silent(channel));
            let silent = silent.map(|channel| channel.to_string()).collect();
            health.ails(silent, format!("{first} does not answer, though {name} does"));
        } else {
            health.ready();
        }
    }

    // Who is connected.

    pub(super) fn connect(&mut self, life: &Arc<Life>, reads: Vec<Arc<str>>) -> ConnId {
        let id = self.conn_next;
        self.conn_next += 1;
        let conn = Conn {
            life: Arc::clone(life),
            health: Health::new(),
            wake: Arc::default(),
            reads,
            broken_until: None,
            breaks: 0,
            lost_to: None,
            freeze_seen: life.last_freeze().map(|freeze| freeze.since),
        };
        self.stands(&conn);
        self.conns.insert(id, conn);
        id
    }

    /// Whether somebody is connected still. A process may die between two turns of one call, killed by a watcher: what follows has no effect.
    pub(super) fn has(&self, id: ConnId) -> bool {
        self.conns.contains_key(&id)
    }

    /// Of somebody who [is connected](Self::has).
    pub(super) fn conn(&self, id: ConnId) -> &Conn {
        self.conns.get(&id).expect("looked at when the turn began")
    }

    /// Of somebody who [is connected](Self::has).
    pub(super) fn conn_mut(&mut self, id: ConnId) -> &mut Conn {
        self.conns.get_mut(&id).expect("looked at when the turn began")
    }

    /// The number of the life of somebody who is connected.
    pub(super) fn life(&self, id: ConnId) -> u32 {
        self.conns.get(&id).map_or(0, |conn| conn.life.number())
    }

    /// Until when somebody can't reach the broker.
    pub(super) fn unreachable_until(&self, id: ConnId) -> Option<Instant> {
        self.away.max(self.conns.get(&id).and_then(|conn| conn.broken_until))
    }

    pub(super) fn away_until(&self) -> Option<Instant> {
        self.away
    }

    /// The connection breaks, and stands again after a while.
    pub(super) fn break_for(&mut self, id: ConnId, now: Instant, duration: Duration) {
        let conn = self.conn_mut(id);
        conn.breaks += 1;
        let until = now + duration.max(TROUBLE_MIN);
        conn.broken_until = conn.broken_until.max(Some(until));
        self.changed();
    }

    /// Somebody else has its group or queues.
    pub(super) fn lost(&mut self, id: ConnId, owner: String) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.breaks += 1;
            conn.lost_to.get_or_insert(owner);
            self.changed();
        }
    }

    // By command.

    pub(super) fn goes_away(&mut self, now: Instant, duration: Duration) {
        let until = now + duration.max(TROUBLE_MIN);
        self.away = self.away.max(Some(until));
        for conn in self.conns.values_mut() {
            conn.breaks += 1;
        }
        self.changed();
    }

    pub(super) fn silence(&mut self, channel: &str, until: Instant) {
        self.rule(channel).silent = Some(until);
        self.changed();
    }

    pub(super) fn unroute(&mut self, channel: &str, until: Instant) {
        self.rule(channel).unroutable = Some(until);
        self.changed();
    }

    pub(super) fn slow_down(&mut self, channel: &str, by: Duration, until: Instant) {
        self.rule(channel).slow = Some((by, until));
        self.changed();
    }

    pub(super) fn refuse(&mut self, channel: &str, text: String, until: Instant) {
        self.rule(channel).refused = Some((text, until));
        self.changed();
    }

    fn rule(&mut self, channel: &str) -> &mut Rule {
        if !self.rules.contains_key(channel) {
            self.rules.insert(channel.to_owned(), Rule::default());
        }
        self.rules.get_mut(channel).expect("inserted where it was missing")
    }

    pub(super) fn is_silent(&self, channel: &str) -> bool {
        !self.rules.is_empty() && self.rules.get(channel).is_some_and(|rule| rule.silent.is_some())
    }

    /// How much longer a window takes for where it goes.
    pub(super) fn slowness(&self, window: &[Arc<Message>]) -> Duration {
        if self.rules.is_empty() {
            return Duration::ZERO;
        }
        let of = |message: &Arc<Message>| Some(self.rules.get(&message.channel)?.slow.as_ref()?.0);
        window.iter().filter_map(of).max().unwrap_or_default()
    }

    /// The refusal of a source that would read one of these, by command.
    pub(super) fn refusal<'a>(
        &self,
        mut channels: impl Iterator<Item = &'a str>,
    ) -> Option<ConnectorError> {
        if self.rules.is_empty() {
            return None;
        }
        let of = |channel: &'a str| Some((channel, self.rules.get(channel)?.refused.as_ref()?));
        let (channel, (text, _)) = channels.find_map(of)?;
        Some(refused(format!("reading {channel}"), text.clone()))
    }

    /// What can be said of a message before it is stored: it is too large, or nobody takes it.
    pub(super) fn unfit(&mut self, now: Instant, life: u32, message: &Message) -> Option<Sent> {
        let (bytes, bytes_max) = (message.body.len(), self.settings.message_bytes_max);
        if bytes > bytes_max {
            let text = format!("{bytes} bytes; {} takes at most {bytes_max}", self.settings.name);
            return Some(Sent::Unsent { reason: UnsentReason::TooLarge, text });
        }
        let rate = u64::from(self.settings.faults.too_large);
        if rate > 0 && fingerprint(self.settings.seed, message) % 1_000 < rate {
            self.inject(now, life, injected::TOO_LARGE);
            let text = format!("{} takes no message of {bytes} bytes here", self.settings.name);
            return Some(Sent::Unsent { reason: UnsentReason::TooLarge, text });
        }
        let is_unroutable =
            self.rules.get(&message.channel).is_some_and(|rule| rule.unroutable.is_some());
        if is_unroutable {
            self.inject(now, life, injected::UNROUTABLE);
            // A log that events go to may be made at any time.
            if self.settings.kind == SimKind::Log && message.kind == ChannelKind::Events {
                let text = format!("{} has no channel {} yet", self.settings.name, message.channel);
                return Some(Sent::Unknown { text });
            }
            return Some(self.unroutable(message));
        }
        None
    }

    /// Nobody could ever take it.
    pub(super) fn unroutable(&self, message: &Message) -> Sent {
        let text = format!("{} has no channel {}", self.settings.name, message.channel);
        Sent::Unsent { reason: UnsentReason::Unroutable, text }
    }
}

impl Rule {
    /// When the first of it is over; nothing where all is.
    fn ends(&self) -> Option<Instant> {
        let refused = self.refused.as_ref().map(|(_, until)| *until);
        let slow = self.slow.map(|(_, until)| until);
        [self.silent, self.unroutable, refused, slow].into_iter().flatten().min()
    }
}

/// A delivery that is out.
pub(super) fn unsettled(group: &Arc<str>, life: u32, place: Place) -> Unsettled {
    Unsettled { group: Arc::clone(group), life, place }
}

pub(super) fn refused(doing: String, text: String) -> ConnectorError {
    ConnectorError::Refused { connector: NAME, doing, text }
}

/// The same for the same message, however often it is sent; another once it was made smaller.
fn fingerprint(seed: u64, message: &Message) -> u64 {
    let attributes = message.attributes.iter().flat_map(|(name, value)| [name, value]);
    let texts = attributes.chain([message.key.as_str(), message.channel.as_str()]);
    let of_texts = texts.fold(seed, |sum, text| mixed(sum ^ hash(text.as_bytes())));
    mixed(of_texts ^ message.body.len() as u64)
}

/// FNV-1a, mixed: the same on every machine and in every release.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    mixed(fnv)
}
