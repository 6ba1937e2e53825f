//! The settings of the schema registry, and of the versions that schemas must keep to.
//!
//! A secret is said in the environment or in a file of its own; in the file of settings it is taken, too.

use super::{
    ConfigError, Settings,
    file::bounded,
    understood::{Understood, one_of},
};
use dirigent_schemas::registry::{
    Compatibility, Credentials, RegistryError, RegistrySettings, SchemaRegistry, Subjects,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// What is never shown.
pub(super) const SECRETS: &[&str] = &["registry.password", "registry.token"];

/// Bytes of a file that holds a secret. A token has some kilobytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of an `.avsc` file.
const SCHEMA_BYTES_MAX: u64 = 1024 * 1024;

/// Folders within folders of released schemas.
const DEPTH_MAX: usize = 8;

/// What schemas must keep to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaSettings {
    /// The folder of the `.avsc` files that were released, folders within included.
    pub released: Option<PathBuf>,
    /// What must read what.
    pub compatibility: Compatibility,
}

impl Settings {
    /// The schema registry, if there is one. Nothing is asked yet.
    ///
    /// # Errors
    /// Its settings can't be used.
    pub fn schema_registry(&self) -> Result<Option<Arc<SchemaRegistry>>, RegistryError> {
        let registry = self.registry.clone().map(SchemaRegistry::new).transpose()?;
        Ok(registry.map(Arc::new))
    }
}

impl SchemaSettings {
    /// Names and texts of the released schemas.
    ///
    /// # Errors
    /// The folder, or a file in it, can't be read.
    pub fn read(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let mut found = Vec::new();
        if let Some(folder) = &self.released {
            collect(folder, DEPTH_MAX, &mut found)?;
            if found.is_empty() {
                let text = format!(
                    "`schemas.released` is {}, where no .avsc file lies; say the folder of the released schemas",
                    folder.display()
                );
                return Err(ConfigError::Missing { text });
            }
        }
        found.sort();
        Ok(found)
    }
}

fn collect(
    folder: &Path,
    depth: usize,
    found: &mut Vec<(String, String)>,
) -> Result<(), ConfigError> {
    let failed = |path: &Path| {
        let file = path.display().to_string();
        move |source| ConfigError::File { file, source }
    };
    for entry in std::fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, found)?;
        } else if path.extension().is_some_and(|extension| extension == "avsc") {
            found.push((
                path.display().to_string(),
                bounded(&path, SCHEMA_BYTES_MAX).map_err(failed(&path))?,
            ));
        }
    }
    Ok(())
}

impl Understood {
    pub(super) fn schemas(&mut self) -> SchemaSettings {
        let released = self.take("schemas.released", "(none)", folder);
        let compatibility = self.take("schemas.compatibility", "", |text| match text {
            "full" => Ok(Compatibility::Full),
            "backward" => Ok(Compatibility::Backward),
            "forward" => Ok(Compatibility::Forward),
            "none" => Ok(Compatibility::None),
            other => Err(one_of(other, &["full", "backward", "forward", "none"])),
        });
        SchemaSettings { released, compatibility: compatibility.unwrap_or_default() }
    }

