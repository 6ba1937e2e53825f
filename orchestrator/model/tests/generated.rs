//! Sagas drawn from seeds: all of them are sound, every block is among them, and played at random against participants that fail
//! they undo what took effect, nothing else, and end.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

use dirigent_model::{
    decision::{Action, Command, Decision, Effect, Hold, Input, Reply},
    definition::{Graph, Kind, NodeId, OnTimeout, Plan, Repeat, WayBack},
    generated::{
        Answer, Asked, Cast, EVENTS, Generated, Happening, Limits, Recorded, SLOTS, Undoing, cast,
        generated, generated_within,
    },
    instance::{Instance, Leg, Status, Trace},
    message::{Contract, FailureEffect, JsonOnly},
    time::Timestamp,
    transition::{self, Start},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Chance by a seed. The generator's own dice are not for others: its throws may change.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        // Xorshift (Marsaglia, 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % count as u64).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// What a graph is made of, in words.
fn blocks_of(graph: &Graph) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    for node in graph.ids() {
        let inner = graph.children(node).len();
        let word = match &graph.node(node).kind {
            Kind::Sequence { .. } if node == Graph::ROOT => continue,
            Kind::Sequence { .. } => "sequence inside",
            Kind::All { .. } if inner > 2 => "three branches",
            Kind::All { .. } => "two branches",
            Kind::Choose { otherwise: Some(_), .. } => "choice with otherwise",
            Kind::Choose { arms, .. } if arms.len() > 1 => "choice that may take no arm",
            Kind::Choose { .. } => "when",
            Kind::Wait { refusing: Some(_), .. } => "wait that may be refused",
            Kind::Wait { on_timeout: OnTimeout::Reject, .. } => "wait that turns back",
            Kind::Wait { .. } => "wait that goes on",
            Kind::Publish { .. } => "notice",
            Kind::Pause { .. } => "pause",
            Kind::Step(step) => {
                found.extend(step.status.is_some().then_some("status"));
                found.extend(step.retry.within.is_some().then_some("time of a policy"));
                found.insert(if step.rejection.is_some() { "refusable" } else { "insisting" });
                match step.way_back {
                    WayBack::Compensated { .. } => "compensated",
                    WayBack::Nothing { .. } => "nothing to compensate",
                    WayBack::Pivot => "pivot",
                    WayBack::Retriable => "retriable",
                }
            }
        };
        found.insert(word);
    }
    let repeat = match graph.repeat {
        Repeat::Duplicate => "a repeated start is a duplicate",
        Repeat::Reject => "a repeated start is rejected",
        Repeat::RestartWhenFinished => "a repeated start begins anew",
    };
    found.insert(repeat);
    found.extend(graph.deadline.is_some().then_some("deadline"));
    found.extend((!graph.cancelled_by.is_empty()).then_some("withdrawal"));
    found.extend(graph.ends.completed.is_some().then_some("end told"));
    found
}

#[test]
fn every_seed_draws_a_sound_saga_and_together_they_use_every_block() {
    let mut found = BTreeMap::<&str, u32>::new();
    let mut sizes = BTreeMap::<usize, u32>::new();
    for seed in 0..1_000 {
        let saga = generated(seed);
        for block in blocks_of(saga.plan.graph()) {
            *found.entry(block).or_default() += 1;
        }
        *sizes.entry(saga.parts.len()).or_default() += 1;
    }
    println!("{found:#?}\nsteps: {sizes:?}");
    assert_eq!(found.len(), 25, "{found:?}");
    assert!(found.values().all(|count| *count >= 50), "{found:?}");
    assert!((1..=12).all(|steps| sizes.contains_key(&steps)), "{sizes:?}");
}

#[test]
fn the_same_seed_draws_the_same_saga_and_others_draw_others() {
    let shapes: BTreeSet<u64> = (0..200)
        .map(|seed| {
            let (one, other) = (generated(seed), generated(seed));
            assert_eq!(one.plan.graph(), other.plan.graph());
            one.plan.fingerprint().0
        })
        .collect();
    assert_eq!(shapes.len(), 200);
}

#[test]
fn sagas_of_different_slots_share_no_event() {
    let events = |slot| -> BTreeSet<String> {
        let drawn =
            (0..200).map(|seed| generated_within(seed, Limits { slot, ..Limits::default() }));
        let of = |saga: Generated| {
            let graph = saga.plan.graph();
            let awaited = graph.events_awaited().map(|event| event.name.clone());
            awaited.chain([graph.start.name.clone()]).collect::<Vec<_>>()
        };
        drawn.flat_map(of).collect()
    };
    let all: Vec<BTreeSet<String>> = (0..SLOTS).map(events).collect();
    assert!(all.iter().all(|events| events.len() == 2 + 2 * EVENTS), "{all:?}");
    assert!(all[0].is_disjoint(&all[1]) && all[1].is_disjoint(&all[2]));
    assert!(all[0].is_disjoint(&all[2]));
}

