//! The schemas of the ids that were met, in a folder: stored bodies are read again after a restart, registry or not.
//!
//! One file for each id, written and synced before a message with that id is handed on. A file that can't be read is set aside
//! beside the others, and its id asked for again.

use super::RegistryError;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The form of the files written here.
const FORM: u32 = 1;

/// Bytes of a file. A schema has a few kilobytes.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Record {
    form: u32,
    id: u32,
    schema: String,
}

pub(super) struct Kept {
    folder: PathBuf,
}

/// What a folder holds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) schemas: Vec<(u32, String)>,
    /// Ids whose files were damaged.
    pub(super) damaged: Vec<u32>,
}

impl Kept {
    /// Makes the folder if need be, and reads it.
    pub(super) fn open(folder: &Path) -> Result<(Self, Found), RegistryError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed("making the folder", folder))?;
        let mut found = Found::default();
        for entry in fs::read_dir(folder).map_err(failed("reading the folder", folder))? {
            let path = entry.map_err(failed("reading the folder", folder))?.path();
            let id = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_suffix(".json")?.parse().ok());
            let Some(id) = id else { continue };
            match read(&path, id)? {
                Ok(schema) => found.schemas.push((id, schema)),
                Err(why) => {
                    let aside = path.with_extension("unreadable");
                    fs::rename(&path, &aside).map_err(failed("setting aside", &path))?;
                    tracing::warn!(
                        id,
                        why,
                        "A kept schema can't be read; it was set aside, and is asked for again."
                    );
                    found.damaged.push(id);
                }
            }
        }
        Ok((Self { folder: folder.to_owned() }, found))
    }

    /// Durable once this returns.
    pub(super) fn write(&self, id: u32, schema: &str) -> Result<(), RegistryError> {
        let path = self.path(id);
        if path.exists() {
            return Ok(());
        }
        let record = Record { form: FORM, id, schema: schema.to_owned() };
        let bytes = serde_json::to_vec(&record).expect("a record is numbers and a text");
        let draft = path.with_extension("draft");
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
        written.map_err(failed("writing", &draft))?;
        fs::rename(&draft, &path).map_err(failed("putting in place", &path))?;
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed("syncing the folder", &self.folder))
    }

    fn path(&self, id: u32) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

/// The schema, or why the file is of no use. An error of the disk, and a form of a later release, are refused.
fn read(path: &Path, id: u32) -> Result<Result<String, String>, RegistryError> {
    let bytes = fs::metadata(path).map_err(failed("reading", path))?.len();
    if bytes > FILE_BYTES_MAX {
        return Ok(Err(format!("it has {bytes} bytes")));
    }
    let text = fs::read(path).map_err(failed("reading", path))?;
    #[derive(Deserialize)]
    struct Form {
        form: u32,
    }
    match serde_json::from_slice::<Form>(&text) {
        Ok(Form { form }) if form > FORM => {
            let text = format!(
                "its form is {form}, and this release reads {FORM}; use the later release that wrote it"
            );
            return Err(failed("reading", path)(io::Error::other(text)));
        }
        Ok(_) | Err(_) => {}
    }
    match serde_json::from_slice::<Record>(&text) {
        Ok(record) if record.id == id => Ok(Ok(record.schema)),
        Ok(record) => Ok(Err(format!("it holds schema {}", record.id))),
        Err(error) => Ok(Err(error.to_string())),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    let path = path.to_owned();
    move |source| RegistryError::Folder { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_again_and_a_damaged_file_is_set_aside() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("schemas");
        let (kept, found) = Kept::open(&folder).unwrap();
        assert!(found.schemas.is_empty());
        kept.write(7, r#""long""#).unwrap();
        kept.write(8, r#""string""#).unwrap();
        kept.write(7, r#""long""#).unwrap();
        fs::write(folder.join("8.json"), b"{\"form\":1,\"id\":8,").unwrap();
        fs::write(folder.join("9.json"), b"{\"form\":1,\"id\":7,\"schema\":\"x\"}").unwrap();
        let (_, mut found) = Kept::open(&folder).unwrap();
        found.damaged.sort_unstable();
        assert_eq!((found.schemas, found.damaged), (vec![(7, r#""long""#.into())], vec![8, 9]));
        assert!(folder.join("8.unreadable").exists() && !folder.join("8.json").exists());
    }

    #[test]
    fn the_form_of_a_later_release_is_refused_with_what_to_use() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("7.json"), b"{\"form\":2,\"other\":1}").unwrap();
        let error = Kept::open(place.path()).err().unwrap();
        assert!(matches!(error, RegistryError::Folder { .. }));
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("use the later release"), "{cause}");
    }

    /// The form as it is written now: whoever changes it takes a new number.
    #[test]
    fn a_kept_sample_of_the_first_form_is_read() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("7.json"), br#"{"form":1,"id":7,"schema":"\"long\""}"#)
            .unwrap();
        let (_, found) = Kept::open(place.path()).unwrap();
        assert_eq!(found.schemas, [(7, r#""long""#.into())]);
    }
}
