//! What happens to a shard's instances by itself: something is due, or has been kept long enough.

use super::{Fatal, Found, Shard};
use crate::{
    engine::{job::Origin, table::Resting},
    planted::{self, Bug},
};
use dirigent_model::{decision::Input, instance::InstanceId};

impl Shard {
    /// Something is due in an instance.
    pub(super) fn wake(&mut self, id: InstanceId) -> Result<(), Fatal> {
        match self.find(id)? {
            Found::Nowhere => return Ok(()),
            Found::Unusable(text) => {
                // One that has ended needs no definition to be forgotten, and its own may have gone with an older release.
                if let Ok(Some(Resting { ended: true, due: Some(due), .. })) =
                    self.shared.table.get(id)
                {
                    if due <= self.batch.now {
                        self.forget(id);
                    } else {
                        self.schedule.set(id, None, Some(due), self.next_batch - 1);
                    }
                    return Ok(());
                }
                tracing::error!(instance = %id, text, "A stored instance can't be used; it stays as it is.");
                return Ok(());
            }
            Found::Here => {}
        }
        let (now, number) = (self.batch.now, self.next_batch);
        let Some(live) = self.live.get_mut(&id) else { return Ok(()) };
        // The store may know of a due time that has moved since.
        live.due = self.shared.due_of(&live.instance.core, &live.plan);
        let (due, core) = (live.due, &live.instance.core);
        let has_ended = core.status.is_end()
            || planted::is(Bug::RetentionRemovesLive)
                && core.started_at + live.plan.graph().retention <= now;
        let is_stale = due.is_none_or(|due| due > now);
        if is_stale && (has_ended || !planted::is(Bug::TimerGenerationIgnored)) {
            // It is to be kept for longer than its definition said when it ended. The store drops the former time once that is
            // over, so the new one has to get there.
            if has_ended {
                live.batch = number;
                self.batch.touch(id);
            }
            self.schedule.set(id, None, due, live.batch);
            return Ok(());
        }
        if has_ended {
            self.forget(id);
            return Ok(());
        }
        // Behind a quarantined message nothing happens to it; its time is set again once that is decided about.
        if self.is_blocked(id) {
            return Ok(());
        }
        // Each turn does one thing; what else is due comes next, after the other instances.
        let due = self.due_input(id);
        if matches!(due, Input::Due) {
            self.withdraw_stuck(id);
        }
        self.apply(id, due, None, Origin::Inside)?;
        Ok(())
    }

    /// An ended instance has been kept long enough.
    fn forget(&mut self, id: InstanceId) {
        self.live.remove(&id);
        let number = self.next_batch;
        self.schedule.set(id, None, None, number);
        self.batch.touch(id).gone = true;
        self.gone.insert(id, number);
    }
}
