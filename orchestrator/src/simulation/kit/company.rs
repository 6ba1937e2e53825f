//! Who carries out the commands of a simulated saga: the author's participants, others that are played, and the moods of all of them.
//!
//! What goes in: a definition, the author's participants, a seed. What comes out: participants of one world. What must be true: what they do about a command goes by
//! its own key and attempt, so that it is the same however often it is asked; trouble with one command passes, so that a world comes to its end.

use super::Make;
use crate::{
    participant::{Asked, Instead, Interrupts, Invent, Misbehaviour, Participant},
    simulation::Simulation,
};
use dirigent_connectors::simulated::Random;
use dirigent_model::{
    definition::{Invented, MessageRef, NodeId, Plan, WayBack},
    instance::Leg,
    message::{Codec, Failure, FailureEffect, JsonOnly},
};
use dirigent_schemas::Bodies;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// How often there is trouble with one command, at the most.
const TROUBLES_MAX: [u32; 3] = [2, 3, 5];

/// In one world of so many, participants answer hardly anything at first, for longer than most policies ask.
const STUBBORN_ONE_IN: u64 = 12;

/// How often they do not answer one command then, at the most.
const STUBBORN_TROUBLES_MAX: u32 = 15;

/// Refusals that can be made up, by step.
type Refusals = Arc<BTreeMap<String, (&'static str, Invent)>>;

/// All participants of a saga.
pub(super) struct Company {
    pub plan: Arc<Plan>,
    make: Make,
    own: usize,
    /// Commands that are played, by their channel.
    played: BTreeMap<&'static str, Vec<Played>>,
    refusals: Refusals,
    moody: bool,
}

/// A command that nobody wrote a participant for.
#[derive(Clone)]
struct Played {
    command: &'static str,
    success: &'static str,
    answer: Invent,
    undoes: Option<&'static str>,
}

impl Company {
    /// Who is there, or which command nobody carries out.
    pub(super) fn of(plan: Arc<Plan>, make: Make, moody: bool) -> Result<Self, String> {
        let own = make();
        let mut played: BTreeMap<&'static str, Vec<Played>> = BTreeMap::new();
        let mut refusals = BTreeMap::new();
        for node in plan.graph().ids() {
            let Some(step) = plan.graph().step(node) else { continue };
            if let Some(refused) = invents(&plan, node, Invented::Rejection)
                && let Some(name) = step.rejection.as_deref().and_then(|name| fixed(&plan, name))
            {
                refusals.insert(plan.graph().name_of(node).to_owned(), (name, refused));
            }
            let mut all = vec![(&step.command, &step.success, Invented::Success)];
            if let WayBack::Compensated { command, success, .. } = &step.way_back {
                all.push((command, success, Invented::Undone));
            }
            for (command, success, answer) in all {
                if own.iter().any(|it| it.carries_out(&command.channel, &command.name)) {
                    continue;
                }
                let undone = (answer == Invented::Undone).then_some(&step.command);
                let (channel, new) = play(&plan, node, command, success, answer, &own, undone)?;
                let of_channel = played.entry(channel).or_default();
                if of_channel.iter().all(|known| known.command != new.command) {
                    of_channel.push(new);
                }
            }
        }
        // What undoes a command that is carried out elsewhere has nothing to look for here.
        for all in played.values_mut() {
            let here: Vec<&str> = all.iter().map(|it| it.command).collect();
            all.iter_mut().for_each(|it| it.undoes = it.undoes.filter(|it| here.contains(it)));
        }
        Ok(Self { plan, own: own.len(), make, played, refusals: Arc::new(refusals), moody })
    }

    /// They join a world.
    pub(super) fn join(&self, mut world: Simulation, seed: u64, random: &mut Random) -> Simulation {
        let mood = self.moody.then(|| Mood::drawn(random, seed, Arc::clone(&self.refusals)));
        for place in 0..self.own {
            let (make, mood) = (Arc::clone(&self.make), mood.clone());
            world = world.participant(move || in_mood(make().swap_remove(place), mood.as_ref()));
        }
        for (channel, all) in &self.played {
            let (channel, all, mood) = (*channel, all.clone(), mood.clone());
            world = world.participant(move || {
                let name = format!("played-{channel}");
                let new = Participant::new(name).codec(Arc::new(Bodies::new()));
                let made = all.iter().fold(new, |made, it| {
                    made.plays((channel, it.command), it.success, &it.answer, it.undoes)
                });
                in_mood(made, mood.as_ref())
            });
        }
        world
    }
}

fn play(
    plan: &Arc<Plan>,
    node: NodeId,
    command: &MessageRef,
    success: &str,
    answer: Invented,
    own: &[Participant],
    undone: Option<&MessageRef>,
) -> Result<(&'static str, Played), String> {
    let (step, name, channel) = (plan.graph().name_of(node), &command.name, &command.channel);
    let nobody = |why: String| {
        format!(
            "nobody carries out `{name}` of step `{step}`: add its participant to `.participants(..)`. It can't be played, since {why}"
        )
    };
    if let Some(reader) = own.iter().find(|it| it.reads().any(|read| read == channel)) {
        let reader = reader.name();
        return Err(nobody(format!(
            "`{reader}` reads its channel `{channel}` and does not know it"
        )));
    }
    let contract = plan.contracts().iter().find(|it| it.name == *name && it.channel == *channel);
    let (Some(contract), Some(success), Some(invent)) =
        (contract, fixed(plan, success), invents(plan, node, answer))
    else {
        let why = plan.invented(node, answer, &JsonOnly).and_then(Result::err);
        let why = why.map_or_else(|| "its answer is unknown".to_owned(), |why| why.to_string());
        return Err(nobody(why));
    };
    let undoes = undone.filter(|undone| undone.channel == *channel);
    let undoes = undoes.and_then(|undone| fixed(plan, &undone.name));
    Ok((contract.channel, Played { command: contract.name, success, answer: invent, undoes }))
}

/// A message's name as its author wrote it.
fn fixed(plan: &Plan, name: &str) -> Option<&'static str> {
    plan.contracts().iter().map(|contract| contract.name).find(|known| *known == name)
}

