//! The schema registry a person asked for. A demo may register at one that its command line or environment names: what it sends is
//! nobody else's. One that only the file names may be that of a production: there the file says whether.

use super::{AddressArgs, DemoError, RegistryArgs};
use dirigent::config::{ConfigErrors, Origin, Settings, SettingsArgs, World};
use dirigent_schemas::registry::{RegistrySettings, SchemaRegistry};
use std::sync::Arc;

/// The registry of the flag, or of the settings where nothing was said; none where those name none.
pub(super) fn find(
    args: &RegistryArgs,
    address: &AddressArgs,
) -> Result<Option<Arc<SchemaRegistry>>, DemoError> {
    let flags = SettingsArgs { registry: args.registry.clone(), ..address.flags() };
    let registry = settings(&flags, &World::here())
        .map_err(|errors| DemoError::Settings(Box::new(errors)))?
        .map(SchemaRegistry::new)
        .transpose();
    registry
        .map(|registry| registry.map(Arc::new))
        .map_err(|error| DemoError::Registry(Box::new(error)))
}

fn settings(flags: &SettingsArgs, world: &World) -> Result<Option<RegistrySettings>, ConfigErrors> {
    let settings = Settings::load("order", flags, world)?;
    let is_asked_for = match settings.registry_by {
        Origin::Flag(_) | Origin::Environment(_) => true,
        Origin::File { .. } | Origin::Program(_) | Origin::Default => false,
    };
    Ok(settings.registry.map(|registry| RegistrySettings {
        register: registry.register || is_asked_for,
        ..registry
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_registers_where_its_command_line_or_environment_says_and_elsewhere_only_if_the_file_does()
     {
        let place = tempfile::tempdir().expect("a folder");
        let registers = |file: &str, flag: Option<&str>, variable: Option<&str>| {
            std::fs::write(place.path().join("dirigent.toml"), file).expect("write");
            let named = |url: &str| ("DIRIGENT_REGISTRY".to_owned(), url.to_owned());
            let world = World {
                environment: variable.map(named).into_iter().collect(),
                folder: place.path().into(),
            };
            let flags = SettingsArgs { registry: flag.map(Into::into), ..SettingsArgs::default() };
            settings(&flags, &world).expect("they are sound").map(|found| found.register)
        };
        let (production, own) = ("[registry]\nurl = 'http://registry'\n", Some("http://own"));
        assert_eq!(registers("", None, None), None);
        assert_eq!(registers(production, None, None), Some(false));
        assert_eq!(registers(&format!("{production}register = false\n"), None, None), Some(false));
        assert_eq!(registers(&format!("{production}register = true\n"), None, None), Some(true));
        assert_eq!(registers(production, own, None), Some(true));
        assert_eq!(registers(production, None, own), Some(true));
        assert_eq!(registers("", own, None), Some(true));
    }
}