    pub(super) fn registry(&mut self, compatibility: Compatibility) -> Option<RegistrySettings> {
        let url = self.take("registry.url", "(none)", |text| {
            RegistrySettings::check_url(text).map(|()| text.to_owned()).map_err(|error| match error
            {
                RegistryError::Setting { text } => format!("can't be used: {text}"),
                other => other.to_string(),
            })
        });
        let register = self.take("registry.register", "", |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(one_of(other, &["true", "false"])),
        });
        let subjects = self.take("registry.subjects", "", |text| match text {
            "record-name" => Ok(Subjects::RecordName),
            "topic-record-name" => Ok(Subjects::TopicRecordName),
            other => Err(one_of(other, &["record-name", "topic-record-name"])),
        });
        let username = self.take("registry.username", "(nobody)", |text| Ok(text.to_owned()));
        let password = self.secret("registry.password", "registry.password_file");
        let token = self.secret("registry.token", "registry.token_file");
        let ca = self.take("registry.ca", "(the system's)", folder);
        let credentials = match (username, password, token) {
            (None, None, None) => Credentials::None,
            (None, None, Some(token)) => Credentials::Bearer(token),
            (Some(username), Some(password), None) => Credentials::Basic { username, password },
            (Some(_), None, None) => {
                // One that was said, and can't be read, was told of.
                if !self.is_wrong("registry.password") {
                    self.missing("`registry.username` is said without a password; say `registry.password_file`, or DIRIGENT_REGISTRY_PASSWORD");
                }
                Credentials::None
            }
            (None, Some(_), _) => {
                self.missing("`registry.password` is said without `registry.username`; say both");
                Credentials::None
            }
            (Some(_), _, Some(_)) => {
                self.missing("`registry.token` and `registry.username` are both said; leave one");
                Credentials::None
            }
        };
        Some(RegistrySettings {
            register: register.unwrap_or_default(),
            subjects: subjects.unwrap_or_default(),
            compatibility,
            credentials,
            ca,
            ..RegistrySettings::new(url?)
        })
    }

    /// A secret, said itself or by the file that holds it.
    pub(super) fn secret(&mut self, key: &'static str, file_key: &'static str) -> Option<String> {
        let said = self.take(key, "(none)", |text| Ok(text.to_owned()));
        let origin = self.origin_of(file_key);
        let file = self.take(file_key, "(none)", folder);
        let Some(file) = file else { return said };
        if said.is_some() {
            self.missing(&format!("`{key}` and `{file_key}` are both said; leave one"));
            return None;
        }
        match bounded(&file, SECRET_BYTES_MAX) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => {
                let text = format!("names {}, which can't be read: {error}", file.display());
                self.wrong.push(ConfigError::Value { origin, key: file_key, text });
                None
            }
        }
    }

    /// Whether a setting whose name begins so was said, and told to be wrong.
    pub(super) fn is_wrong(&self, prefix: &str) -> bool {
        self.wrong.iter().any(|error| match error {
            ConfigError::Value { key, .. } => key.starts_with(prefix),
            _ => false,
        })
    }

    pub(super) fn missing(&mut self, text: &str) {
        self.wrong.push(ConfigError::Missing { text: text.into() });
    }
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty; say a path".into()) } else { Ok(PathBuf::from(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SettingsArgs, World};
    use std::collections::BTreeMap;

    fn load(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let pairs = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let environment: BTreeMap<String, String> = pairs.collect();
        let world = World { environment, folder: "no-such-folder".into() };
        let settings = Settings::load("order", &SettingsArgs::default(), &world);
        settings.map_err(|error| error.to_string())
    }

    #[test]
    fn without_an_address_there_is_no_registry() {
        let settings = load(&[]).unwrap();
        assert!(settings.registry.is_none() && settings.schema_registry().unwrap().is_none());
        assert_eq!(settings.schemas, SchemaSettings::default());
    }

    #[test]
    fn everything_about_a_registry_can_be_said() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("token");
        std::fs::write(&file, "t0ken\n").unwrap();
        let settings = load(&[
            ("DIRIGENT_REGISTRY", "https://registry:8081/apis/ccompat/v7"),
            ("DIRIGENT_REGISTRY_REGISTER", "true"),
            ("DIRIGENT_REGISTRY_SUBJECTS", "topic-record-name"),
            ("DIRIGENT_REGISTRY_TOKEN_FILE", file.to_str().unwrap()),
            ("DIRIGENT_REGISTRY_CA", "ca.pem"),
            ("DIRIGENT_SCHEMAS_COMPATIBILITY", "backward"),
        ])
        .unwrap();
        assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
        let registry = settings.registry.unwrap();
        assert_eq!(registry.url, "https://registry:8081/apis/ccompat/v7");
        assert!(registry.register && registry.subjects == Subjects::TopicRecordName);
        assert!(matches!(&registry.credentials, Credentials::Bearer(token) if token == "t0ken"));
        assert_eq!(registry.ca, Some("ca.pem".into()));
        assert_eq!(registry.compatibility, Compatibility::Backward);
    }

    #[test]
    fn secrets_of_a_registry_are_shown_nowhere() {
        let settings = load(&[
            ("DIRIGENT_REGISTRY", "http://registry:8081"),
            ("DIRIGENT_REGISTRY_USERNAME", "ann"),
            ("DIRIGENT_REGISTRY_PASSWORD", "s3cret"),
        ])
        .unwrap();
        let shown = format!("{:?} {:?}", settings.shown, settings.registry);
        assert!(shown.contains("***") && !shown.contains("s3cret"), "{shown}");
        for wrong in [
            [
                ("DIRIGENT_REGISTRY", "http://ann:s3cret@registry"),
                ("DIRIGENT_REGISTRY_REGISTER", "no"),
            ],
            [("DIRIGENT_REGISTRY", "http://registry"), ("DIRIGENT_REGISTRY_PASSWORD", "s3cret")],
        ] {
            let told = load(&wrong).err().expect("it is refused");
            assert!(told.contains("registry.") && !told.contains("s3cret"), "{told}");
        }
    }

    #[test]
    fn a_secret_said_twice_or_in_a_file_that_is_not_there_is_refused() {
        let url = ("DIRIGENT_REGISTRY", "http://registry");
        let missing = load(&[url, ("DIRIGENT_REGISTRY_TOKEN_FILE", "no-such-file")]).err().unwrap();
        assert!(missing.contains("`registry.token_file` names no-such-file"), "{missing}");
        let twice = [
            url,
            ("DIRIGENT_REGISTRY_TOKEN_FILE", "no-such-file"),
            ("DIRIGENT_REGISTRY_TOKEN", "s3cret"),
        ];
        let twice = load(&twice).err().unwrap();
        assert!(twice.contains("leave one") && !twice.contains("s3cret"), "{twice}");
    }

    #[test]
    fn released_schemas_are_found_in_folders_within_folders() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("bank")).unwrap();
        std::fs::write(place.path().join("bank/hold.v1.avsc"), "\"long\"").unwrap();
        std::fs::write(place.path().join("bank/README.md"), "no schema").unwrap();
        let settings = |folder: PathBuf| SchemaSettings {
            released: Some(folder),
            compatibility: Compatibility::Full,
        };
        let found = settings(place.path().to_owned()).read().unwrap();
        assert!(
            found.len() == 1 && found[0].0.ends_with("hold.v1.avsc") && found[0].1 == "\"long\""
        );
        let empty = tempfile::tempdir().unwrap();
        let told = settings(empty.path().to_owned()).read().err().unwrap().to_string();
        assert!(told.contains("no .avsc file"), "{told}");
    }
}
