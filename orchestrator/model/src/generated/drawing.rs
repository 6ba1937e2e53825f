//! Draws a sound saga: which blocks, in which order, on which terms.
//!
//! What comes before the pivot may fail, what comes behind it may not; a pivot may lie in every arm of a choice, or in one of them
//! only, and then nothing but what can't fail comes after. Everything drawn is accepted by the builder.

use super::{
    Limits,
    blocks::{self, Terms, Way},
    dice::Dice,
    messages::{EVENTS, NOTICES, PLACES, Recorded},
};
use crate::{
    definition::{
        AllDraft, AskStatus, Block, Definition, DefinitionErrors, IntoBlock, OnTimeout, Repeat,
        all, pause, when,
    },
    retry::Retry,
};
use std::time::Duration;

/// Choices whose answers differ; further ones go by the same.
const CHOICES: usize = 4;

/// Which side of the pivot a block lies on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// It may fail.
    Before,
    /// It only goes forward.
    Behind,
    /// Only some ways passed the pivot: it neither fails nor is retriable.
    Between,
}

/// One drawing.
struct Drawing {
    dice: Dice,
    limits: Limits,
    steps: usize,
    places: Vec<usize>,
    named: usize,
    choices: usize,
}

/// Draws a saga from a seed.
pub(super) fn draw(seed: u64, limits: Limits) -> Result<Definition<Recorded>, DefinitionErrors> {
    let mut dice = Dice::new(seed);
    // Small sagas find most mistakes, and find them faster.
    let most = limits.steps_max.clamp(1, PLACES);
    let steps = 1 + dice.below(most).min(dice.below(most));
    let mut places: Vec<usize> = (0..PLACES).collect();
    for at in (1..places.len()).rev() {
        places.swap(at, dice.below(at + 1));
    }
    let mut drawing = Drawing { dice, limits, steps, places, named: 0, choices: 0 };
    drawing.saga(seed)
}

impl Drawing {
    fn saga(&mut self, seed: u64) -> Result<Definition<Recorded>, DefinitionErrors> {
        let slot = self.limits.slot;
        let mut blocks = Vec::new();
        let has_pivot = self.dice.chance(60);
        let kept = if has_pivot { 1 + self.dice.below(self.steps) / 2 } else { 0 };
        self.steps -= kept;
        while self.steps > 0 {
            blocks.push(self.block(Side::Before, 0));
        }
        if has_pivot {
            self.steps = kept;
            let (block, side) = self.pivot();
            blocks.push(block);
            while side == Side::Behind && self.steps > 0 {
                blocks.push(self.block(side, 0));
            }
            if side == Side::Between || self.dice.chance(20) {
                blocks.push(self.plain(side));
            }
        } else if blocks.is_empty() || self.dice.chance(20) {
            blocks.push(self.plain(Side::Before));
        }
        let mut begun = blocks::begun(slot, &format!("generated-{seed:x}"));
        for block in blocks {
            begun = begun.then(block);
        }
        if self.dice.chance(30) {
            begun = begun.deadline(self.span(500, 20_000));
        }
        if self.dice.chance(40) {
            begun = blocks::withdrawn(slot, begun);
        }
        let repeats = [Repeat::Duplicate, Repeat::Reject, Repeat::RestartWhenFinished];
        let begun = begun
            .on_repeated_start(repeats[self.dice.below(repeats.len())])
            .keep_for(self.span(60_000, 600_000));
        if self.dice.chance(80) { blocks::ends_told(slot, begun) } else { begun.ends() }
    }

    /// The point of no return, or a choice in whose arms it lies; and what holds behind it.
    fn pivot(&mut self) -> (Block<Recorded>, Side) {
        let depth = self.limits.nesting_max;
        match self.dice.below(10) {
            0 => {
                let pivot = self.step(Way::Pivot);
                let (name, holds) = (self.name("when"), blocks::holds(self.next_choice()));
                (when(&name, holds, pivot), Side::Between)
            }
            1 | 2 if self.steps >= 2 && depth > 0 => {
                let (name, choice) = (self.name("choice"), self.next_choice());
                let first = self.step(Way::Pivot);
                let mut second = Vec::new();
                if self.steps >= 2 && self.dice.chance(50) {
                    second.push(self.step(Way::Compensated));
                }
                second.push(self.step(Way::Pivot));
                let second = in_order(second);
                (blocks::choice(&name, choice, vec![first], Some(second)), Side::Behind)
            }
            _ => (self.step(Way::Pivot), Side::Behind),
        }
    }

