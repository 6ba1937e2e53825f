//! The bare loop by librdkafka: one thread polls and sends, as fast as brokers confirm.

use super::{Loop, Sending, WINDOW_MAX};
use crate::bench::{Error, services::Crew};
use dirigent_connectors::{ChannelSpec, Message, kafka::SEND_WAIT_MAX, names};
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How long to wait for messages while there is nothing to do.
const POLL: Duration = Duration::from_millis(100);

/// How long to wait for more of them while a window is under way.
const POLL_BETWEEN: Duration = Duration::from_millis(1);

/// How long the brokers may take to tell of topics and to begin transactions.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(30);

/// Starts it on a thread of its own, which ends when the loop is to stop.
pub(super) async fn start(crew: &mut Crew, address: &str, work: Loop) -> Result<(), Error> {
    let address = address.to_owned();
    let opening = tokio::task::spawn_blocking(move || Running::open(&address, work));
    let running = opening.await??;
    crew.hire(async move { tokio::task::spawn_blocking(move || running.run()).await? });
    Ok(())
}

struct Running {
    work: Loop,
    consumer: BaseConsumer,
    producer: ThreadedProducer<Reports>,
    awaited: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    forms: HashMap<&'static str, (Message, OwnedHeaders)>,
}

/// An input that waits for its window: its type and its order.
type Input = (String, String);

impl Running {
    fn open(address: &str, work: Loop) -> Result<Self, Error> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", address)
            .set("group.id", format!("bench-bare{}", work.reads[0].name))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "100")
            .create()?;
        let mut assignment = TopicPartitionList::new();
        for ChannelSpec { name, .. } in &work.reads {
            let topics = consumer.fetch_metadata(Some(name.as_str()), OPEN_WAIT_MAX)?;
            let partitions = topics.topics().iter().flat_map(|topic| topic.partitions());
            for partition in partitions {
                assignment.add_partition_offset(name, partition.id(), Offset::Beginning)?;
            }
        }
        consumer.assign(&assignment)?;
        let (awaited, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let reports = Reports { awaited: Arc::clone(&awaited), failed: Arc::clone(&failed) };
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", address)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "1");
        if work.sending == Sending::InTransactions {
            config.set("transactional.id", "bench-bare").set("linger.ms", "0");
        }
        let producer: ThreadedProducer<Reports> = config.create_with_context(reports)?;
        if work.sending == Sending::InTransactions {
            producer.init_transactions(OPEN_WAIT_MAX)?;
        }
        let forms = work.moves.forms().map(|(name, form)| (name, (form.clone(), headers(form))));
        let forms = forms.collect();
        Ok(Self { work, consumer, producer, awaited, failed, forms })
    }

    /// Gathers while a window is under way, sends once it is confirmed.
    fn run(&self) -> Result<(), Error> {
        let mut gathered: Vec<Input> = Vec::new();
        // By topic and partition: what is read next.
        let mut positions: HashMap<(String, i32), i64> = HashMap::new();
        while !self.work.stop.load(Ordering::Acquire) {
            let patience = if gathered.is_empty() { POLL } else { Duration::ZERO };
            match self.consumer.poll(patience) {
                Some(message) => {
                    let message = message?;
                    let place = (message.topic().to_owned(), message.partition());
                    positions.insert(place, message.offset() + 1);
                    gathered.push(read(&message)?);
                    if gathered.len() < WINDOW_MAX {
                        continue;
                    }
                }
                None if gathered.is_empty() => continue,
                None => {}
            }
            self.send(&gathered)?;
            self.decided(&mut gathered, &mut positions)?;
        }
        Ok(())
    }

    fn send(&self, inputs: &[Input]) -> Result<(), Error> {
        if self.work.sending == Sending::InTransactions {
            self.producer.begin_transaction()?;
        }
        for (name, order) in inputs {
            for name in self.work.moves.after(name, order)? {
                let (form, headers) = &self.forms[name];
                let record = BaseRecord::to(&form.channel)
                    .key(order.as_str())
                    .payload(form.body.as_ref())
                    .headers(headers.clone());
                self.awaited.fetch_add(1, Ordering::AcqRel);
                self.producer.send(record).map_err(|(error, _)| error)?;
            }
        }
        Ok(())
    }

    /// Waits until the brokers have the window, gathering the next one meanwhile; then its inputs are taken care of.
    fn decided(
        &self,
        window: &mut Vec<Input>,
        positions: &mut HashMap<(String, i32), i64>,
    ) -> Result<(), Error> {
        let mut through = TopicPartitionList::new();
        for ((topic, partition), next) in positions.drain() {
            through.add_partition_offset(&topic, partition, Offset::Offset(next))?;
        }
        let mut next = Vec::new();
        while self.awaited.load(Ordering::Acquire) > 0 {
            if next.len() == WINDOW_MAX {
                std::thread::sleep(POLL_BETWEEN);
                continue;
            }
            if let Some(message) = self.consumer.poll(POLL_BETWEEN) {
                let message = message?;
                let place = (message.topic().to_owned(), message.partition());
                positions.insert(place, message.offset() + 1);
                next.push(read(&message)?);
            }
        }
        if self.failed.load(Ordering::Acquire) > 0 {
            return Err("Kafka did not take a message of the bare loop".into());
        }
        if self.work.sending == Sending::InTransactions {
            self.producer.commit_transaction(SEND_WAIT_MAX)?;
        }
        self.consumer.commit(&through, CommitMode::Async)?;
        self.work.taken.fetch_add(window.len() as u64, Ordering::AcqRel);
        *window = next;
        Ok(())
    }
}

fn read(message: &BorrowedMessage<'_>) -> Result<Input, Error> {
    let headers = message.headers().ok_or("a message of the bare loop has lost its headers")?;
    let kind = headers.iter().find(|header| header.key == "ce_type").and_then(|it| it.value);
    let kind = kind.ok_or("a message of the bare loop has lost its type")?;
    let key = message.key().unwrap_or_default();
    Ok((std::str::from_utf8(kind)?.to_owned(), std::str::from_utf8(key)?.to_owned()))
}

/// As CloudEvents' binding to Kafka has them.
fn headers(form: &Message) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(form.attributes.len());
    for (name, value) in form.attributes.iter() {
        let key = match name {
            names::CONTENT_TYPE => "content-type".to_owned(),
            names::TRACEPARENT | names::TRACESTATE => name.to_owned(),
            _ => format!("ce_{name}"),
        };
        headers = headers.insert(Header { key: &key, value: Some(value) });
    }
    headers
}

/// Counts what the brokers have said.
struct Reports {
    awaited: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::AcqRel);
        }
        self.awaited.fetch_sub(1, Ordering::AcqRel);
    }
}
