//! Sagas that wait for events of others, and whose functions panic at an unlucky amount until they are mended.

use super::{Begun, Broken, Finished, STARTS, event};
use dirigent_connectors::Message;
use dirigent_model::{
    definition::{Definition, DefinitionErrors, OnTimeout, Repeat, saga, wait},
    message::Message as _,
};
use serde::{Deserialize, Serialize};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// An event of somebody else, which sagas here wait for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paid {
    pub id: u64,
    pub amount: u64,
}
impl dirigent_model::message::Message for Paid {
    const NAME: &'static str = "InvoicePaid";
}
impl dirigent_model::message::Event for Paid {
    const ON: dirigent_model::message::Channel = STARTS;
}

/// Whether the sagas' functions panic at this amount: a mistake that a later release mends.
pub static MENDED: AtomicBool = AtomicBool::new(false);
pub const UNLUCKY: u64 = 13;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Data {
    pub id: u64,
    pub paid: Vec<u64>,
}

/// Waits for two payments.
pub fn invoice(name: &str) -> Result<Definition<Data>, DefinitionErrors> {
    invoice_with(name, Repeat::Duplicate)
}

/// The same, once more with each start.
pub fn invoice_again() -> Result<Definition<Data>, DefinitionErrors> {
    invoice_with("invoice", Repeat::RestartWhenFinished)
}

fn invoice_with(name: &str, repeat: Repeat) -> Result<Definition<Data>, DefinitionErrors> {
    let paid = |data: &mut Data, event: Paid| {
        assert!(event.amount != UNLUCKY || MENDED.load(Ordering::SeqCst), "this amount is unlucky");
        data.paid.push(event.amount);
    };
    saga(
        name,
        1,
        |event: &Begun| event.id,
        |event: Begun| {
            assert!(
                event.amount != UNLUCKY || MENDED.load(Ordering::SeqCst),
                "an unlucky beginning"
            );
            Data { id: event.id, paid: Vec::new() }
        },
    )
    .on_repeated_start(repeat)
    .then(wait("first", |event: &Paid| event.id, paid).within(DAY, OnTimeout::Reject))
    .then(wait("second", |event: &Paid| event.id, paid).within(DAY, OnTimeout::Reject))
    .ends_with(|data| Finished { id: data.id }, |data| Broken { id: data.id, why: String::new() })
}

pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    pub id: u64,
}
impl dirigent_model::message::Message for Opened {
    const NAME: &'static str = "Opened";
}
impl dirigent_model::message::Event for Opened {
    const ON: dirigent_model::message::Channel = STARTS;
}

/// Another saga that waits for payments.
pub fn other() -> Result<Definition<Data>, DefinitionErrors> {
    saga(
        "other",
        1,
        |event: &Opened| event.id,
        |event: Opened| Data { id: event.id, paid: Vec::new() },
    )
    .then(
        wait(
            "paid",
            |event: &Paid| event.id,
            |data: &mut Data, event| {
                data.paid.push(event.amount);
            },
        )
        .within(DAY, OnTimeout::Reject),
    )
    .ends_with(|data| Finished { id: data.id }, |data| Broken { id: data.id, why: String::new() })
}

pub fn payment(id: u64, amount: u64) -> Message {
    let body = serde_json::to_vec(&Paid { id, amount }).unwrap();
    event(STARTS.name, Paid::NAME, &format!("paid-{id}-{amount}"), &id.to_string(), body)
}
