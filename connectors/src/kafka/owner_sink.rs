//! The sink of a group's owner: each window is one transaction, so that the brokers refuse what a former owner sends.
//!
//! ```text
//! window ─► begin ─► hand over ─► every delivery report is in ─► commit ─► confirmed
//!                                  └► one was refused ─► abort ─► once more: without it, in smaller pieces, or in halves until it is found
//! any doubt ─► the producer is thrown away, the rest is unknown ─► next window: a new one, if the group is still ours
//! ```
//!
//! Nothing rests on the atomicity of transactions: each message has its durable cause, and one that became visible though its
//! window counts as unknown is a message that comes twice.

use super::{
    KafkaSettings,
    fence::{Fence, NoProducer, is_fenced},
    flight::{Carrier, Flight},
    narrow::{Narrow, is_too_large},
    routes::Routes,
    sink::REPORT_MARGIN,
    topics,
    window::{failed, is_gone as is_gone_by},
};
use crate::{ConnectorError, Health, Message, Sent, Sink, UnsentReason};
use async_trait::async_trait;
use rdkafka::{error::KafkaError, producer::Producer, types::RDKafkaErrorCode};
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// How often is looked whether a transaction has failed while reports are missing: librdkafka tells that to nobody.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long reports are missing before the brokers are asked whether the topics are there: a producer that can't add the partitions of one
/// to its transaction tries on without looking.
const ASK_AFTER: Duration = Duration::from_secs(3);

/// How long a call of librdkafka may take beyond its own time limit before its producer is given up.
const CALL_MARGIN: Duration = Duration::from_secs(5);

/// Between two tries to build the first producer.
const BUILD_AGAIN: Duration = Duration::from_millis(200);

/// How long the next transaction waits behind the one before it. The brokers write the end of that one into each partition, and take
/// no new one for some milliseconds; asked too early, librdkafka asks again only after twenty. A window that comes later waits for nothing.
const ENDING_WAIT: Duration = Duration::from_millis(5);

pub(super) struct OwnerSink {
    settings: Arc<KafkaSettings>,
    fence: Arc<Fence>,
    /// `None` after a doubt: the next window builds a new one.
    flight: Option<Flight>,
    /// When the brokers will have written the end of the last transaction, as far as can be guessed.
    ended_by: Instant,
    routes: Routes,
    narrow: Narrow,
    /// Topics that librdkafka did not find while sending this window.
    gone: HashSet<String>,
    /// Messages of this window that brokers took in for a transaction that was then aborted, by index.
    taken_in: HashSet<usize>,
    health: Health,
}

/// How a part of a window ended.
enum Ended {
    /// All of it is there.
    Committed,
    /// None of it is there, and trying again may help; the outcomes of single messages say which were refused. Among those that were
    /// handed over last, a batch may have been refused as a whole.
    Aborted { last: Vec<usize> },
    /// None of it is there: the brokers do not take a transaction with this topic in it.
    Refused(RDKafkaErrorCode),
    /// Nobody knows.
    Doubtful(String),
}

impl OwnerSink {
    /// Builds the producer at once: what a person must mend shows when opening.
    pub(super) async fn open(
        settings: Arc<KafkaSettings>,
        fence: Arc<Fence>,
    ) -> Result<Self, ConnectorError> {
        let health = Health::new();
        let mut sink = Self {
            routes: Routes::new(settings.clone(), &health),
            narrow: Narrow::default(),
            gone: HashSet::new(),
            taken_in: HashSet::new(),
            health,
            flight: None,
            ended_by: Instant::now(),
            settings,
            fence,
        };
        let deadline = Instant::now() + sink.settings.open_wait_max;
        let mut last = None;
        loop {
            match timeout_at(deadline, sink.build()).await {
                Ok(Ok(())) => return Ok(sink),
                Ok(Err(NoProducer::Lost(owner))) => return Err(sink.fence.owned(owner)),
                Ok(Err(NoProducer::Never(error))) => return Err(error),
                Ok(Err(NoProducer::Later(text))) => {
                    if Instant::now() >= deadline || sink.fence.has_ended() {
                        return Err(sink.unreachable(Some(text.into())));
                    }
                    last = Some(text.into());
                    sleep(BUILD_AGAIN).await;
                }
                Err(_) => return Err(sink.unreachable(last)),
            }
        }
    }

