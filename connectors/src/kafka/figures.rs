//! What librdkafka's statistics say, as figures for metrics.

use super::clients::clients_open;
use crate::health::{Figure, Measure, MeasureKind};
use rdkafka::Statistics;

static LAG: Measure = level(
    "kafka_lag_messages",
    "Offsets of a partition that were not handed out yet; ends of transactions count as one each",
);
static FETCH_QUEUE: Measure = level(
    "kafka_fetch_queue_messages",
    "Messages of a partition that were fetched and not handed out yet",
);
static PRODUCER_QUEUE: Measure =
    level("kafka_producer_queue_messages", "Messages handed over and not confirmed yet");
static PRODUCER_QUEUE_BYTES: Measure =
    level("kafka_producer_queue_bytes", "Size of the messages handed over and not confirmed yet");
static BROKERS_UP: Measure = level("kafka_brokers_up", "Brokers that this client is connected to");
static ROUND_TRIP_MEAN: Measure = level(
    "kafka_round_trip_mean_seconds",
    "Mean time until a broker answered, in the last interval",
);
static ROUND_TRIP_P99: Measure = level(
    "kafka_round_trip_p99_seconds",
    "Time within which a broker gave 99 of 100 answers, in the last interval",
);

const fn level(name: &'static str, help: &'static str) -> Measure {
    Measure { name, help, kind: MeasureKind::Gauge }
}

static CLIENTS_OPEN: Measure = Measure {
    name: "kafka_clients_open",
    help: "Clients of librdkafka that this process has open, by what they are for; some threads and ten file descriptors each",
    kind: MeasureKind::Gauge,
};

/// What one client says of itself: a reader its partitions, a producer its queue, both their brokers.
pub(super) fn of(statistics: &Statistics) -> Vec<Figure> {
    let plain =
        |measure: &'static Measure, value: f64| Figure { measure, labels: Vec::new(), value };
    let is_producer = statistics.client_type == "producer";
    let mut figures = Vec::new();
    let brokers = || statistics.brokers.values().filter(|broker| broker.nodeid >= 0);
    let up = brokers().filter(|broker| broker.state == "UP").count();
    figures.push(plain(&BROKERS_UP, up as f64));
    for broker in brokers() {
        let Some(round_trip) = broker.rtt.as_ref().filter(|round_trip| round_trip.cnt > 0) else {
            continue;
        };
        for (measure, micros) in
            [(&ROUND_TRIP_MEAN, round_trip.avg), (&ROUND_TRIP_P99, round_trip.p99)]
        {
            let labels = vec![("broker", broker.nodeid.to_string())];
            figures.push(Figure { measure, labels, value: micros as f64 / 1e6 });
        }
    }
    if is_producer {
        figures.push(plain(&PRODUCER_QUEUE, statistics.msg_cnt as f64));
        figures.push(plain(&PRODUCER_QUEUE_BYTES, statistics.msg_size as f64));
        return figures;
    }
    // Of the whole process, so told by one kind of client only.
    for (role, count) in clients_open() {
        let labels = vec![("role", role.to_owned())];
        figures.push(Figure { measure: &CLIENTS_OPEN, labels, value: count as f64 });
    }
    let mut topics: Vec<_> = statistics.topics.values().collect();
    topics.sort_unstable_by_key(|topic| &topic.topic);
    for topic in topics {
        let mut partitions: Vec<_> =
            topic.partitions.values().filter(|partition| partition.partition >= 0).collect();
        partitions.sort_unstable_by_key(|partition| partition.partition);
        for partition in partitions {
            let labels = || {
                vec![("topic", topic.topic.clone()), ("partition", partition.partition.to_string())]
            };
            let fetched = partition.fetchq_cnt as f64;
            figures.push(Figure { measure: &FETCH_QUEUE, labels: labels(), value: fetched });
            // Before the first message only where fetching begins is known; before the first answer, nothing is.
            let next = if partition.app_offset >= 0 {
                partition.app_offset
            } else {
                partition.next_offset
            };
            if next >= 0 && partition.ls_offset >= 0 {
                let lag = (partition.ls_offset - next).max(0) as f64;
                figures.push(Figure { measure: &LAG, labels: labels(), value: lag });
            }
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::statistics::{Broker, Partition, Topic, Window};
    use std::collections::HashMap;

    fn value(figures: &[Figure], name: &str) -> Vec<f64> {
        figures
            .iter()
            .filter(|figure| figure.measure.name == name)
            .map(|figure| figure.value)
            .collect()
    }

    #[test]
    fn a_reader_shows_its_lag_and_its_brokers_and_only_what_is_known() {
        let partition = |partition, app_offset, next_offset, ls_offset| {
            let known = Partition {
                partition,
                app_offset,
                next_offset,
                ls_offset,
                fetchq_cnt: 4,
                ..Partition::default()
            };
            (partition, known)
        };
        let partitions = HashMap::from([
            partition(-1, 0, 0, 0),
            partition(0, 7, 9, 20),
            partition(1, -1001, 5, 20),
            partition(2, -1001, -1001, -1001),
        ]);
        let topic = Topic { topic: "orders".into(), partitions, ..Topic::default() };
        let rtt = Some(Window { cnt: 3, avg: 2_000, p99: 9_000, ..Window::default() });
        let broker = |nodeid, state: &str| {
            let broker =
                Broker { nodeid, state: state.into(), rtt: rtt.clone(), ..Broker::default() };
            (nodeid.to_string(), broker)
        };
        let statistics = Statistics {
            client_type: "consumer".into(),
            topics: HashMap::from([("orders".into(), topic)]),
            brokers: HashMap::from([broker(-1, "UP"), broker(1, "UP"), broker(2, "DOWN")]),
            ..Statistics::default()
        };
        let figures = of(&statistics);
        assert_eq!(value(&figures, "kafka_lag_messages"), [13.0, 15.0]);
        assert_eq!(value(&figures, "kafka_fetch_queue_messages"), [4.0; 3]);
        assert_eq!(value(&figures, "kafka_brokers_up"), [1.0]);
        assert_eq!(value(&figures, "kafka_round_trip_mean_seconds"), [0.002; 2]);
        assert!(value(&figures, "kafka_producer_queue_messages").is_empty());
    }
}
