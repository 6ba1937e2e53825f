//! An engine in its house: on a data folder and a broker, with the services of the order saga, somebody who listens, and customers.

use super::{
    Error,
    orders::Counter,
    resting, services,
    stage::Stage,
    timed::Timed,
    track::{Counted, Track},
    watch::Watch,
};
use dirigent::{
    Orchestrator,
    engine::{Engine, Handle},
    journal::Durability,
};
use dirigent_connectors::ChannelKind;
use dirigent_schemas::Bodies;
use order::order::{OrderTiming, messages::ORDERS, order_saga_with, rates::Rates};
use std::{path::Path, sync::Arc, time::Duration};

/// How an engine is put together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Build {
    pub durability: Durability,
    /// Its default if not said.
    pub shards: Option<usize>,
    pub rates: Rates,
    /// How long sagas are kept that have ended; the default if not said.
    pub keep_for: Option<Duration>,
    /// Whether it knows the sagas that rest.
    pub rests: bool,
}

impl Build {
    /// As a process is by default, for orders that go wrong by these rates.
    pub(super) fn usual(rates: Rates) -> Self {
        Self {
            durability: Durability::PowerLoss,
            shards: None,
            rates,
            keep_for: None,
            rests: false,
        }
    }
}

/// It runs.
pub(super) struct House {
    engine: Engine,
    pub handle: Handle,
    pub timed: Timed,
    pub track: Track,
    pub codec: Arc<Bodies>,
}

impl House {
    /// Opens the folder and connects.
    pub(super) async fn open(stage: &Stage, data: &Path, build: Build) -> Result<Self, Error> {
        let Build { durability, shards, rates, keep_for, rests } = build;
        let timed = Timed::new(stage.connector()?);
        let codec = Arc::new(Bodies::new());
        let usual = OrderTiming::default();
        let timing = OrderTiming { keep_for: keep_for.unwrap_or(usual.keep_for), ..usual };
        let mut builder = Orchestrator::builder("bench")
            .saga(order_saga_with(&timing))
            .connector(Arc::new(timed.clone()))
            .codec(codec.clone())
            .data(data)
            .durability(durability);
        if let Some(shards) = shards {
            builder = builder.shards(shards);
        }
        if rests {
            builder =
                resting::sagas().into_iter().fold(builder, |builder, saga| builder.saga(saga));
        }
        let others = stage.connector()?;
        let watch = Arc::new(Watch::default());
        // They are there before the engine, which may have something to send at once.
        let crew = services::start(&others, "", &codec, rates, &watch).await?;
        let engine = builder.start().await?;
        let handle = engine.handle();
        let counter = Counter { channel: ORDERS.name.into(), kind: ChannelKind::Events };
        let seen = (watch, Counted::ByEngine(handle.clone()));
        let track = Track::new(&others, counter, codec.clone(), seen, crew).await?;
        Ok(Self { engine, handle, timed, track, codec })
    }

    /// Stops it in order.
    pub(super) async fn close(self) -> Result<(), Error> {
        drop(self.track);
        Ok(self.engine.stop().await?)
    }
}