    fn unreachable(
        &self,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ConnectorError {
        ConnectorError::Unreachable {
            connector: super::NAME,
            address: self.settings.bootstrap.clone(),
            doing: format!("opening the sink of group {}", self.fence.group()),
            waited: self.settings.open_wait_max,
            source,
        }
    }

    async fn build(&mut self) -> Result<(), NoProducer> {
        self.fence.confirmed().await?;
        let (fence, health) = (self.fence.clone(), self.health.clone());
        let built = tokio::task::spawn_blocking(move || fence.producer(&health)).await;
        self.flight =
            Some(built.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?);
        Ok(())
    }

    /// Sends what is open, in order; parts that were aborted are taken apart until each message has shown what it is.
    async fn send_open(
        &mut self,
        window: &[Message],
        outcomes: &mut [Option<Sent>],
        deadline: Instant,
    ) {
        let whole: Vec<usize> =
            (0..window.len()).filter(|index| outcomes[*index].is_none()).collect();
        let mut parts = VecDeque::from([whole]);
        while let Some(part) = parts.pop_front() {
            if part.is_empty() {
                continue;
            }
            let ended = match self.flight {
                Some(_) => self.transact(window, &part, outcomes, deadline).await,
                None => match timeout_at(deadline, self.build()).await {
                    Ok(Ok(())) => self.transact(window, &part, outcomes, deadline).await,
                    _ => Ended::Doubtful("the producer could not be built anew in time".into()),
                },
            };
            if matches!(ended, Ended::Aborted { .. } | Ended::Refused(_)) {
                // librdkafka goes on, but requests behind the refused one may still fail in its next transaction.
                self.flight = None;
            }
            match ended {
                Ended::Committed => {}
                Ended::Refused(code) => {
                    let topic = &window[part[0]].channel;
                    let (same, others): (Vec<usize>, Vec<usize>) =
                        part.iter().partition(|index| window[**index].channel == *topic);
                    if others.is_empty() {
                        if is_gone_by(code) {
                            self.gone.insert(topic.clone());
                        }
                        for index in same {
                            outcomes[index] = Some(failed(code, topic, window[index].kind));
                        }
                    } else {
                        // Of which topic it is true shows when each is alone. Only within a topic has order a meaning.
                        parts.push_front(others);
                        parts.push_front(same);
                    }
                }
                Ended::Aborted { last } => {
                    let apart = self.apart(window, &part, &last, outcomes);
                    for again in apart.into_iter().rev() {
                        parts.push_front(again);
                    }
                }
                Ended::Doubtful(text) => {
                    self.flight = None;
                    for index in part.into_iter().chain(parts.into_iter().flatten()) {
                        outcomes[index] = Some(Sent::Unknown { text: text.clone() });
                    }
                    return;
                }
            }
        }
    }

    /// One transaction. What librdkafka itself does not take is decided and left out of it.
    async fn transact(
        &mut self,
        window: &[Message],
        part: &[usize],
        outcomes: &mut [Option<Sent>],
        deadline: Instant,
    ) -> Ended {
        let Some(flight) = &self.flight else {
            return Ended::Doubtful("there is no producer".into());
        };
        let wait = self.settings.send_wait_max;
        if Instant::now() >= deadline {
            return Ended::Doubtful("the time for the window is over".into());
        }
        sleep_until(self.ended_by).await;
        let begun = call(flight, wait, |producer| producer.begin_transaction()).await;
        if let Err(text) = begun {
            return Ended::Doubtful(format!("beginning a transaction: {}", text.describe()));
        }
        let (mut rest, mut last, mut failure) = (part, part, None);
        while !rest.is_empty() && failure.is_none() {
            (last, rest) = rest.split_at(self.narrow.piece(window, rest));
            flight.hand_over(window, last, outcomes, deadline).await;
            failure = self.reports_are_in(flight, window, last, deadline).await;
            if failure.is_none() {
                self.gone.extend(flight.land(window, outcomes));
                // What brokers refuse fails the transaction, what librdkafka refuses by itself does not.
                if !rest.is_empty() && last.iter().any(|index| is_unsent(&outcomes[*index])) {
                    failure = self.failure(flight).await;
                }
            }
        }
        // What goes to a topic that is gone is not there, whether that is for good or not.
        let decided = |index: &usize| {
            matches!(outcomes[*index], Some(Sent::Confirmed | Sent::Unsent { .. }))
                || outcomes[*index].is_some() && self.gone.contains(&window[*index].channel)
        };
        let ended = if let Some(failure) = failure {
            Err(failure)
        } else if part.iter().all(decided) {
            call(flight, wait, move |producer| producer.commit_transaction(wait)).await
        } else {
            // One message that can't be sent fails the transaction, and with it those beside it.
            let late = || Trouble::Late("Kafka did not take some of its messages".into());
            Err(self.failure(flight).await.unwrap_or_else(late))
        };
        self.ended_by = Instant::now() + ENDING_WAIT;
        let Err(trouble) = ended else { return Ended::Committed };
        let may_abort = match &trouble {
            Trouble::Failed(KafkaError::Transaction(error)) => error.txn_requires_abort(),
            Trouble::Gone(_) => true,
            Trouble::Failed(_) | Trouble::Late(_) => false,
        };
        let aborted = if may_abort {
            Some(call(flight, wait, move |producer| producer.abort_transaction(wait)).await)
        } else {
            None
        };
        // Aborting purges what had not left yet, so that now all of a batch is reported, or nothing.
        self.gone.extend(flight.land(window, outcomes));
        // Delivered, but not committed.
        for index in part {
            if outcomes[*index] == Some(Sent::Confirmed) {
                outcomes[*index] = None;
                self.taken_in.insert(*index);
            }
        }
        if let Trouble::Gone(topics) = &trouble {
            for index in part.iter().filter(|index| topics.contains(&window[**index].channel)) {
                let Message { channel, kind, .. } = &window[*index];
                let code = RDKafkaErrorCode::UnknownTopicOrPartition;
                outcomes[*index] = Some(failed(code, channel, *kind));
            }
            self.gone.extend(topics.iter().cloned());
        }
        let again = || Ended::Aborted { last: last.to_vec() };
        let is_gone = part.iter().any(|index| self.gone.contains(&window[*index].channel));
        let error = match (&trouble, &aborted) {
            (Trouble::Gone(_), _) if is_gone => return again(),
            (Trouble::Failed(KafkaError::Transaction(error)), Some(_)) => error,
            // Brokers add all partitions to a transaction or none, so with a topic that is gone they have none that could be ended.
            (Trouble::Failed(KafkaError::Transaction(error)), None)
                if is_gone && error.code() == RDKafkaErrorCode::InvalidTransactionalState =>
            {
                return again();
            }
            (trouble, _) => return Ended::Doubtful(trouble.describe()),
        };
        let first = &window[part[0]];
        let meant = failed(error.code(), &first.channel, first.kind);
        match aborted.unwrap_or(Ok(())) {
            // Brokers have nothing to abort where the refused topic was the only one, and say that by an error. The producer is
            // thrown away, and the next one aborts what there is.
            _ if topics::forbidden(error.code()) => Ended::Refused(error.code()),
            _ if is_gone => again(),
            // The brokers have added none of its partitions, and do not say of which topic it is true.
            _ if is_gone_by(error.code()) => Ended::Refused(error.code()),
            Ok(()) if part.iter().any(|index| is_unsent(&outcomes[*index])) => again(),
            // Which message it was is not always told.
            Ok(()) if matches!(meant, Sent::Unsent { .. }) => {
                if let [only] = part {
                    outcomes[*only] = Some(meant);
                }
                again()
            }
            // A batch behind the refused one was looked at first.
            Ok(())
                if part.len() > 1 && error.code() == RDKafkaErrorCode::OutOfOrderSequenceNumber =>
            {
                again()
            }
            Ok(()) => Ended::Doubtful(format!(
                "the transaction was aborted: {} ({:?})",
                error.string(),
                error.code()
            )),
            Err(trouble) => Ended::Doubtful(trouble.describe()),
        }
    }

    /// What is to be tried again of a part that was aborted for some of its messages, as parts in order.
    fn apart(
        &mut self,
        window: &[Message],
        part: &[usize],
        last: &[usize],
        outcomes: &mut [Option<Sent>],
    ) -> Vec<Vec<usize>> {
        if part.len() == 1 {
            return Vec::new();
        }
        // A topic that is gone is gone for all of them. One of events is made anew by the next window, which they wait for.
        let is_gone = |index: &&usize| match &outcomes[**index] {
            Some(Sent::Unsent { reason: UnsentReason::Unroutable, .. }) => true,
            Some(Sent::Unknown { .. }) => self.gone.contains(&window[**index].channel),
            _ => false,
        };
        let gone: Vec<(usize, Option<Sent>)> =
            part.iter().filter(is_gone).map(|index| (*index, outcomes[*index].clone())).collect();
        let of_a_batch = self.narrow.look_at(window, last, outcomes, Instant::now());
        let mut is_known = !gone.is_empty() || !of_a_batch.is_empty();
        for index in part {
            let of_topic = |(other, _): &&(usize, Option<Sent>)| {
                window[*other].channel == window[*index].channel
                    && window[*other].kind == window[*index].kind
            };
            if is_too_large(outcomes[*index].as_ref()) && !of_a_batch.contains(index) {
                is_known = true;
            } else {
                outcomes[*index] =
                    gone.iter().find(of_topic).and_then(|(_, outcome)| outcome.clone());
            }
        }
        let open: Vec<usize> =
            part.iter().copied().filter(|index| outcomes[*index].is_none()).collect();
        if is_known {
            return vec![open];
        }
        // A broker refuses a whole batch for one message: it is looked for in halves, which keep their order.
        let (first, second) = open.split_at(open.len() / 2);
        vec![first.to_vec(), second.to_vec()]
    }

    /// Waits for the delivery reports. A transaction that has failed meanwhile keeps its messages, so it is looked for. With a topic that
    /// is gone, brokers add no partition to it, and nothing else of it ever leaves.
    async fn reports_are_in(
        &self,
        flight: &Flight,
        window: &[Message],
        last: &[usize],
        deadline: Instant,
    ) -> Option<Trouble> {
        let mut ask_at = Instant::now() + ASK_AFTER;
        loop {
            let look_at = (Instant::now() + LOOK_EVERY).min(deadline + REPORT_MARGIN);
            if timeout_at(look_at, flight.decided()).await.is_ok() {
                return None;
            }
            if Instant::now() >= deadline + REPORT_MARGIN {
                return Some(Trouble::Late("Kafka did not confirm in time".into()));
            }
            if flight.has_gone() {
                return Some(Trouble::Gone(HashSet::new()));
            }
            if ask_at <= Instant::now() {
                let topics = last.iter().map(|index| window[*index].channel.clone()).collect();
                let gone = self.routes.gone(topics, ASK_AFTER).await;
                if !gone.is_empty() {
                    return Some(Trouble::Gone(gone));
                }
                ask_at = Instant::now() + ASK_AFTER;
            }
            if let Some(trouble) = self.failure(flight).await {
                return Some(trouble);
            }
        }
    }

    /// Why the transaction under way has failed, if it has.
    async fn failure(&self, flight: &Flight) -> Option<Trouble> {
        // Beginning another one is refused in any case, with the error of this one where it has one.
        let wait = self.settings.send_wait_max;
        match call(flight, wait, |producer| producer.begin_transaction()).await {
            Err(Trouble::Failed(KafkaError::Transaction(error)))
                if error.code() == RDKafkaErrorCode::State =>
            {
                None
            }
            Err(trouble) => Some(trouble),
            Ok(()) => Some(Trouble::Late("the transaction was gone".into())),
        }
    }
}

/// What is said of a message that brokers had taken in: who reads what is not committed may have acted on it, so that it is never said to have
/// been sent nowhere.
fn in_doubt(outcome: Sent) -> Sent {
    match outcome {
        Sent::Unsent { text, .. } => Sent::Unknown {
            text: format!("it was in a transaction that was aborted; then: {text}"),
        },
        other => other,
    }
}

fn is_unsent(outcome: &Option<Sent>) -> bool {
    matches!(outcome, Some(Sent::Unsent { .. }))
}

/// Why a step of a transaction did not succeed.
enum Trouble {
    Failed(KafkaError),
    Late(String),
    /// A topic is not there: librdkafka has reported that of messages, or the brokers of these.
    Gone(HashSet<String>),
}

impl Trouble {
    fn describe(&self) -> String {
        match self {
            Self::Failed(error) if is_fenced(error) => {
                format!("the brokers have fenced this producer off: {error}")
            }
            Self::Failed(error) => error.to_string(),
            Self::Late(text) => text.clone(),
            Self::Gone(_) => "a topic is gone".into(),
        }
    }
}

#[async_trait]
impl Sink for OwnerSink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        let mut outcomes: Vec<Option<Sent>> = vec![None; window.len()];
        let deadline = Instant::now() + self.settings.send_wait_max;
        let mut unknown = "Kafka did not confirm in time".to_owned();
        let built = match self.flight {
            Some(_) => Ok(()),
            None => match timeout_at(deadline, self.build()).await {
                Ok(Ok(())) => {
                    self.health.reconnected();
                    Ok(())
                }
                Ok(Err(trouble)) => Err(trouble),
                Err(_) => Err(NoProducer::Later(
                    "the brokers did not say in time whether the group is still ours".into(),
                )),
            },
        };
        match built {
            Ok(()) => {
                self.routes.find(window, &mut outcomes).await;
                self.narrow.forget(Instant::now());
                let deadline = Instant::now() + self.settings.send_wait_max;
                self.send_open(window, &mut outcomes, deadline).await;
                for index in std::mem::take(&mut self.taken_in) {
                    outcomes[index] = outcomes[index].take().map(in_doubt);
                }
                let gone = std::mem::take(&mut self.gone);
                self.routes.forget(&gone, window, &outcomes);
                if self.flight.is_some() && !self.routes.has_trouble() {
                    self.health.ready();
                }
            }
            // Told below.
            Err(NoProducer::Lost(_)) => {}
            Err(NoProducer::Later(text)) => {
                self.health.degraded(text.clone());
                unknown = text;
            }
            Err(NoProducer::Never(error)) => {
                tracing::error!(%error, "The Kafka producer of the owner could not be built anew.");
                self.health.degraded(error.to_string());
                unknown = error.to_string();
            }
        }
        let fenced = self.fence.lost();
        if let Some(owner) = &fenced {
            self.flight = None;
            self.health.degraded(format!("another process owns the group: {owner}"));
        }
        let rest = |outcome: Option<Sent>| match (outcome, &fenced) {
            (None | Some(Sent::Unknown { .. }), Some(owner)) => {
                Sent::Fenced { text: owner.clone() }
            }
            (Some(outcome), _) => outcome,
            (None, None) => Sent::Unknown { text: unknown.clone() },
        };
        outcomes.into_iter().map(rest).collect()
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

/// A call of librdkafka that blocks. One that does not come back in time holds its thread, and its producer is given up.
async fn call(
    flight: &Flight,
    wait: Duration,
    work: impl FnOnce(&Carrier) -> Result<(), KafkaError> + Send + 'static,
) -> Result<(), Trouble> {
    let producer = flight.producer();
    let called = tokio::task::spawn_blocking(move || work(&producer));
    match timeout(wait + CALL_MARGIN, called).await {
        Ok(Ok(outcome)) => outcome.map_err(Trouble::Failed),
        Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Trouble::Late("librdkafka did not come back".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_brokers_had_taken_in_is_never_said_to_have_been_sent_nowhere() {
        let reason = UnsentReason::Unroutable;
        let unsent = Sent::Unsent { reason, text: "the topic is gone".into() };
        let Sent::Unknown { text } = in_doubt(unsent) else { panic!("it may have been read") };
        assert!(text.contains("aborted") && text.ends_with("the topic is gone"), "{text}");
        assert_eq!(in_doubt(Sent::Confirmed), Sent::Confirmed);
    }
}
