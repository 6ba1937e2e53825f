//! Holds what the services did against what the sagas say. A plain function over plain data.
//!
//! A completed order has exactly one reservation, one hold, one capture, one shipment and one message that it is done.
//! A compensated one nets to nothing: what was reserved was released, what was held was let go, nothing was captured or shipped.

use crate::ledger::Entry;
use dirigent_model::instance::Status;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Differences that are told one by one. Behind that many the cause is known, or will not be found by reading on.
pub const LINES_MAX: usize = 50;

/// Kinds of effects in the ledgers.
pub mod kinds {
    /// Stock was set aside.
    pub const RESERVED: &str = "reserved";
    /// Stock was given back.
    pub const RELEASED: &str = "released";
    /// Money was held.
    pub const HELD: &str = "held";
    /// Money was let go.
    pub const VOIDED: &str = "voided";
    /// Money was taken.
    pub const CAPTURED: &str = "captured";
    /// A parcel was sent.
    pub const SHIPPED: &str = "shipped";
    /// A person agreed.
    pub const APPROVED: &str = "approved";
    /// A person declined.
    pub const DECLINED: &str = "declined";
    /// The customer was told that all is done.
    pub const TOLD_COMPLETED: &str = "told-completed";
    /// The customer was told that it came to nothing.
    pub const TOLD_FAILED: &str = "told-failed";

    /// All of them.
    pub const ALL: [&str; 10] = [
        RESERVED,
        RELEASED,
        HELD,
        VOIDED,
        CAPTURED,
        SHIPPED,
        APPROVED,
        DECLINED,
        TOLD_COMPLETED,
        TOLD_FAILED,
    ];
}
use kinds::{CAPTURED, HELD, RELEASED, RESERVED, SHIPPED, TOLD_COMPLETED, TOLD_FAILED, VOIDED};

/// How far the saga of an order has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SagaEnd {
    /// The order.
    pub order: i64,
    /// Where its saga stands.
    pub status: Status,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reconciliation {
    /// Every ended saga has exactly the effects it should have, and nobody else has any.
    pub balanced: bool,
    /// Effects that were applied again.
    pub effects_twice: u64,
    /// Effects of orders without a saga.
    pub orphans: u64,
    /// What does not fit, at most [`LINES_MAX`] lines.
    pub lines: Vec<String>,
    /// What does not fit beyond those.
    pub lines_left_out: usize,
}

/// Compares the entries of all services with the sagas. Sagas that have not ended, or that a person ended, may have any effect once.
pub fn reconcile(
    ledgers: impl IntoIterator<Item = Entry>,
    sagas: impl IntoIterator<Item = SagaEnd>,
) -> Reconciliation {
    let mut found = Reconciliation::default();
    let mut by_order: BTreeMap<i64, BTreeMap<String, u64>> = BTreeMap::new();
    for entry in ledgers {
        if entry.times > 1 {
            found.effects_twice += entry.times - 1;
            found.line(format!(
                "order {}: {} {} times, for {}",
                entry.key,
                entry.kind,
                entry.times,
                entry.causes.join(" and ")
            ));
        }
        *by_order.entry(entry.key).or_default().entry(entry.kind).or_default() += entry.times;
    }
    let mut known = BTreeSet::new();
    for SagaEnd { order, status } in sagas {
        known.insert(order);
        let effects = Effects(by_order.get(&order));
        match status {
            Status::Completed => {
                for kind in [RESERVED, HELD, CAPTURED, SHIPPED, TOLD_COMPLETED] {
                    found.expect(order, status, &effects, kind, 1);
                }
                for kind in [RELEASED, VOIDED, TOLD_FAILED] {
                    found.expect(order, status, &effects, kind, 0);
                }
            }
            Status::Compensated => {
                for (kind, undone_by) in [(RESERVED, RELEASED), (HELD, VOIDED)] {
                    let (done, undone) = (effects.of(kind), effects.of(undone_by));
                    if done != undone {
                        found.line(format!(
                            "order {order} is {status}: {kind} {done} times, {undone_by} {undone} times"
                        ));
                    }
                }
                for kind in [CAPTURED, SHIPPED, TOLD_COMPLETED] {
                    found.expect(order, status, &effects, kind, 0);
                }
                found.expect(order, status, &effects, TOLD_FAILED, 1);
            }
            Status::Running | Status::TurningBack | Status::Killed => {}
        }
    }
    for (order, effects) in by_order.iter().filter(|(order, _)| !known.contains(order)) {
        found.orphans += effects.values().sum::<u64>();
        let kinds: Vec<_> = effects.keys().map(String::as_str).collect();
        found.line(format!("order {order} has no saga, but was {}", kinds.join(", ")));
    }
    found.balanced = found.lines.is_empty();
    found
}

