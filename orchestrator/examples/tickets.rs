//! Tickets: a saga, the two services that carry out its commands, and a customer, in one process on the broker in memory.
//!
//! hold a seat ─► charge the card ─► the ticket is sold. A card that is declined gives the seat back.

use dirigent::{
    Orchestrator, Publisher,
    connectors::{Connector, memory::MemoryBroker},
    model::{
        definition::{Definition, DefinitionErrors, Outcome, saga, step},
        message::{Channel, Command, Event, Message, Never},
    },
    participant::{Answer, Participant},
    store::MemoryStore,
};
use serde::{Deserialize, Serialize};
use std::{
    error::Error,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

// ---- The messages, and the contract that sits on them ----

const TICKETS: Channel = Channel::json("tickets"); // events; for Avro: Channel::avro, and Message::SCHEMA
const HALL: Channel = Channel::json("hall"); // commands to the hall
const BANK: Channel = Channel::json("bank"); // commands to the bank

macro_rules! messages {
    ($($name:ident { $($field:ident: $kind:ty),* })*) => {$(
        #[derive(Debug, Clone, Serialize, Deserialize)]
        struct $name { $($field: $kind),* }
        impl Message for $name { const NAME: &'static str = stringify!($name); }
    )*};
}

messages! {
    TicketAsked { ticket: u64, cents: u64 }
    TicketSold { ticket: u64, seat: u64 }
    TicketRefused { ticket: u64, why: String }
    HoldSeat { ticket: u64 }
    SeatHeld { seat: u64 }
    SoldOut {}
    FreeSeat { ticket: u64, seat: Option<u64> }
    SeatFreed {}
    Charge { ticket: u64, cents: u64 }
    Charged {}
    Declined { why: String }
}

#[rustfmt::skip]
mod contract {
    use super::*;

    impl Event for TicketAsked { const ON: Channel = TICKETS; }
    impl Event for TicketSold { const ON: Channel = TICKETS; }
    impl Event for TicketRefused { const ON: Channel = TICKETS; }
    impl Command for HoldSeat { const TO: Channel = HALL; type Success = SeatHeld; type Rejection = SoldOut; }
    impl Command for FreeSeat { const TO: Channel = HALL; type Success = SeatFreed; type Rejection = Never; }
    impl Command for Charge { const TO: Channel = BANK; type Success = Charged; type Rejection = Declined; }
}

// ---- The saga ----

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Ticket {
    ticket: u64,
    cents: u64,
    seat: u64,
    why: String,
}

fn ticket_saga() -> Result<Definition<Ticket>, DefinitionErrors> {
    saga(
        "ticket",
        1,
        |event: &TicketAsked| event.ticket,
        |event: TicketAsked| Ticket {
            ticket: event.ticket,
            cents: event.cents,
            ..Ticket::default()
        },
    )
    .then(
        step("hold-seat", |own: &Ticket| HoldSeat { ticket: own.ticket })
            .on_success(|own, reply| own.seat = reply.seat)
            .on_rejection(|own, _| own.why = "sold out".into())
            .reply_within(Duration::from_secs(10))
            .compensated_by(|own, outcome| FreeSeat {
                ticket: own.ticket,
                seat: match outcome {
                    Outcome::Done(reply) => Some(reply.seat),
                    Outcome::InDoubt => None,
                },
            }),
    )
    .then(
        step("charge", |own: &Ticket| Charge { ticket: own.ticket, cents: own.cents })
            .on_rejection(|own, reply| own.why = reply.why)
            .reply_within(Duration::from_secs(30))
            .pivot(),
    )
    .ends_with(
        |own| TicketSold { ticket: own.ticket, seat: own.seat },
        |own| TicketRefused { ticket: own.ticket, why: own.why.clone() },
    )
}

// ---- The services: whatever comes twice is answered as before, and a handler is called once ----

fn hall() -> Participant {
    Participant::new("hall")
        .on::<HoldSeat>(|_, command, _| Answer::Done(SeatHeld { seat: 100 + command.ticket }))
        .undoes::<FreeSeat, HoldSeat>(|_, _, _| Answer::Done(SeatFreed {}), |_, _| SeatFreed {})
}

fn bank() -> Participant {
    Participant::new("bank").on::<Charge>(|_, command, _| match command.cents {
        ..=10_000 => Answer::Done(Charged {}),
        _ => Answer::Rejected(Declined { why: "above the limit of the card".into() }),
    })
}

/// Hears how tickets end.
fn customer(hears: mpsc::UnboundedSender<String>) -> Participant {
    let refused = hears.clone();
    Participant::new("customer")
        .listens::<TicketSold>(move |_, event, _| {
            hears.send(format!("ticket {}: seat {}", event.ticket, event.seat)).unwrap_or_default();
        })
        .listens::<TicketRefused>(move |_, event, _| {
            let told = format!("ticket {}: refused, {}", event.ticket, event.why);
            refused.send(told).unwrap_or_default();
        })
}

// ---- All of it ----

/// Asks for two tickets, one of them too dear, and says how they ended.
pub(crate) async fn sell_two_tickets() -> Result<Vec<String>, Box<dyn Error>> {
    // Or kafka::KafkaConnector::new(KafkaSettings::new("localhost:9092"))?,
    // or rabbitmq::RabbitMqConnector::new(RabbitMqSettings::new("amqp://localhost")?).
    let broker: Arc<dyn Connector> = Arc::new(MemoryBroker::new());

    let (hears, mut heard) = mpsc::unbounded_channel();
    let mut services = Vec::new();
    for service in [hall(), bank(), customer(hears)] {
        // Or store::SledStore in a folder of its own, or PostgresStore beside the service's own tables.
        let store = Arc::new(MemoryStore::new());
        services.push(service.start(Arc::clone(&broker), store).await?);
    }
    // With `.data("data/tickets")` a crash at any moment loses nothing. Without, all is in memory.
    let engine = Orchestrator::builder("tickets")
        .saga(ticket_saga())
        .connector(Arc::clone(&broker))
        .start()
        .await?;

    let mut publisher = Publisher::connect(broker, "box-office").await?;
    let mut ends = Vec::new();
    for asked in [TicketAsked { ticket: 1, cents: 4_200 }, TicketAsked { ticket: 2, cents: 99_000 }]
    {
        publisher.publish(asked.ticket, &asked).await?;
        ends.push(heard.recv().await.ok_or("the customer has gone")?);
    }
    engine.stop().await?;
    for service in services {
        service.stop().await?;
    }
    Ok(ends)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let ends = sell_two_tickets().await?;
    Ok(writeln!(io::stdout(), "{}", ends.join("\n"))?)
}
