//! `bench model`: nanoseconds of a transition, alone and with what the engine makes of it each turn; instructions and allocations by callgrind.
//!
//! An order goes its way from start to end, five transitions, with bodies that were written before. Nothing waits, so the one core it runs on
//! is all of the machine that matters; instructions and allocations do not even depend on that.

use super::{
    Error,
    alternate::{Subject, Turns, alternate},
    callgrind::counted,
    figures::{Measured, rounded},
};
use async_trait::async_trait;
use dirigent_model::{
    decision::{Input, Reply},
    definition::{NodeId, Plan},
    history::History,
    instance::{Instance, Leg, Trace},
    message::{Body, Command, Message as Named},
    time::Timestamp,
    transition::{self, Start},
};
use dirigent_schemas::Bodies;
use order::order::{
    messages::{
        AuthorisePayment, CapturePayment, ORDERS, OrderPlaced, OrderShipped, PaymentAuthorised,
        PaymentCaptured, ReserveStock, ShipOrder, StockReserved,
    },
    order_saga,
};
use serde_json::{Value, json};
use std::{hint::black_box, sync::Arc, time::Instant};

/// How it is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Sagas of each round.
    #[arg(long, default_value_t = 20_000)]
    pub sagas: u64,
    /// Counts instructions and allocations, too. Wants valgrind.
    #[arg(long)]
    pub callgrind: bool,
    /// Only plays so many sagas, for a profiler.
    #[arg(long, value_name = "SAGAS")]
    pub play: Option<u64>,
    /// What is done with each transition that is played.
    #[arg(long, value_enum, default_value_t = Part::Transition)]
    pub part: Part,
    /// Rounds, and how long at the most.
    #[command(flatten)]
    pub turns: Turns,
}

/// What is done with each transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The decision alone.
    Transition,
    /// The decision, and the instance in its stored form.
    Stored,
    /// The same, and the instance read from its stored form before.
    Read,
}

impl Part {
    const ALL: [Self; 3] = [Self::Transition, Self::Stored, Self::Read];

    fn name(self) -> &'static str {
        match self {
            Self::Transition => "transition",
            Self::Stored => "transition and stored form",
            Self::Read => "stored form read, transition, stored form",
        }
    }

    /// As the command line has it.
    fn word(self) -> &'static str {
        match self {
            Self::Transition => "transition",
            Self::Stored => "stored",
            Self::Read => "read",
        }
    }
}

/// Sagas that callgrind plays: enough for a mean, few enough for some seconds.
const COUNTED_SAGAS: u64 = 1_000;

/// Measures each part.
pub async fn run(settings: &Settings) -> Result<Value, Error> {
    let way = Arc::new(Way::new()?);
    if let Some(sagas) = settings.play {
        let played = way.play(sagas, settings.part)?;
        return Ok(json!({ "transitions": played }));
    }
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    for part in Part::ALL {
        subjects.push(Box::new(Playing { part, way: Arc::clone(&way), sagas: settings.sagas }));
    }
    let mut measured = alternate(settings.turns, &mut subjects).await?.json();
    if settings.callgrind {
        for part in Part::ALL {
            let counted = tokio::task::spawn_blocking(move || {
                let play = |sagas: u64| -> Result<_, Error> {
                    let sagas = sagas.to_string();
                    counted(&["model", "--play", &sagas, "--part", part.word()])
                };
                // What is done once, such as starting the program, is in both.
                Ok::<_, Error>(play(2 * COUNTED_SAGAS)?.without(play(COUNTED_SAGAS)?))
            });
            let counted = counted.await??;
            let transitions = (COUNTED_SAGAS * TRANSITIONS) as f64;
            let each = |count: u64| json!(rounded(count as f64 / transitions));
            measured[part.name()]["instructions_per_transition"] = each(counted.instructions);
            measured[part.name()]["allocations_per_transition"] = each(counted.allocations);
        }
    }
    Ok(json!({ "subjects": measured, "transitions of a saga": TRANSITIONS }))
}

/// Transitions of an order that is not refused: it is placed, and four replies come.
const TRANSITIONS: u64 = 5;

