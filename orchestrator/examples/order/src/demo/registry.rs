//! The schema registry a person asked for. A demo may register: what it sends is nobody else's.

use super::{AddressArgs, DemoError, RegistryArgs};
use dirigent::config::{Settings, SettingsArgs, World};
use dirigent_schemas::registry::{RegistrySettings, SchemaRegistry};
use std::sync::Arc;

/// The registry of the flag, or of the settings where nothing was said; none where those name none.
pub(super) fn find(
    args: &RegistryArgs,
    address: &AddressArgs,
) -> Result<Option<Arc<SchemaRegistry>>, DemoError> {
    let flags = SettingsArgs { registry: args.registry.clone(), ..address.flags() };
    let settings = Settings::load("order", &flags, &World::here())
        .map_err(|errors| DemoError::Settings(Box::new(errors)))?;
    let Some(registry) = settings.registry else { return Ok(None) };
    let registry = SchemaRegistry::new(RegistrySettings { register: true, ..registry });
    registry
        .map(|registry| Some(Arc::new(registry)))
        .map_err(|error| DemoError::Registry(Box::new(error)))
}
