//! The thread that reads: it owns the consumers, and nothing else touches them.
//!
//! ```text
//! own the group, take its fence ─► compare positions with the log ─► assign by hand ─► poll, as long as there is room ─► Inbox
//! ```
//!
//! While there is no room it does not poll for messages: librdkafka's own queue fills up to its bound, and fetching stops there.
//! The group is served all the time.

use super::{
    KafkaSettings, NAME, PositionsFrom,
    clients::Role,
    context::Context,
    envelope,
    fence::{Fence, Fences, Holding},
    inbox::{Inbox, Incoming, PartitionId},
    ownership::{Held, Ownership},
    positions::{self, Log, Start},
    topics,
    troubles::Troubles,
};
use crate::{ChannelSpec, ConnectorError, SourceSpec, health::Standing};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long one poll waits. A source that is dropped leaves its group within this time.
const POLL_WAIT_MAX: Duration = Duration::from_millis(50);

/// Messages handed over at once at the most, so that the async side begins before a large fetch is decoded.
const BATCH_MAX: usize = 512;

/// Bytes handed over at once at the most: by so much, and one message, may the bound of the inbox be exceeded.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How often the offsets for lag displays are committed.
const COMMIT_EVERY: Duration = Duration::from_secs(2);

/// How often is looked whether a topic has more partitions than are read.
const PARTITIONS_EVERY: Duration = Duration::from_secs(5);

/// How long a topic is not found before it counts as gone: a broker that has just begun knows of none for a moment.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// How often the record of the owner is read while the group is in doubt.
const RECORD_EVERY: Duration = Duration::from_secs(1);

/// How often is looked whether logs still reach to where they are read: one made anew begins at nought, and a fetch beyond its
/// end waits for it to grow.
const ENDS_EVERY: Duration = Duration::from_secs(2);

/// How long looking at topics while they are read may take each: the group is served in between.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(1);

/// Places that an error names where any of them may be the one.
const PLACES_MAX: usize = 8;

/// How long one question for offsets may take.
const OFFSETS_WAIT_MAX: Duration = Duration::from_secs(5);

pub(super) struct Reader {
    settings: Arc<KafkaSettings>,
    group: String,
    channels: Vec<ChannelSpec>,
    inbox: Arc<Inbox>,
    partitions: BTreeMap<usize, u32>,
    /// Which partition's end is looked at next.
    turn: u32,
    committed: BTreeMap<PartitionId, u64>,
    /// The group was ours, and may be another's by now.
    suspended: bool,
    record_due: Instant,
    troubles: Troubles,
    /// Topics that were not found when they were looked for, since when.
    missing: BTreeMap<usize, Instant>,
    holding: Holding,
    // Dropped in this order: reading ends before the group is left.
    consumer: BaseConsumer<Context>,
    ownership: Ownership,
}

impl Reader {
    /// `None` when the source was closed before it was open.
    pub(super) fn open(
        settings: Arc<KafkaSettings>,
        spec: SourceSpec,
        inbox: Arc<Inbox>,
        fences: &Fences,
    ) -> Result<Option<Self>, ConnectorError> {
        let doing = || format!("opening group {}", spec.group);
        let mut ownership = Ownership::join(settings.clone(), &spec.group)?;
        let mut deadline = Instant::now() + settings.open_wait_max;
        loop {
            if inbox.closed() {
                return Ok(None);
            }
            match ownership.serve(POLL_WAIT_MAX)? {
                Held::Ours => break,
                // The ownership has its own time limit for this.
                Held::Elsewhere => deadline = Instant::now() + settings.open_wait_max,
                Held::Unknown if Instant::now() > deadline => {
                    return Err(settings.unreachable(doing(), None));
                }
                Held::Unknown => {}
            }
        }
        let fence = Fence::take(settings.clone(), &spec.group, ownership.client_id())?;
        let holding = Arc::new(fence).enter(fences);
        let consumer = settings
            .reader(&spec.group)
            .create_with_context(Context::of(Role::Reader, inbox.health()))
            .map_err(|error| settings.refused(doing(), &error))?;
        let mut reader = Self {
            settings,
            group: spec.group,
            channels: spec.channels,
            inbox,
            partitions: BTreeMap::new(),
            turn: 0,
            committed: BTreeMap::new(),
            suspended: false,
            record_due: Instant::now(),
            troubles: Troubles::default(),
            missing: BTreeMap::new(),
            holding,
            consumer,
            ownership,
        };
        let mut assignment = TopicPartitionList::new();
        for index in 0..reader.channels.len() {
            for (partition, start) in reader.starts(index, &spec.positions)? {
                reader.inbox.begin((index, partition), start);
                let offset = match start {
                    Start::Beginning => Offset::Beginning,
                    Start::At(next) => Offset::Offset(signed(next)),
                };
                let topic = &reader.channels[index].name;
                let added = assignment.add_partition_offset(topic, partition as i32, offset);
                added.map_err(|error| reader.refused(&error))?;
            }
        }
        reader.consumer.assign(&assignment).map_err(|error| reader.refused(&error))?;
        Ok(Some(reader))
    }