/// How an answer is made up, if it can be.
fn invents(plan: &Arc<Plan>, node: NodeId, answer: Invented) -> Option<Invent> {
    plan.invented(node, answer, &Bodies::new())?.ok()?;
    let plan = Arc::clone(plan);
    Some(Arc::new(move |codec: &dyn Codec| {
        plan.invented(node, answer, codec).expect("the step has such an answer, as it had at first")
    }))
}

/// How the participants of a world are disposed, in thousandths.
#[derive(Clone)]
struct Mood {
    seed: u64,
    refuses: u16,
    fails: u16,
    fails_for_good: u16,
    silent: u16,
    troubles_max: u32,
    /// How often there was trouble with each command, over all lives.
    troubles: Arc<Mutex<BTreeMap<String, u32>>>,
    refusals: Refusals,
}

impl Mood {
    fn drawn(random: &mut Random, seed: u64, refusals: Refusals) -> Self {
        let mut rate = |most| if random.one_in(2) { random.below(most) as u16 } else { 0 };
        let (refuses, fails, fails_for_good) = (rate(300), rate(400), rate(100));
        let (mut silent, mut troubles_max) = (rate(600), TROUBLES_MAX[random.below(3) as usize]);
        if random.one_in(STUBBORN_ONE_IN) {
            (silent, troubles_max) = (950, STUBBORN_TROUBLES_MAX);
        }
        let troubles = Arc::default();
        Self { seed, refuses, fails, fails_for_good, silent, troubles_max, troubles, refusals }
    }

    /// What is drawn for one attempt of one command; for the command as a whole where that is 0.
    fn dice(&self, about: u64, asked: &Asked, attempt: u32) -> Random {
        let mut hash = self.seed ^ about.rotate_left(40);
        for byte in asked.idempotency_key.bytes().chain(attempt.to_be_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
        }
        let mut dice = Random(hash);
        dice.number();
        dice
    }

    /// Whether there is trouble with a command, where the dice say so: not for ever.
    fn troubles(&self, asked: &Asked, drawn: bool) -> bool {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let so_far = troubles.entry(asked.idempotency_key.clone()).or_default();
        let is_one = drawn && *so_far < self.troubles_max;
        *so_far += u32::from(is_one);
        is_one
    }

    /// What comes instead of the answer of a handler.
    fn instead(&self, asked: &Asked) -> Option<Instead> {
        let refuses = self.dice(1, asked, 0).chance(self.refuses);
        let mut dice = self.dice(2, asked, asked.attempt);
        let (hopeless, busy) = (dice.chance(self.fails_for_good), dice.chance(self.fails));
        if asked.leg == Leg::Do {
            if let Some((name, refused)) = self.refusals.get(&asked.step).filter(|_| refuses) {
                return Some(Instead::Rejected(name, Arc::clone(refused)));
            }
            if hopeless {
                return Some(Instead::Failed(failure("hopeless", false)));
            }
        }
        self.troubles(asked, busy).then(|| Instead::Failed(failure("busy", true)))
    }

    fn misbehaviour(&self, asked: &Asked) -> Misbehaviour {
        let mut dice = self.dice(3, asked, asked.attempt);
        match self.troubles(asked, dice.chance(self.silent)) {
            false => Misbehaviour::None,
            true if dice.one_in(2) => Misbehaviour::SilentBefore,
            true => Misbehaviour::SilentAfter,
        }
    }
}

fn failure(code: &str, retriable: bool) -> Failure {
    let (code, message) = (code.to_owned(), "as drawn".to_owned());
    Failure { code, message, retriable, effect: FailureEffect::None }
}

fn in_mood(participant: Participant, mood: Option<&Mood>) -> Participant {
    let Some(mood) = mood.cloned() else { return participant };
    let answers = mood.clone();
    let interrupts: Interrupts = Arc::new(move |asked| answers.instead(asked));
    participant.interrupted(&interrupts).also_misbehaves(move |asked| mood.misbehaviour(asked))
}
