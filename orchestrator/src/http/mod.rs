//! What a running process tells machines by HTTP: that it lives, whether it is ready, and its metrics.
//!
//! ```text
//! GET /live     200 as long as the process answers
//! GET /ready    200, or 503 with the reasons as JSON; and what wants a person
//! GET /metrics  OpenMetrics text
//! ```
//!
//! Off unless asked for. It changes nothing and shows no body, key or id of a message; still it belongs on an address that only
//! those reach who may know how busy the process is: nobody is asked for a password.

mod metrics;
mod reads;
mod server;

pub(crate) use server::HttpServer;

use crate::engine::{Handle, Readiness, Reason, WantsPerson};
use metrics::Exposition;
use std::sync::Arc;

/// How far the process is.
#[derive(Clone)]
enum Stage {
    /// It reads its data folder and connects.
    Starting(Arc<Exposition>),
    /// It runs.
    Running(Handle, Arc<Exposition>),
    /// It was told to stop.
    Stopping(Arc<Exposition>),
}

impl Stage {
    fn starting() -> Self {
        Self::Starting(Arc::new(Exposition::of(None)))
    }

    fn running(handle: Handle) -> Self {
        let exposition = Arc::new(Exposition::of(Some(handle.clone())));
        Self::Running(handle, exposition)
    }

    fn readiness(&self) -> Readiness {
        match self {
            Self::Starting(_) => Readiness::of(vec![Reason::of_engine(
                "starting",
                "reading the data folder, and connecting to the brokers",
            )]),
            Self::Running(handle, _) => handle.readiness(),
            Self::Stopping(_) => Readiness::of(vec![Reason::of_engine(
                "stopping",
                "what was begun is being finished",
            )]),
        }
    }

    /// What wants a person, where an engine runs. Reads the store.
    fn wants_person(&self) -> Option<WantsPerson> {
        match self {
            Self::Running(handle, _) => Some(handle.wants_person()),
            Self::Starting(_) | Self::Stopping(_) => None,
        }
    }

    fn exposition(&self) -> &Arc<Exposition> {
        match self {
            Self::Starting(exposition)
            | Self::Running(_, exposition)
            | Self::Stopping(exposition) => exposition,
        }
    }
}