    /// Where each partition of one topic begins. Refuses a position the log does not have.
    fn starts(
        &mut self,
        index: usize,
        positions: &[crate::Position],
    ) -> Result<Vec<(u32, Start)>, ConnectorError> {
        let topic = self.channels[index].name.clone();
        let of_topic: Vec<_> =
            positions.iter().filter(|position| position.channel == topic).collect();
        let count = self.asked(&format!("asking for topic {topic}"), |consumer| {
            topics::partitions(consumer, &topic, OFFSETS_WAIT_MAX)?
                .ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition))
        })?;
        if let Some(gone) = of_topic.iter().find(|position| position.partition >= count) {
            let text = format!(
                "partition {} was read before, but the topic has only {count} partitions; it was made anew; bring the old one back, \
                 or start with a store without this position",
                gone.partition
            );
            return Err(self.refused_text(format!("reading topic {topic}"), text));
        }
        self.partitions.insert(index, count);
        let committed = self.committed(&topic, count)?;
        let mut starts = Vec::new();
        for partition in 0..count {
            let next = of_topic
                .iter()
                .find(|position| position.partition == partition)
                .map(|position| position.next);
            let (low, high) = self.watermarks(&topic, partition)?;
            let log = Log { low, high, committed: committed.get(&partition).copied() };
            let from = self.settings.positions_from;
            let start = positions::start(next, log, from).map_err(|text| {
                self.refused_text(format!("reading topic {topic} partition {partition}"), text)
            })?;
            if start != next.map_or(Start::Beginning, Start::At) || log.is_ahead_of(next) {
                tracing::warn!(
                    group = self.group,
                    topic,
                    partition,
                    known = ?next,
                    ?log,
                    ?start,
                    ?from,
                    "A partition is read from where a person has decided."
                );
            }
            starts.push((partition, start));
        }
        Ok(starts)
    }

    /// What the group has committed for the partitions of a topic.
    fn committed(&mut self, topic: &str, count: u32) -> Result<BTreeMap<u32, u64>, ConnectorError> {
        let deadline = Instant::now() + self.settings.open_wait_max;
        let doing = || format!("asking what group {} has read of topic {topic}", self.group);
        let mut asked = TopicPartitionList::new();
        for partition in 0..count {
            asked.add_partition(topic, partition as i32);
        }
        let answer = loop {
            match self.ownership.committed(asked.clone()) {
                Ok(answer) => break answer,
                Err(error) if topics::permanent(&error) => {
                    return Err(self.settings.refused(doing(), &error));
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(self.settings.unreachable(doing(), Some(error)));
                }
                Err(_) => std::thread::sleep(POLL_WAIT_MAX),
            }
        };
        let known = answer.elements().into_iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) => {
                Some((u32::try_from(element.partition()).ok()?, u64::try_from(offset).ok()?))
            }
            _ => None,
        });
        Ok(known.collect())
    }

    fn watermarks(&mut self, topic: &str, partition: u32) -> Result<(u64, u64), ConnectorError> {
        self.asked(
            &format!("asking for the offsets of topic {topic} partition {partition}"),
            |consumer| {
                let (low, high) =
                    consumer.fetch_watermarks(topic, partition as i32, OFFSETS_WAIT_MAX)?;
                Ok((low.max(0) as u64, high.max(0) as u64))
            },
        )
    }

    /// Asks until the brokers answer, and serves the group meanwhile.
    fn asked<T>(
        &mut self,
        doing: &str,
        ask: impl Fn(&BaseConsumer<Context>) -> Result<T, KafkaError>,
    ) -> Result<T, ConnectorError> {
        let deadline = Instant::now() + self.settings.open_wait_max;
        loop {
            match ask(&self.consumer) {
                Ok(answer) => return Ok(answer),
                Err(error) if topics::permanent(&error) => {
                    return Err(self.settings.refused(doing.into(), &error));
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(self.settings.unreachable(doing.into(), Some(error)));
                }
                Err(_) => self.ownership.serve(POLL_WAIT_MAX).map(|_| ())?,
            }
        }
    }

    /// Reads until the source is dropped, or until something has happened that a person must mend.
    pub(super) fn run(mut self) -> Result<(), ConnectorError> {
        let (mut commit_due, mut partitions_due) =
            (Instant::now() + COMMIT_EVERY, Instant::now() + PARTITIONS_EVERY);
        let mut ends_due = Instant::now() + ENDS_EVERY;
        let mut turn = Instant::now();
        while !self.inbox.closed() {
            // A process that was stopped, or starved, may have lost the group without having heard of it.
            let before = std::mem::replace(&mut turn, Instant::now());
            if before.elapsed() > self.settings.session_timeout / 2 {
                self.suspend();
            }
            if let Some(owner) = self.holding.lost() {
                return Err(self.holding.owned(owner));
            }
            let wait = if self.suspended { POLL_WAIT_MAX } else { Duration::ZERO };
            if self.ownership.serve(wait)? != Held::Ours {
                self.doubt()?;
                continue;
            }
            if self.suspended || self.holding.is_asked() {
                self.resume()?;
                continue;
            }
            // As of the beginning of this turn: whatever stops the process within it makes this an old word.
            self.inbox.held(Some(turn));
            let now = Instant::now();
            if now >= commit_due {
                self.commit();
                commit_due = now + COMMIT_EVERY;
            }
            if now >= partitions_due {
                self.look_for_partitions()?;
                partitions_due = now + PARTITIONS_EVERY;
            }
            if now >= ends_due {
                self.look_at_the_ends()?;
                ends_due = now + ENDS_EVERY;
            }
            let room = self.inbox.room(POLL_WAIT_MAX).min(BATCH_MAX);
            if room > 0 {
                self.read(room)?;
            }
        }
        self.commit();
        Ok(())
    }

    /// Takes what is there, at most `room`; waits for a moment when nothing is.
    fn read(&mut self, room: usize) -> Result<(), ConnectorError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut wait = POLL_WAIT_MAX;
        let trouble = loop {
            match self.consumer.poll(wait) {
                None => break None,
                Some(Err(error)) => break Some(error),
                Some(Ok(record)) => {
                    let channel =
                        self.channels.iter().position(|channel| channel.name == record.topic());
                    let (Some(index), Ok(partition), Ok(offset)) = (
                        channel,
                        u32::try_from(record.partition()),
                        u64::try_from(record.offset()),
                    ) else {
                        continue;
                    };
                    let message = envelope::message(&record, self.channels[index].kind);
                    bytes += message.bytes();
                    batch.push(Incoming { partition: (index, partition), offset, message });
                }
            }
            if batch.len() >= room || bytes >= BATCH_BYTES_MAX {
                break None;
            }
            wait = Duration::ZERO;
        };
        if !batch.is_empty() {
            self.consumer.context().heard();
            self.inbox.push(batch);
        }
        let healed = trouble.map_or(Ok(()), |error| self.heal(error));
        if let Some(told) = self.troubles.over(Instant::now()) {
            let health = self.inbox.health();
            // Unless something else was told since.
            if matches!(health.standing(), Standing::Degraded { why } if why == told) {
                health.ready();
            }
        }
        healed
    }

    /// Most troubles pass by themselves. Those that do not are errors.
    fn heal(&mut self, error: KafkaError) -> Result<(), ConnectorError> {
        let code = error.rdkafka_error_code();
        match code {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err(self.out_of_range(&error))
            }
            // librdkafka tells of it once, and reads on behind it.
            Some(RDKafkaErrorCode::BadMessage) => {
                let text = format!(
                    "the log is damaged ({error}), and reading on would skip what can't be read; bring the partition back from a \
                     replica, or delete its records up to behind the damage and start once with --kafka-positions-from beginning"
                );
                Err(self.refused_text(format!("reading for group {}", self.group), text))
            }
            // librdkafka fetches it again, and again: what is behind it is never read.
            Some(
                RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::NotImplemented
                | RDKafkaErrorCode::MessageSizeTooLarge,
            ) => Err(self.stuck(&error)),
            _ if topics::permanent(&error)
                || matches!(error, KafkaError::MessageConsumptionFatal(_)) =>
            {
                Err(self.refused(&error))
            }
            _ => {
                tracing::debug!(%error, group = self.group, "Reading has trouble, librdkafka tries again.");
                if let Some(why) = self.troubles.met(&error, Instant::now()) {
                    self.inbox.health().degraded(why);
                }
                Ok(())
            }
        }
    }

    /// What is read next somewhere can't be unpacked, or is larger than a fetch may be. librdkafka does not say where: it is one of
    /// the places that have something to read.
    fn stuck(&self, error: &KafkaError) -> ConnectorError {
        let mut places = Vec::new();
        for ((index, partition), next) in self.inbox.next_offsets() {
            let topic = &self.channels[index].name;
            let asked = self.consumer.fetch_watermarks(topic, partition as i32, LOOK_WAIT_MAX);
            let Ok((low, high)) = asked else { continue };
            let next = next.unwrap_or(low.max(0) as u64);
            if next < high.max(0) as u64 {
                places.push(format!("topic {topic} partition {partition} offset {next}"));
            }
            if places.len() == PLACES_MAX {
                break;
            }
        }
        let text = format!(
            "a batch of records can't be read ({error}), at {}; reading on would skip it: what is packed has to be packed with gzip, \
             snappy, lz4 or zstd and be whole, and fit the property receive.message.max.bytes; mend that, or delete the records up to \
             behind it and start once with --kafka-positions-from beginning",
            if places.is_empty() { "an unknown place".to_owned() } else { places.join(", or ") }
        );
        self.refused_text(format!("reading for group {}", self.group), text)
    }

    /// The log lost what was to be read next: says which partition, and what is left of it.
    fn out_of_range(&self, error: &KafkaError) -> ConnectorError {
        for ((index, partition), next) in self.inbox.next_offsets() {
            let topic = &self.channels[index].name;
            let Ok((low, high)) =
                self.consumer.fetch_watermarks(topic, partition as i32, OFFSETS_WAIT_MAX)
            else {
                continue;
            };
            let log = Log { low: low.max(0) as u64, high: high.max(0) as u64, committed: None };
            if let Err(text) = positions::start(next, log, PositionsFrom::Refuse) {
                return self
                    .refused_text(format!("reading topic {topic} partition {partition}"), text);
            }
        }
        self.refused(error)
    }

    fn suspend(&mut self) {
        if !self.suspended {
            self.suspended = true;
            self.inbox.held(None);
            self.inbox
                .health()
                .waiting("the group may belong to another process by now; asking the brokers");
            tracing::warn!(
                group = self.group,
                "The group may have been lost, reading stops until it is ours for certain."
            );
        }
    }

    /// Asks the brokers whether we are the member that owns the group, and whether nobody has had it meanwhile: reading on would
    /// repeat what that one did.
    fn resume(&mut self) -> Result<(), ConnectorError> {
        let asked = self.holding.asked();
        if let Err(error) = self.ownership.confirm() {
            if topics::permanent(&error) {
                return Err(self.refused(&error));
            }
            tracing::debug!(%error, group = self.group, "The group is not ours yet.");
            self.doubt()?;
            // Asked again with the next turn.
            std::thread::sleep(POLL_WAIT_MAX);
            return Ok(());
        }
        self.ownership.heard();
        if !self.record_is_ours()? {
            return Ok(());
        }
        self.holding.answer(asked);
        if std::mem::take(&mut self.suspended) {
            self.inbox.health().ready();
            tracing::info!(group = self.group, "The group is ours again, reading goes on.");
        }
        Ok(())
    }

    /// The group may be another's. Where brokers refuse us, that is what a person has to know. An error once it is another's.
    fn doubt(&mut self) -> Result<(), ConnectorError> {
        self.suspend();
        // The consumer that reads is not asked now, and hears of nothing.
        if let Some(why) = self.ownership.shut_out() {
            self.inbox.health().degraded(why);
        }
        self.look_at_the_record()
    }

    /// While the group is in doubt: an error once it is another's.
    fn look_at_the_record(&mut self) -> Result<(), ConnectorError> {
        if Instant::now() >= self.record_due {
            self.record_is_ours()?;
            self.record_due = Instant::now() + RECORD_EVERY;
        }
        Ok(())
    }

    /// False when the brokers did not tell. An error when it is another's.
    fn record_is_ours(&self) -> Result<bool, ConnectorError> {
        if let Err(error) = self.holding.check() {
            if topics::permanent(&error) {
                return Err(self.refused(&error));
            }
            tracing::debug!(%error, group = self.group, "The record of the owner can't be read.");
            return Ok(false);
        }
        let Some(owner) = self.holding.lost() else { return Ok(true) };
        tracing::error!(group = self.group, owner, "Another process has taken the group over.");
        self.inbox.health().degraded(format!("another process owns the group: {owner}"));
        Err(self.holding.owned(owner))
    }

    fn commit(&mut self) {
        let mut offsets = TopicPartitionList::new();
        for (partition, low) in self.inbox.low_marks() {
            if self.committed.insert(partition, low) == Some(low) {
                continue;
            }
            let topic = &self.channels[partition.0].name;
            // Only an offset that could not be one is refused here.
            let _ = offsets.add_partition_offset(
                topic,
                partition.1 as i32,
                Offset::Offset(signed(low)),
            );
        }
        self.ownership.commit(&offsets);
    }

    /// Keys move to other partitions when there are more of them, so reading them from now on is not enough: a person should know.
    fn look_for_partitions(&mut self) -> Result<(), ConnectorError> {
        for (index, known) in &self.partitions {
            let topic = &self.channels[*index].name;
            match topics::partitions(&self.consumer, topic, LOOK_WAIT_MAX) {
                Ok(Some(count)) if count != *known => {
                    let text = format!(
                        "the topic has {count} partitions now, {known} are read; start this process again to read them all, the new \
                         ones from their beginning; a key may have moved, and what was sent for it before may come behind what was \
                         sent later"
                    );
                    return Err(self.refused_text(format!("reading topic {topic}"), text));
                }
                Ok(Some(_)) => drop(self.missing.remove(index)),
                // Passing trouble: reading has it as well, and tells.
                Err(_) => return Ok(()),
                Ok(None) => {
                    if self.missing.entry(*index).or_insert_with(Instant::now).elapsed()
                        < GONE_AFTER
                    {
                        continue;
                    }
                    let text =
                        "the topic is gone; one that is made anew under its name is another one, for which the positions mean \
                         nothing; bring the old one back, or use a topic of another name"
                            .to_owned();
                    return Err(self.refused_text(format!("reading topic {topic}"), text));
                }
            }
        }
        Ok(())
    }

    /// A log that ends before the place that is read next was truncated, or is another one by now. Asked of one partition at a
    /// time of each topic: a topic made anew is new in all of them.
    fn look_at_the_ends(&mut self) -> Result<(), ConnectorError> {
        self.turn = self.turn.wrapping_add(1);
        for (index, count) in &self.partitions {
            let partition = self.turn % count;
            let topic = &self.channels[*index].name;
            let next = self.inbox.next_offset((*index, partition));
            let answer = self.consumer.fetch_watermarks(topic, partition as i32, LOOK_WAIT_MAX);
            // Passing trouble: reading has it as well, and tells.
            let Ok((low, high)) = answer else { return Ok(()) };
            // Also when there is nothing to read.
            self.consumer.context().heard();
            self.ownership.heard();
            let log = Log { low: low.max(0) as u64, high: high.max(0) as u64, committed: None };
            // A position below the beginning is refused by the next fetch, which knows better whether it still matters.
            if next.is_some_and(|next| next > log.high)
                && let Err(text) = positions::start(next, log, PositionsFrom::Refuse)
            {
                let doing = format!("reading topic {topic} partition {partition}");
                return Err(self.refused_text(doing, text));
            }
        }
        Ok(())
    }

    fn refused(&self, error: &KafkaError) -> ConnectorError {
        self.settings.refused(format!("reading for group {}", self.group), error)
    }

    fn refused_text(&self, doing: String, text: String) -> ConnectorError {
        ConnectorError::Refused { connector: NAME, doing, text }
    }
}

/// Offsets are signed on the wire and never reach the sign.
fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}