/// How often each kind of effect was applied for one order.
struct Effects<'a>(Option<&'a BTreeMap<String, u64>>);

impl Effects<'_> {
    fn of(&self, kind: &str) -> u64 {
        self.0.and_then(|effects| effects.get(kind)).copied().unwrap_or(0)
    }
}

impl Reconciliation {
    fn expect(
        &mut self,
        order: i64,
        status: Status,
        effects: &Effects<'_>,
        kind: &str,
        times: u64,
    ) {
        let found = effects.of(kind);
        if found != times {
            self.line(format!(
                "order {order} is {status}: {kind} {found} times instead of {times}"
            ));
        }
    }

    fn line(&mut self, line: String) {
        if self.lines.len() < LINES_MAX { self.lines.push(line) } else { self.lines_left_out += 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(order: i64, kinds: &[&str]) -> Vec<Entry> {
        let entry = |kind: &&str| Entry {
            key: order,
            kind: (*kind).into(),
            times: 1,
            causes: vec![format!("{kind}-key")],
        };
        kinds.iter().map(entry).collect()
    }

    fn saga(order: i64, status: Status) -> Vec<SagaEnd> {
        vec![SagaEnd { order, status }]
    }

    const ALL_DONE: [&str; 5] = [RESERVED, HELD, CAPTURED, SHIPPED, TOLD_COMPLETED];

    #[test]
    fn a_completed_order_with_everything_once_balances() {
        let found = reconcile(entries(1, &ALL_DONE), saga(1, Status::Completed));
        assert_eq!(found, Reconciliation { balanced: true, ..Reconciliation::default() });
    }

    #[test]
    fn a_compensated_order_balances_when_what_was_done_was_undone() {
        for kinds in [
            vec![TOLD_FAILED],
            vec![RESERVED, RELEASED, TOLD_FAILED],
            vec![RESERVED, RELEASED, HELD, VOIDED, TOLD_FAILED],
        ] {
            let found = reconcile(entries(1, &kinds), saga(1, Status::Compensated));
            assert!(found.balanced, "{kinds:?}: {found:?}");
        }
    }

    #[test]
    fn a_completed_order_that_was_not_shipped_does_not_balance() {
        let found = reconcile(
            entries(1, &[RESERVED, HELD, CAPTURED, TOLD_COMPLETED]),
            saga(1, Status::Completed),
        );
        assert!(!found.balanced);
        assert_eq!(found.lines, ["order 1 is completed: shipped 0 times instead of 1"]);
    }

    #[test]
    fn a_compensated_order_that_keeps_an_effect_does_not_balance() {
        let kept = reconcile(
            entries(1, &[RESERVED, HELD, VOIDED, TOLD_FAILED]),
            saga(1, Status::Compensated),
        );
        assert_eq!(kept.lines, ["order 1 is compensated: reserved 1 times, released 0 times"]);
        let released_too_often =
            reconcile(entries(1, &[RELEASED, TOLD_FAILED]), saga(1, Status::Compensated));
        assert!(!released_too_often.balanced);
        let paid = reconcile(
            entries(1, &[HELD, VOIDED, CAPTURED, TOLD_FAILED]),
            saga(1, Status::Compensated),
        );
        assert_eq!(paid.lines, ["order 1 is compensated: captured 1 times instead of 0"]);
    }

    #[test]
    fn an_effect_applied_twice_is_counted_and_named_with_its_causes() {
        let mut ledger = entries(1, &ALL_DONE);
        ledger[2].times = 3;
        ledger[2].causes.push("another".into());
        let found = reconcile(ledger, saga(1, Status::Completed));
        assert_eq!((found.balanced, found.effects_twice), (false, 2));
        assert_eq!(found.lines[0], "order 1: captured 3 times, for captured-key and another");
    }

    #[test]
    fn effects_of_an_order_without_a_saga_are_orphans() {
        let found = reconcile(entries(9, &[RESERVED, HELD]), saga(1, Status::Running));
        assert_eq!((found.balanced, found.orphans), (false, 2));
        assert_eq!(found.lines, ["order 9 has no saga, but was held, reserved"]);
    }

    #[test]
    fn what_has_not_ended_may_be_half_done_but_not_twice() {
        let half = reconcile(entries(1, &[RESERVED]), saga(1, Status::TurningBack));
        assert!(half.balanced);
        let mut twice = entries(1, &[RESERVED]);
        twice[0].times = 2;
        assert!(!reconcile(twice, saga(1, Status::Running)).balanced);
    }

    #[test]
    fn a_flood_of_differences_is_cut_and_counted() {
        let sagas = (0..200).map(|order| SagaEnd { order, status: Status::Compensated });
        let found = reconcile([], sagas);
        assert_eq!((found.lines.len(), found.lines_left_out), (LINES_MAX, 200 - LINES_MAX));
    }
}
