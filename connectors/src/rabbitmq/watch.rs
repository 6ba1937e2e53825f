//! Whether the broker still knows our consumer of a queue: it may forget it without a word.
//!
//! ```text
//! nothing came for a while ─► is it still the queue that was marked? how many consume it, and how much lies in it?
//!                          ─► another one, or twice in a row not as it has to be: forgotten
//! ```
//!
//! A quorum queue that is deleted and made anew at once is another one to everybody but the AMQP channel that consumed the old one: RabbitMQ
//! 3.10.8 counts that as a consumer of the new one and hands messages to it, which arrive nowhere. So a queue is
//! [marked](super::topology::mark) before it is consumed, and the mark goes with it.
//!
//! A queue that lost its members' memory, or that no member leads any more, tells its consumers nothing, and a cancellation may be lost.
//! The connection stands all the while, with its heartbeats.
//!
//! What is asked are passive declarations, which change nothing and want no permission.

use super::{
    connection::{code, refusal},
    owner,
    source::Inbox,
    topology,
};
use lapin::{Channel, Connection, options::QueueDeclareOptions, types::FieldTable};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often the broker is asked about a queue from which nothing comes.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How long the answer may take. A broker that is busy answers later, and is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How often in a row the answer has to be wrong: a delivery may be on its way.
const WRONG_MAX: u32 = 2;

/// Which queue is watched, and how much of it the broker may push ahead.
pub(super) struct Watched<'a> {
    pub(super) inbox: &'a Inbox,
    /// Which of the inbox's.
    pub(super) queue: usize,
    pub(super) name: &'a str,
    pub(super) prefetch: u16,
    /// Whether its mark was made.
    pub(super) is_marked: bool,
}

/// What the broker says of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// So many consume it, and so many messages wait in it.
    Has { consumers: u32, ready: u32 },
    /// There is none.
    Gone,
}

/// How far a consumer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// The deliveries that ever came from this queue.
    pub(super) arrived: u64,
    /// Of those, not settled.
    pub(super) open: usize,
    /// The broker took our wish to consume it.
    pub(super) is_consumed: bool,
}

impl Watched<'_> {
    /// Returns, with what is known of it, once the broker has forgotten the consumer; never while it stands, or when its connection is lost, which whoever
    /// reads from it sees.
    pub(super) async fn forgotten(&self, connection: &Connection) -> String {
        let (mut asking, mut wrong) = (None, 0);
        loop {
            let before = self.inbox.progress(self.queue);
            sleep(ASK_EVERY).await;
            if !is_idle(before, self.inbox.progress(self.queue)) {
                wrong = 0;
                continue;
            }
            if self.is_marked && self.has_lost_its_mark(connection).await {
                return format!(
                    "queue {} was deleted and made anew while it was consumed",
                    self.name
                );
            }
            let Some(said) = self.ask(connection, &mut asking).await else { continue };
            let now = self.inbox.progress(self.queue);
            match amiss(said, now.open < usize::from(self.prefetch)) {
                Some(_) if !is_idle(before, now) => wrong = 0,
                Some(why) => {
                    wrong += 1;
                    if wrong >= WRONG_MAX {
                        return format!(
                            "nothing comes from queue {} though it is consumed: {why}",
                            self.name
                        );
                    }
                }
                None => wrong = 0,
            }
        }
    }

    async fn has_lost_its_mark(&self, connection: &Connection) -> bool {
        let mark = owner::lock_of(self.name);
        timeout(ANSWER_MAX, topology::lacks_exchange(connection, &mark)).await.unwrap_or(false)
    }

    /// What the broker says of the queue; `None` where it says nothing that helps.
    async fn ask(&self, connection: &Connection, asking: &mut Option<Channel>) -> Option<Said> {
        let answer = async {
            // An AMQP channel of its own: a refusal closes it.
            let amqp = match asking.take().filter(|amqp| amqp.status().connected()) {
                Some(amqp) => amqp,
                None => connection.create_channel().await?,
            };
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            let declared = amqp.queue_declare(self.name.into(), options, FieldTable::default());
            let queue = declared.await?;
            *asking = Some(amqp);
            Ok(Said::Has { consumers: queue.consumer_count(), ready: queue.message_count() })
        };
        match timeout(ANSWER_MAX, answer).await.ok()? {
            Ok(said) => Some(said),
            Err(error) => {
                let is_gone = |(reply_code, _): (u16, String)| reply_code == code::NOT_FOUND;
                refusal(&error).is_some_and(is_gone).then_some(Said::Gone)
            }
        }
    }
}

/// Whether it was consumed all the while, and nothing came.
fn is_idle(before: Progress, now: Progress) -> bool {
    before.is_consumed && now.is_consumed && before.arrived == now.arrived
}

/// What is wrong with what the broker says of a queue that we consume, and from which nothing came. `has_room`: the broker may
/// hand out more.
fn amiss(said: Said, has_room: bool) -> Option<&'static str> {
    match said {
        Said::Gone => Some("it is gone"),
        Said::Has { consumers: 0, .. } => Some(
            "the broker knows of no consumer; was it deleted and made anew, or does no member lead?",
        ),
        Said::Has { ready: 1.., .. } if has_room => Some(
            "messages wait in it; does another consumer hold it? `rabbitmqctl list_consumers` shows them",
        ),
        Said::Has { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_is_forgotten_where_the_broker_knows_of_none_or_messages_wait_though_there_is_room()
     {
        let said = |consumers, ready| Said::Has { consumers, ready };
        assert!(amiss(Said::Gone, true).is_some());
        assert!(amiss(said(0, 0), true).is_some() && amiss(said(0, 9), false).is_some());
        assert!(amiss(said(1, 9), true).is_some());
        assert_eq!(amiss(said(1, 9), false), None, "all that it may push is here");
        assert_eq!(amiss(said(1, 0), true), None);
    }

    #[test]
    fn a_queue_is_asked_about_only_where_it_was_consumed_and_nothing_came() {
        let consumed = |arrived| Progress { arrived, open: 3, is_consumed: true };
        assert!(is_idle(consumed(7), consumed(7)));
        assert!(!is_idle(consumed(7), consumed(8)));
        let silent = Progress { is_consumed: false, ..consumed(7) };
        assert!(!is_idle(silent, consumed(7)) && !is_idle(consumed(7), silent));
    }
}
