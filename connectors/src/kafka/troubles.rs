//! Errors of reading that librdkafka means to heal by itself: told once one of them lasts, and that they are over.
//!
//! In go errors with the time they were met at, and the time of every turn; out comes what the health is to say. Decides only.

use std::time::{Duration, Instant};

/// How long the same error comes again and again before it counts as more than passing.
const LASTS: Duration = Duration::from_secs(10);

/// After how long without an error it is over: librdkafka tries again several times within it.
const OVER: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// Since when errors come without a rest, and when the last one came.
    since: Option<(Instant, Instant)>,
    told: Option<String>,
}

impl Troubles {
    /// An error. Answers what to tell once errors have lasted.
    pub(super) fn met(&mut self, error: &dyn std::fmt::Display, now: Instant) -> Option<String> {
        let (since, last) = self.since.get_or_insert((now, now));
        *last = now;
        if now.duration_since(*since) < LASTS {
            return None;
        }
        let text = format!(
            "reading has had trouble for {}s, and what is behind it waits: {error}; librdkafka goes on trying",
            LASTS.as_secs()
        );
        self.told = Some(text.clone());
        Some(text)
    }

    /// What was told, once it is over.
    pub(super) fn over(&mut self, now: Instant) -> Option<String> {
        let (_, last) = self.since?;
        if now.duration_since(last) < OVER {
            return None;
        }
        self.since = None;
        self.told.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_lasts_is_told_until_it_is_over_and_one_that_passes_is_not() {
        let (mut troubles, begin) = (Troubles::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(troubles.met(&"storage", at(0)), None);
        assert_eq!(troubles.over(at(6)), None);
        // Rested in between: counted anew.
        assert_eq!(troubles.met(&"storage", at(11)), None);
        for second in 12..21 {
            assert_eq!(troubles.met(&"storage", at(second)), None);
            assert_eq!(troubles.over(at(second)), None);
        }
        let told = troubles.met(&"storage", at(21)).expect("it has lasted");
        assert!(told.contains("storage"), "{told}");
        assert_eq!(troubles.over(at(23)), None);
        assert_eq!(troubles.over(at(26)), Some(told));
        assert_eq!(troubles.over(at(40)), None);
    }
}
