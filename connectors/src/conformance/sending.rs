//! The promises about sending.

use super::{
    Broken,
    bench::{Reader, channel, expect_equal, ids, message, numbered, prepare, send, send_confirmed},
};
use crate::{
    ChannelKind::{Events, Work},
    Connector, Sent, UnsentReason, names,
};
use bytes::Bytes;

/// More than any broker takes with its usual settings (bytes), and little enough for every client to try.
const TOO_LARGE_BYTES: usize = 64 * 1024 * 1024;

/// Key, attributes, foreign headers and body arrive unchanged, whatever is in them.
pub async fn a_message_arrives_as_it_was_sent(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Work, prefix);
    prepare(connector, &channel).await?;
    let mut reader = Reader::open(connector, &channel, prefix).await?;
    let mut full = message(&channel, "ключ-鍵-🔑", 0);
    for (name, value) in [
        (names::TIME, "2026-11-21T12:00:00.123Z"),
        (names::SCHEMA, "https://example.org/schemas/1"),
        (names::TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        (names::TRACESTATE, "vendor=value"),
        (names::REPLY_TO, "replies"),
        (names::IDEMPOTENCY_KEY, "5e1f…ä"),
        ("sagaid", "order/ключ"),
        ("sagaattempt", "1"),
    ] {
        full.attributes.set(name, value);
    }
    full.others = vec![
        ("x-tenant".into(), Bytes::from_static(b"blue")),
        ("X-Mixed-Case".into(), Bytes::from_static("ö".as_bytes())),
    ];
    full.body = Bytes::from((0..=255).collect::<Vec<u8>>());
    let mut empty = message(&channel, "k", 1);
    empty.body = Bytes::new();
    let mut bare = message(&channel, "k", 2);
    bare.attributes = [(names::ID, "2")].into_iter().collect();
    let window = [full, empty, bare];
    send_confirmed(connector, &window).await?;
    let mut deliveries = reader.receive(3).await?;
    reader.done(&deliveries)?;
    deliveries.sort_by_key(super::bench::id);
    for (sent, delivery) in window.iter().zip(deliveries) {
        let came = delivery.message;
        expect_equal("channel", &came.channel, &sent.channel)?;
        expect_equal("kind", &came.kind, &sent.kind)?;
        expect_equal("key", &came.key, &sent.key)?;
        let sorted = |message: &crate::Message| {
            let mut pairs: Vec<_> = message
                .attributes
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            pairs.sort();
            pairs
        };
        expect_equal("attributes", &sorted(&came), &sorted(sent))?;
        let sorted = |message: &crate::Message| {
            let mut others = message.others.clone();
            others.sort();
            others
        };
        expect_equal("foreign headers", &sorted(&came), &sorted(sent))?;
        expect_equal("body", &came.body, &sent.body)?;
    }
    Ok(())
}

/// Work on a prepared channel waits for a reader that has never been there.
pub async fn work_sent_before_its_first_reader_waits_for_it(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Work, prefix);
    prepare(connector, &channel).await?;
    // Preparing twice is preparing once.
    prepare(connector, &channel).await?;
    send_confirmed(connector, &numbered(&channel, "k", 0..5)).await?;
    let mut reader = Reader::open(connector, &channel, prefix).await?;
    let deliveries = reader.receive(5).await?;
    expect_equal("messages that waited", &ids(&deliveries), &(0..5).collect())?;
    reader.done(&deliveries)
}

/// Nobody listening to an event is not an error.
pub async fn events_nobody_listens_to_are_confirmed(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Events, prefix);
    prepare(connector, &channel).await?;
    send_confirmed(connector, &numbered(&channel, "k", 0..3)).await
}

/// Work for a channel that was never prepared is unsent as unroutable; its neighbours in the window are confirmed.
pub async fn work_nobody_could_take_is_unsent(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let known = channel(Work, prefix);
    let unknown = channel(Work, &format!("{prefix}-never-prepared"));
    prepare(connector, &known).await?;
    let mut reader = Reader::open(connector, &known, prefix).await?;
    let window = [
        message(&known, "k", 0),
        message(&unknown, "k", 1),
        message(&unknown, "k", 2),
        message(&known, "k", 3),
    ];
    let outcomes = send(connector, &window).await?;
    for (index, outcome) in outcomes.iter().enumerate() {
        match (index, outcome) {
            (0 | 3, Sent::Confirmed)
            | (1 | 2, Sent::Unsent { reason: UnsentReason::Unroutable, .. }) => {}
            _ => return Err(format!("the outcome of message {index} is {outcome:?}")),
        }
    }
    let deliveries = reader.receive(2).await?;
    expect_equal("messages of the known channel", &ids(&deliveries), &vec![0, 3])?;
    reader.done(&deliveries)
}

/// A message larger than the broker takes is unsent; the rest of its window is confirmed and arrives.
pub async fn too_large_messages_are_unsent_and_the_rest_is_confirmed(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Work, prefix);
    prepare(connector, &channel).await?;
    let mut reader = Reader::open(connector, &channel, prefix).await?;
    let mut window = numbered(&channel, "k", 0..5);
    window[2].body = Bytes::from(vec![b'x'; TOO_LARGE_BYTES]);
    let outcomes = send(connector, &window).await?;
    let mut unknown = Vec::new();
    for (index, outcome) in outcomes.iter().enumerate() {
        match (index, outcome) {
            (2, Sent::Unsent { reason: UnsentReason::TooLarge, .. }) => {}
            (0 | 1 | 3 | 4, Sent::Confirmed) => {}
            // A broker may close the connection over it, which leaves the neighbours unknown: they are sent again.
            (0 | 1 | 3 | 4, Sent::Unknown { .. }) => unknown.push(window[index].clone()),
            _ => return Err(format!("the outcome of message {index} is {outcome:?}")),
        }
    }
    if !unknown.is_empty() {
        send_confirmed(connector, &unknown).await?;
    }
    let mut came = std::collections::BTreeSet::new();
    while came.len() < 4 {
        let deliveries = reader.receive(1).await?;
        reader.done(&deliveries)?;
        came.extend(ids(&deliveries));
    }
    expect_equal("messages beside the large one", &came, &[0, 1, 3, 4].into())
}

/// A window of two thousand messages is confirmed as a whole and arrives without a gap.
pub async fn a_large_window_is_confirmed_and_arrives_complete_and_in_order(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Work, prefix);
    prepare(connector, &channel).await?;
    let mut reader = Reader::open(connector, &channel, prefix).await?;
    send_confirmed(connector, &numbered(&channel, "k", 0..2_000)).await?;
    let deliveries = reader.receive(2_000).await?;
    expect_equal("messages of the window", &ids(&deliveries), &(0..2_000).collect())?;
    reader.done(&deliveries)
}
