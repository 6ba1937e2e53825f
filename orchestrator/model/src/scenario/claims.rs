//! What a test expects of its saga: what was said, how it stands, how it ended.

use super::{Coverage, Scenario, say::fits};
use crate::{
    definition::Data,
    history::Verdict,
    instance::{Instance, Status},
};

impl<D: Data> Scenario<D> {
    /// What the last input sent, in order: `Name field=value`, `compensate Name field=value` or `publish Name field=value`.
    /// Fields that are not named may be anything.
    #[track_caller]
    pub fn says(self, expected: &[&str]) -> Self {
        self.heard();
        let is_as_expected = self.said.len() == expected.len()
            && expected.iter().zip(&self.said).all(|(expected, said)| fits(expected, said));
        if !is_as_expected {
            let said = &self.said;
            self.fail(&format!("expected to be said: {expected:#?}\nbut was: {said:#?}"));
        }
        self
    }

    /// The last input did not matter, because … (a name of [`Why::as_str`](crate::history::Why::as_str)).
    #[track_caller]
    pub fn is_ignored(mut self, why: &str) -> Self {
        match self.verdict {
            Verdict::Ignored(found) if found.as_str() == why => self.is_acknowledged = true,
            verdict => self.fail(&format!("expected to be ignored as `{why}`, was {verdict:?}")),
        }
        self
    }

    /// The last input had been applied before.
    #[track_caller]
    pub fn is_duplicate(mut self) -> Self {
        match self.verdict {
            Verdict::Duplicate => self.is_acknowledged = true,
            verdict => self.fail(&format!("expected a duplicate, was {verdict:?}")),
        }
        self
    }

    /// The last input is kept for a wait that is not open yet.
    #[track_caller]
    pub fn is_kept(self) -> Self {
        self.heard();
        let holds = self.verdict == Verdict::Deferred;
        self.holds(holds, "the last input is kept for later")
    }

    /// It goes forward.
    #[track_caller]
    pub fn is_running(self) -> Self {
        self.stands(Status::Running)
    }

    /// It has turned back and is not at its end.
    #[track_caller]
    pub fn is_turning_back(self) -> Self {
        self.stands(Status::TurningBack)
    }

    /// Something wants a person, and says so with this text.
    #[track_caller]
    pub fn is_blocked(self, text: &str) -> Self {
        self.heard();
        let core = &self.instance.core;
        let told = core.incidents.iter().any(|incident| incident.text.contains(text));
        let holds = core.is_blocked() && told;
        self.holds(holds, &format!("an incident tells of `{text}`"))
    }

    /// Nothing wants a person.
    #[track_caller]
    pub fn is_not_blocked(self) -> Self {
        self.heard();
        let holds = !self.instance.core.is_blocked();
        self.holds(holds, "nothing wants a person")
    }

    /// All was done.
    #[track_caller]
    pub fn ends_completed(self) -> Self {
        self.stands(Status::Completed)
    }

    /// All that took effect was undone. The text is found in the cause, in what the input that turned it back told, or in the event of
    /// its end.
    #[track_caller]
    pub fn ends_compensated(self, reason: &str) -> Self {
        let scenario = self.stands(Status::Compensated);
        let cause = scenario.instance.core.cause.as_ref().map_or("", |cause| &cause.text);
        let holds = cause.contains(reason) || scenario.reasons.contains(reason);
        scenario.holds(holds, &format!("the reason tells of `{reason}`"))
    }

    /// An operator ended it as it stood.
    #[track_caller]
    pub fn ends_killed(self) -> Self {
        self.stands(Status::Killed)
    }

    /// Looks at the saga's own data.
    #[track_caller]
    pub fn data(self, look: impl FnOnce(&D)) -> Self {
        self.heard();
        let data = self.instance.data.as_any().downcast_ref::<D>();
        look(data.expect("an instance carries the data type of its own definition"));
        self
    }

    /// Looks at all of the instance.
    #[track_caller]
    pub fn instance(self, look: impl FnOnce(&Instance)) -> Self {
        self.heard();
        look(&self.instance);
        self
    }

    /// Which transitions the scenario has crossed so far.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.coverage.clone()
    }

    #[track_caller]
    fn stands(self, status: Status) -> Self {
        self.heard();
        let holds = self.instance.core.status == status;
        self.holds(holds, &format!("the saga is {status}"))
    }

    #[track_caller]
    fn holds(self, holds: bool, claim: &str) -> Self {
        if !holds {
            self.fail(&format!("expected: {claim}"));
        }
        self
    }
}
