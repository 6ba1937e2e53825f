//! `conformance`: plays the conformance kit against one service of an order, in whatever language it runs.
//!
//! With the memory broker the service of this example is started beside it, and its ledger is looked into. With any other broker it
//! is a process that runs already, and `--probe` names a command that looks into its ledger.

use super::{
    args::{BrokerKind, ConformanceArgs},
    broker::{apart, find, find_shared},
    external::{ExternalFailed, Program},
    now,
};
use crate::{
    ledger,
    order::{samples::Service, services::services},
};
use async_trait::async_trait;
use dirigent::{
    conformance::{ConformanceError, Effects, Probe, ProbeError, Report},
    participant::{ParticipantError, Running},
    store::{MemoryStore, Store},
};
use dirigent_connectors::Connector;
use std::{sync::Arc, time::Duration};

/// Why nothing could be played.
#[derive(Debug, thiserror::Error)]
pub enum NotPlayed {
    /// There is no broker.
    #[error(transparent)]
    NoBroker(#[from] super::NoBroker),
    /// The service of this example did not start, or had to end.
    #[error(transparent)]
    Participant(#[from] ParticipantError),
    /// The kit.
    #[error(transparent)]
    Conformance(#[from] ConformanceError),
    /// The probe.
    #[error("--probe")]
    Probe(#[source] ExternalFailed),
}

/// Plays it.
///
/// # Errors
/// There is no broker, or it or the probe does not allow it.
pub async fn conformance(args: &ConformanceArgs) -> Result<Report, NotPlayed> {
    let found = match args.broker {
        BrokerKind::Memory => find(args.broker, &args.address).await?,
        BrokerKind::Kafka | BrokerKind::Rabbitmq => find_shared(args.broker, &args.address).await?,
    };
    let mut connector = found.connector.clone();
    if let Some(prefix) = &args.prefix {
        connector = apart(connector, prefix);
    }
    let mut kit = args
        .participant
        .conformance(args.rates.rates())
        .within(Duration::from_secs(args.within))
        // Business keys that no earlier play has used: the books of the participant may know those.
        .first_number(i64::try_from(now().as_secs()).unwrap_or(1) * 1_000);
    if let Some(command) = &args.probe {
        kit = kit.probe(Arc::new(Program::of(command).map_err(NotPlayed::Probe)?));
    }
    let mut running = None;
    if args.broker == BrokerKind::Memory {
        let (one, store) = start(args, &connector).await?;
        kit = kit.probe(Arc::new(InStore(store)));
        running = Some(one);
    }
    let run = format!("conformance-{:x}", now().as_nanos());
    let report = kit.play(connector, &run).await;
    if let Some(running) = running {
        running.stop().await?;
    }
    Ok(report?)
}

async fn start(
    args: &ConformanceArgs,
    connector: &Arc<dyn Connector>,
) -> Result<(Running, Arc<dyn Store>), ParticipantError> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (_, participant) = services(args.rates.rates())
        .into_iter()
        .find(|(name, _)| *name == args.participant.name())
        .expect("every service with samples is one of the services");
    let running = participant.start(Arc::clone(connector), Arc::clone(&store)).await?;
    Ok((running, store))
}

/// Counts in the store of a service of this process.
struct InStore(Arc<dyn Store>);

#[async_trait]
impl Probe for InStore {
    async fn effects(&self, command: &str, key: &str) -> Result<Effects, ProbeError> {
        Ok(effects(&ledger::read(&*self.0)?, command, key))
    }
}

/// What the entries of a ledger say about a business key.
fn effects(entries: &[ledger::Entry], command: &str, key: &str) -> Effects {
    let times = |kind: &str| {
        let mine = entries.iter().filter(|entry| entry.kind == kind);
        mine.filter(|entry| entry.key.to_string() == key).map(|entry| entry.times).sum()
    };
    let Some((kind, undone_by)) = Service::kinds(command) else { return Effects::default() };
    Effects { applied: times(kind), undone: undone_by.map_or(0, times) }
}

/// Asks another program, with command and business key as its last arguments.
#[async_trait]
impl Probe for Program {
    async fn effects(&self, command: &str, key: &str) -> Result<Effects, ProbeError> {
        Ok(self.says(&[command, key]).await?)
    }
}
