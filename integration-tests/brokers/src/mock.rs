//! The last resort for Kafka: librdkafka's mock cluster, inside this process.
//!
//! It may only be used from the thread that made it, so it lives on one of its own. It forgets the
//! oldest messages beyond 5 MB per partition and knows no transactions: good for a look, no proof.

use std::net::TcpListener;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;

/// The one broker of the mock cluster.
const BROKER_ID: i32 = 1;

/// Orders that wait for the thread; each order is waited for, so one per caller.
const ORDERS_MAX: usize = 4;

/// How long to wait for a port that somebody else has taken, and how often to look.
const PORT_FREE_WITHIN: Duration = Duration::from_secs(20);
const PORT_POLL: Duration = Duration::from_millis(50);

enum Order {
    Down(SyncSender<Result<(), KafkaError>>),
    Up(SyncSender<Result<(), KafkaError>>),
}

/// A running mock cluster. Ends with the value.
#[derive(Debug)]
pub(crate) struct Mock {
    address: String,
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Mock {
    pub(crate) fn start() -> Result<Self, String> {
        let (orders, received) = sync_channel(ORDERS_MAX);
        let (ready, started) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("kafka-mock".to_owned())
            .spawn(move || serve(&ready, &received))
            .map_err(|error| error.to_string())?;
        let address = started
            .recv()
            .map_err(|_| "its thread ended".to_owned())?
            .map_err(|error| error.to_string())?;
        Ok(Self { address, orders: Some(orders), thread: Some(thread) })
    }

    /// The mock that all tests of this process share.
    pub(crate) fn shared() -> Result<Arc<Self>, String> {
        static SHARED: Mutex<Weak<Mock>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mock) = shared.upgrade() {
            return Ok(mock);
        }
        let mock = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&mock);
        Ok(mock)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn down(&self) -> Result<(), String> {
        self.order(Order::Down)
    }

    /// librdkafka ends the process when it can't listen on the broker's port again, which an outgoing connection may have
    /// taken meanwhile: so it is asked only once the port can be had.
    pub(crate) fn up(&self) -> Result<(), String> {
        let begun = Instant::now();
        while let Err(error) = TcpListener::bind(&self.address) {
            if begun.elapsed() > PORT_FREE_WITHIN {
                return Err(format!(
                    "its port {} is taken by somebody else: {error}",
                    self.address
                ));
            }
            thread::sleep(PORT_POLL);
        }
        self.order(Order::Up)
    }

    fn order(
        &self,
        order: impl FnOnce(SyncSender<Result<(), KafkaError>>) -> Order,
    ) -> Result<(), String> {
        let (done, answer) = sync_channel(1);
        let orders = self.orders.as_ref().expect("the orders are open until the mock is dropped");
        orders.send(order(done)).map_err(|_| "its thread ended".to_owned())?;
        let answer = answer.recv().map_err(|_| "its thread ended".to_owned())?;
        answer.map_err(|error| error.to_string())
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        // Closing the orders ends the thread.
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The thread of the mock of Kafka panicked.");
        }
    }
}

fn serve(ready: &SyncSender<Result<String, KafkaError>>, orders: &Receiver<Order>) {
    let (cluster, greeting) = match MockCluster::new(1) {
        Ok(cluster) => {
            let address = cluster.bootstrap_servers();
            (Some(cluster), Ok(address))
        }
        Err(error) => (None, Err(error)),
    };
    // Whoever started us waits for this; when it is gone, so is the reason to be here.
    let Ok(()) = ready.send(greeting) else { return };
    let Some(cluster) = cluster else { return };
    while let Ok(order) = orders.recv() {
        let (done, outcome) = match order {
            Order::Down(done) => (done, cluster.broker_down(BROKER_ID)),
            Order::Up(done) => (done, cluster.broker_up(BROKER_ID)),
        };
        if done.send(outcome).is_err() {
            tracing::debug!("Nobody waited for the mock of Kafka.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka;

    #[test]
    fn the_mock_answers_until_it_is_taken_down_and_again_when_it_is_up() {
        let mock = Mock::start().expect("librdkafka has a mock");
        assert_eq!(kafka::answers(mock.address()), Ok(()));
        mock.down().expect("the mock obeys");
        assert!(kafka::answers(mock.address()).is_err());
        mock.up().expect("the mock obeys");
        assert_eq!(kafka::answers(mock.address()), Ok(()));
    }

    #[test]
    fn all_tests_of_a_process_share_one_mock() {
        let first = Mock::shared().expect("librdkafka has a mock");
        let second = Mock::shared().expect("librdkafka has a mock");
        assert_eq!(first.address(), second.address());
    }
}
