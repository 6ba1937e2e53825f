//! The schema registry a person asked for. A demo may register: what it sends is nobody else's.

use super::{DemoError, RegistryArgs};
use dirigent::config::{Settings, SettingsArgs, World};
use dirigent_schemas::registry::{RegistrySettings, SchemaRegistry};
use std::sync::Arc;

/// The registry of the flag, or of the settings where nothing was said; none where those name none.
pub(super) fn find(args: &RegistryArgs) -> Result<Option<Arc<SchemaRegistry>>, DemoError> {
    let world = World::here();
    if args.registry.is_none() && !world.environment.contains_key("DIRIGENT_REGISTRY") {
        return Ok(None);
    }
    let flags = SettingsArgs { registry: args.registry.clone(), ..SettingsArgs::default() };
    let settings = Settings::load("order", &flags, &world)
        .map_err(|errors| DemoError::Settings(Box::new(errors)))?;
    let Some(registry) = settings.registry else { return Ok(None) };
    let registry = SchemaRegistry::new(RegistrySettings { register: true, ..registry });
    registry
        .map(|registry| Some(Arc::new(registry)))
        .map_err(|error| DemoError::Registry(Box::new(error)))
}
