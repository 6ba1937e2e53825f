//! The fence around a group: only its owner may send for it, and the brokers see to that.
//!
//! ```text
//! owner of the group by membership ─► init_transactions (fences whoever sent before) ─► record with the next epoch
//! every producer built anew: still the member? still our record? ─► init_transactions ─► still our record? ─► send
//! ```
//!
//! All producers of a group share one transactional id, `<group>.owner`. A process that stood still while another one took over
//! finds its producer fenced by the brokers before it can send, and the other's record when it asks why.

use super::{
    KafkaSettings, NAME,
    clients::Role,
    config,
    context::Context,
    flight::Flight,
    ownership,
    record::{Record, Records},
};
use crate::{ConnectorError, Health, retry::Delays};
use rdkafka::{
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
    types::RDKafkaErrorCode,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How often taking the fence is tried: a former owner that wakes up may fence the new one once before it sees the record.
const TAKE_TRIES_MAX: usize = 5;

/// How long writing the record may take.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(10);

/// What an owner holds, shared by its source, whose reader thread holds the group, and its sink.
pub(super) struct Fence {
    settings: Arc<KafkaSettings>,
    group: String,
    mine: Record,
    /// `None` once the source has ended.
    records: Mutex<Option<Records>>,
    state: Mutex<State>,
    told: Notify,
}

/// The fences of one connector's sources, by group.
pub(super) type Fences = Arc<Mutex<HashMap<String, Arc<Fence>>>>;

#[derive(Debug, Default)]
struct State {
    /// Who has the group instead.
    lost: Option<String>,
    /// The source has ended, and nobody holds the group.
    ended: bool,
    /// How often the sink has asked whether the group is ours, and the last question with an answer.
    asked: u64,
    answered: u64,
}

/// Why no producer could be built for the owner.
pub(super) enum NoProducer {
    /// Another process owns the group.
    Lost(String),
    /// It may be possible later.
    Later(String),
    /// A person must mend it.
    Never(ConnectorError),
}

impl Fence {
    /// Takes the group from whoever had it, for the member of this name. Blocks.
    pub(super) fn take(
        settings: Arc<KafkaSettings>,
        group: &str,
        client: &str,
    ) -> Result<Self, ConnectorError> {
        let doing = || format!("taking over group {group}");
        let deadline = Instant::now() + settings.open_wait_max;
        let (mut tries, mut delays) = (0, Delays::new());
        let records =
            Records::of(&settings, group).map_err(|error| settings.refused(doing(), &error))?;
        let mine = loop {
            match write_next(&settings, group, client, &records) {
                Ok(mine) => break mine,
                Err(error) if super::topics::permanent(&error) => {
                    return Err(settings.refused(doing(), &error));
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(settings.unreachable(doing(), Some(error)));
                }
                Err(error) => {
                    tries += 1;
                    if tries == TAKE_TRIES_MAX {
                        return Err(settings.refused(doing(), &error));
                    }
                    tracing::debug!(%error, group, "The group could not be taken over yet.");
                    std::thread::sleep(delays.after_failure());
                }
            }
        };
        tracing::info!(group, epoch = mine.epoch, "This process owns the group.");
        Ok(Self {
            settings,
            group: group.to_owned(),
            mine,
            records: Mutex::new(Some(records)),
            state: Mutex::default(),
            told: Notify::new(),
        })
    }

    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// Who has the group instead of us.
    pub(super) fn lost(&self) -> Option<String> {
        self.lock().lost.clone()
    }

    /// Whether the source has ended, and nobody here holds the group any more.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Looks whether the record is still ours. An error of the brokers may pass. Blocks.
    pub(super) fn check(&self) -> Result<(), KafkaError> {
        let last = match &*self.records() {
            Some(records) => records.last()?,
            // The source has ended, and with it whatever this would be asked for.
            None => return Err(KafkaError::Canceled),
        };
        let Some(found) = last else { return Ok(()) };
        if found.record.takes_over_from(&self.mine) {
            self.lose(found.named());
        }
        Ok(())
    }

    pub(super) fn lose(&self, owner: String) {
        self.lock().lost.get_or_insert(owner);
        self.told.notify_waiters();
    }

    pub(super) fn owned(&self, owner: String) -> ConnectorError {
        ConnectorError::Owned { connector: NAME, group: self.group.clone(), owner }
    }

    /// Entered by the reader thread, for the sink to find; ended when the guard is dropped.
    pub(super) fn enter(self: Arc<Self>, fences: &Fences) -> Holding {
        let mut all = fences.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(self.group.clone(), self.clone());
        Holding { fence: self, fences: fences.clone() }
    }

    // Between the sink, which asks, and the reader thread, which can ask the brokers.

    /// Whether the sink wants to know if the group is ours.
    pub(super) fn is_asked(&self) -> bool {
        let state = self.lock();
        state.asked > state.answered
    }

    /// The brokers have said that the group is ours, after `asked` was read.
    pub(super) fn answer(&self, asked: u64) {
        let mut state = self.lock();
        state.answered = state.answered.max(asked);
        drop(state);
        self.told.notify_waiters();
    }

    pub(super) fn asked(&self) -> u64 {
        self.lock().asked
    }

    /// Waits until the brokers have said anew that the group is ours.
    pub(super) async fn confirmed(&self) -> Result<(), NoProducer> {
        let question = {
            let mut state = self.lock();
            state.asked += 1;
            state.asked
        };
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            {
                let state = self.lock();
                if let Some(owner) = &state.lost {
                    return Err(NoProducer::Lost(owner.clone()));
                }
                if state.answered >= question {
                    return Ok(());
                }
                if state.ended {
                    let text = format!("the source of group {} has ended", self.group);
                    return Err(NoProducer::Later(text));
                }
            }
            told.await;
        }
    }

    /// A producer that fences all others of the group. To be called when the brokers have said that the group is ours. Blocks.
    pub(super) fn producer(&self, health: &Health) -> Result<Flight, NoProducer> {
        let later = |error: KafkaError| {
            if super::topics::permanent(&error) {
                let doing = format!("sending for group {}", self.group);
                NoProducer::Never(self.settings.refused(doing, &error))
            } else {
                NoProducer::Later(format!("a producer for group {}: {error}", self.group))
            }
        };
        let config = self.settings.owning_producer(&self.group);
        let flight = Flight::new(&self.settings, &config, health).map_err(NoProducer::Never)?;
        // A sink that runs gives up after this time and asks for the next producer; the thread of this one is not to outlive it.
        let wait_max = self.settings.open_wait_max.min(self.settings.send_wait_max);
        flight.producer().init_transactions(wait_max).map_err(later)?;
        // It may have stood still since it was told that the group is its own: then this fenced the present owner for once.
        self.check().map_err(later)?;
        self.lost().map_or(Ok(flight), |owner| Err(NoProducer::Lost(owner)))
    }

    fn records(&self) -> MutexGuard<'_, Option<Records>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The group is held as long as this is.
pub(super) struct Holding {
    fence: Arc<Fence>,
    fences: Fences,
}

impl std::ops::Deref for Holding {
    type Target = Fence;

    fn deref(&self) -> &Fence {
        &self.fence
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.fence.lock().ended = true;
        self.fence.told.notify_waiters();
        let mut all = self.fences.lock().unwrap_or_else(PoisonError::into_inner);
        // Another source of this group may have entered its own by now.
        if all.get(&self.fence.group).is_some_and(|entered| Arc::ptr_eq(entered, &self.fence)) {
            all.remove(&self.fence.group);
        }
        drop(all);
        // Here and not with the sink, which may live on: dropping a consumer blocks, and this is the thread that may.
        drop(self.fence.records().take());
    }
}

/// Fences all producers of the group, and writes the record behind the last one.
fn write_next(
    settings: &KafkaSettings,
    group: &str,
    client: &str,
    records: &Records,
) -> Result<Record, KafkaError> {
    let producer: BaseProducer<Context> =
        settings.owning_producer(group).create_with_context(Context::new(Role::Producer))?;
    producer.init_transactions(settings.open_wait_max)?;
    let last = records.last()?;
    let mine = Record {
        owner: format!("process {} on {}", std::process::id(), config::host()),
        client: client.to_owned(),
        epoch: last.map_or(0, |last| last.record.epoch) + 1,
    };
    let value = serde_json::to_vec(&mine).expect("a record has no key that is no text");
    producer.begin_transaction()?;
    let topic = ownership::topic(group);
    // The partition that is read, in case somebody has given the topic more of them.
    let record = BaseRecord::<_, _, ()>::with_opaque_to(&topic, ()).partition(0);
    let record = record.key(group).payload(&value);
    producer.send(record).map_err(|(error, _)| error)?;
    let deadline = Instant::now() + WRITE_WAIT_MAX;
    // Committing while a report is missing would wait for a tenth of a second.
    while producer.in_flight_count() > 0 && Instant::now() < deadline {
        producer.poll(Duration::from_millis(10));
    }
    producer.commit_transaction(WRITE_WAIT_MAX)?;
    Ok(mine)
}

/// Whether the brokers say that another producer has taken this one's place.
pub(super) fn is_fenced(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
    )
}
