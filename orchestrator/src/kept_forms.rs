//! Samples of stored forms, kept from the version on that wrote them first: `tests/kept_forms/v1`.
//!
//! A test writes a fixed value and asks [`kept`] for what was kept of it, which has to be the same bytes: whoever changes a stored
//! form notices, raises its version, keeps the old sample, and reads it. A sample is written where there is none and
//! `DIRIGENT_TEST_WRITE_FORMS=1` asks for it; one that is there is never written over.

use std::{fs, path::Path};

/// The samples of the first release, and whatever is new since and has changed nothing of them.
const V1: &str = "tests/kept_forms/v1";

/// The kept sample of a form that is written as `bytes` today.
pub(crate) fn kept(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(V1).join(name);
    let asked = std::env::var("DIRIGENT_TEST_WRITE_FORMS").is_ok_and(|said| said == "1");
    if asked && !path.exists() {
        fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("a folder");
        fs::write(&path, bytes).expect("a file");
    }
    let sample = fs::read(&path).unwrap_or_else(|error| {
        panic!("{V1}/{name}: {error}; DIRIGENT_TEST_WRITE_FORMS=1 writes a sample that is new")
    });
    assert!(
        sample == bytes,
        "the stored form of {name} is not what it was: raise its version, read the sample of {V1} as well as a new one, \
         and write that one into a folder of its own\n was {sample:02x?}\n  is {bytes:02x?}"
    );
    sample
}
