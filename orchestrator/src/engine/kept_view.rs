//! Kept messages as people see them, whether an engine runs on them or they lie at rest.

use super::kept::{Kept, Kind, Standing};
use dirigent_connectors::names;
use dirigent_model::{instance::InstanceId, time::Timestamp};
use serde::{Deserialize, Serialize};

/// Which kept messages to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptFilter {
    /// Those that are quarantined, or those that are parked.
    pub quarantined: bool,
    /// Only for this saga.
    pub saga: Option<String>,
    /// Only for this business key.
    pub key: Option<String>,
    /// Only with this reason.
    pub reason: Option<String>,
    /// At the most this many; 0 for all of them.
    pub limit: usize,
}

/// A kept message as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptView {
    /// Names it; in the order of arrival.
    pub number: u64,
    /// `parked` or `quarantined`.
    pub standing: String,
    /// Why: a stable code.
    pub reason: String,
    /// Why, for people.
    pub text: String,
    /// Whether what comes behind it for its instance waits, and its timers rest.
    pub blocks: bool,
    /// When it is quarantined for want of an instance, at the earliest: time in which the start of its saga could not have been heard
    /// does not count.
    pub until: Option<Timestamp>,
    /// The instance it is for.
    pub instance: InstanceId,
    /// Its saga, where known.
    pub saga: String,
    /// Its business key, where known.
    pub key: String,
    /// `start`, `event` or `reply`.
    pub kind: String,
    /// The message's type.
    pub name: String,
    /// The message's id.
    pub id: Option<String>,
    /// When it came.
    pub since: Timestamp,
    /// The channel it came from.
    pub channel: String,
    /// The partition.
    pub partition: u32,
    /// The offset; what that is without a log depends on the broker.
    pub offset: u64,
    /// Its bytes, headers included.
    pub bytes: usize,
    /// The whole message; not in a list.
    pub message: Option<MessageView>,
}

/// A message as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MessageView {
    /// The key it was sent with.
    pub key: String,
    /// The attributes, in their order.
    pub attributes: Vec<(String, String)>,
    /// Other headers; what is no text is escaped.
    pub headers: Vec<(String, String)>,
    /// The body; what is no text is escaped.
    pub body: String,
    /// Whether the body is text, and stands there as it came.
    pub is_text: bool,
}

impl KeptFilter {
    pub(super) fn matches(&self, kept: &Kept) -> bool {
        let reason = match &kept.standing {
            Standing::Quarantined { reason, .. } if self.quarantined => reason.as_str(),
            Standing::Orphan { .. } if !self.quarantined => ORPHAN,
            Standing::Behind if !self.quarantined => BEHIND,
            Standing::Quarantined { .. } | Standing::Orphan { .. } | Standing::Behind => {
                return false;
            }
        };
        self.saga.as_ref().is_none_or(|saga| *saga == kept.saga)
            && self.key.as_ref().is_none_or(|key| *key == kept.key)
            && self.reason.as_ref().is_none_or(|wanted| wanted == reason)
    }
}

const ORPHAN: &str = "no-instance-yet";
const BEHIND: &str = "behind-quarantined";

/// A kept message without its bytes.
pub(super) fn view(kept: &Kept) -> KeptView {
    let (standing, reason, text, blocks, until) = match &kept.standing {
        Standing::Orphan { until } => (
            "parked",
            ORPHAN.to_owned(),
            "its instance is not there yet".into(),
            false,
            Some(*until),
        ),
        Standing::Behind => {
            let text = "an earlier message of its instance is quarantined";
            ("parked", BEHIND.to_owned(), text.into(), false, None)
        }
        Standing::Quarantined { reason, text, blocks } => {
            ("quarantined", reason.clone(), text.clone(), *blocks, None)
        }
    };
    KeptView {
        number: kept.number,
        standing: standing.into(),
        reason,
        text,
        blocks,
        until,
        instance: kept.instance,
        saga: kept.saga.clone(),
        key: kept.key.clone(),
        kind: match kept.kind {
            Kind::Start => "start",
            Kind::Event => "event",
            Kind::Reply => "reply",
        }
        .into(),
        name: kept.message.attributes.get(names::TYPE).unwrap_or_default().to_owned(),
        id: kept.cause(),
        since: kept.since,
        channel: kept.message.channel.clone(),
        partition: kept.partition,
        offset: kept.offset,
        bytes: kept.bytes(),
        message: None,
    }
}

/// A kept message with its bytes.
pub(super) fn view_whole(kept: &Kept) -> KeptView {
    let message = &kept.message;
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    };
    let attributes = message.attributes.iter().map(|(name, value)| (name.into(), value.into()));
    let headers = message.others.iter().map(|(name, value)| (name.clone(), text(value)));
    let shown = MessageView {
        key: message.key.clone(),
        attributes: attributes.collect(),
        headers: headers.collect(),
        body: text(&message.body),
        is_text: std::str::from_utf8(&message.body).is_ok(),
    };
    KeptView { message: Some(shown), ..view(kept) }
}
