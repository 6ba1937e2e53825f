//! What must not count: replies that nobody awaits, events before their time, events delivered twice. It is tried, and what it
//! changes all the same is a violation.

use super::{
    Explorer, Origin, place,
    reference::Fate,
    report::{Finding, ViolationKind},
    symbols::{Choices, Move, Situation},
};
use crate::{decision::Decision, definition::NodeId, history::Verdict};

impl Explorer<'_> {
    /// What nobody awaits is tried where something is known of a step that was not known of it before.
    pub(super) fn tries_unawaited(
        &mut self,
        here: &Situation,
        there: &Situation,
        origin: &Origin,
        new: Option<u32>,
    ) {
        let symbols = self.symbols;
        let has_turned = here.core.status != there.core.status || origin.from.is_none();
        for node in symbols.graph().ids() {
            let state = there.core.state(node);
            if symbols.graph().step(node).is_none() || !has_turned && here.core.state(node) == state
            {
                continue;
            }
            let mut known = vec![symbols.head(&there.core)];
            symbols.name_node(state, there.fates[node.index()], &mut known);
            if !self.tried.insert((node, known)) {
                continue;
            }
            let mut moves = Vec::new();
            symbols.moves_at(node, &there.core, &mut moves);
            for by in moves.into_iter().filter(|by| by.is_unawaited()) {
                self.tries(there, origin, by, new);
            }
        }
    }

    fn tries(&mut self, there: &Situation, origin: &Origin, by: Move, new: Option<u32>) {
        let at = origin.from.unwrap_or(0) as usize;
        let next = Origin { from: new, by, choices: Choices::default() };
        self.transitions += 1;
        let finding = match self.symbols.apply(self.symbols.instance(&there.core), by) {
            Err(text) => {
                self.undecided += 1;
                Some(Finding { kind: ViolationKind::Panicked, node: by.node(), text })
            }
            Ok(decision) => match decision.verdict {
                Verdict::Ignored(_) | Verdict::Duplicate => {
                    self.changed_all_the_same(there, by, &decision)
                }
                Verdict::Applied | Verdict::Deferred => {
                    // It counts, and must not. What that leads to starts from here, though others of its class are known.
                    let from = new.unwrap_or_else(|| {
                        let key = self.symbols.encode(&there.core, &there.fates).into();
                        self.add(key, &there.core, origin)
                    });
                    return self.cross(there, Origin { from: Some(from), ..next }, decision);
                }
            },
        };
        if let Some(finding) = finding {
            self.violated_after(finding, at, vec![next, origin.clone()]);
        }
    }

    /// An event for a wait that is not about to open: whether it is kept, and nothing else, is tried where nothing around it differs.
    pub(super) fn tries_early(&mut self, here: &Situation, at: usize, event: u16) {
        let mut known = vec![self.symbols.head(&here.core), 0];
        if let Some(reduction) = &self.reduction {
            // Of a wait in an arm that was not taken nothing more is to be learnt.
            for (node, _) in &reduction.waits {
                known.push(u8::from(reduction.is_on_the_way(*node, &here.core)));
                self.symbols.name_node(here.core.state(*node), Fate::default(), &mut known);
            }
        }
        if !self.tried.insert((NodeId(u16::MAX - event), known)) {
            return;
        }
        let (by, choices) = (Move::Event(event), Choices::default());
        let origin = Origin { from: Some(place(at)), by, choices };
        match self.symbols.apply(self.symbols.instance(&here.core), by) {
            Ok(decision) if decision.instance.core.nodes == here.core.nodes => {
                self.transitions += 1;
                if let Some(finding) = self.taken_twice(by, &decision) {
                    self.violated(finding, at, Some(origin));
                }
            }
            Ok(decision) => self.cross(here, origin, decision),
            Err(text) => {
                self.undecided += 1;
                let finding = Finding::saga(ViolationKind::Panicked, &text);
                self.violated(finding, at, Some(origin));
            }
        }
    }

    /// What does not count must not change anything.
    pub(super) fn changed_all_the_same(
        &self,
        here: &Situation,
        by: Move,
        decision: &Decision,
    ) -> Option<Finding> {
        let is_same = by.moves_time() || decision.instance.core == here.core;
        (!is_same || !decision.effects.is_empty()).then(|| Finding {
            kind: ViolationKind::AcceptedTwice,
            node: by.node(),
            text: format!("an input judged {:?} changed the instance", decision.verdict),
        })
    }

    /// An event delivered twice in a row must count once. Later on a message of that name may be a new one.
    pub(super) fn taken_twice(&self, by: Move, first: &Decision) -> Option<Finding> {
        if !matches!(by, Move::Event(_)) {
            return None;
        }
        let again = self.symbols.apply(first.instance.clone(), by);
        let counts = again.is_ok_and(|again| {
            matches!(again.verdict, Verdict::Applied | Verdict::Deferred)
                || again.instance.core != first.instance.core
        });
        counts.then(|| {
            Finding::saga(ViolationKind::AcceptedTwice, "the same event, delivered again, counts")
        })
    }
}
