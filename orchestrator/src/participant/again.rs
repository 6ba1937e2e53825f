//! For how long a command may still come again, held against how long its answer is remembered.
//!
//! Compared at the start: what the broker keeps can be read again by a participant whose positions were lost, and for as long as a
//! saga goes on asking the command is sent anew. Whoever has forgotten its answer by then carries it out twice.

use super::Service;
use crate::engine::span;
use dirigent_connectors::{Connector, Retention};
use std::time::Duration;

/// Tells where an answer is forgotten before its command has come for the last time.
pub(super) async fn compare(service: &Service, connector: &dyn Connector) {
    let asked = service.listening.iter().map(|channel| channel.name.as_str());
    for channel in asked.filter(|channel| service.commands.contains_channel(channel)) {
        match connector.retention(channel).await {
            Ok(kept) => {
                if let Some(text) =
                    shortfall(channel, kept, service.asked_for, service.remember_for)
                {
                    tracing::warn!(
                        participant = service.name,
                        channel,
                        text,
                        "A command that comes again late may take effect twice."
                    );
                }
            }
            // It is a question of caution: not being told is no reason not to run.
            Err(error) => tracing::info!(
                participant = service.name,
                channel,
                error = crate::describe(&error),
                "The broker does not say how long it keeps commands; see to it that `remember_for` is longer."
            ),
        }
    }
}

/// What is wrong, and what to change; `None` where every command that comes again is recognised.
fn shortfall(
    channel: &str,
    kept: Retention,
    asked_for: Duration,
    remembered: Duration,
) -> Option<String> {
    let kept_for = match kept {
        Retention::UntilSettled => Duration::ZERO,
        Retention::For(kept) => kept,
        Retention::ForEver => {
            return Some(format!(
                "answers are remembered {}, and `{channel}` keeps commands for ever; lower `retention.ms` of `{channel}`, and remember for longer than it",
                span(remembered)
            ));
        }
    };
    let longest = kept_for.saturating_add(asked_for);
    (longest > remembered).then(|| {
        let asked = match asked_for {
            Duration::ZERO => String::new(),
            asked => format!(", and sagas ask for up to {}", span(asked)),
        };
        format!(
            "answers are remembered {}, but `{channel}` keeps commands {}{asked}; declare `.remember_for(..)` of at least {}, or lower `retention.ms` of `{channel}`",
            span(remembered),
            span(kept_for),
            span(longest)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_may_come_again_after_its_answer_is_forgotten_is_told_of_with_what_to_change()
    {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let told = |kept, asked_for| shortfall("stock", kept, asked_for, days(30));
        assert_eq!(told(Retention::UntilSettled, days(30)), None);
        assert_eq!(told(Retention::For(days(30)), Duration::ZERO), None);
        let text = told(Retention::For(days(28)), days(3)).unwrap();
        for part in
            ["30 days", "`stock`", "28 days", "3 days", "31 days", "remember_for", "retention.ms"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(told(Retention::UntilSettled, days(31)).unwrap().contains("at least 31 days"));
        assert!(told(Retention::ForEver, Duration::ZERO).unwrap().contains("for ever"));
    }
}