#[test]
fn a_cast_is_told_every_command_with_the_contracts_its_sagas_keep() {
    struct Told(BTreeSet<Contract>, usize);
    impl Cast for Told {
        fn plays<C: Asked, X: Undoing<C>>(&mut self) {
            assert_eq!(C::TO, X::TO);
            self.0.extend(Contract::asking::<C>());
            self.0.extend(Contract::asking::<X>());
            self.1 += 1;
        }
    }
    let mut told = Told(BTreeSet::new(), 0);
    cast(&mut told);
    assert_eq!(told.1, 24);
    for seed in 0..300 {
        let saga = generated(seed);
        let by_participants = |contract: &&Contract| {
            let to = saga.parts.iter().any(|part| part.channel.name == contract.channel);
            to && !contract.name.starts_with("dirigent.")
        };
        for contract in saga.plan.contracts().iter().filter(by_participants) {
            assert!(told.0.contains(contract), "{contract:?}");
        }
    }
}

#[test]
fn every_answer_that_a_part_may_give_is_one_its_saga_can_read() {
    for seed in 0..100 {
        let saga = generated(seed);
        for part in &saga.parts {
            for leg in [Leg::Do, Leg::Compensate, Leg::Status] {
                for answer in part.answers(leg) {
                    let mut play = Play::begin(&saga, 1, 0, false);
                    let (name, body) = part.reply(leg, answer, 1, 2).unwrap();
                    let key = Some(play.instance.core.idempotency_key(&part.name, leg));
                    let reply = Reply {
                        node: part.node,
                        leg,
                        key,
                        attempt: Some(1),
                        held_until: None,
                        name,
                        body,
                    };
                    assert!(play.takes(Input::Reply(reply), None), "{saga:?} {part:?} {answer:?}");
                }
            }
        }
    }
}

/// What a participant knows of one step.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    /// It took effect, and this is what it is called.
    took: Option<u64>,
    refused: bool,
    /// This attempt, and those before it, failed without effect, and whether asking again may help: they stay what they were answered.
    failed: Option<(u32, bool)>,
    /// It was compensated: the command is refused from then on.
    undone: bool,
    /// It was answered that it was not done: the same.
    sealed: bool,
}

/// One saga played at random: everything that was sent lies in `out` and may be read at any time, late or twice.
struct Play<'a> {
    saga: &'a Generated,
    instance: Instance,
    now: Timestamp,
    out: Vec<Command>,
    kept: BTreeMap<NodeId, Kept>,
    resolved: BTreeSet<NodeId>,
    killed: bool,
    receipts: u64,
    /// Told only where something went wrong, on the way a second time.
    story: Option<Vec<String>>,
}

impl<'a> Play<'a> {
    fn begin(saga: &'a Generated, key: u64, turn: u64, telling: bool) -> Self {
        let now = Timestamp(1_000_000);
        let body = saga.begins(key, turn);
        let named = saga.plan.start_key(&body, &JsonOnly).unwrap();
        let start = Start { key: named, run: 0, body: &body, cause: None, trace: Trace::default() };
        let decision = transition::start(&saga.plan, start, now, &JsonOnly).unwrap();
        let mut play = Self {
            saga,
            instance: decision.instance.clone(),
            now,
            out: Vec::new(),
            kept: BTreeMap::new(),
            resolved: BTreeSet::new(),
            killed: false,
            receipts: 0,
            story: telling.then(|| vec![format!("{saga:?}\n{}", saga.plan.graph().to_mermaid())]),
        };
        play.follows(decision);
        play
    }

    fn follows(&mut self, decision: Decision) {
        let sent = decision.effects.into_iter().filter_map(|effect| match effect {
            Effect::Command(command) => Some(command),
            Effect::Publish { .. } => None,
        });
        self.out.extend(sent);
        self.instance = decision.instance;
    }

    /// Whether it could be read.
    fn takes(&mut self, input: Input, cause: Option<String>) -> bool {
        if let Some(story) = &mut self.story {
            story.push(format!("{input:?}"));
        }
        let plan: &Plan = &self.saga.plan;
        let before = self.instance.clone();
        match transition::apply(plan, before, input, cause, self.now, &JsonOnly) {
            Ok(decision) => {
                if let Some(story) = &mut self.story {
                    let nodes = &decision.instance.core.nodes;
                    story.push(format!("  {:?} {nodes:?}", decision.verdict));
                }
                self.follows(decision);
                true
            }
            Err(_) => false,
        }
    }

