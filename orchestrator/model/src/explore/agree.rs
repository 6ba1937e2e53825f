//! The explorer and the interpreter agree: whatever a generated saga comes to, played at random with its own functions, messages and
//! policies, is a state that was explored.

use super::{Explorer, reference::Fate, symbols::Symbols};
use crate::{
    decision::{Action, Hold, Input, Reply},
    definition::NodeId,
    generated::{Generated, Limits, generated_within},
    instance::{Instance, Leg, Trace},
    message::JsonOnly,
    retry::scatter,
    time::Timestamp,
    transition::{self, Start},
};
use std::{collections::HashSet, time::Duration};

/// What is known of a saga, without what the reference knows beside it.
fn known(symbols: &Symbols, instance: &Instance) -> Vec<u8> {
    let nothing = vec![Fate::default(); instance.core.nodes.len()];
    symbols.encode(&instance.core, &nothing)
}

/// All that is known anywhere; `None` where it is too much.
fn explored(symbols: &Symbols, saga: &Generated) -> Option<HashSet<Vec<u8>>> {
    let mut explorer = Explorer::new(symbols, saga.plan.graph(), false);
    let is_whole = explorer.looks_at_all(1_500);
    assert!(explorer.violations.is_empty(), "{saga:?}: {:?}", explorer.violations);
    let keys = explorer.keys.iter().map(|key| {
        let situation = symbols.decode(key);
        known(symbols, &symbols.instance(&situation.core))
    });
    is_whole.then(|| keys.collect())
}

/// Something that may come in, by chance; `None` where nothing fits.
fn input(
    saga: &Generated,
    instance: &Instance,
    now: Timestamp,
    throw: u64,
) -> Option<(Input, Option<String>)> {
    let core = &instance.core;
    let pick = |count: usize, salt: u64| {
        let count = u64::try_from(count.max(1)).unwrap_or(u64::MAX);
        usize::try_from(scatter(throw ^ salt) % count).unwrap_or_default()
    };
    let ids: Vec<NodeId> = saga.plan.graph().ids().collect();
    let asked: Vec<(NodeId, Leg, u32)> = ids
        .iter()
        .filter_map(|id| core.state(*id).asked().map(|(leg, ask)| (*id, leg, ask.attempt)))
        .collect();
    let out = asked.get(pick(asked.len(), 1)).copied();
    let operator = |action| Input::Operator { action, by: "ann".into(), why: "a test".into() };
    let until = now + Duration::from_secs(1);
    Some(match scatter(throw) % 16 {
        0..=6 => {
            let (node, leg, attempt) = out?;
            let part = saga.part(node)?;
            let answers = part.answers(leg);
            let answer = *answers.get(pick(answers.len(), 2))?;
            let (name, body) = part.reply(leg, answer, 1, throw % 100)?;
            let key = Some(core.idempotency_key(&part.name, leg));
            let attempt = Some(attempt);
            let held_until = throw.is_multiple_of(3).then_some(until);
            (Input::Reply(Reply { node, leg, key, attempt, held_until, name, body }), None)
        }
        7 | 8 => (Input::Due, None),
        9 | 10 => {
            let wait = saga.waits.get(pick(saga.waits.len(), 3))?;
            let name = wait
                .refusing
                .clone()
                .filter(|_| throw.is_multiple_of(2))
                .unwrap_or(wait.awaits.clone());
            // By one id: a second one of its name is the same message.
            (Input::Event { name: name.clone(), body: saga.happens(1, 0) }, Some(name))
        }
        11 => {
            let (node, leg, attempt) = out?;
            (Input::Unsent { node, leg, attempt, text: "no route".into() }, None)
        }
        12 => {
            let (node, leg, attempt) = out?;
            let hold = [Hold::Queued, Hold::GivenBack, Hold::Left][pick(3, 4)];
            (Input::Held { node, leg, attempt, hold, until }, None)
        }
        13 => (operator(Action::Retry(ids[pick(ids.len(), 5)])), None),
        14 => (operator(Action::Resolve(ids[pick(ids.len(), 6)])), None),
        _ if throw.is_multiple_of(5) => (operator(Action::Cancel), None),
        _ => {
            let (name, body) = saga.withdraws(1).filter(|_| throw.is_multiple_of(3))?;
            (Input::Event { name, body }, Some("withdrawn".into()))
        }
    })
}

#[test]
fn whatever_a_saga_comes_to_was_explored() {
    let (mut sagas, mut states) = (0, 0);
    for seed in 0..super::wrong::checks(30) {
        let limits = Limits { steps_max: 4, nesting_max: 2, attempts_max: 2, ..Limits::default() };
        let saga = generated_within(seed, limits);
        let symbols = Symbols::new(saga.plan.graph(), 2, true);
        let Some(all) = explored(&symbols, &saga) else { continue };
        sagas += 1;
        for play in 0..8_u64 {
            let mut now = Timestamp(1_000_000);
            let body = saga.begins(1, scatter(seed ^ play << 32));
            let key = saga.plan.start_key(&body, &JsonOnly).expect("the event is its own");
            let start = Start { key, run: 0, body: &body, cause: None, trace: Trace::default() };
            let begun = transition::start(&saga.plan, start, now, &JsonOnly);
            let mut instance = begun.expect("the event is its own").instance;
            for turn in 0..60_u64 {
                let found = known(&symbols, &instance);
                assert!(
                    all.contains(&found),
                    "seed {seed}, play {play}, turn {turn}: {:?}",
                    instance.core
                );
                states += 1;
                let throw = scatter(seed.wrapping_mul(1_000_003) ^ play << 40 ^ turn << 20);
                let Some((input, cause)) = input(&saga, &instance, now, throw) else { continue };
                if let (Input::Due, Some((at, _))) = (&input, instance.core.next_due()) {
                    now = now.max(at);
                }
                let applied = transition::apply(&saga.plan, instance, input, cause, now, &JsonOnly);
                instance = match applied {
                    Ok(decision) => decision.instance,
                    Err((_, wrong)) => panic!("seed {seed}: {wrong}"),
                };
            }
        }
    }
    println!("{sagas} sagas, {states} states met");
    assert!(sagas >= 10 && states > 1_000, "{sagas} sagas, {states} states");
}