/// The way of an order, its messages written before.
struct Way {
    plan: Arc<Plan>,
    codec: Bodies,
    placed: Body,
    replies: Vec<(NodeId, &'static str, Body)>,
}

impl Way {
    fn new() -> Result<Self, Error> {
        let (plan, codec) = (order_saga()?.plan(), Bodies::new());
        let placed = OrderPlaced {
            order: 1_234,
            customer: "customer-234".into(),
            sku: "sku-34".into(),
            quantity: 2,
            amount_cents: 4_999,
        };
        let placed = Body::write(&placed, ORDERS.format, &codec)?;
        let hold = PaymentAuthorised { hold: 4_712 };
        let reserved = StockReserved { reservation: 4_711 };
        let captured = PaymentCaptured { receipt: 4_713 };
        let shipped = OrderShipped { tracking: "NL4714".into() };
        let replies = vec![
            reply::<AuthorisePayment>(&plan, "authorise-payment", &hold, &codec)?,
            reply::<ReserveStock>(&plan, "reserve-stock", &reserved, &codec)?,
            reply::<CapturePayment>(&plan, "capture-payment", &captured, &codec)?,
            reply::<ShipOrder>(&plan, "ship", &shipped, &codec)?,
        ];
        Ok(Self { plan, codec, placed, replies })
    }

    /// Plays so many orders. Says how many transitions that were.
    fn play(&self, sagas: u64, part: Part) -> Result<u64, Error> {
        let now = Timestamp(1_795_219_200_000);
        let (mut transitions, mut stored) = (0, Vec::new());
        for order in 0..sagas {
            let start = Start {
                key: order.into(),
                run: 0,
                body: &self.placed,
                cause: Some(format!("order-placed-{order}")),
                trace: Trace::default(),
            };
            let decision = transition::start(&self.plan, start, now, &self.codec)?;
            let mut instance = self.keep(decision.instance, part, &mut stored);
            transitions += 1;
            for (node, name, body) in &self.replies {
                if part == Part::Read {
                    let history: History = instance.history.clone();
                    instance = Instance::decode(&self.plan, &stored, history)?;
                }
                let reply = Reply {
                    node: *node,
                    leg: Leg::Do,
                    key: None,
                    attempt: Some(1),
                    held_until: None,
                    name: (*name).into(),
                    body: body.clone(),
                };
                let cause = Some(format!("reply-{order}-{name}"));
                let applied = transition::apply(
                    &self.plan,
                    instance,
                    Input::Reply(reply),
                    cause,
                    now,
                    &self.codec,
                );
                let decision = applied.map_err(|(_, unreadable)| unreadable)?;
                black_box(&decision.effects);
                instance = self.keep(decision.instance, part, &mut stored);
                transitions += 1;
            }
            if !instance.core.status.is_end() {
                return Err("an order that was played has not come to its end".into());
            }
        }
        Ok(transitions)
    }

    fn keep(&self, instance: Instance, part: Part, stored: &mut Vec<u8>) -> Instance {
        if part != Part::Transition {
            stored.clear();
            instance.encode(stored);
            black_box(&stored);
        }
        instance
    }
}

fn reply<C: Command>(
    plan: &Plan,
    step: &str,
    reply: &C::Success,
    codec: &Bodies,
) -> Result<(NodeId, &'static str, Body), Error> {
    let node = plan.graph().find(step).ok_or_else(|| format!("no step {step}"))?;
    Ok((node, C::Success::NAME, Body::write(reply, C::TO.format, codec)?))
}

struct Playing {
    part: Part,
    way: Arc<Way>,
    sagas: u64,
}

#[async_trait]
impl Subject for Playing {
    fn name(&self) -> String {
        self.part.name().into()
    }

    async fn round(&mut self) -> Result<Measured, Error> {
        let (way, part, sagas) = (Arc::clone(&self.way), self.part, self.sagas);
        let playing = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let transitions = way.play(sagas, part)?;
            Ok::<_, Error>(begun.elapsed().as_secs_f64() * 1e9 / transitions as f64)
        });
        Ok(Measured::from([("ns_per_transition", playing.await??)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_is_played_comes_to_its_end_in_as_many_transitions_as_are_counted() {
        let way = Way::new().unwrap();
        for part in Part::ALL {
            assert_eq!(way.play(3, part).unwrap(), 3 * TRANSITIONS);
        }
    }
}