    /// A participant reads a command, acts as its duties want it, and answers; `fate` says how it fares.
    fn reads(&mut self, command: &Command, fate: usize) {
        let part = self.saga.part(command.node).unwrap();
        let kept = self.kept.entry(command.node).or_default();
        let failed = |retriable, effect| Answer::Failure { retriable, effect };
        let none = FailureEffect::None;
        let answer = match command.leg {
            Leg::Do if kept.undone || kept.sealed => failed(false, none),
            Leg::Do if kept.took.is_some() => Answer::Success,
            Leg::Do if kept.refused => Answer::Rejection,
            Leg::Do if kept.failed.is_some_and(|(attempt, _)| command.attempt <= attempt) => {
                failed(kept.failed.is_some_and(|(_, retriable)| retriable), none)
            }
            Leg::Do => match fate {
                1 if part.rejection.is_some() => {
                    kept.refused = true;
                    Answer::Rejection
                }
                2 | 4 => {
                    kept.failed = Some((command.attempt, fate == 2));
                    failed(fate == 2, none)
                }
                3 => failed(true, FailureEffect::Unknown),
                5 => failed(false, FailureEffect::Unknown),
                _ => {
                    self.receipts += 1;
                    kept.took = Some(self.receipts);
                    Answer::Success
                }
            },
            Leg::Compensate => match fate {
                2 | 3 => failed(true, none),
                4 => failed(false, none),
                _ => {
                    kept.undone = true;
                    Answer::Success
                }
            },
            Leg::Status if kept.took.is_some() => Answer::Success,
            Leg::Status if kept.refused => Answer::Rejection,
            Leg::Status => match fate {
                2 => failed(true, none),
                3 => Answer::Unknown,
                _ => {
                    kept.sealed = true;
                    Answer::NotDone
                }
            },
        };
        // What took effect and says nothing is as good as lost.
        if fate == 6 {
            return;
        }
        // A failure of unknown effect may have had one.
        if fate == 3 && command.leg == Leg::Do && answer == failed(true, FailureEffect::Unknown) {
            self.receipts += 1;
            kept.took = Some(self.receipts);
        }
        let receipt = kept.took.unwrap_or_default();
        let (name, body) = part.reply(command.leg, answer, 1, receipt).unwrap();
        let (key, attempt) = (Some(command.idempotency_key), Some(command.attempt));
        let (node, leg) = (command.node, command.leg);
        let reply = Reply { node, leg, key, attempt, held_until: None, name, body };
        assert!(self.takes(Input::Reply(reply), None), "what a part says can be read");
    }

    fn due(&mut self) {
        if let Some((at, _)) = self.instance.core.next_due() {
            self.now = self.now.max(at);
            assert!(self.takes(Input::Due, None));
        }
    }

    fn happens(&mut self, dice: &mut Dice) {
        let core = &self.instance.core;
        let ids: Vec<NodeId> = self.saga.plan.graph().ids().collect();
        let operator = |action| Input::Operator { action, by: "ann".into(), why: "a test".into() };
        match dice.below(30) {
            0..=12 if !self.out.is_empty() => {
                let at = dice.below(self.out.len());
                let command = self.out[at].clone();
                self.reads(&command, if dice.chance(40) { dice.below(7) } else { 0 });
            }
            13..=18 => self.due(),
            19..=21 if !self.saga.waits.is_empty() => {
                let wait = &self.saga.waits[dice.below(self.saga.waits.len())];
                let objected = wait.refusing.clone().filter(|_| dice.chance(30));
                let name = objected.unwrap_or_else(|| wait.awaits.clone());
                let number = dice.below(5) as u64;
                let body = self.saga.happens(1, number);
                self.takes(
                    Input::Event { name: name.clone(), body },
                    Some(format!("{name}-{number}")),
                );
            }
            22 if dice.chance(30) => {
                if let Some((name, body)) = self.saga.withdraws(1) {
                    self.takes(Input::Event { name, body }, Some("withdrawn".into()));
                }
            }
            23 if dice.chance(20) => {
                self.takes(operator(Action::Cancel), None);
            }
            24 => {
                self.takes(operator(Action::Retry(ids[dice.below(ids.len())])), None);
            }
            25 => {
                let node = ids[dice.below(ids.len())];
                let is_stuck = core.incidents.iter().any(|incident| incident.node == node);
                if is_stuck && core.state(node).asked().is_none_or(|(leg, _)| leg != Leg::Do) {
                    self.resolved.insert(node);
                }
                self.takes(operator(Action::Resolve(node)), None);
            }
            26 | 27 => {
                let out: Vec<(NodeId, Leg, u32)> = ids
                    .iter()
                    .filter_map(|id| {
                        core.state(*id).asked().map(|(leg, ask)| (*id, leg, ask.attempt))
                    })
                    .collect();
                if out.is_empty() {
                    return;
                }
                let (node, leg, attempt) = out[dice.below(out.len())];
                // Only what was not read by anybody can be unsent or given back.
                let is_it =
                    |sent: &Command| (sent.node, sent.leg, sent.attempt) == (node, leg, attempt);
                if self.kept.contains_key(&node) || !self.out.iter().any(is_it) {
                    return;
                }
                self.out.retain(|sent| !is_it(sent));
                let until = self.now + Duration::from_secs(1);
                self.takes(
                    match dice.below(2) {
                        0 => Input::Unsent { node, leg, attempt, text: "no route".into() },
                        _ => Input::Held { node, leg, attempt, hold: Hold::GivenBack, until },
                    },
                    None,
                );
            }
            28 if dice.chance(3) => {
                self.killed = true;
                self.takes(operator(Action::Kill), None);
            }
            _ => {}
        }
    }

