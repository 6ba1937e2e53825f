//! The async side of a source: takes from the [`Inbox`] what its reader thread puts there.

use super::{
    KafkaSettings, NAME,
    closing::{Closing, SourceLives},
    doors::Door,
    fence::Fences,
    inbox::Inbox,
    reader::Reader,
};
use crate::{ConnectorError, Delivery, Health, Settler, Source, SourceSpec};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::oneshot;

pub(super) struct KafkaSource {
    inbox: Arc<Inbox>,
    _lives: SourceLives,
}

impl KafkaSource {
    /// Starts the reader thread and waits until it owns the group and reads from the positions.
    pub(super) async fn open(
        settings: Arc<KafkaSettings>,
        closing: &Arc<Closing>,
        fences: Fences,
        door: Door,
        spec: SourceSpec,
    ) -> Result<Self, ConnectorError> {
        let inbox = Inbox::new(spec.unsettled_max, settings.session_timeout / 2);
        // Built first: dropping it, also when this future is dropped, ends the thread.
        let source = Self { inbox: Arc::new(inbox), _lives: closing.source() };
        let (opened, opens) = oneshot::channel();
        let (inbox, runs) = (source.inbox.clone(), closing.thread());
        let group = spec.group.clone();
        let ended = move || ConnectorError::Refused {
            connector: NAME,
            doing: format!("reading for group {group}"),
            text: "the reader thread could not start or has panicked; see the log".into(),
        };
        let thread = std::thread::Builder::new().name("kafka-source".into()).spawn({
            let ended = ended.clone();
            move || {
                // Says that this thread has ended, however it ends.
                let _runs = runs;
                let _guard = EndGuard { inbox: inbox.clone(), error: Some(ended()) };
                let read = Reader::open(settings, spec, inbox.clone(), &fences);
                // Held by the thread, which goes on for a while where nobody waits for it any more.
                drop(door);
                match read {
                    Ok(Some(reader)) => {
                        let _ = opened.send(Ok(()));
                        if let Err(error) = reader.run() {
                            inbox.end(error);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let _ = opened.send(Err(error));
                    }
                }
            }
        });
        if thread.is_err() {
            return Err(ended());
        }
        opens.await.unwrap_or_else(|_| Err(ended()))?;
        Ok(source)
    }
}

/// Passes the panic of the thread on to the one who receives.
struct EndGuard {
    inbox: Arc<Inbox>,
    error: Option<ConnectorError>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if let (true, Some(error)) = (std::thread::panicking(), self.error.take()) {
            self.inbox.end(error);
        }
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        self.inbox.receive(max).await
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.inbox.clone()
    }

    fn health(&self) -> Health {
        self.inbox.health().clone()
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        // The thread sees it within a poll, and leaves the group: closing a consumer blocks.
        self.inbox.close();
    }
}
