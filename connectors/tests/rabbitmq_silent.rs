//! The RabbitMQ connector with a quorum queue that has no leader: everything else goes on, it is told, and it heals by itself once there is one.
//!
//! Skipped, and says so, as the tests of `rabbitmq_real.rs` are; it needs an administrator.

use dirigent_connectors::{
    ChannelSpec, Connector, Sent, SourceSpec,
    health::{Flow, Standing},
    names,
    rabbitmq::RabbitMqConnector,
};
use real::rabbitmq::*;
use std::time::{Duration, Instant};

mod real;

/// A queue that lost its members' memory as one does whose first entry was not on the disk when the broker was killed: recovered as a
/// new member that waits for its first election.
fn lose_the_leader(ctl: &str, queue: &str) {
    let lose = format!(
        r#"{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)), ok = ra:force_delete_server(quorum_queues, {{list_to_atom("%2F_{queue}"), node()}}), {{[_], []}} = rabbit_quorum_queue:recover(<<"/">>, [Q]), well."#
    );
    assert_eq!(administered(ctl, &["eval", &lose]).trim(), "well");
}

/// What an operator does.
fn elect_a_leader(ctl: &str, queue: &str) {
    let elect = format!(r#"ra:trigger_election({{list_to_atom("%2F_{queue}"), node()}})."#);
    assert_eq!(administered(ctl, &["eval", &elect]).trim(), "ok");
}

fn says(standing: &Standing, parts: &[&str]) {
    let why = standing.why().unwrap_or_default();
    assert!(parts.iter().all(|part| why.contains(part)), "{standing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_without_a_leader_is_told_and_heals_while_the_others_of_its_source_deliver() {
    let bench = broker_or_skip!("silent");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let [sick, well] =
        ["sick", "well"].map(|name| ChannelSpec::work(format!("{}-{name}", bench.prefix)));
    bench.connector.prepare(&[sick.clone(), well.clone()]).await.expect("prepared");
    lose_the_leader(&ctl, &sick.name);
    let spec = SourceSpec {
        channels: vec![sick.clone(), well.clone()],
        group: bench.prefix.clone(),
        positions: vec![],
        unsettled_max: 10,
    };
    let mut source =
        bench.connector.source(spec).await.expect("a source, though a queue is silent");
    let standing = until(&source.health(), |standing| standing.name() == "degraded").await;
    says(&standing, &[&sick.name, "quorum_status", "trigger_election"]);
    let flow = source.health().flow();
    assert_eq!(flow, Flow::AllBut([sick.name.clone()].into()), "time counts on the other");
    let mut sink = bench.connector.sink().await.expect("a sink");
    for round in 0..3 {
        assert_eq!(sink.send(&window(&well, round..round + 1)).await, [Sent::Confirmed]);
        let read = receive(source.as_mut(), 1).await;
        assert_eq!(ids(&read), [round]);
        done(source.as_ref(), &read);
    }
    let report = source.health().report();
    let up = |queue: &ChannelSpec| {
        let mut figures = report.figures.iter();
        let found = figures.find(|figure| figure.labels == [("queue", queue.name.clone())]);
        found.map(|figure| (figure.measure.name, figure.value))
    };
    assert_eq!(up(&sick), Some(("rabbitmq_queue_up", 0.0)));
    assert_eq!(up(&well), Some(("rabbitmq_queue_up", 1.0)));
    elect_a_leader(&ctl, &sick.name);
    until(&source.health(), Standing::is_ready).await;
    assert_eq!(sink.send(&window(&sick, 0..3)).await, vec![Sent::Confirmed; 3]);
    let read = receive(source.as_mut(), 3).await;
    assert_eq!(ids(&read), [0, 1, 2]);
    done(source.as_ref(), &read);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_loses_its_leader_while_it_is_consumed_is_told_and_stops_no_other() {
    let bench = broker_or_skip!("silenced");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let [sick, well] =
        ["sick", "well"].map(|name| ChannelSpec::work(format!("{}-{name}", bench.prefix)));
    bench.connector.prepare(&[sick.clone(), well.clone()]).await.expect("prepared");
    let spec = SourceSpec {
        channels: vec![sick.clone(), well.clone()],
        group: bench.prefix.clone(),
        positions: vec![],
        unsettled_max: 10,
    };
    let mut source = bench.connector.source(spec).await.expect("a source");
    assert!(source.health().standing().is_ready());
    lose_the_leader(&ctl, &sick.name);
    // As after a restart of the broker, every consumer has to come anew.
    administered(&ctl, &["close_all_connections", "a test"]);
    let names_the_cure =
        |standing: &Standing| standing.why().is_some_and(|why| why.contains("trigger_election"));
    says(&until(&source.health(), names_the_cure).await, &[&sick.name]);
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&well, 0..3)).await, vec![Sent::Confirmed; 3]);
    let read = receive(source.as_mut(), 3).await;
    assert_eq!(ids(&read), [0, 1, 2]);
    done(source.as_ref(), &read);
    elect_a_leader(&ctl, &sick.name);
    until(&source.health(), Standing::is_ready).await;
    assert_eq!(sink.send(&window(&sick, 0..3)).await, vec![Sent::Confirmed; 3]);
    assert_eq!(ids(&receive(source.as_mut(), 3).await), [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_to_a_queue_without_a_leader_is_unknown_and_others_are_confirmed() {
    let bench = broker_or_skip!("unconfirmed");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let [sick, well] =
        ["sick", "well"].map(|name| ChannelSpec::work(format!("{}-{name}", bench.prefix)));
    bench.connector.prepare(&[sick.clone(), well.clone()]).await.expect("prepared");
    let mut settings = bench.settings.clone();
    settings.confirm_time_max = Duration::from_secs(2);
    let connector = RabbitMqConnector::new(settings);
    let mut sink = connector.sink().await.expect("a sink");
    lose_the_leader(&ctl, &sick.name);
    // Far more for the queue than RabbitMQ lets be under way before it stops reading from the connection.
    let mixed = |ids: std::ops::Range<usize>| {
        ids.map(|id| message(if id % 2 == 0 { &sick } else { &well }, id)).collect::<Vec<_>>()
    };
    let mut open: Vec<usize> = (0..1_000).filter(|id| id % 2 == 1).collect();
    let (begin, mut rounds) = (Instant::now(), 0);
    let mut window = mixed(0..1_000);
    while !open.is_empty() {
        let outcomes = sink.send(&window).await;
        for (one, sent) in window.iter().zip(&outcomes) {
            let expected = *sent == Sent::Confirmed && one.channel == well.name;
            assert!(expected || matches!(sent, Sent::Unknown { .. }), "{}: {sent:?}", one.channel);
        }
        let mut outcomes = outcomes.iter();
        window.retain(|_| outcomes.next() != Some(&Sent::Confirmed));
        open.retain(|id| {
            window.iter().any(|one| one.attributes.get(names::ID) == Some(&id.to_string()))
        });
        rounds += 1;
        assert!(
            begin.elapsed() < HEALING_TIME_MAX,
            "{} are open after {rounds} windows",
            open.len()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It is known by now: nobody waits for it any more.
    for _ in 0..5 {
        let begin = Instant::now();
        let outcomes = sink.send(&mixed(0..10)).await;
        let confirmed: Vec<bool> = outcomes.iter().map(|sent| *sent == Sent::Confirmed).collect();
        assert_eq!(confirmed, (0..10).map(|id| id % 2 == 1).collect::<Vec<_>>(), "{outcomes:?}");
        assert!(begin.elapsed() < Duration::from_secs(2), "it waited for the silent one");
    }
    elect_a_leader(&ctl, &sick.name);
    send_until_confirmed(sink.as_mut(), window.clone()).await;
    until(&sink.health(), Standing::is_ready).await;
    let mut source = bench.source(&sick, 1_000).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < window.len() {
        let read = receive(source.as_mut(), 1).await;
        seen.extend(ids(&read));
        done(source.as_ref(), &read);
    }
    assert!(seen.iter().all(|id| id % 2 == 0), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_does_not_confirm_is_told_by_the_sink_with_its_cure() {
    let bench = broker_or_skip!("unheard");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let sick = bench.work();
    bench.connector.prepare(std::slice::from_ref(&sick)).await.expect("prepared");
    let mut settings = bench.settings.clone();
    settings.confirm_time_max = Duration::from_secs(1);
    let mut sink = RabbitMqConnector::new(settings).sink().await.expect("a sink");
    lose_the_leader(&ctl, &sick.name);
    assert!(matches!(sink.send(&window(&sick, 0..1)).await[..], [Sent::Unknown { .. }]));
    assert!(matches!(sink.send(&window(&sick, 0..1)).await[..], [Sent::Unknown { .. }]));
    let told = until(&sink.health(), |standing| standing.name() == "degraded").await;
    says(&told, &[&sick.name, "quorum_status", "trigger_election"]);
    let figures = sink.health().report().figures;
    let silent = figures.iter().find(|figure| figure.measure.name == "rabbitmq_channels_silent");
    assert_eq!(silent.map(|figure| figure.value), Some(1.0));
    elect_a_leader(&ctl, &sick.name);
    send_until_confirmed(sink.as_mut(), window(&sick, 0..1)).await;
    until(&sink.health(), Standing::is_ready).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_made_anew_without_a_word_is_consumed_again() {
    let bench = broker_or_skip!("forgotten");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let channel = bench.work();
    let mut source = bench.source(&channel, 10).await;
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&channel, 0..3)).await, vec![Sent::Confirmed; 3]);
    let read = receive(source.as_mut(), 3).await;
    done(source.as_ref(), &read);
    // Nobody is told that its consumers are gone with it.
    lose_the_leader(&ctl, &channel.name);
    elect_a_leader(&ctl, &channel.name);
    send_until_confirmed(sink.as_mut(), window(&channel, 3..6)).await;
    // What was unknown once was sent twice.
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let read = receive(source.as_mut(), 1).await;
        done(source.as_ref(), &read);
        seen.extend(ids(&read).into_iter().filter(|id| !seen.contains(id)).collect::<Vec<_>>());
    }
    assert_eq!(seen, [3, 4, 5]);
    until(&source.health(), Standing::is_ready).await;
    assert_eq!(source.health().report().reconnects, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumed_queue_that_loses_its_leader_without_a_word_is_told_and_heals() {
    let bench = broker_or_skip!("unled");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let channel = bench.work();
    let mut source = bench.source(&channel, 10).await;
    lose_the_leader(&ctl, &channel.name);
    let names_the_cure =
        |standing: &Standing| standing.why().is_some_and(|why| why.contains("trigger_election"));
    says(&until(&source.health(), names_the_cure).await, &[&channel.name]);
    assert_eq!(source.health().flow(), Flow::Nothing);
    elect_a_leader(&ctl, &channel.name);
    until(&source.health(), Standing::is_ready).await;
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&channel, 0..3)).await, vec![Sent::Confirmed; 3]);
    assert_eq!(ids(&receive(source.as_mut(), 3).await), [0, 1, 2]);
}
