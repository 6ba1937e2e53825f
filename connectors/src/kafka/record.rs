//! The record of a group's owner: who has it, in the compacted topic `<group>.owner`, under the group's name.
//!
//! Written by each owner when it takes the group, with the next epoch, within a transaction that only the owner can commit.
//! Whoever finds another's record there is the owner no more.

use super::{KafkaSettings, clients::Role, context::Context, ownership};
use rdkafka::{
    Message as _, Offset, Timestamp, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant, SystemTime};

/// How long reading the record may take before it is tried again.
const READ_WAIT_MAX: Duration = Duration::from_secs(10);

/// What an owner writes. Fields that a later release adds are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// For people: which process, where.
    pub(super) owner: String,
    /// The name of its membership, as the brokers show it.
    pub(super) client: String,
    /// One more than the owner before it.
    pub(super) epoch: u64,
}

impl Record {
    /// Whether this owner came after that one. The last record that can be read may be of an owner before: brokers say that a
    /// transaction is committed before everybody can read what it wrote.
    pub(super) fn takes_over_from(&self, other: &Self) -> bool {
        self.epoch > other.epoch || self.epoch == other.epoch && self != other
    }
}

/// A record as it lies in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) record: Record,
    /// When it was written, by the clock of whoever wrote it.
    since: Option<SystemTime>,
}

impl Found {
    /// For people: who, and since when.
    pub(super) fn named(&self) -> String {
        let owner = &self.record.owner;
        match self.since {
            Some(since) => format!("{owner}, since {}", httpdate::fmt_http_date(since)),
            None => owner.clone(),
        }
    }
}

/// Reads records of a group's owner. Kept, because a new client needs half a second before its first answer.
pub(super) struct Records {
    consumer: BaseConsumer<Context>,
    group: String,
    topic: String,
}

impl Records {
    pub(super) fn of(settings: &KafkaSettings, group: &str) -> Result<Self, KafkaError> {
        let consumer = settings.record().create_with_context(Context::new(Role::Record))?;
        Ok(Self { consumer, group: group.to_owned(), topic: ownership::topic(group) })
    }

    /// The last committed record of the group, if there is one. Blocks.
    pub(super) fn last(&self) -> Result<Option<Found>, KafkaError> {
        let (low, _) = self.consumer.fetch_watermarks(&self.topic, 0, READ_WAIT_MAX)?;
        let mut whole = TopicPartitionList::new();
        whole.add_partition_offset(&self.topic, 0, Offset::Offset(low))?;
        self.consumer.assign(&whole)?;
        let last = self.to_the_end();
        self.consumer.unassign()?;
        last
    }

    fn to_the_end(&self) -> Result<Option<Found>, KafkaError> {
        let deadline = Instant::now() + READ_WAIT_MAX;
        let mut last = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.consumer.poll(left) {
                Some(Ok(message)) => {
                    // What is no record of ours, or of another group, says nothing.
                    if message.key() == Some(self.group.as_bytes())
                        && let Some(record) =
                            message.payload().and_then(|value| serde_json::from_slice(value).ok())
                    {
                        last = Some(Found { record, since: since(message.timestamp()) });
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
                Some(Err(error)) if super::topics::permanent(&error) => return Err(error),
                // Passing trouble, or an event that is no message.
                Some(Err(_)) | None => {}
            }
            if left.is_zero() {
                return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
            }
        }
    }
}

fn since(timestamp: Timestamp) -> Option<SystemTime> {
    let millis = u64::try_from(timestamp.to_millis()?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_takes_over_from_those_before_and_never_from_one_whose_record_can_not_be_read_yet() {
        let record =
            |client: &str, epoch| Record { owner: "o".into(), client: client.into(), epoch };
        let mine = record("mine", 7);
        assert!(record("next", 8).takes_over_from(&mine));
        assert!(record("other", 7).takes_over_from(&mine));
        assert!(!mine.takes_over_from(&mine));
        assert!(!record("killed", 6).takes_over_from(&mine));
    }

    #[test]
    fn a_record_says_who_and_since_when_and_can_be_read_later() {
        // As it was written by the first release.
        let kept =
            br#"{"owner":"process 42 on shop-1","client":"dirigent-owner-shop-1-42-3","epoch":7}"#;
        let record: Record = serde_json::from_slice(kept).expect("a record");
        assert_eq!(serde_json::to_vec(&record).expect("written"), kept);
        let found = Found { record, since: since(Timestamp::CreateTime(784_111_777_000)) };
        assert_eq!(found.named(), "process 42 on shop-1, since Sun, 06 Nov 1994 08:49:37 GMT");
        let later = br#"{"owner":"o","client":"c","epoch":8,"more":true}"#;
        assert_eq!(serde_json::from_slice::<Record>(later).expect("a record").epoch, 8);
    }
}
