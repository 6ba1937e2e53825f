//! What every connector promises, as tests that each of them has to pass: the one in memory first, the real brokers with them.
//!
//! Each promise is a function that takes a connector and a prefix of its own for the names of channels and groups, and says what was
//! broken. They know nothing of each other, so [`run_all`] keeps them all at once: most of their time is waiting. Nothing here assumes that a broker is fast, only that it answers within
//! [`PROMISE_WAIT_MAX`].

mod bench;
mod reading;
mod sending;

pub use reading::{
    at_most_the_agreed_number_is_out_unsettled, deliveries_are_settled_from_another_thread,
    events_reach_every_group, messages_of_one_key_arrive_in_order,
    what_is_settled_again_comes_again, what_is_settled_does_not_come_again,
    what_was_not_settled_comes_again,
};
pub use sending::{
    a_large_window_is_confirmed_and_arrives_complete_and_in_order,
    a_message_arrives_as_it_was_sent, events_nobody_listens_to_are_confirmed,
    too_large_messages_are_unsent_and_the_rest_is_confirmed, work_nobody_could_take_is_unsent,
    work_sent_before_its_first_reader_waits_for_it,
};

use crate::Connector;
use futures::future::BoxFuture;
use std::time::Duration;

/// How long a broker may take for one promise before it counts as broken. Generous: the machine may be busy with other things,
/// and the broker with the other promises.
pub const PROMISE_WAIT_MAX: Duration = Duration::from_secs(120);

/// What was broken, in words.
pub type Broken = String;

/// One promise by name.
pub type Promise =
    (&'static str, for<'a> fn(&'a dyn Connector, &'a str) -> BoxFuture<'a, Result<(), Broken>>);

macro_rules! promises {
    ($($name:ident),+ $(,)?) => { &[$((stringify!($name), |connector, prefix| Box::pin($name(connector, prefix)))),+] };
}

/// Every promise, the plainest first.
pub const PROMISES: &[Promise] = promises![
    a_message_arrives_as_it_was_sent,
    messages_of_one_key_arrive_in_order,
    what_was_not_settled_comes_again,
    what_is_settled_does_not_come_again,
    what_is_settled_again_comes_again,
    work_sent_before_its_first_reader_waits_for_it,
    events_reach_every_group,
    events_nobody_listens_to_are_confirmed,
    work_nobody_could_take_is_unsent,
    too_large_messages_are_unsent_and_the_rest_is_confirmed,
    a_large_window_is_confirmed_and_arrives_complete_and_in_order,
    at_most_the_agreed_number_is_out_unsettled,
    deliveries_are_settled_from_another_thread,
];

/// Checks every promise, all at once, and prints what became of each. `prefix` must be new to the broker.
/// The error lists all that were broken.
#[allow(clippy::print_stdout)]
pub async fn run_all(connector: &dyn Connector, prefix: &str) -> Result<(), Broken> {
    let kept = PROMISES.iter().enumerate().map(async |(index, (name, keep))| {
        let begin = std::time::Instant::now();
        let own = format!("{prefix}-{index:02}");
        let kept = match tokio::time::timeout(PROMISE_WAIT_MAX, keep(connector, &own)).await {
            Ok(kept) => kept,
            Err(_) => Err(format!("not decided within {} s", PROMISE_WAIT_MAX.as_secs())),
        };
        let words = name.replace('_', " ");
        let took = begin.elapsed().as_millis();
        match &kept {
            Ok(()) => println!("{}: kept: {words} ({took} ms)", connector.name()),
            Err(why) => println!("{}: BROKEN: {words}: {why} ({took} ms)", connector.name()),
        }
        kept.map_err(|why| format!("{words}: {why}"))
    });
    let broken: Vec<_> =
        futures::future::join_all(kept).await.into_iter().filter_map(Result::err).collect();
    if broken.is_empty() { Ok(()) } else { Err(broken.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        faulty::{Faults, Faulty},
        memory::MemoryBroker,
    };
    use std::sync::Arc;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn memory_keeps_every_promise() {
        run_all(&MemoryBroker::new(), "memory").await.expect("every promise kept");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_faulty_connector_without_faults_keeps_every_promise() {
        let faulty = Faulty::new(Arc::new(MemoryBroker::new()), Faults::none());
        run_all(&faulty, "calm").await.expect("every promise kept");
    }
}
