//! One connection reads a queue: who has the lock of the queue has the queue.
//!
//! Every queue has a single active consumer already, so a second reader would get nothing and not be told. The lock tells it:
//! an exclusive queue `<queue>.owner`, which the broker gives to one connection and takes away with it, also after a crash.
//! Locks are taken in the order of their names, so that of two readers with queues in common one gets all of them.
//! Dead letters have no owner: any number of people and tools may take them one by one.

use super::{
    NAME,
    connection::{Trouble, code, refusal},
    envelope::NAME_BYTES_MAX,
    topology::queue_of,
};
use crate::{ChannelSpec, ConnectorError};
use lapin::{Connection, options::QueueDeclareOptions, types::FieldTable};
use std::{collections::BTreeSet, time::Duration};

/// Beyond two heartbeats, after which the broker has given up the connection of an owner that died without a word.
const TAKEOVER_MARGIN: Duration = Duration::from_secs(5);

/// How long a reader that has lost its connection waits for the queues that it had, before they count as another's. A broker that was
/// killed may hold on to a connection of our own for as long as its quorum queues do not answer.
pub(super) const REGAIN_WAIT_MAX: Duration = Duration::from_secs(180);

/// How often a reader that waits for a queue asks for it, at the least: at first more often, as the broker only has to find out
/// that the owner is gone.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(2);

/// The lock of a queue. Its [mark](super::topology::mark), an exchange, is called the same.
pub(super) fn lock_of(queue: &str) -> String {
    format!("{queue}.owner")
}

/// Whether the lock of a queue has a name that AMQP can carry.
pub(super) fn lock_fits(queue: &str) -> bool {
    lock_of(queue).len() <= NAME_BYTES_MAX
}

/// Takes the locks of all queues that `reader` reads these channels from, for as long as the connection lives.
pub(super) async fn lock(
    connection: &Connection,
    channels: &[ChannelSpec],
    reader: &str,
) -> Result<(), Trouble> {
    let owned = channels.iter().filter(|channel| !channel.keeps_letters());
    let queues: BTreeSet<String> = owned.map(|channel| queue_of(channel, reader)).collect();
    let opening = |error| Trouble::of("to open an AMQP channel for taking queues", error);
    // An AMQP channel of its own: a refusal closes it.
    let amqp = connection.create_channel().await.map_err(opening)?;
    for queue in queues {
        let lock = lock_of(&queue);
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let declared = amqp.queue_declare(lock.as_str().into(), options, FieldTable::default());
        if let Err(error) = declared.await {
            let is_taken = |(reply_code, _): (u16, String)| reply_code == code::RESOURCE_LOCKED;
            return Err(match refusal(&error).is_some_and(is_taken) {
                true => Trouble::Owned { group: reader.into(), queue },
                false => Trouble::of(format!("to take {queue} by declaring {lock}"), error),
            });
        }
    }
    Ok(())
}

/// How long a dead owner may be kept by the broker: so long a reader waits before it is refused.
pub(super) fn takeover_wait(heartbeat: Duration) -> Duration {
    2 * heartbeat + TAKEOVER_MARGIN
}

/// The refusal of a group whose queue another connection reads.
pub(super) fn refused(group: &str, queue: &str) -> ConnectorError {
    // A client learns no more of the other from the broker.
    let owner = format!(
        "another connection, which has queue {queue} (`rabbitmqctl list_consumers` and `list_connections name client_properties` \
         show which: ours are called `… consume <group>`)"
    );
    ConnectorError::Owned { connector: NAME, group: group.into(), owner }
}
