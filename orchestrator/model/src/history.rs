//! What happened to an instance, line by line: each input with its cause, what was decided and what was sent.
//!
//! Lines are kept encoded, so that a turn appends a few bytes instead of writing the whole story again. The number of
//! bytes kept is bounded; the oldest lines go first, and how many went is known.

use crate::{definition::NodeId, instance::Leg, time::Timestamp};
use serde::{Deserialize, Serialize};

/// Bytes of history kept per instance: some hundred inputs. The oldest half goes when it is reached.
pub const HISTORY_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a line that room is made for at once: enough for nearly all.
const LINE_BYTES: usize = 96;

/// One input and its decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When it was decided.
    pub at: Timestamp,
    /// What came in.
    pub what: What,
    /// Where, if at one node.
    pub node: Option<NodeId>,
    /// The id of the message that brought it, where there was one.
    pub cause: Option<String>,
    /// What was decided.
    pub verdict: Verdict,
    /// Commands sent: node, leg, attempt.
    pub sent: Vec<(NodeId, Leg, u32)>,
    /// For people: the refusal's name, the operator and the reason.
    pub note: Option<String>,
}

/// Kinds of inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The start event.
    Started,
    /// A step, or a compensation, was done.
    Succeeded,
    /// A step was refused.
    Rejected,
    /// Technical trouble.
    Failed,
    /// An event.
    Event,
    /// A time limit was reached.
    TimedOut,
    /// A delay was over.
    Woke,
    /// A command could not be handed to the broker.
    Unsent,
    /// Cancelled.
    Cancelled,
    /// An operator's word.
    Operator,
    /// A participant was asked, and a step was not done; it refuses it from now on.
    NotDone,
    /// A participant was asked, and does not know either.
    Unknown,
    /// A command is held by its destination.
    Held,
    /// The event of a wait could not have been heard for a part of its time.
    Unheard,
}

/// What was decided about an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It changed the instance.
    Applied,
    /// It is kept for a wait that is not open yet.
    Deferred,
    /// It had been applied before.
    Duplicate,
    /// It no longer matters.
    Ignored(Why),
}

/// Why an input did not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The instance has ended.
    HasEnded,
    /// The step was never asked.
    NotAsked,
    /// The step was settled in another way: in doubt, without effect, or undone.
    AlreadySettled,
    /// It answers an earlier attempt than the one under way.
    EarlierAttempt,
    /// Its idempotency key is not that of the step.
    OtherKey,
    /// No wait needs the event any more.
    NotAwaited,
    /// Too many events are kept already.
    TooManyEarly,
    /// The pivot has been asked for or is done: the saga does not turn back.
    PastPivot,
    /// The saga turns back already.
    TurningBackAlready,
    /// Nothing is due.
    NothingDue,
    /// There is no such incident.
    NoIncident,
}

impl Why {
    /// A stable name for metrics and reasons.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HasEnded => "has-ended",
            Self::NotAsked => "not-asked",
            Self::AlreadySettled => "already-settled",
            Self::EarlierAttempt => "earlier-attempt",
            Self::OtherKey => "other-key",
            Self::NotAwaited => "not-awaited",
            Self::TooManyEarly => "too-many-early",
            Self::PastPivot => "past-pivot",
            Self::TurningBackAlready => "turning-back-already",
            Self::NothingDue => "nothing-due",
            Self::NoIncident => "no-incident",
        }
    }
}

/// Encoded lines, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    forgotten: u32,
    #[serde(with = "serde_bytes_vec")]
    lines: Vec<u8>,
}

impl History {
    /// Appends a line and returns its encoded form, to be handed to [`History::append_encoded`] of a copy elsewhere.
    pub fn append(&mut self, line: &Line) -> Vec<u8> {
        let room = Vec::with_capacity(LINE_BYTES);
        let encoded = postcard::to_extend(line, room)
            .expect("a line holds nothing that postcard can't write");
        self.append_encoded(&encoded);
        encoded
    }

    /// Appends a line that was encoded before.
    pub fn append_encoded(&mut self, encoded: &[u8]) {
        if self.lines.len() + encoded.len() + 4 > HISTORY_BYTES_MAX {
            self.forget_half();
        }
        let length = u32::try_from(encoded.len()).expect("a line is shorter than the bound");
        self.lines.extend_from_slice(&length.to_le_bytes());
        self.lines.extend_from_slice(encoded);
    }

