//! The accounts: they stand for the instances, positions and kept messages that are there, and agree with themselves.
//!
//! What stands in the mark of the last checkpoint is corrected by the difference: the groups behind it are added to it as before.

use super::All;
use crate::{
    engine::{
        accounts::{Accounts, Count, sum},
        audit::partitions,
        checkpoint::{MARK, Mark},
    },
    store::{
        Space,
        check::{Kind, Mend, RecordChange, Severity, Survey},
    },
};
use dirigent_model::instance::Core;
use std::collections::{BTreeMap, BTreeSet};

const TALLY: Kind = Kind {
    name: "tally-differs",
    severity: Severity::Harmful,
    means: "figures are wrong, and the process may refuse to start for instances that are not there",
    advice: "correct the tally by the plan",
};

const KEPT: Kind = Kind {
    name: "kept-messages-differ",
    severity: Severity::Harmful,
    means: "the accounts speak of kept messages that are not there",
    advice: "restore the data folder from a backup, or correct the accounts by the plan; the log of the process may tell which messages they were",
};

const GAP: Kind = Kind {
    name: "accounts-differ",
    severity: Severity::Harmful,
    means: "a message was counted and its position was not kept, or the other way round: one may have been lost, or taken twice",
    advice: "restore the data folder from a backup; the ledgers of the participants tell what took effect",
};

const POSITIONS: Kind = Kind {
    name: "positions-strange",
    severity: Severity::Harmful,
    means: "reading would go on at a wrong place",
    advice: "restore the data folder from a backup",
};

const LANES: Kind = Kind {
    name: "lanes-strange",
    severity: Severity::Harmful,
    means: "a message could be taken for confirmed that was never sent, or the other way round",
    advice: "restore the data folder from a backup",
};

/// How many instances stand where, as they are found.
#[derive(Default)]
pub(super) struct Standing {
    live: BTreeMap<(String, u32, u64), u64>,
    blocked: u64,
    /// Those of a later release: nothing is known of them.
    pub unreadable: u64,
}

impl Standing {
    pub(super) fn live(&mut self, core: &Core) {
        let release = (core.definition.clone(), core.version, core.fingerprint.0);
        *self.live.entry(release).or_default() += 1;
        self.blocked += u64::from(core.is_blocked());
    }
}

/// Messages of a place that count as something else once the plan is applied.
pub(super) type Moves = BTreeMap<(String, u32), Vec<(Count, Count)>>;

/// Corrections of the accounts in the mark, as far as they can be made.
struct Corrected {
    accounts: Accounts,
    does: Vec<String>,
}

impl Corrected {
    /// Changes a figure of the mark by as much as it differs. Says whether it can be.
    fn by(figure: Option<&mut u64>, told: u64, found: u64) -> bool {
        let Some(figure) = figure else { return false };
        match figure.checked_add(found).and_then(|both| both.checked_sub(told)) {
            Some(corrected) => {
                *figure = corrected;
                true
            }
            None => false,
        }
    }
}

/// Holds the accounts against what was found. `moves` are those of the kept messages that the plan changes.
pub(super) fn check(all: &All<'_>, standing: &Standing, moves: &Moves, survey: &mut Survey) {
    let accounts = &all.recovered.accounts;
    let mut corrected = Corrected { accounts: all.mark.accounts.clone(), does: Vec::new() };
    check_tally(accounts, standing, &mut corrected, survey);
    check_kept(all, accounts, moves, &mut corrected, survey);
    check_positions(accounts, survey);
    check_lanes(accounts, survey);
    if corrected.does.is_empty() || survey.is_cut() {
        return;
    }
    let Mark { seq, keep_from, .. } = *all.mark;
    let mark = Mark { seq, keep_from, above: all.mark.above.clone(), accounts: corrected.accounts };
    let Ok(value) = mark.encode() else { return };
    let loses =
        "nothing that is there; what the accounts spoke of and is not there is gone already";
    let change = RecordChange::put(Space::Meta, MARK, value);
    survey.propose(
        "accounts-corrected",
        "mark of the last checkpoint",
        Mend::new(corrected.does.join("; "), loses, vec![change]),
    );
}

