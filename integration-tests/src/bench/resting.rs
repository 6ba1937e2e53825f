//! Sagas that rest: guests who arrived and of whom nothing is heard for days. A third of them each is due in 1, 10 and 100 days.

use super::{Error, house::House, orders::event, stage::Stage};
use dirigent_connectors::{ChannelKind, Message};
use dirigent_model::{
    definition::{Definition, DefinitionErrors, OnTimeout, saga, wait},
    message::{Body, Channel, Event, Format, Message as Named},
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Where arrivals are told.
const ARRIVALS: Channel = Channel::json("bench-arrivals");
/// Where departures would be told.
const DEPARTURES: Channel = Channel::json("bench-departures");

/// Guests who have arrived and whose saga has not begun, at the most.
const ARRIVING_MAX: u64 = 20_000;

/// Guests of one window.
const WINDOW: u64 = 1_000;

/// How long nothing may move before filling is given up: a checkpoint of many instances takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A guest arrived who stays for so many days at the most.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Arrived<const DAYS: u64> {
    guest: i64,
    name: String,
    room: i32,
    price_cents: i64,
    wishes: String,
}

/// A guest left.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Left<const DAYS: u64> {
    guest: i64,
}

impl<const DAYS: u64> Named for Arrived<DAYS> {
    const NAME: &'static str = match DAYS {
        1 => "ArrivedForOneDay",
        10 => "ArrivedForTenDays",
        _ => "ArrivedForHundredDays",
    };
}

impl<const DAYS: u64> Named for Left<DAYS> {
    const NAME: &'static str = match DAYS {
        1 => "LeftAfterOneDay",
        10 => "LeftAfterTenDays",
        _ => "LeftAfterHundredDays",
    };
}

impl<const DAYS: u64> Event for Arrived<DAYS> {
    const ON: Channel = ARRIVALS;
}

impl<const DAYS: u64> Event for Left<DAYS> {
    const ON: Channel = DEPARTURES;
}

/// What a saga that rests knows: about as much as one of an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Guest {
    guest: i64,
    name: String,
    room: i32,
    price_cents: i64,
    wishes: String,
}

/// All of them.
pub(super) fn sagas() -> [Result<Definition<Guest>, DefinitionErrors>; 3] {
    [staying::<1>(), staying::<10>(), staying::<100>()]
}

fn staying<const DAYS: u64>() -> Result<Definition<Guest>, DefinitionErrors> {
    saga(
        &format!("resting-{DAYS}"),
        1,
        |event: &Arrived<DAYS>| event.guest,
        |event: Arrived<DAYS>| Guest {
            guest: event.guest,
            name: event.name,
            room: event.room,
            price_cents: event.price_cents,
            wishes: event.wishes,
        },
    )
    .then(
        wait("departure", |event: &Left<DAYS>| event.guest, |_: &mut Guest, _| ())
            .within(Duration::from_secs(DAYS * 24 * 60 * 60), OnTimeout::Proceed),
    )
    .ends()
}

/// Lets guests arrive until so many sagas rest. Says how long it took.
pub(super) async fn fill(stage: &Stage, house: &House, live: u64) -> Result<Duration, Error> {
    let mut sink = stage.connector()?.sink().await?;
    let begun = Instant::now();
    let before = house.handle.snapshot();
    let first = before.in_flight;
    let (mut placed, mut moved) = (first, (0, Instant::now()));
    loop {
        let started = first + house.handle.snapshot().started - before.started;
        if started >= live {
            return Ok(begun.elapsed());
        }
        let free = (ARRIVING_MAX - (placed - started)).min(live.saturating_sub(placed)).min(WINDOW);
        if free < WINDOW.min(live - placed) || placed == live {
            if started != moved.0 {
                moved = (started, Instant::now());
            }
            if moved.1.elapsed() >= PATIENCE {
                return Err(format!("{started} of {live} sagas rest, and there are no more of them for {} s; is the disk full?", PATIENCE.as_secs()).into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let window = (placed..placed + free).map(|guest| arrival(guest, house));
        super::sent(&sink.send(&window.collect::<Result<Vec<_>, _>>()?).await)?;
        placed += free;
    }
}

fn arrival(guest: u64, house: &House) -> Result<Message, Error> {
    match guest % 3 {
        0 => arrival_of::<1>(guest, house),
        1 => arrival_of::<10>(guest, house),
        _ => arrival_of::<100>(guest, house),
    }
}

fn arrival_of<const DAYS: u64>(guest: u64, house: &House) -> Result<Message, Error> {
    let arrived = Arrived::<DAYS> {
        guest: i64::try_from(guest)?,
        name: format!("guest-{}", guest % 10_000),
        room: 217,
        price_cents: 12_900,
        wishes: "a quiet room to the garden".into(),
    };
    let body = Body::write(&arrived, Format::Json, &*house.codec)?;
    let id = format!("arrived-{guest}");
    let key = guest.to_string();
    Ok(event::<Arrived<DAYS>>(ARRIVALS.name, ChannelKind::Events, key, id, body))
}
