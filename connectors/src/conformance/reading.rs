//! The promises about reading and settling.

use super::{
    Broken,
    bench::{Reader, channel, expect_equal, ids, message, numbered, prepare, send_confirmed},
};
use crate::{
    ChannelKind::{Events, Work},
    Connector, Settle,
};

/// Messages of one key arrive in the order they were sent, also when other keys come between and windows follow each other.
pub async fn messages_of_one_key_arrive_in_order(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Work, prefix);
    prepare(connector, &channel).await?;
    let mut reader = Reader::open(connector, &channel, prefix).await?;
    let keys = ["a", "b", "ключ", "d", "e"];
    for first in [0, 100, 200] {
        let window: Vec<_> =
            (first..first + 100).map(|id| message(&channel, keys[id % keys.len()], id)).collect();
        send_confirmed(connector, &window).await?;
    }
    let deliveries = reader.receive(300).await?;
    reader.done(&deliveries)?;
    for (index, key) in keys.iter().enumerate() {
        let of_key: Vec<_> =
            deliveries.iter().filter(|delivery| delivery.message.key == *key).cloned().collect();
        let expected: Vec<_> = (0..300).filter(|id| id % keys.len() == index).collect();
        expect_equal(&format!("messages of key {key}"), &ids(&of_key), &expected)?;
    }
    Ok(())
}

/// What was handed out but not settled comes again from a source opened anew, in its order.
pub async fn what_was_not_settled_comes_again(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Work, prefix);
    prepare(connector, &channel).await?;
    let mut reader = Reader::open(connector, &channel, prefix).await?;
    send_confirmed(connector, &numbered(&channel, "k", 0..20)).await?;
    let deliveries = reader.receive(20).await?;
    reader.done(&deliveries[..8])?;
    reader.reopen().await?;
    let again = reader.receive(12).await?;
    expect_equal("messages after opening anew", &ids(&again), &(8..20).collect())?;
    reader.done(&again)?;
    reader.nothing_more_comes().await
}

/// What was settled as done does not come again, and what is sent later does.
pub async fn what_is_settled_does_not_come_again(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Work, prefix);
    prepare(connector, &channel).await?;
    let mut reader = Reader::open(connector, &channel, prefix).await?;
    send_confirmed(connector, &numbered(&channel, "k", 0..20)).await?;
    let deliveries = reader.receive(20).await?;
    reader.done(&deliveries)?;
    // Without this the source could be gone before the broker was told, which leads to a delivery more: allowed, but not looked at here.
    reader.nothing_more_comes().await?;
    reader.reopen().await?;
    send_confirmed(connector, &numbered(&channel, "k", 20..22)).await?;
    let later = reader.receive(2).await?;
    expect_equal("messages after opening anew", &ids(&later), &vec![20, 21])?;
    reader.done(&later)?;
    reader.nothing_more_comes().await
}

/// What is settled to come again does so without opening the source anew.
pub async fn what_is_settled_again_comes_again(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Work, prefix);
    prepare(connector, &channel).await?;
    let mut reader = Reader::open(connector, &channel, prefix).await?;
    send_confirmed(connector, &numbered(&channel, "k", 0..3)).await?;
    let deliveries = reader.receive(3).await?;
    let [first, second, third] = &deliveries[..] else { return Err("three were received".into()) };
    reader.settler()?.settle(&[
        (first.receipt, Settle::Done),
        (second.receipt, Settle::Again),
        (third.receipt, Settle::Done),
    ]);
    let again = reader.receive(1).await?;
    expect_equal("the message that was to come again", &ids(&again), &vec![1])?;
    reader.done(&again)?;
    reader.nothing_more_comes().await
}

/// Each group that listens gets each event.
pub async fn events_reach_every_group(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Events, prefix);
    prepare(connector, &channel).await?;
    let mut one = Reader::open(connector, &channel, &format!("{prefix}-one")).await?;
    let mut two = Reader::open(connector, &channel, &format!("{prefix}-two")).await?;
    send_confirmed(connector, &numbered(&channel, "k", 0..10)).await?;
    for reader in [&mut one, &mut two] {
        let deliveries = reader.receive(10).await?;
        expect_equal("events of one group", &ids(&deliveries), &(0..10).collect())?;
        reader.done(&deliveries)?;
    }
    // A group that is away misses nothing.
    drop(two.settler()?);
    two.reopen().await?;
    send_confirmed(connector, &numbered(&channel, "k", 10..12)).await?;
    let later = two.receive(2).await?;
    expect_equal("events after opening anew", &ids(&later), &vec![10, 11])?;
    two.done(&later)
}

/// No more deliveries are out than were agreed; settling some makes room for as many.
pub async fn at_most_the_agreed_number_is_out_unsettled(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Work, prefix);
    prepare(connector, &channel).await?;
    let mut reader = Reader::open_bounded(connector, &channel, prefix, 10).await?;
    send_confirmed(connector, &numbered(&channel, "k", 0..25)).await?;
    let first = reader.receive(10).await?;
    reader.nothing_more_comes().await?;
    reader.done(&first[..4])?;
    let second = reader.receive(4).await?;
    reader.nothing_more_comes().await?;
    reader.done(&first[4..])?;
    reader.done(&second)?;
    let mut all = [first, second].concat();
    while all.len() < 25 {
        let more = reader.receive((25 - all.len()).min(10)).await?;
        reader.done(&more)?;
        all.extend(more);
    }
    expect_equal("messages in all", &ids(&all), &(0..25).collect())
}

/// A settler may be used from a thread that knows no async runtime.
pub async fn deliveries_are_settled_from_another_thread(
    connector: &dyn Connector,
    prefix: &str,
) -> Result<(), Broken> {
    let channel = channel(Work, prefix);
    prepare(connector, &channel).await?;
    let mut reader = Reader::open_bounded(connector, &channel, prefix, 5).await?;
    send_confirmed(connector, &numbered(&channel, "k", 0..10)).await?;
    let first = reader.receive(5).await?;
    let settler = reader.settler()?;
    let settlements: Vec<_> =
        first.iter().map(|delivery| (delivery.receipt, Settle::Done)).collect();
    let settled = std::thread::spawn(move || settler.settle(&settlements)).join();
    settled.map_err(|_| "settling panicked in another thread")?;
    let second = reader.receive(5).await?;
    expect_equal("messages after settling", &ids(&second), &(5..10).collect())?;
    reader.done(&second)
}
