//! From the store, or the layers above it, into a shard's memory.

use super::{Fatal, Live, Shard};
use crate::{engine::table::Resting, store::StoreError};
use dirigent_model::instance::{Instance, InstanceId};
use std::sync::Arc;

/// Whether an instance could be found.
pub(super) enum Found {
    Here,
    Nowhere,
    Unusable(String),
}

impl Shard {
    /// Brings an instance into memory.
    pub(super) fn find(&mut self, id: InstanceId) -> Result<Found, Fatal> {
        if self.live.contains_key(&id) {
            return Ok(Found::Here);
        }
        if self.gone.contains_key(&id) {
            return Ok(Found::Nowhere);
        }
        let resting = match self.shared.table.get(id) {
            Ok(Some(resting)) => resting,
            Ok(None) => return Ok(Found::Nowhere),
            Err(error @ StoreError::Corrupt { .. }) => {
                return Ok(Found::Unusable(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(match self.revive(resting) {
            Ok(live) => {
                self.live.insert(id, live);
                Found::Here
            }
            Err(text) => Found::Unusable(text),
        })
    }

    fn revive(&self, resting: Resting) -> Result<Live, String> {
        let Resting { state, history, due, .. } = resting;
        let (core, _) = Instance::peek(&state).map_err(|error| error.to_string())?;
        let plan = self.shared.registry.plan(&core.definition, core.version);
        let plan = plan.ok_or_else(|| {
            format!("saga `{}` version {} is not here", core.definition, core.version)
        })?;
        let instance =
            Instance::decode(plan, &state, history).map_err(|error| error.to_string())?;
        // Some batch up to the last one made it what it is: it need not be in the store yet.
        let batch = self.next_batch - 1;
        Ok(Live { instance, plan: Arc::clone(plan), batch, due, bytes: state.len() })
    }
}
