//! The small canonical sagas: each is as short as it can be for what it stands for, and all are declared as their authors would.
//!
//! With their participants, which answer by a script.

use super::{
    messages::{
        Agreed, Bring, Brought, Charge, Charged, Completed, Declined, Failed, Held, Hold, IsBack,
        LetGo, LetGone, Look, Looked, Missing, Noted, Objected, PutBack, Take, Taken, Wished,
        Withdrawn,
    },
    script::{Script, Scripted},
};
use dirigent::participant::Participant;
use dirigent_model::definition::{
    AskStatus, Block, Definition, DefinitionErrors, OnTimeout, Repeat, SagaDraft, all, choose,
    pause, publish, saga, step, wait, when,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long an answer is waited for.
const REPLY_WITHIN: Duration = Duration::from_secs(20);

/// How long news are waited for.
pub(super) const NEWS_WITHIN: Duration = Duration::from_secs(6 * 60);

/// How long the saga with a deadline may run.
const DEADLINE: Duration = Duration::from_secs(4 * 60);

/// How long a saga rests in its middle.
pub(super) const RESTS: Duration = Duration::from_secs(120);

/// What a small saga knows of its purchase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Purchase {
    number: u64,
    refused: bool,
}

type Built = Result<Definition<Purchase>, DefinitionErrors>;

fn begun(name: &str) -> SagaDraft<Purchase> {
    saga(
        name,
        1,
        |event: &Wished| event.number,
        |event| Purchase { number: event.number, refused: false },
    )
}

fn told(draft: SagaDraft<Purchase>) -> Built {
    draft.ends_with(
        |purchase| Completed { number: purchase.number },
        |purchase| Failed { number: purchase.number },
    )
}

fn take(name: &str) -> Block<Purchase> {
    step(name, |purchase: &Purchase| Take { number: purchase.number })
        .on_rejection(|purchase, _| purchase.refused = true)
        .reply_within(REPLY_WITHIN)
        .compensated_by(|purchase, _| PutBack { number: purchase.number })
}

fn hold(name: &str) -> Block<Purchase> {
    step(name, |purchase: &Purchase| Hold { number: purchase.number })
        .on_rejection(|purchase, _| purchase.refused = true)
        .reply_within(REPLY_WITHIN)
        .compensated_by(|purchase, _| LetGo { number: purchase.number })
}

fn charge(name: &str) -> Block<Purchase> {
    step(name, |purchase: &Purchase| Charge { number: purchase.number })
        .on_rejection(|purchase, _| purchase.refused = true)
        .reply_within(REPLY_WITHIN)
        .pivot()
}

fn bring(name: &str) -> Block<Purchase> {
    step(name, |purchase: &Purchase| Bring { number: purchase.number })
        .reply_within(REPLY_WITHIN)
        .retriable()
}

fn agreement(on_timeout: OnTimeout) -> Block<Purchase> {
    wait("agreement", |event: &Agreed| event.number, |_: &mut Purchase, _| ())
        .or_rejected(|event: &Objected| event.number, |purchase, _| purchase.refused = true)
        .within(NEWS_WITHIN, on_timeout)
}

fn noted(name: &str) -> Block<Purchase> {
    publish(name, |purchase: &Purchase| Noted { number: purchase.number })
}

pub(super) fn chain() -> Built {
    told(begun("chain").then(take("first")).then(hold("second")).then(take("third")))
}

pub(super) fn fork() -> Built {
    let both = all("both").branch(take("thing").then(noted("note"))).branch(hold("money"));
    told(begun("fork").then(both).then(charge("charge")))
}

pub(super) fn nest() -> Built {
    let inner = all("inner").branch(take("left")).branch(take("right"));
    let outer = all("outer").branch(hold("money").then(inner)).branch(take("other"));
    told(begun("nest").then(outer))
}

pub(super) fn choice() -> Built {
    let chosen = choose("which")
        .arm("odd", |purchase: &Purchase| purchase.number % 2 == 1, take("thing"))
        .otherwise(noted("even"));
    let more = when("more", |purchase: &Purchase| purchase.number > 2, hold("money"));
    told(begun("choice").then(chosen).then(more).then(charge("charge")))
}

pub(super) fn reminder() -> Built {
    let asked = agreement(OnTimeout::Proceed).then(noted("note"));
    told(begun("reminder").then(take("thing")).then(asked).then(hold("money")))
}

pub(super) fn early() -> Built {
    let rested = pause("rest", RESTS).then(agreement(OnTimeout::Reject));
    told(begun("early").then(take("thing")).then(rested))
}

pub(super) fn payout() -> Built {
    let both = all("both").branch(bring("letter")).branch(bring("parcel"));
    told(begun("payout").then(take("thing")).then(charge("charge")).then(both))
}

pub(super) fn inquiry() -> Built {
    let status = AskStatus::within(REPLY_WITHIN);
    let money = step("money", |purchase: &Purchase| Hold { number: purchase.number })
        .on_rejection(|purchase, _| purchase.refused = true)
        .reply_within(REPLY_WITHIN)
        .status_by(status.clone())
        .compensated_by(|purchase, _| LetGo { number: purchase.number });
    let charge = step("charge", |purchase: &Purchase| Charge { number: purchase.number })
        .on_rejection(|purchase, _| purchase.refused = true)
        .reply_within(REPLY_WITHIN)
        .status_by(status)
        .pivot();
    told(begun("inquiry").then(money).then(charge).then(bring("parcel")))
}

pub(super) fn withdrawn() -> Built {
    let agreed = wait("agreement", |event: &Agreed| event.number, |_: &mut Purchase, _| ())
        .within(NEWS_WITHIN, OnTimeout::Reject);
    let draft = begun("withdrawn")
        .cancelled_by(|event: &Withdrawn| event.number, |purchase, _| purchase.refused = true)
        .deadline(DEADLINE);
    told(draft.then(take("thing")).then(agreed))
}

pub(super) fn again() -> Built {
    let look = step("look", |purchase: &Purchase| Look { number: purchase.number })
        .on_rejection(|purchase, _| purchase.refused = true)
        .reply_within(REPLY_WITHIN)
        .nothing_to_compensate("looking changes nothing");
    begun("again")
        .on_repeated_start(Repeat::RestartWhenFinished)
        .then(look)
        .then(take("thing"))
        .ends()
}

/// Whoever has things.
pub(super) fn shelf(script: Script) -> Participant {
    Scripted::new("points-shelf", script)
        .on::<Take>(
            |asked| Taken { number: asked.number },
            |asked| Some(Missing { number: asked.number }),
        )
        .undoes::<PutBack, Take>(|asked| IsBack { number: asked.number })
        .on::<Look>(
            |asked| Looked { number: asked.number },
            |asked| Some(Missing { number: asked.number }),
        )
        .ready()
}

/// Whoever has money.
pub(super) fn till(script: Script) -> Participant {
    Scripted::new("points-till", script)
        .on::<Hold>(
            |asked| Held { number: asked.number },
            |asked| Some(Declined { number: asked.number }),
        )
        .undoes::<LetGo, Hold>(|asked| LetGone { number: asked.number })
        .on::<Charge>(
            |asked| Charged { number: asked.number },
            |asked| Some(Declined { number: asked.number }),
        )
        .ready()
}

/// Whoever brings things.
pub(super) fn post(script: Script) -> Participant {
    Scripted::new("points-post", script)
        .on::<Bring>(|asked| Brought { number: asked.number }, |_| None)
        .ready()
}