    /// Participants answer, people see to incidents, time passes: it has to end.
    fn ends(&mut self) -> Result<(), String> {
        for _ in 0..1_000 {
            if self.instance.core.status.is_end() {
                return Ok(());
            }
            let core = &self.instance.core;
            let incident = core.incidents.first().map(|incident| incident.node);
            let awaited = self.out.iter().position(|sent| {
                let asked = core.state(sent.node).asked();
                asked.is_some_and(|(leg, ask)| (leg, ask.attempt) == (sent.leg, sent.attempt))
            });
            match (awaited, incident) {
                (Some(at), _) => {
                    let command = self.out.swap_remove(at);
                    self.reads(&command, 0);
                }
                (None, Some(node)) => {
                    let action = Action::Retry(node);
                    let (by, why) = ("ann".into(), "a test".into());
                    let sent = self.out.len();
                    self.takes(Input::Operator { action, by, why }, None);
                    // Turning back, a step that is open only settles.
                    if self.out.len() == sent {
                        self.due();
                    }
                }
                (None, None) => self.due(),
            }
        }
        Err("it does not end".into())
    }

    /// What participants and saga know of each other at the end.
    fn judged(&self) -> Result<(), String> {
        let status = self.instance.core.status;
        let graph = self.saga.plan.graph();
        let mut data = Vec::new();
        self.instance.data.write_json(&mut data).unwrap();
        let recorded: Recorded = serde_json::from_slice(&data).unwrap();
        let is_done = |place: usize| {
            let done = |happening: &Happening| matches!(happening, Happening::Done { place: known, .. } if *known == place);
            recorded.happened.iter().any(done)
        };
        for part in &self.saga.parts {
            let kept = self.kept.get(&part.node).copied().unwrap_or_default();
            let name = &part.name;
            let stands = kept.took.is_some() && !kept.undone;
            if is_done(part.place) && kept.took.is_none() {
                return Err(format!("{name} counts as done and was not"));
            }
            match status {
                Status::Completed if kept.undone => {
                    return Err(format!("it completed, and {name} was undone all the same"));
                }
                Status::Completed => {}
                Status::Compensated => {
                    let way_back = &graph.step(part.node).unwrap().way_back;
                    let firm = matches!(way_back, WayBack::Pivot | WayBack::Retriable);
                    let resolved = self.resolved.contains(&part.node);
                    if stands && (firm || part.undo.is_some() && !resolved) {
                        return Err(format!("{name} stays uncompensated"));
                    }
                }
                Status::Killed if self.killed => {}
                Status::Killed | Status::Running | Status::TurningBack => {
                    return Err(format!("nobody made it {status}"));
                }
            }
        }
        Ok(())
    }
}

/// Plays a saga; how it ended, or what went wrong with its story.
fn played(seed: u64) -> Result<Status, String> {
    let saga = generated(seed / 2);
    let run = |telling| {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut play = Play::begin(&saga, 1, seed, telling);
        for _ in 0..dice.below(120) {
            play.happens(&mut dice);
        }
        let outcome = play.ends().and_then(|()| play.judged());
        (outcome.map(|()| play.instance.core.status), play.story)
    };
    run(false).0.map_err(|wrong| {
        let story = run(true).1.unwrap_or_default();
        format!("seed {seed}: {wrong}\n{}", story.join("\n"))
    })
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how many are played is said from outside")]
fn played_at_random_each_of_them_ends_and_undoes_what_took_effect() {
    // `DIRIGENT_PLAYS` plays more of them.
    let plays = std::env::var("DIRIGENT_PLAYS").ok().and_then(|text| text.parse().ok());
    let plays = plays.unwrap_or(600_u64);
    let mut ends = BTreeMap::<Status, u64>::new();
    for seed in 0..plays {
        let status = played(seed).unwrap_or_else(|wrong| panic!("{wrong}"));
        *ends.entry(status).or_default() += 1;
    }
    println!("{ends:?}");
    let often = plays / 6;
    assert!(ends[&Status::Completed] > often && ends[&Status::Compensated] > often, "{ends:?}");
}
