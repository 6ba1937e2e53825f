//! A memory broker that decides the fate of some messages itself, and answers when it pleases.

use dirigent_connectors::{
    ChannelSpec, Connector, ConnectorError, Health, Memory, Message, Sent, Sink, Source,
    SourceSpec, memory::MemoryBroker,
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::watch;

type Fate = dyn Fn(&Message) -> Option<Sent> + Send + Sync;

/// What has no fate is sent.
pub struct Stubborn {
    broker: MemoryBroker,
    fate: Arc<Fate>,
    answers: watch::Receiver<bool>,
    taken: Arc<AtomicUsize>,
}

impl Stubborn {
    pub fn around(
        broker: &MemoryBroker,
        fate: impl Fn(&Message) -> Option<Sent> + Send + Sync + 'static,
    ) -> Self {
        let (_, answers) = watch::channel(true);
        Self { broker: broker.clone(), fate: Arc::new(fate), answers, taken: Arc::default() }
    }

    /// One that takes a window and decides nothing of it while it does not answer; with the number of windows it took.
    pub fn that_answers(
        broker: &MemoryBroker,
        answers: watch::Receiver<bool>,
    ) -> (Self, Arc<AtomicUsize>) {
        let it = Self { answers, ..Self::around(broker, |_| None) };
        let taken = Arc::clone(&it.taken);
        (it, taken)
    }
}

struct StubbornSink {
    sink: Box<dyn Sink>,
    fate: Arc<Fate>,
    answers: watch::Receiver<bool>,
    taken: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl Connector for Stubborn {
    fn name(&self) -> &str {
        "stubborn"
    }

    fn memory(&self) -> Memory {
        self.broker.memory()
    }

    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        self.broker.prepare(channels).await
    }

    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        self.broker.source(spec).await
    }

    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        let sink = self.broker.sink().await?;
        let (fate, taken) = (Arc::clone(&self.fate), Arc::clone(&self.taken));
        Ok(Box::new(StubbornSink { sink, fate, answers: self.answers.clone(), taken }))
    }

    async fn owner_sink(&self, _: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        self.sink().await
    }
}

#[async_trait::async_trait]
impl Sink for StubbornSink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        self.taken.fetch_add(1, Ordering::AcqRel);
        // Nobody who could say otherwise is left: it answers as it did last.
        let _ = self.answers.wait_for(|answers| *answers).await.is_ok();
        let mut outcomes = Vec::new();
        for message in window {
            outcomes.extend(match (self.fate)(message) {
                Some(sent) => vec![sent],
                None => self.sink.send(std::slice::from_ref(message)).await,
            });
        }
        outcomes
    }

    fn health(&self) -> Health {
        self.sink.health()
    }
}