    fn forget_half(&mut self) {
        let mut from = 0;
        while from < self.lines.len() / 2 {
            let Some((_, next)) = self.line_at(from) else { break };
            from = next;
            self.forgotten = self.forgotten.saturating_add(1);
        }
        self.lines.drain(..from);
    }

    fn line_at(&self, at: usize) -> Option<(&[u8], usize)> {
        let length = self.lines.get(at..at + 4)?;
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        let end = at + 4 + length;
        Some((self.lines.get(at + 4..end)?, end))
    }

    /// How many of the oldest lines are gone.
    pub fn forgotten(&self) -> u32 {
        self.forgotten
    }

    /// The lines that can be read, oldest first.
    pub fn lines(&self) -> Vec<Line> {
        let (mut at, mut lines) = (0, Vec::new());
        while let Some((encoded, next)) = self.line_at(at) {
            lines.extend(postcard::from_bytes::<Line>(encoded).ok());
            at = next;
        }
        lines
    }

    /// The latest line, where it can be read.
    pub fn last(&self) -> Option<Line> {
        let (mut at, mut last) = (0, None);
        while let Some((encoded, next)) = self.line_at(at) {
            (at, last) = (next, Some(encoded));
        }
        last.and_then(|encoded| postcard::from_bytes(encoded).ok())
    }

    /// How many of the lines that are kept can't be read, with what is left behind the last one.
    pub fn unreadable(&self) -> usize {
        let (mut at, mut unreadable) = (0, 0);
        while let Some((encoded, next)) = self.line_at(at) {
            unreadable += usize::from(postcard::from_bytes::<Line>(encoded).is_err());
            at = next;
        }
        unreadable + usize::from(at < self.lines.len())
    }

    /// Bytes of the lines that are kept; at the most [`HISTORY_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        self.lines.len()
    }

    /// Whether [`decode`](Self::decode) reads all of it.
    pub fn is_whole(bytes: &[u8]) -> bool {
        postcard::from_bytes::<Self>(bytes).is_ok()
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a history holds nothing that postcard can't write")
    }

    /// From the stored form; a history that can't be read is empty, since no decision rests on it.
    pub fn decode(bytes: &[u8]) -> Self {
        postcard::from_bytes(bytes).unwrap_or_default()
    }
}

mod serde_bytes_vec {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        <&[u8]>::deserialize(from).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: u64) -> Line {
        let note = Some("n".repeat(40));
        let verdict = Verdict::Applied;
        Line {
            at: Timestamp(at),
            what: What::Event,
            node: None,
            cause: None,
            verdict,
            sent: Vec::new(),
            note,
        }
    }

    #[test]
    fn a_copy_fed_with_encoded_lines_stays_equal() {
        let (mut one, mut copy) = (History::default(), History::default());
        for at in 0..1_000 {
            let encoded = one.append(&line(at));
            copy.append_encoded(&encoded);
        }
        assert_eq!(one, copy);
        assert_eq!(History::decode(&one.encode()), one);
    }

    #[test]
    fn the_oldest_lines_go_first_and_are_counted() {
        let mut history = History::default();
        (0..1_000).for_each(|at| drop(history.append(&line(at))));
        let lines = history.lines();
        assert_eq!(lines.last().map(|line| line.at.0), Some(999));
        assert_eq!(history.last(), lines.last().cloned());
        assert_eq!(lines[0].at.0, u64::from(history.forgotten()));
        assert!(history.encode().len() <= HISTORY_BYTES_MAX + 16);
        assert!(history.bytes() <= HISTORY_BYTES_MAX && history.bytes() > HISTORY_BYTES_MAX / 3);
    }

    #[test]
    fn lines_that_can_not_be_read_are_counted_and_what_is_cut_off_is_not_whole() {
        let mut history = History::default();
        history.append(&line(1));
        assert_eq!(history.unreadable(), 0);
        history.append_encoded(&[0xff]);
        history.append(&line(2));
        assert_eq!((history.unreadable(), history.lines().len()), (1, 2));
        // A length without its line.
        history.lines.extend_from_slice(&[9, 0]);
        assert_eq!(history.unreadable(), 2);
        let encoded = history.encode();
        assert!(History::is_whole(&encoded));
        assert!(!History::is_whole(&encoded[..encoded.len() - 1]));
    }
}
