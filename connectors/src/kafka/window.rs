//! The outcomes of the window in flight, as the delivery reports come in.

use crate::{ChannelKind, Sent, UnsentReason};
use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Names a message in flight: the number of its window and its place therein. Travels through librdkafka without memory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    window: u32,
    index: u32,
}

impl Token {
    pub(super) fn to_number(self) -> usize {
        (self.window as usize) << 32 | self.index as usize
    }

    pub(super) fn from_number(number: usize) -> Self {
        Self { window: (number >> 32) as u32, index: (number & 0xFFFF_FFFF) as u32 }
    }
}

/// What a report says. Kept apart from [`Sent`], because what it means may depend on the message.
#[derive(Debug, Clone)]
pub(super) enum Report {
    Delivered,
    Failed(RDKafkaErrorCode),
}

#[derive(Debug, Default)]
pub(super) struct Window {
    state: Mutex<State>,
    decided: Notify,
}

#[derive(Debug, Default)]
struct State {
    number: u32,
    reports: Vec<Option<Report>>,
    waiting: usize,
}

impl Window {
    /// Begins a window of `count` messages. Reports for former ones come too late from now on.
    pub(super) fn begin(&self, count: usize) -> u32 {
        let mut state = self.lock();
        state.number = state.number.wrapping_add(1);
        state.reports.clear();
        state.reports.resize(count, None);
        state.waiting = 0;
        state.number
    }

    /// To be called before the message is handed to librdkafka.
    pub(super) fn expect(&self, window: u32, index: usize) -> Token {
        self.lock().waiting += 1;
        Token { window, index: index as u32 }
    }

    pub(super) fn report(&self, token: Token, report: Report) {
        let mut state = self.lock();
        if state.number != token.window {
            return;
        }
        let State { reports, waiting, .. } = &mut *state;
        if let Some(slot @ None) = reports.get_mut(token.index as usize) {
            *slot = Some(report);
            *waiting -= 1;
            if *waiting == 0 {
                self.decided.notify_one();
            }
        }
    }

    /// Waits until no report is missing.
    pub(super) async fn decided(&self) {
        while self.lock().waiting > 0 {
            self.decided.notified().await;
        }
    }

    /// Whether some report says that its topic is not there.
    pub(super) fn has_gone(&self) -> bool {
        let is_gone = |report: &Option<Report>| matches!(report, Some(Report::Failed(code)) if is_gone(*code));
        self.lock().reports.iter().any(is_gone)
    }

    pub(super) fn take(&self) -> Vec<Option<Report>> {
        std::mem::take(&mut self.lock().reports)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a topic, or the partition of a key, is not there.
pub(super) fn is_gone(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition)
}

/// What an error of librdkafka or of a broker means for one message.
pub(super) fn failed(code: RDKafkaErrorCode, channel: &str, kind: ChannelKind) -> Sent {
    use RDKafkaErrorCode as Code;
    let text = format!("sending to topic {channel}: {}", KafkaError::MessageProduction(code));
    let unsent = |reason| Sent::Unsent { reason, text: text.clone() };
    match (code, kind) {
        (Code::MessageSizeTooLarge | Code::MessageBatchTooLarge, _) => {
            unsent(UnsentReason::TooLarge)
        }
        (code, ChannelKind::Work) if is_gone(code) => unsent(UnsentReason::Unroutable),
        (code, _) if super::topics::forbidden(code) => unsent(UnsentReason::NotAuthorised),
        (Code::InvalidRecord | Code::PolicyViolation | Code::InvalidTopic, _) => {
            unsent(UnsentReason::Refused)
        }
        _ => Sent::Unknown { text },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_a_former_window_decides_nothing() {
        let window = Window::default();
        let number = window.begin(1);
        let late = window.expect(number, 0);
        assert_eq!(Token::from_number(late.to_number()), late);
        let number = window.begin(1);
        let token = window.expect(number, 0);
        window.report(late, Report::Delivered);
        assert!(window.lock().reports[0].is_none());
        window.report(token, Report::Delivered);
        assert!(matches!(window.take()[..], [Some(Report::Delivered)]));
    }

    #[test]
    fn a_topic_that_is_gone_is_seen_while_other_reports_are_missing() {
        let window = Window::default();
        let number = window.begin(3);
        let [delivered, gone, _] = [0, 1, 2].map(|index| window.expect(number, index));
        window.report(delivered, Report::Delivered);
        assert!(!window.has_gone());
        window.report(gone, Report::Failed(RDKafkaErrorCode::UnknownPartition));
        assert!(window.has_gone());
    }

    #[test]
    fn only_certain_failures_are_unsent() {
        let outcome = |code| failed(code, "c", ChannelKind::Work);
        for code in [RDKafkaErrorCode::MessageSizeTooLarge, RDKafkaErrorCode::MessageBatchTooLarge]
        {
            let too_large = outcome(code);
            assert!(matches!(too_large, Sent::Unsent { reason: UnsentReason::TooLarge, .. }));
        }
        assert!(matches!(outcome(RDKafkaErrorCode::MessageTimedOut), Sent::Unknown { .. }));
        assert!(matches!(outcome(RDKafkaErrorCode::PurgeInflight), Sent::Unknown { .. }));
    }
}
