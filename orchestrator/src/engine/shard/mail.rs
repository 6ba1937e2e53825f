//! What a shard is sent: by intakes and operators into its inbox, and by relays, which bring back what could not leave.
//!
//! What came back is taken first, up to half of a turn; where more of it waits than [`BACK_MAX`], nothing else is taken in until it
//! is less. So it never starves behind a backlog, which would let the time of commands run out that never left; and no more of it
//! waits than that bound and what the outbox holds, since only what is taken in brings more.

use super::{BATCH_INPUTS_MAX, ToShard};
use crate::engine::job::Job;
use crossbeam_channel::{Receiver, never, select};
use std::time::Duration;

/// Commands that came back, taken in one turn while others wait as well: half of what a turn takes.
const BACK_PER_TURN_MAX: usize = BATCH_INPUTS_MAX / 2;

/// Commands that came back and wait for their instances, before nothing else is taken in: a few turns' worth.
const BACK_MAX: usize = 4 * BATCH_INPUTS_MAX;

/// Both ways in.
pub(in crate::engine) struct Mail {
    inbox: Receiver<ToShard>,
    back: Receiver<Job>,
}

/// What a turn begins with.
pub(super) enum First {
    Told(ToShard),
    /// A command that could not leave.
    Back(Job),
    /// Time has passed, or there is enough to do.
    Nothing,
    /// Nobody is left who could send anything.
    Ended,
}

impl Mail {
    pub(in crate::engine) fn new(inbox: Receiver<ToShard>, back: Receiver<Job>) -> Self {
        Self { inbox, back }
    }

    /// Waits until there is something, for so long at the most.
    pub(super) fn first(&mut self, patience: Duration) -> First {
        if self.has_much_back() {
            return First::Nothing;
        }
        let first = select! {
            recv(self.inbox) -> message => Some(message.map_or(First::Ended, First::Told)),
            recv(self.back) -> job => job.ok().map(First::Back),
            default(patience) => Some(First::Nothing),
        };
        first.unwrap_or_else(|| {
            // Every relay has ended. Asked again, such a channel would answer at once each time.
            self.back = never();
            First::Nothing
        })
    }

    /// The next command that came back, where a turn has taken so many.
    pub(super) fn next_back(&self, taken: usize) -> Option<Job> {
        let most = if self.has_much_back() { BATCH_INPUTS_MAX } else { BACK_PER_TURN_MAX };
        if taken < most { self.back.try_recv().ok() } else { None }
    }

    /// What the inbox holds next, unless what came back is more urgent.
    pub(super) fn next_told(&self) -> Option<ToShard> {
        if self.has_much_back() { None } else { self.inbox.try_recv().ok() }
    }

    /// Whether there is any.
    #[cfg(feature = "simulation")]
    pub(super) fn is_there(&self) -> bool {
        !self.inbox.is_empty() || !self.back.is_empty()
    }

    /// Batches of jobs in the inbox.
    #[cfg(feature = "simulation")]
    pub(super) fn waiting(&self) -> usize {
        self.inbox.len()
    }

    fn has_much_back(&self) -> bool {
        self.back.len() > BACK_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::job::What;
    use crossbeam_channel::{Sender, unbounded};
    use dirigent_model::instance::InstanceId;
    use std::time::Instant;

    fn mail() -> (Sender<ToShard>, Sender<Job>, Mail) {
        let ((told, inbox), (brought, back)) = (unbounded(), unbounded());
        (told, brought, Mail::new(inbox, back))
    }

    fn bring(back: &Sender<Job>, count: usize) {
        let instance = InstanceId::of("a", &1_u16.into());
        for _ in 0..count {
            let job = Job { instance, what: What::SettleOnly, cause: None, delivery: None };
            back.send(job).unwrap_or_default();
        }
    }

    fn taken(mail: &Mail) -> usize {
        let mut taken = 0;
        while mail.next_back(taken).is_some() {
            taken += 1;
        }
        taken
    }

    #[test]
    fn what_came_back_has_half_of_each_turn_however_much_else_there_is() {
        let (told, back, mail) = mail();
        for batch in 0..10_000 {
            told.send(ToShard::Checkpointed(batch)).unwrap_or_default();
        }
        bring(&back, 700);
        assert_eq!(taken(&mail), BACK_PER_TURN_MAX);
        assert!(mail.next_told().is_some());
        assert_eq!(taken(&mail), 700 - BACK_PER_TURN_MAX);
    }

    #[test]
    fn while_too_much_has_come_back_nothing_else_is_taken_in() {
        let (told, back, mut mail) = mail();
        told.send(ToShard::Checkpointed(1)).unwrap_or_default();
        bring(&back, BACK_MAX + 1_500);
        assert!(matches!(mail.first(Duration::MAX), First::Nothing), "it has enough to do");
        assert!(mail.next_told().is_none());
        assert_eq!(taken(&mail), BATCH_INPUTS_MAX, "all of a turn is for it");
        assert!(mail.next_told().is_none());
        assert_eq!(taken(&mail), BACK_PER_TURN_MAX);
        assert!(mail.next_told().is_some(), "now it has half of each turn");
    }

    #[test]
    fn a_shard_whose_relays_have_ended_still_sleeps_until_it_is_told_something() {
        let (told, back, mut mail) = mail();
        drop(back);
        let patience = Duration::from_millis(20);
        mail.first(patience);
        let asleep = Instant::now();
        for _ in 0..3 {
            assert!(matches!(mail.first(patience), First::Nothing));
        }
        assert!(asleep.elapsed() >= 3 * patience, "it was woken by nobody");
        told.send(ToShard::Stop).unwrap_or_default();
        assert!(matches!(mail.first(Duration::MAX), First::Told(ToShard::Stop)));
        drop(told);
        assert!(matches!(mail.first(Duration::MAX), First::Ended));
    }
}
