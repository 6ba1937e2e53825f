//! What a fuzzer asks of settings: a file and an environment go in, and settings or all that is wrong with them come out.
//!
//! What must be true: whatever is wrong is told with what is wrong, and what somebody wrote as a secret stands in nothing that is shown, be it
//! a setting, a warning or an error. Files that settings name are not read here: a fuzzer would name devices.

use super::{FILE, KNOWN, Settings, SettingsArgs, World, file, understood::is_secret};
use std::collections::BTreeMap;

/// How a secret begins that must not be shown. Other words may be said elsewhere, too.
pub(crate) const CANARY: &str = "S3CRET-";

/// Reads a file and an environment. Whether nothing is wrong with them.
pub(crate) fn settings(text: &str, environment: BTreeMap<String, String>) -> bool {
    let is_file = |key: &str| key.ends_with("_file");
    let mut secrets = Vec::new();
    let mut file = file::parse(FILE, text);
    if let Ok(said) = &mut file {
        said.values.retain(|key, _| !is_file(key));
        let values = said.values.iter().map(|(key, raw)| (*key, raw.text.as_str()));
        secrets.extend(values.filter_map(|(key, value)| secret_of(key, value)).map(str::to_owned));
        let properties = said.properties.values().map(|raw| raw.text.clone());
        secrets.extend(properties.filter(|value| value.starts_with(CANARY)));
    }
    let environment: BTreeMap<String, String> = environment
        .into_iter()
        .filter(|(name, _)| !name.to_lowercase().ends_with("_file"))
        .collect();
    for known in KNOWN {
        let said = environment.get(known.variable);
        secrets.extend(said.and_then(|said| secret_of(known.key, said)).map(str::to_owned));
    }
    let input = format!("{text}\n{environment:?}");
    let world = World { environment, folder: Default::default() };
    let (settings, wrong) = Settings::of("fuzzed", &SettingsArgs::default(), &world, Some(file));
    let mut told: Vec<String> = wrong.iter().map(|error| crate::describe(error)).collect();
    assert!(told.iter().all(|text| !text.is_empty()), "whatever is wrong has words");
    for (key, value, origin) in &settings.shown {
        told.extend([key.clone(), value.clone(), origin.clone()]);
    }
    told.extend(settings.warnings.iter().cloned());
    told.push(settings.broker_shown());
    told.push(settings.broker_told());
    for secret in secrets {
        // Where it stands in the input a second time, it may be shown for that.
        if input.matches(&secret).count() > 1 {
            continue;
        }
        for text in &told {
            assert!(!text.contains(&secret), "a secret is shown: {text}");
        }
    }
    wrong.is_empty()
}

/// The part of a setting that is a secret, where it is one that can be looked for.
fn secret_of<'a>(key: &str, value: &'a str) -> Option<&'a str> {
    let secret = match key {
        "rabbitmq.uri" | "registry.url" => {
            let (credentials, _) = value.split_once("://")?.1.rsplit_once('@')?;
            credentials.split_once(':')?.1
        }
        "kafka.address" => value.contains('@').then_some(value)?,
        _ => is_secret(key).then_some(value)?,
    };
    secret.starts_with(CANARY).then_some(secret)
}