fn check_tally(
    accounts: &Accounts,
    standing: &Standing,
    corrected: &mut Corrected,
    survey: &mut Survey,
) {
    let tally = &accounts.tally;
    let began = sum([tally.completed, tally.compensated, tally.killed, tally.in_flight()]);
    let releases: BTreeSet<_> = tally.live.keys().chain(standing.live.keys()).collect();
    for release in releases {
        let of = |live: &BTreeMap<_, u64>| live.get(release).copied().unwrap_or_default();
        let (told, found) = (of(&tally.live), of(&standing.live));
        if told == found {
            continue;
        }
        let (name, version, _) = release;
        let place = format!("tally of `{name}` version {version}");
        let what = format!("{told} live instances by the tally, {found} are there");
        let figure = corrected.accounts.tally.live.entry(release.clone()).or_default();
        if standing.unreadable == 0 && Corrected::by(Some(figure), told, found) {
            corrected.does.push(format!("live instances of `{name}` version {version}: {found}"));
            survey.find_mended(&TALLY, place, what);
        } else {
            survey.find(&TALLY, place, what, None);
        }
    }
    let (told, found) = (tally.blocked, standing.blocked);
    if told != found {
        let what = format!("{told} blocked instances by the tally, {found} are there");
        let figure = Some(&mut corrected.accounts.tally.blocked);
        if standing.unreadable == 0 && Corrected::by(figure, told, found) {
            corrected.does.push(format!("blocked instances: {found}"));
            survey.find_mended(&TALLY, "tally", what);
        } else {
            survey.find(&TALLY, "tally", what, None);
        }
    }
    // Those that the other repair takes out have begun all the same: the figures of the past are left as they are.
    if began > tally.started {
        let what = format!("{} were started, but {began} ended or live", tally.started);
        survey.find(&TALLY, "tally", what, None);
    }
}

fn check_kept(
    all: &All<'_>,
    accounts: &Accounts,
    moves: &Moves,
    corrected: &mut Corrected,
    survey: &mut Survey,
) {
    let (partitions, gaps) = partitions(accounts, all.kept);
    for partition in &partitions {
        let place = (partition.channel.clone(), partition.partition);
        let name = format!("{}, partition {}", partition.channel, partition.partition);
        let counts = corrected.accounts.counts.get_mut(&place);
        let mut counts = counts.map(|counts| (*counts, counts));
        for (count, told, found) in [
            (Count::Parked, partition.counts.of(Count::Parked), partition.kept_parked),
            (
                Count::Quarantined,
                partition.counts.of(Count::Quarantined),
                partition.kept_quarantined,
            ),
        ] {
            if told == found {
                continue;
            }
            let what = format!("{told} are counted as {}, {found} are kept so", count.name());
            let missing = told.checked_sub(found);
            let can_move = counts.as_ref().zip(missing);
            if can_move.is_some_and(|((known, _), missing)| known.of(count) >= missing) {
                let missing = missing.unwrap_or_default();
                if let Some((known, _)) = &mut counts {
                    known.move_all(count, Count::Ignored, missing);
                }
                corrected.does.push(format!(
                    "{name}: {missing} that are {} no more count as ignored",
                    count.name()
                ));
                survey.find_mended(&KEPT, &name, what);
            } else {
                survey.find(&KEPT, &name, what, None);
            }
        }
        for (from, to) in moves.get(&place).into_iter().flatten() {
            if let Some((known, _)) = &mut counts {
                known.move_one(*from, *to);
                corrected.does.push(format!("{name}: one {} counts as {}", from.name(), to.name()));
            }
        }
        if let Some((known, counts)) = counts {
            *counts = known;
        }
    }
    for gap in gaps.iter().filter(|gap| !gap.contains(" are kept so ")) {
        survey.find(&GAP, "accounts", gap, None);
    }
}

fn check_positions(accounts: &Accounts, survey: &mut Survey) {
    for ((channel, partition), progress) in &accounts.progress {
        survey.count("positions");
        let mut end = progress.next;
        for (&from, &until) in &progress.above {
            if from <= progress.next || from < end || until <= from {
                let what = format!(
                    "offsets {from} to {until} are covered beside what is below {} and up to {end}",
                    progress.next
                );
                survey.find(&POSITIONS, format!("{channel}, partition {partition}"), what, None);
            }
            end = end.max(until);
        }
    }
}

fn check_lanes(accounts: &Accounts, survey: &mut Survey) {
    let lanes = accounts.lanes_next.iter().zip(&accounts.lanes_confirmed);
    for (lane, (next, confirmed)) in lanes.enumerate() {
        if confirmed > next {
            let what = format!(
                "messages below {confirmed} are confirmed, but only those below {next} were made"
            );
            survey.find(&LANES, format!("connector number {}", lane + 1), what, None);
        }
    }
    let made = sum(accounts.lanes_next.iter().map(|next| next.saturating_sub(1)));
    if made != accounts.sent {
        let what = format!("{made} messages have numbers, {} are counted as sent", accounts.sent);
        survey.find(&LANES, "accounts", what, None);
    }
}
