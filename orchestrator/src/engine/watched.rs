//! For simulations: somebody on this thread looks at each decision, with the instance as it was before.
//!
//! What goes in: what the shards decide. What comes out: the same, shown to whoever watches. What must be true: nothing depends on it, and where nobody
//! watches nothing is copied.

use dirigent_model::{
    decision::Decision,
    definition::Plan,
    instance::{Core, Instance, NodeState, Status},
};
use std::cell::RefCell;

/// Looks at a decision.
pub(crate) type Watch = Box<dyn FnMut(&Plan, &Core, &Decision)>;

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// From now on this one watches, and who did before does not.
pub(crate) fn watch(with: Option<Watch>) {
    WATCH.set(with);
}

/// The instance before an input, for [`decided`].
pub(super) fn before(instance: &Instance) -> Option<Core> {
    WATCH.with_borrow(|watch| watch.as_ref().map(|_| instance.core.clone()))
}

/// An input was decided.
pub(super) fn decided(plan: &Plan, before: Option<Core>, decision: &Decision) {
    let Some(before) = before else { return };
    WATCH.with_borrow_mut(|watch| {
        if let Some(watch) = watch {
            watch(plan, &before, decision);
        }
    });
}

/// An instance was begun.
pub(super) fn begun(plan: &Plan, decision: &Decision) {
    let before = before(&decision.instance).map(|core| Core {
        nodes: vec![NodeState::Idle; plan.graph().nodes.len()],
        status: Status::Running,
        ..core
    });
    decided(plan, before, decision);
}
