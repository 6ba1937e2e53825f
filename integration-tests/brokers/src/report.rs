//! Says aloud which brokers a run has used and which tests it has skipped.
//!
//! Written past the test harness, which shows the output of failed tests only: a run that skipped
//! must not look like one that passed.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::{env, fs};

use crate::broker::{Broker, How};
use crate::error::Unavailable;
use crate::{REQUIRE_VARIABLE, place};

/// The file under `target/brokers` that collects what the processes of a run have used.
const USED_FILE: &str = "used";

/// A broker and where it comes from, as printed: `kafka=started here (4.3.0)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named(String);

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a real broker is required ([`REQUIRE_VARIABLE`]).
#[must_use]
pub fn required() -> bool {
    env::var(REQUIRE_VARIABLE).is_ok_and(|value| !matches!(value.trim(), "" | "0" | "false"))
}

/// Says that a test is skipped, why, and what to install; `here` is any path inside the test.
///
/// # Panics
/// When [`REQUIRE_VARIABLE`] asks for brokers.
pub fn skip(here: &str, why: &Unavailable) {
    let test = test_of(here);
    let install = why.install();
    assert!(!required(), "{test} needs a broker: {why}; install {install}");
    aloud(&format!("SKIPPED {test}: {why}; install {install}\n"));
}

/// All brokers that the processes of this run have used, since the last `brokers down`.
///
/// # Errors
/// The folder of the brokers cannot be read.
pub fn brokers_used() -> Result<Vec<Named>, Unavailable> {
    let text = fs::read_to_string(place::root()?.join(USED_FILE)).unwrap_or_default();
    let names: BTreeSet<Named> = text.lines().map(|line| Named(line.to_owned())).collect();
    Ok(names.into_iter().collect())
}

/// Passes it on, and notes and prints it when this process uses it for the first time.
pub(crate) fn noted(found: Result<Broker, Unavailable>) -> Result<Broker, Unavailable> {
    static USED: Mutex<BTreeSet<Named>> = Mutex::new(BTreeSet::new());
    let broker = found?;
    let name = Named(format!("{}={}", broker.kind(), broker.how()));
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    if used.insert(name.clone()) {
        let names: Vec<String> = used.iter().map(ToString::to_string).collect();
        aloud(&format!("brokers used: {}\n", names.join(", ")));
        if let How::Mock { why } = broker.how() {
            aloud(&format!("kafka is only a mock, which proves little: {why}\n"));
        }
        remember(&name)?;
    }
    Ok(broker)
}

/// Forgets what was used.
pub(crate) fn forget() -> Result<(), Unavailable> {
    place::remove(&place::root()?.join(USED_FILE))
}

fn remember(name: &Named) -> Result<(), Unavailable> {
    let path = place::root()?.join(USED_FILE);
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()))
        .map_err(crate::error::folder("noting the broker in", &path))
}

pub(crate) fn aloud(line: &str) {
    // When even the error output is gone, there is nobody left to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// `crate::tests::name::{{closure}}::here` is the test `crate::tests::name`.
fn test_of(here: &str) -> String {
    let parts: Vec<&str> = here.split("::").collect();
    let end = parts.iter().rposition(|part| *part == "here").unwrap_or(parts.len());
    let test: Vec<&str> =
        parts[..end].iter().copied().filter(|part| !part.starts_with('{')).collect();
    test.join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_named_by_the_path_of_a_function_inside_it() {
        assert_eq!(test_of("a::tests::it_works::here"), "a::tests::it_works");
        assert_eq!(test_of("a::it_works::{{closure}}::{{closure}}::here"), "a::it_works");
    }
}
