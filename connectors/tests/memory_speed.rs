//! How fast the broker in memory is by itself: what it costs bounds every measurement made with it.

use bytes::Bytes;
use dirigent_connectors::{
    Attributes, ChannelSpec, Connector, Message, Sent, Settle, SourceSpec, memory::MemoryBroker,
    names,
};
use std::time::Instant;

const MESSAGES: usize = 200_000;
const WINDOW: usize = 512;

fn message(channel: &str, id: usize) -> Message {
    let attributes = Attributes::new()
        .with(names::SPEC_VERSION, "1.0")
        .with(names::ID, id.to_string())
        .with(names::SOURCE, "speed")
        .with(names::TYPE, "Counted")
        .with(names::SUBJECT, id.to_string())
        .with(names::CONTENT_TYPE, "application/json")
        .with(names::IDEMPOTENCY_KEY, id.to_string());
    let channel = ChannelSpec::work(channel);
    Message {
        channel: channel.name,
        kind: channel.kind,
        key: id.to_string(),
        attributes,
        others: Vec::new(),
        body: Bytes::from_static(&[b'x'; 200]),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hops_keep_order_and_lose_nothing_at_full_speed() {
    let broker = MemoryBroker::new();
    let open = async |channel: &str| {
        let channels = vec![ChannelSpec::work(channel)];
        let spec =
            SourceSpec { channels, group: "g".into(), positions: vec![], unsettled_max: 8_192 };
        broker.source(spec).await.expect("a source")
    };
    let (mut first, mut second) = (open("one").await, open("two").await);
    let mut starts = broker.sink().await.expect("a sink");
    let mut passes = broker.sink().await.expect("a sink");
    let all: Vec<_> = (0..MESSAGES).map(|id| message("one", id)).collect();

    let begin = Instant::now();
    let start = tokio::spawn(async move {
        for window in all.chunks(WINDOW) {
            assert!(starts.send(window).await.iter().all(|sent| *sent == Sent::Confirmed));
        }
    });
    let pass = tokio::spawn(async move {
        let settler = first.settler();
        let mut count = 0;
        while count < MESSAGES {
            let batch = first.receive(WINDOW).await.expect("deliveries");
            count += batch.len();
            let (settled, window): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|delivery| {
                    (
                        (delivery.receipt, Settle::Done),
                        Message { channel: "two".into(), ..delivery.message },
                    )
                })
                .unzip();
            assert!(passes.send(&window).await.iter().all(|sent| *sent == Sent::Confirmed));
            settler.settle(&settled);
        }
    });
    let settler = second.settler();
    let mut next = 0;
    while next < MESSAGES {
        let batch = second.receive(WINDOW).await.expect("deliveries");
        for delivery in &batch {
            assert_eq!(delivery.message.key, next.to_string());
            next += 1;
        }
        settler.settle(
            &batch.iter().map(|delivery| (delivery.receipt, Settle::Done)).collect::<Vec<_>>(),
        );
    }
    let took = begin.elapsed();
    start.await.expect("the sender ends well");
    pass.await.expect("the one between ends well");
    eprintln!("{:.0} messages/s through two hops", MESSAGES as f64 / took.as_secs_f64());
}
