//! A queue of replies that does not confirm: it holds up no other, and gets its replies in their order once it does.

use super::*;

const OTHERS: &str = "others";

/// The broker, which confirms nothing of a channel while that is ill.
struct Ailing {
    inner: MemoryBroker,
    ill: Arc<Mutex<Option<&'static str>>>,
}

struct AilingSink {
    inner: Box<dyn Sink>,
    ill: Arc<Mutex<Option<&'static str>>>,
}

#[async_trait::async_trait]
impl Sink for AilingSink {
    async fn send(&mut self, window: &[Sending]) -> Vec<Sent> {
        let ill = *self.ill.lock().unwrap();
        let mut outcomes = Vec::new();
        for message in window {
            outcomes.push(match ill == Some(message.channel.as_str()) {
                true => Sent::Unknown { text: "its queue has no leader".into() },
                false => self.inner.send(std::slice::from_ref(message)).await.remove(0),
            });
        }
        outcomes
    }
    fn health(&self) -> dirigent_connectors::Health {
        self.inner.health()
    }
}

#[async_trait::async_trait]
impl Connector for Ailing {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn memory(&self) -> Memory {
        self.inner.memory()
    }
    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        self.inner.prepare(channels).await
    }
    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        self.inner.source(spec).await
    }
    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        let (inner, ill) = (self.inner.sink().await?, Arc::clone(&self.ill));
        Ok(Box::new(AilingSink { inner, ill }))
    }
    async fn owner_sink(&self, _: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        self.sink().await
    }
}

impl Ailing {
    fn around(broker: &MemoryBroker) -> Arc<Self> {
        Arc::new(Self { inner: broker.clone(), ill: Arc::new(Mutex::new(Some(OTHERS))) })
    }

    fn heals(&self) {
        *self.ill.lock().unwrap() = None;
    }
}

/// A command of an application whose queue of replies is ill.
fn of_the_ill(saga: usize) -> Sending {
    let mut command = of_saga(saga, reserve("brush", 1));
    command.attributes.set(names::REPLY_TO, OTHERS);
    command
}

/// The sagas that an ill queue's replies are for, in their order.
async fn hears_at_last(broker: &MemoryBroker, count: usize) -> Vec<String> {
    let mut others = broker.source(spec(vec![ChannelSpec::work(OTHERS)])).await.unwrap();
    let mut sagas = Vec::new();
    while sagas.len() < count {
        for delivery in others.receive(count).await.unwrap() {
            sagas.push(delivery.message.attributes.get(SAGA_ID).unwrap().to_owned());
            others.settler().settle(&[(delivery.receipt, Settle::Done)]);
        }
    }
    sagas
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_replies_that_does_not_confirm_holds_up_no_other_and_gets_all_in_order_once_it_does()
 {
    let mut bench = Bench::new().await;
    bench.broker.prepare(&[ChannelSpec::work(OTHERS)]).await.unwrap();
    let ailing = Ailing::around(&bench.broker);
    let running = inventory().start(ailing.clone(), bench.store.clone()).await.unwrap();
    // More than a source hands out unsettled: what rests makes room.
    for saga in 0..600 {
        bench.send(&[of_the_ill(saga)]).await;
    }
    says(&bench.asks(of_saga(1_000, reserve("brush", 1))).await, Reserved { number: 601 });
    ailing.heals();
    let expected: Vec<_> = (0..600).map(|saga| format!("saga-{saga}")).collect();
    assert_eq!(hears_at_last(&bench.broker, 600).await, expected);
    let counts = running.stop().await.unwrap();
    assert_eq!((counts.done, counts.repeated), (601, 0));
}

#[tokio::test(start_paused = true)]
async fn replies_that_rest_leave_after_a_restart_though_their_commands_were_settled() {
    let mut bench = Bench::new().await;
    bench.broker.prepare(&[ChannelSpec::work(OTHERS)]).await.unwrap();
    let ailing = Ailing::around(&bench.broker);
    let running = inventory().start(ailing.clone(), bench.store.clone()).await.unwrap();
    bench.send(&[of_the_ill(1), of_the_ill(2)]).await;
    bench.asks(of_saga(3, reserve("brush", 1))).await;
    assert_eq!(running.stop().await.unwrap().done, 3);
    ailing.heals();
    let running = inventory().start(ailing, bench.store.clone()).await.unwrap();
    assert_eq!(hears_at_last(&bench.broker, 2).await, ["saga-1", "saga-2"]);
    assert_eq!(running.stop().await.unwrap().repeated, 0, "nothing came again");
    // Confirmed, it has left the outbox.
    let running = bench.start(inventory()).await;
    says(&bench.asks(of_saga(4, reserve("brush", 1))).await, Reserved { number: 4 });
    running.stop().await.unwrap();
    let mut others = bench.broker.source(spec(vec![ChannelSpec::work(OTHERS)])).await.unwrap();
    let more = tokio::time::timeout(Duration::from_secs(60), others.receive(1)).await;
    assert!(more.is_err(), "sent once: {more:?}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_replies_rest_loses_none_of_them() {
    let mut bench = Bench::new().await;
    bench.broker.prepare(&[ChannelSpec::work(OTHERS)]).await.unwrap();
    let ailing = Ailing::around(&bench.broker);
    let running = inventory().start(ailing.clone(), bench.store.clone()).await.unwrap();
    bench.send(&[of_the_ill(1), of_the_ill(2)]).await;
    bench.asks(of_saga(3, reserve("brush", 1))).await;
    drop(running);
    ailing.heals();
    let _running = inventory().start(ailing, bench.store.clone()).await.unwrap();
    assert_eq!(hears_at_last(&bench.broker, 2).await, ["saga-1", "saga-2"]);
}
