//! The RabbitMQ connector against a real broker: every promise, and the faults that only a broker can make.
//!
//! Skipped, and says so, unless `DIRIGENT_RABBITMQ` holds the address of a broker that may be littered.
//! `DIRIGENT_RABBITMQCTL` is the command that administers it, for the tests that need an administrator: they close all
//! connections, raise alarms and stop the broker, so nobody else may use it meanwhile.
#![allow(clippy::print_stdout)]

use dirigent_connectors::{
    ChannelKind, ChannelSpec, Connector, Sent, UnsentReason, conformance,
    health::Standing,
    rabbitmq::{RabbitMqConnector, RabbitMqSettings},
};
use lapin::{
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use real::rabbitmq::*;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::time::timeout;

mod real;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_keeps_every_promise() {
    let bench = broker_or_skip!("promises");
    conformance::run_all(&bench.connector, &bench.prefix).await.expect("every promise kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_in_flight_with_every_seventh_unroutable_are_decided_exactly() {
    let bench = broker_or_skip!("seventh");
    let there = bench.work();
    let gone = ChannelSpec::work(format!("{}-gone", bench.prefix));
    bench.connector.prepare(std::slice::from_ref(&there)).await.expect("prepared");
    let mut sink = bench.connector.sink().await.expect("a sink");
    for round in 0..5 {
        let window: Vec<_> = (0..2_000)
            .map(|id| message(if id % 7 == 3 { &gone } else { &there }, round * 2_000 + id))
            .collect();
        let outcomes = sink.send(&window).await;
        for (id, outcome) in outcomes.iter().enumerate() {
            let unroutable =
                matches!(outcome, Sent::Unsent { reason: UnsentReason::Unroutable, .. });
            assert!(
                if id % 7 == 3 { unroutable } else { *outcome == Sent::Confirmed },
                "round {round} message {id}: {outcome:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_to_an_exchange_that_does_not_exist_is_unroutable_and_its_neighbours_go_out_later()
{
    let bench = broker_or_skip!("exchange");
    let there = bench.work();
    let gone = ChannelSpec { name: format!("{}-gone", bench.prefix), kind: ChannelKind::Events };
    bench.connector.prepare(std::slice::from_ref(&there)).await.expect("prepared");
    let mut sink = bench.connector.sink().await.expect("a sink");
    let outcomes = sink.send(&[message(&there, 1), message(&gone, 2), message(&there, 3)]).await;
    assert!(
        matches!(&outcomes[1], Sent::Unsent { reason: UnsentReason::Unroutable, text } if text.contains(&gone.name)),
        "{outcomes:?}"
    );
    assert!(matches!(outcomes[2], Sent::Unknown { .. }), "{outcomes:?}");
    let outcomes = sink.send(&[message(&there, 1), message(&there, 3)]).await;
    assert_eq!(outcomes, [Sent::Confirmed, Sent::Confirmed]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_exists_in_another_form_is_named_with_what_differs() {
    let bench = broker_or_skip!("form");
    let channel = bench.work();
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let admin = bench.administer().await;
    let declared =
        admin.queue_declare(channel.name.as_str().into(), options, FieldTable::default());
    declared.await.expect("a classic queue");
    let error = bench.connector.prepare(std::slice::from_ref(&channel)).await.expect_err("refused");
    let text = error.to_string();
    assert!(text.contains(&channel.name) && text.contains("inequivalent arg"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_while_it_is_consumed_is_declared_and_consumed_again() {
    let bench = broker_or_skip!("deleted");
    let channel = bench.work();
    let mut source = bench.source(&channel, 100).await;
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&channel, 0..3)).await, vec![Sent::Confirmed; 3]);
    let before = receive(source.as_mut(), 3).await;
    let admin = bench.administer().await;
    let deleted = admin.queue_delete(channel.name.as_str().into(), QueueDeleteOptions::default());
    deleted.await.expect("deleted");
    // Settling what came from the queue that is gone must not hurt the new one.
    done(source.as_ref(), &before);
    let begin = Instant::now();
    while sink.send(&window(&channel, 3..4)).await != [Sent::Confirmed] {
        assert!(begin.elapsed() < HEALING_TIME_MAX, "the queue did not come back");
    }
    let after = receive(source.as_mut(), 1).await;
    assert_eq!(ids(&after), [3]);
    done(source.as_ref(), &after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_closed_by_an_administrator_are_rebuilt_and_nothing_is_lost() {
    let bench = broker_or_skip!("closed");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let channel = bench.work();
    let mut source = bench.source(&channel, 1_000).await;
    let mut sink = bench.connector.sink().await.expect("a sink");
    let mut seen = BTreeSet::new();
    let mut sent = BTreeSet::new();
    for round in 0..3 {
        let first = round * 100;
        assert_eq!(
            sink.send(&window(&channel, first..first + 50)).await,
            vec![Sent::Confirmed; 50]
        );
        let unsettled = receive(source.as_mut(), 20).await;
        administered(&ctl, &["close_all_connections", "a test"]);
        // Stale: belongs to the connection that is gone, so that the broker hands these out again.
        done(source.as_ref(), &unsettled);
        let begin = Instant::now();
        send_until_confirmed(sink.as_mut(), window(&channel, first + 50..first + 100)).await;
        sent.extend(first..first + 100);
        while seen.len() < sent.len() {
            let deliveries = receive(source.as_mut(), 1).await;
            seen.extend(ids(&deliveries));
            done(source.as_ref(), &deliveries);
        }
        println!("round {round}: healed in {} ms", begin.elapsed().as_millis());
        assert_eq!(seen, sent);
    }
}

/// More often than RabbitMQ 4 hands out a message by default before it drops it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_crashes_again_and_again_loses_nothing() {
    let bench = broker_or_skip!("crashes");
    let channel = bench.work();
    bench.connector.prepare(std::slice::from_ref(&channel)).await.expect("prepared");
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&channel, 0..50)).await, vec![Sent::Confirmed; 50]);
    for _ in 0..25 {
        let mut source = bench.source(&channel, 50).await;
        receive(source.as_mut(), 1).await;
    }
    let mut source = bench.source(&channel, 50).await;
    let deliveries = receive(source.as_mut(), 50).await;
    assert_eq!(ids(&deliveries), (0..50).collect::<Vec<_>>());
    assert!(deliveries.iter().all(|delivery| delivery.message.others.is_empty()));
    done(source.as_ref(), &deliveries);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_there_is_named_without_its_password() {
    let bench = broker_or_skip!("away");
    drop(bench);
    let mut settings = RabbitMqSettings::new("amqp://ann:s3cret@127.0.0.1:1/").expect("valid");
    settings.connect_time_max = Duration::from_millis(300);
    let error = RabbitMqConnector::new(settings).sink().await.err().expect("unreachable");
    let text = format!("{error} {error:?}");
    assert!(text.contains("127.0.0.1:1") && !text.contains("s3cret"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_at_once() {
    let bench = broker_or_skip!("password");
    let (_, host) = bench.uri.rsplit_once('@').unwrap_or(("", &bench.uri));
    let host = host.trim_start_matches("amqp://");
    let settings = RabbitMqSettings::new(&format!("amqp://guest:s3cret@{host}")).expect("valid");
    let begin = Instant::now();
    let error = RabbitMqConnector::new(settings).sink().await.err().expect("refused");
    let text = error.to_string();
    assert!(begin.elapsed() < Duration::from_secs(5), "{text}");
    assert!(text.contains("password") && !text.contains("s3cret"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_makes_windows_unknown_lets_readers_go_on_and_passes() {
    let bench = broker_or_skip!("blocked");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let channel = bench.work();
    let mut source = bench.source(&channel, 100).await;
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&channel, 0..10)).await, vec![Sent::Confirmed; 10]);
    let undo = Undo(&ctl, &["set_vm_memory_high_watermark", "0.4"]);
    administered(&ctl, &["set_vm_memory_high_watermark", "0.00001"]);
    for _ in 0..2 {
        let outcomes = sink.send(&window(&channel, 10..20)).await;
        let says_why =
            |sent: &Sent| matches!(sent, Sent::Unknown { text } if text.contains("memory"));
        assert!(outcomes.iter().all(says_why), "{outcomes:?}");
        let standing = sink.health().standing();
        assert_eq!(standing.name(), "degraded");
        assert!(standing.why().is_some_and(|why| why.contains("memory")), "{standing:?}");
    }
    assert!(source.health().standing().is_ready());
    let read = receive(source.as_mut(), 10).await;
    done(source.as_ref(), &read);
    drop(undo);
    send_until_confirmed(sink.as_mut(), window(&channel, 10..20)).await;
    until(&sink.health(), Standing::is_ready).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 10 {
        let read = receive(source.as_mut(), 1).await;
        seen.extend(ids(&read));
        done(source.as_ref(), &read);
    }
    assert_eq!(seen, (10..20).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_answering_makes_the_window_unknown_in_time_and_is_found_again() {
    let bench = broker_or_skip!("stopped");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let channel = bench.work();
    bench.connector.prepare(std::slice::from_ref(&channel)).await.expect("prepared");
    let mut sink = bench.connector.sink().await.expect("a sink");
    let said = administered(&ctl, &["eval", "os:getpid()."]);
    let pid: String = said.chars().filter(char::is_ascii_digit).collect();
    // The shell's own `kill`: the program of that name is not on every machine.
    let (stop, go_on) = (format!("kill -STOP {pid}"), format!("kill -CONT {pid}"));
    let go_on = ["-c", go_on.as_str()];
    let go_on = Undo("sh", &go_on);
    administered("sh", &["-c", &stop]);
    let begin = Instant::now();
    let outcomes = sink.send(&window(&channel, 0..10)).await;
    assert!(begin.elapsed() < Duration::from_secs(4), "took {:?}", begin.elapsed());
    assert!(outcomes.iter().all(|sent| matches!(sent, Sent::Unknown { .. })), "{outcomes:?}");
    until(&sink.health(), |standing| standing.name() == "away").await;
    drop(go_on);
    send_until_confirmed(sink.as_mut(), window(&channel, 0..10)).await;
    until(&sink.health(), Standing::is_ready).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_may_not_be_written_to_is_not_authorised() {
    let bench = broker_or_skip!("forbidden");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let open = ChannelSpec::events(format!("{}-open", bench.prefix));
    let closed = ChannelSpec::events(format!("{}-closed", bench.prefix));
    bench.connector.prepare(&[open.clone(), closed.clone()]).await.expect("prepared");
    let user = bench.prefix.as_str();
    administered(&ctl, &["add_user", user, "word"]);
    let remove = ["delete_user", user];
    let _undo = Undo(&ctl, &remove);
    administered(&ctl, &["set_permissions", user, "", ".*-open", ".*"]);
    let (_, host) = bench.uri.rsplit_once('@').expect("an address with a user");
    let mut settings = RabbitMqSettings::new(&format!("amqp://{user}:word@{host}")).expect("valid");
    settings.connection_name = bench.settings.connection_name.clone();
    let mut sink = RabbitMqConnector::new(settings).sink().await.expect("a sink");
    assert_eq!(sink.send(&[message(&open, 1)]).await, [Sent::Confirmed]);
    let outcomes = sink.send(&[message(&open, 2), message(&closed, 3), message(&open, 4)]).await;
    assert!(
        matches!(outcomes[1], Sent::Unsent { reason: UnsentReason::NotAuthorised, .. }),
        "{outcomes:?}"
    );
    assert!(matches!(outcomes[2], Sent::Unknown { .. }), "{outcomes:?}");
    send_until_confirmed(sink.as_mut(), vec![message(&open, 2), message(&open, 4)]).await;
}

/// Prints rates instead of judging them: machines differ.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rates_of_publishing_and_consuming_are_shown() {
    let bench = broker_or_skip!("rates");
    const WINDOWS: usize = 20;
    const WINDOW: usize = 2_000;
    let channel = bench.work();
    bench.connector.prepare(std::slice::from_ref(&channel)).await.expect("prepared");
    let mut sink = bench.connector.sink().await.expect("a sink");
    let begin = Instant::now();
    for round in 0..WINDOWS {
        let window = window(&channel, round * WINDOW..(round + 1) * WINDOW);
        assert!(sink.send(&window).await.iter().all(|sent| *sent == Sent::Confirmed));
    }
    let rate = |begin: Instant| (WINDOWS * WINDOW) as f64 / begin.elapsed().as_secs_f64();
    println!("published and confirmed {:.0} messages/s", rate(begin));
    let mut source = bench.source(&channel, WINDOW).await;
    let begin = Instant::now();
    let mut count = 0;
    while count < WINDOWS * WINDOW {
        let deliveries = timeout(HEALING_TIME_MAX, source.receive(512)).await;
        let deliveries = deliveries.expect("in time").expect("no trouble");
        done(source.as_ref(), &deliveries);
        count += deliveries.len();
    }
    println!("consumed and settled {:.0} messages/s", rate(begin));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_strangers_put_into_properties_and_headers_stops_no_queue() {
    let bench = broker_or_skip!("strangers");
    let Some(ctl) = require!("DIRIGENT_RABBITMQCTL") else { return };
    let channel = bench.work();
    let mut source = bench.source(&channel, 100).await;
    // As no client of ours could: bytes that are no UTF-8, and tables 20 000 deep.
    for properties in [
        "[{correlation_id, <<255>>}, {type, <<\"Odd\">>}]",
        "[{headers, [{<<254, 255>>, longstr, <<255>>}]}]",
        "[{headers, [{<<\"deep\">>, table, lists:foldl(fun(_, T) -> [{<<>>, table, T}] end, [], lists:seq(1, 20000))}]}]",
    ] {
        let publish = format!(
            "rabbit_basic:publish(rabbit_misc:r(<<\"/\">>, exchange, <<>>), <<\"{}\">>, {properties}, <<\"{{}}\">>).",
            channel.name
        );
        administered(&ctl, &["eval", &publish]);
    }
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&window(&channel, 7..8)).await, [Sent::Confirmed]);
    let read = receive(source.as_mut(), 4).await;
    let told = |at: usize, name: &str| read[at].message.attributes.get(name).map(str::to_owned);
    assert_eq!(
        (told(0, "subject").as_deref(), told(0, "type").as_deref()),
        (Some("?"), Some("Odd"))
    );
    let others = |at: usize| read[at].message.others.iter().map(|(name, _)| name.as_str());
    assert_eq!(others(1).collect::<Vec<_>>(), ["??"]);
    assert_eq!(others(2).collect::<Vec<_>>(), ["deep"]);
    assert_eq!(told(3, "id").as_deref(), Some("7"));
    assert_eq!(source.health().report().reconnects, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_came_by_sender_selected_distribution_can_be_sent_on() {
    let bench = broker_or_skip!("cc");
    let (channel, copies) = (bench.work(), ChannelSpec::work(format!("{}-copies", bench.prefix)));
    let channels = [channel.clone(), copies.clone()];
    bench.connector.prepare(&channels).await.expect("prepared");
    let mut letters = window(&channel, 0..4);
    letters[1].others = vec![("CC".into(), copies.name.clone().into())];
    letters[2].others = vec![("BCC".into(), copies.name.clone().into())];
    let mut sink = bench.connector.sink().await.expect("a sink");
    assert_eq!(sink.send(&letters).await, vec![Sent::Confirmed; 4]);
    let mut source = bench.source(&channel, 100).await;
    let read = receive(source.as_mut(), 4).await;
    assert_eq!(ids(&read), [0, 1, 2, 3]);
    assert_eq!(read[1].message.others[0].0, "received-CC");
    // It went to nobody else.
    let mut copied = bench.source(&copies, 100).await;
    assert_eq!(sink.send(&window(&copies, 9..10)).await, [Sent::Confirmed]);
    assert_eq!(ids(&receive(copied.as_mut(), 1).await), [9]);
}
