//! The reconciliation of processes that have ended: of the orchestrator's folder with those of the services.

use super::{
    SERVICES,
    args::ReconcileArgs,
    end_of,
    report::Ledger,
    sagas_of,
    stores::{NoStore, Stores},
    tables::{self, NoTables, Tables},
};
use crate::{
    ledger,
    order::{Rates, Reconciliation, order_saga, reconcile, services::services},
    trip::trip_saga,
};
use dirigent::{
    IntoPlan,
    engine::{AtRestError, InstanceView, ListFilter, open_at_rest},
    registry::{Registry, RegistryError},
    store::StoreError,
};
use dirigent_model::{definition::DefinitionErrors, instance::Status};
use serde::Serialize;
use std::{fmt, path::PathBuf, sync::Arc};

/// What lies in the folders.
#[derive(Debug, Clone, Serialize)]
pub struct AtRest {
    /// Sagas started.
    pub started: usize,
    /// Sagas that completed.
    pub completed: usize,
    /// Sagas that were taken back.
    pub compensated: usize,
    /// Sagas that want a person.
    pub blocked: usize,
    /// Sagas that have not ended, the blocked ones included.
    pub in_flight: usize,
    /// What the reconciliation says.
    pub ledger: Ledger,
    /// For people: how it went wrong, where it did.
    #[serde(skip)]
    pub details: Reconciliation,
}

/// Why folders can't be reconciled.
#[derive(Debug, thiserror::Error)]
pub enum AtRestFailed {
    /// A definition.
    #[error("declaring the sagas")]
    Definition(#[from] DefinitionErrors),
    /// All definitions.
    #[error("declaring the sagas")]
    Registry(#[from] RegistryError),
    /// The orchestrator's folder.
    #[error("reading the sagas")]
    Sagas(#[from] AtRestError),
    /// A service's folder.
    #[error("reading the ledger of {service}")]
    Service {
        /// Whose.
        service: &'static str,
        /// Why not.
        #[source]
        source: NoStore,
    },
    /// The ledgers in PostgreSQL.
    #[error(transparent)]
    Tables(#[from] NoTables),
    /// Nobody said where the services are.
    #[error(
        "no folder of services is named, and {} is no demo's, where they lie within; say --services DIR", .data.display()
    )]
    NoServices {
        /// What was named.
        data: PathBuf,
    },
    /// Reading makes no folder.
    #[error(
        "{} holds no ledger of {service}; is it the folder that `participants --data` was given?", .folder.display()
    )]
    NoLedger {
        /// Whose.
        service: &'static str,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A store.
    #[error("reading sagas and ledgers")]
    Store(#[from] StoreError),
}

/// Reads the folders and reconciles them. Blocks; the processes that own them must have ended.
///
/// # Errors
/// A folder is in use, or can't be read.
pub fn reconcile_at_rest(args: &ReconcileArgs) -> Result<AtRest, AtRestFailed> {
    let plans = vec![order_saga().into_plan()?, trip_saga().into_plan()?];
    let within = args.data.join(SERVICES);
    let services_in = match &args.services {
        Some(folder) => {
            Some(folder.join(SERVICES)).filter(|it| it.is_dir()).unwrap_or(folder.clone())
        }
        None if within.is_dir() => within,
        None => return Err(AtRestFailed::NoServices { data: args.data.clone() }),
    };
    let reader = open_at_rest(&sagas_of(args.data.clone()), Arc::new(Registry::new(plans)?))?;
    let filter = ListFilter { saga: Some("order".into()), ..ListFilter::default() };
    let sagas = reader.list(&filter)?;
    let mut entries = Vec::new();
    let tables = Tables::at(&args.postgres, tables::SHARED)?;
    let kept = Stores { folder: Some(&services_in), tables };
    for (service, _) in services(Rates::none(0)) {
        if !kept.is_in_tables(service) {
            let folder = services_in.join(service);
            if !folder.is_dir() {
                return Err(AtRestFailed::NoLedger { service, folder: services_in });
            }
            let store =
                kept.open(service).map_err(|source| AtRestFailed::Service { service, source })?;
            entries.extend(ledger::read(&*store)?);
        }
    }
    if let Some(tables) = &kept.tables {
        entries.extend(tables.entries()?);
    }
    Ok(at_rest(&sagas, entries))
}

fn at_rest(sagas: &[InstanceView], entries: Vec<ledger::Entry>) -> AtRest {
    let ends: Vec<_> = sagas.iter().filter_map(end_of).collect();
    let count = |status| ends.iter().filter(|end| end.status == status).count();
    let details = reconcile(entries, ends.iter().copied());
    AtRest {
        started: sagas.len(),
        completed: count(Status::Completed),
        compensated: count(Status::Compensated),
        blocked: sagas.iter().filter(|view| view.status == "blocked").count(),
        in_flight: count(Status::Running),
        ledger: Ledger::from(&details),
        details,
    }
}

impl fmt::Display for AtRest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "sagas         {} started, {} completed, {} compensated, {} in flight, {} blocked",
            self.started, self.completed, self.compensated, self.in_flight, self.blocked
        )?;
        self.ledger.tell(&self.details, f)
    }
}
