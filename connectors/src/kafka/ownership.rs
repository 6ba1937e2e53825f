//! One process owns a group.
//!
//! Partitions are assigned by hand, so the brokers would let two processes read the same ones. Therefore each source also joins the
//! group and subscribes to the topic `<group>.owner`, which has one partition: whoever is assigned it owns the group, and then takes
//! its [fence](super::fence), which leaves the [record](super::record) of the owner there.
//! The sticky strategy leaves it with its owner when another process joins. After a crash the brokers give the owner up once its
//! session has timed out; the next process waits for that. Being a member also lets the owner commit offsets for lag displays.

use super::{KafkaSettings, NAME, clients::Role, context::Context, record::Records};
use crate::ConnectorError;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long the brokers may take to name the members of a group.
const NAMING_WAIT_MAX: Duration = Duration::from_secs(3);

/// How long the brokers may take to tell what is committed.
const COMMITTED_WAIT_MAX: Duration = Duration::from_secs(5);

/// The topic whose one partition stands for the group.
pub(super) fn topic(group: &str) -> String {
    format!("{group}.owner")
}

/// Who has the group, as far as we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing was heard yet, or the session was lost.
    Unknown,
    /// We do.
    Ours,
    /// We are a member, another process has it.
    Elsewhere,
}

pub(super) struct Ownership {
    consumer: BaseConsumer<Watch>,
    settings: Arc<KafkaSettings>,
    group: String,
    client_id: String,
    elsewhere_since: Option<Instant>,
    held: Arc<Mutex<Held>>,
}

impl Ownership {
    pub(super) fn join(settings: Arc<KafkaSettings>, group: &str) -> Result<Self, ConnectorError> {
        let doing = || format!("joining group {group}");
        let held = Arc::new(Mutex::new(Held::Unknown));
        let watch = Watch { held: held.clone(), context: Context::new(Role::Owner) };
        let config = settings.owner(group);
        let client_id = config.get("client.id").unwrap_or_default().to_owned();
        let consumer: BaseConsumer<Watch> =
            config.create_with_context(watch).map_err(|error| settings.refused(doing(), &error))?;
        consumer.subscribe(&[&topic(group)]).map_err(|error| settings.refused(doing(), &error))?;
        Ok(Self {
            consumer,
            settings,
            group: group.to_owned(),
            client_id,
            elsewhere_since: None,
            held,
        })
    }

    /// Serves the group for up to `wait` and says whether it is ours. Has to be called often.
    /// An error once another process has kept the group for longer than a dead one could.
    pub(super) fn serve(&mut self, wait: Duration) -> Result<Held, ConnectorError> {
        if let Some(Err(error)) = self.consumer.poll(wait) {
            if super::topics::permanent(&error)
                || matches!(error, KafkaError::MessageConsumptionFatal(_))
            {
                return Err(self.settings.refused(format!("holding group {}", self.group), &error));
            }
            tracing::debug!(%error, group = self.group, "The group has trouble.");
        }
        let held = *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held {
            Held::Ours => self.elsewhere_since = None,
            Held::Unknown => {}
            Held::Elsewhere => {
                let first = self.elsewhere_since.is_none();
                let since = *self.elsewhere_since.get_or_insert_with(Instant::now);
                let wait_max = self.settings.session_timeout + self.settings.takeover_margin;
                if first {
                    let (group, owner, wait_s) = (&self.group, self.owner(), wait_max.as_secs());
                    tracing::info!(
                        group,
                        owner,
                        wait_s,
                        "The group has an owner; waiting in case it is gone."
                    );
                }
                if since.elapsed() > wait_max {
                    let owner = self.owner();
                    return Err(ConnectorError::Owned {
                        connector: NAME,
                        group: self.group.clone(),
                        owner,
                    });
                }
            }
        }
        Ok(held)
    }

    /// What this process is called in the group.
    pub(super) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The other process, by its record, or as the brokers name it.
    fn owner(&self) -> String {
        let listed = self.consumer.fetch_group_list(Some(&self.group), NAMING_WAIT_MAX);
        let members = || {
            let groups = listed.iter().flat_map(|list| list.groups());
            let members = groups.flat_map(|group| group.members());
            members.filter(|member| member.client_id() != self.client_id)
        };
        let found = Records::of(&self.settings, &self.group).and_then(|records| records.last());
        let found = found.ok().flatten();
        if let Some(found) = found
            && (members().count() == 0
                || members().any(|member| member.client_id() == found.record.client))
        {
            return found.named();
        }
        // It has not written its name yet.
        let names: Vec<String> = members()
            .map(|member| {
                format!(
                    "{} on {}",
                    member.client_id(),
                    member.client_host().trim_start_matches('/')
                )
            })
            .collect();
        if names.is_empty() { "another process".to_owned() } else { names.join(", ") }
    }

    /// A hint for lag displays, never the truth: told when it can be.
    pub(super) fn commit(&self, offsets: &TopicPartitionList) {
        if offsets.count() == 0 {
            return;
        }
        if let Err(error) = self.consumer.commit(offsets, CommitMode::Async) {
            tracing::debug!(%error, group = self.group, "Offsets for lag displays were not committed.");
        }
    }

    /// Asks the brokers whether we are still the member that owns the group: they take a commit from no other.
    pub(super) fn confirm(&self) -> KafkaResult<()> {
        let mut own = TopicPartitionList::new();
        own.add_partition_offset(&topic(&self.group), 0, Offset::Offset(0))?;
        self.consumer.commit(&own, CommitMode::Sync)
    }

    /// Why no broker serves us, where those that are there refuse us.
    pub(super) fn shut_out(&self) -> Option<String> {
        self.consumer.context().context.shut_out()
    }

    /// Something was heard of the brokers: what they refused before is over.
    pub(super) fn heard(&self) {
        self.consumer.context().context.heard();
    }

    /// What the group has committed for these partitions.
    pub(super) fn committed(
        &self,
        partitions: TopicPartitionList,
    ) -> KafkaResult<TopicPartitionList> {
        self.consumer.committed_offsets(partitions, COMMITTED_WAIT_MAX)
    }
}

/// Writes down who has the group.
struct Watch {
    held: Arc<Mutex<Held>>,
    context: Context,
}

impl Watch {
    fn set(&self, held: Held) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ConsumerContext for Watch {
    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) if stands_for_the_group(partitions) => {
                self.set(Held::Ours);
            }
            // Nothing was added: somebody else has it, unless we have had it all along.
            Rebalance::Assign(_) => {
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                if *held == Held::Unknown {
                    *held = Held::Elsewhere;
                }
            }
            Rebalance::Revoke(partitions) if stands_for_the_group(partitions) => {
                self.set(Held::Unknown)
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::debug!(%error, "The group could not agree."),
        }
    }
}

/// Only the first partition does, in case somebody has given the topic more of them.
fn stands_for_the_group(partitions: &TopicPartitionList) -> bool {
    partitions.elements().iter().any(|element| element.partition() == 0)
}
