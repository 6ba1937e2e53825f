//! Participants with moods: what they answer goes by the command's own key and attempt, so that it is the same however often it is
//! asked. Nobody is silent about one command, or too busy for it, for ever: what was held unanswered is asked again as the same attempt,
//! and a world is to come to its end. The kit answers *busy* to the same attempt again and again, as its duty is, also behind a circuit that
//! only this command can close.

use dirigent::participant::{Answer, Asked as Said, Misbehaviour, Participant};
use dirigent_connectors::simulated::Random;
use dirigent_model::{
    generated::{Asked, Cast, Undoing, cast},
    message::{Failure, FailureEffect},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// How often a participant is silent about one command, or too busy for it, at the most.
const TROUBLES_MAX: u32 = 3;

/// How often participants were in trouble with each command, over all their lives.
type Troubles = Arc<Mutex<BTreeMap<String, u32>>>;

/// How participants are disposed, in thousandths.
#[derive(Debug, Clone)]
pub(super) struct Mood {
    refuses: u16,
    fails: u16,
    fails_for_good: u16,
    silent: u16,
    troubles: Troubles,
}

impl Mood {
    pub(super) fn drawn(random: &mut Random) -> Self {
        let mut rate = |most| if random.one_in(2) { random.below(most) as u16 } else { 0 };
        let (refuses, fails, fails_for_good) = (rate(300), rate(400), rate(100));
        Self { refuses, fails, fails_for_good, silent: rate(200), troubles: Troubles::default() }
    }

    /// Whether there is trouble with a command, where the dice say so: not for ever.
    fn troubles(&self, said: &Said, drawn: bool) -> bool {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let so_far = troubles.entry(said.idempotency_key.clone()).or_default();
        let is_one = drawn && *so_far < TROUBLES_MAX;
        *so_far += u32::from(is_one);
        is_one
    }
}

/// What is drawn for one attempt of one command.
fn dice(seed: u64, said: &Said) -> Random {
    let mut hash = seed;
    for byte in said.idempotency_key.bytes().chain(said.attempt.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }
    let mut dice = Random(hash);
    dice.number();
    dice
}

struct Company<'a> {
    made: Option<Participant>,
    name: &'static str,
    seed: u64,
    mood: &'a Mood,
}

impl Cast for Company<'_> {
    fn plays<C: Asked, X: Undoing<C>>(&mut self) {
        if C::TO.name != self.name {
            return;
        }
        let (seed, mood, undoing) = (self.seed, self.mood.clone(), self.mood.clone());
        let made = self.made.take().map(|made| {
            made.on::<C>(move |_, asked, said| {
                let mut dice = dice(seed, said);
                if dice.chance(mood.refuses)
                    && let Some(refused) = C::refused(asked.key())
                {
                    return Answer::Rejected(refused);
                }
                match failure(&mut dice, &mood, said) {
                    Some(failure) => Answer::Failed(failure),
                    None => Answer::Done(C::done(asked.key(), dice.below(1_000_000))),
                }
            })
            .undoes::<X, C>(
                move |_, asked, said| {
                    let mut dice = dice(seed, said);
                    match undoing.troubles(said, dice.chance(undoing.fails)) {
                        true => Answer::Failed(busy_now(true)),
                        false => Answer::Done(X::undone(asked.key())),
                    }
                },
                |asked, _| X::undone(asked.key()),
            )
        });
        self.made = made;
    }
}

fn failure(dice: &mut Random, mood: &Mood, said: &Said) -> Option<Failure> {
    let is_lasting = dice.chance(mood.fails_for_good);
    let is_passing = mood.troubles(said, dice.chance(mood.fails) && !is_lasting);
    (is_lasting || is_passing).then(|| busy_now(is_passing))
}

fn busy_now(retriable: bool) -> Failure {
    let code = if retriable { "busy" } else { "hopeless" };
    Failure {
        code: code.into(),
        message: "as drawn".into(),
        retriable,
        effect: FailureEffect::None,
    }
}

/// The participant that reads this channel.
pub(super) fn participant(name: &'static str, seed: u64, mood: &Mood) -> Participant {
    let mut company = Company { made: Some(Participant::new(name)), name, seed, mood };
    cast(&mut company);
    let made = company.made.unwrap_or_else(|| Participant::new(name));
    let (silent, mood) = (mood.silent, mood.clone());
    made.misbehave(move |said| {
        let mut dice = dice(seed ^ 0xDEAF, said);
        match mood.troubles(said, dice.chance(silent)) {
            false => Misbehaviour::None,
            true if dice.one_in(2) => Misbehaviour::SilentBefore,
            true => Misbehaviour::SilentAfter,
        }
    })
}
