//! Clients of librdkafka end with whoever needed them: each costs threads and file descriptors.
//!
//! Against librdkafka's mock cluster, which needs no Kafka, and against ports that are none.

use dirigent_connectors::{
    ChannelSpec, Connector, ConnectorError, SourceSpec,
    kafka::{KafkaConnector, KafkaSettings, clients_open},
};
use rdkafka::mocking::MockCluster;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    sync::{Mutex, MutexGuard},
    task::JoinSet,
};

/// How long clients may take to end: far more than they need, on a machine with other things to do.
const END_WAIT_MAX: Duration = Duration::from_secs(60);

/// They are counted for the whole process, so one test after the other counts them.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

async fn all_end(after: &str) {
    let begun = Instant::now();
    while clients_open().iter().any(|(_, count)| *count > 0) {
        assert!(begun.elapsed() < END_WAIT_MAX, "left behind after {after}: {:?}", clients_open());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn spec(group: String) -> SourceSpec {
    let channels = vec![ChannelSpec::events("orders")];
    SourceSpec { channels, group, positions: vec![], unsettled_max: 10 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_dropped_leaves_no_client_behind_whatever_its_group() {
    const GROUPS: usize = 8;
    let _alone = alone().await;
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("orders", 1, 1).expect("a topic");
    for group in 0..GROUPS {
        cluster.create_topic(&format!("group-{group}.owner"), 1, 1).expect("a topic");
    }
    let settings = KafkaSettings::new(cluster.bootstrap_servers());
    let connector = Arc::new(KafkaConnector::new(settings).expect("usable settings"));
    let mut opening = JoinSet::new();
    for group in 0..GROUPS {
        let connector = Arc::clone(&connector);
        opening.spawn(async move {
            let group = format!("group-{group}");
            // Given up on the way, and tried again while the former try may still be at it.
            let soon = Duration::from_millis(20);
            let given_up = tokio::time::timeout(soon, connector.source(spec(group.clone()))).await;
            drop(given_up);
            let source = connector.source(spec(group.clone())).await.expect("a source");
            let sink = connector.owner_sink(&group).await.expect("its sink");
            (source, sink)
        });
    }
    let opened = opening.join_all().await;
    assert!(clients_open().contains(&("record", GROUPS as u64)), "{:?}", clients_open());
    // In either order: the sink may be in use when the source ends.
    for (number, (source, sink)) in opened.into_iter().enumerate() {
        if number % 2 == 0 {
            drop(source);
            drop(sink);
        } else {
            drop(sink);
            drop(source);
        }
    }
    all_end("sources and sinks were dropped").await;
    let gone = connector.owner_sink("group-0").await.err().expect("refused");
    assert!(matches!(gone, ConnectorError::Refused { .. }), "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_openings_that_fail_leave_no_client_behind() {
    const OPENINGS: usize = 200;
    const SIDE_BY_SIDE: usize = 20;
    let _alone = alone().await;
    // Whoever connects is hung up on, as by a broker that is restarted without end.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its number").port();
    let hangs_up = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let mut settings = KafkaSettings::new(format!("127.0.0.1:{port}"));
    settings.open_wait_max = Duration::from_millis(100);
    settings.session_timeout = Duration::from_secs(3);
    let connector = Arc::new(KafkaConnector::new(settings).expect("usable settings"));
    for _ in 0..OPENINGS / SIDE_BY_SIDE {
        let mut opening = JoinSet::new();
        for number in 0..SIDE_BY_SIDE {
            let connector = Arc::clone(&connector);
            opening.spawn(async move {
                // Some are no longer wanted before they have failed.
                let patience = Duration::from_millis(if number % 2 == 0 { 50 } else { 60_000 });
                let opened = connector.source(spec(format!("group-{number}")));
                tokio::time::timeout(patience, opened).await.ok().map(|opened| opened.err())
            });
        }
        for failed in opening.join_all().await.into_iter().flatten() {
            let unreachable = failed.expect("nobody answers there");
            assert!(matches!(unreachable, ConnectorError::Unreachable { .. }), "{unreachable}");
        }
    }
    hangs_up.abort();
    all_end("openings failed").await;
}