    /// One block, steps left or not.
    fn block(&mut self, side: Side, depth: usize) -> Block<Recorded> {
        let nests = depth < self.limits.nesting_max;
        match self.dice.below(12) {
            0 | 1 => self.plain(side),
            2 | 3 if nests && self.steps >= 2 => {
                let branches = 2 + usize::from(self.steps >= 3 && self.dice.chance(30));
                let name = self.name("all");
                let drawn = (0..branches).map(|_| self.some(side, depth + 1));
                drawn.fold(all(&name), AllDraft::branch).into_block()
            }
            4 | 5 if nests && self.steps >= 1 => self.choice(side, depth),
            _ if self.steps == 0 => self.plain(side),
            _ => match side {
                Side::Before if self.dice.chance(20) => self.step(Way::Nothing),
                Side::Before => self.step(Way::Compensated),
                Side::Behind => self.step(Way::Retriable),
                Side::Between => self.plain(side),
            },
        }
    }

    fn choice(&mut self, side: Side, depth: usize) -> Block<Recorded> {
        if self.dice.chance(40) {
            let (name, holds) = (self.name("when"), blocks::holds(self.next_choice()));
            let inner = self.some(side, depth + 1);
            return when(&name, holds, inner);
        }
        let (name, choice) = (self.name("choice"), self.next_choice());
        let arms = (0..=self.dice.below(blocks::ARMS_MAX)).map(|_| self.some(side, depth + 1));
        let arms = arms.collect();
        let otherwise = self.dice.chance(50).then(|| self.some(side, depth + 1));
        blocks::choice(&name, choice, arms, otherwise)
    }

    /// One block or two, as they lie in a branch or an arm.
    fn some(&mut self, side: Side, depth: usize) -> Block<Recorded> {
        let mut blocks = vec![self.block(side, depth)];
        if self.dice.chance(35) {
            blocks.push(self.block(side, depth));
        }
        in_order(blocks)
    }

    /// A block that sends no command.
    fn plain(&mut self, side: Side) -> Block<Recorded> {
        let (slot, patience) = (self.limits.slot, self.limits.patience);
        match self.dice.below(5) {
            0 => pause(&self.name("pause"), self.span(20 * patience, 3_000 * patience)),
            1 => blocks::note(slot, self.dice.below(NOTICES), &self.name("note")),
            _ => {
                let may_fail = side == Side::Before;
                let refusing = may_fail && self.dice.chance(40);
                let rejects = may_fail && self.dice.chance(50);
                let on_timeout = if rejects { OnTimeout::Reject } else { OnTimeout::Proceed };
                let (event, name) = (self.dice.below(EVENTS), self.name("wait"));
                let within = self.span(100 * patience, 10_000 * patience);
                blocks::awaited((slot, event), &name, refusing, within, on_timeout)
            }
        }
    }

    /// A step at a place of its own.
    fn step(&mut self, way: Way) -> Block<Recorded> {
        self.steps = self.steps.saturating_sub(1);
        let place = self.places.pop().expect("no more steps are drawn than there are places");
        let status = (way != Way::Retriable && self.dice.chance(30)).then(|| {
            let within = self.span(50, 2_000);
            AskStatus::within(within).retry(self.retry())
        });
        let terms = Terms {
            may_be_refused: way != Way::Retriable && self.dice.chance(75),
            reply_within: self.span(50, 3_000),
            retry: self.retry(),
            status,
            undone_within: self.span(50, 3_000),
            undo_retry: self.retry(),
        };
        blocks::step_at(place, &format!("step-{place}"), way, terms)
    }

    fn retry(&mut self) -> Retry {
        let most = self.limits.attempts_max.max(1);
        let attempts = 1 + u32::try_from(self.dice.below(most as usize)).unwrap_or_default();
        let first = self.span(10, 400);
        let policy = Retry::exponential(attempts, first, first.saturating_mul(4));
        match self.dice.below(4) {
            0 => policy.within(self.span(100, 6_000)),
            1 => policy.not_after(&["hopeless"]),
            _ => policy,
        }
    }

    fn span(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        let span = usize::try_from(most_ms - least_ms).unwrap_or(usize::MAX);
        Duration::from_millis(least_ms + self.dice.below(span + 1) as u64)
    }

    fn name(&mut self, what: &str) -> String {
        self.named += 1;
        format!("{what}-{}", self.named)
    }

    fn next_choice(&mut self) -> usize {
        self.choices += 1;
        (self.choices - 1) % CHOICES
    }
}

fn in_order(blocks: Vec<Block<Recorded>>) -> Block<Recorded> {
    blocks.into_iter().reduce(Block::then).expect("a branch holds a block")
}
