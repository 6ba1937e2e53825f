//! Where the tests against real brokers learn of them: the environment, or a skip that is seen.
//!
//! This crate knows no other of ours, so it can't look for brokers as the other tests do: `brokers up` does, and prints the lines.

use std::io::Write;

#[allow(dead_code, unused_macros, reason = "each test program takes what it needs")]
pub(crate) mod kafka;
#[allow(dead_code, unused_macros, reason = "each test program takes what it needs")]
pub(crate) mod rabbitmq;

/// Set to `1`: a test without a real broker fails instead of being skipped.
const REQUIRE_VARIABLE: &str = "DIRIGENT_REQUIRE_BROKERS";

/// The value of the variable `name`, or `None` after saying past the test harness, which hides the output of passed tests, that
/// `test` is skipped. Set to nothing it stands for a broker that is knowingly not there.
///
/// # Panics
/// When it is not set at all and [`REQUIRE_VARIABLE`] asks for brokers.
pub(crate) fn setting(name: &str, test: &str) -> Option<String> {
    let value = std::env::var(name).ok();
    let required = std::env::var(REQUIRE_VARIABLE)
        .is_ok_and(|required| !matches!(required.trim(), "" | "0" | "false"));
    assert!(
        value.is_some() || !required,
        "{test} needs a broker, and {name} is not set; `cargo brokers up` prints what to set"
    );
    let value = value.filter(|value| !value.trim().is_empty());
    if value.is_none() {
        let line =
            format!("SKIPPED {test}: {name} is not set; `cargo brokers up` prints what to set\n");
        // When even the error output is gone, there is nobody left to tell.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    value
}

/// The name of the test around the function `here`, which [`require!`](crate::require) puts inside it.
pub(crate) fn test_of(here: &str) -> &str {
    let test = here.strip_suffix("::here").unwrap_or(here);
    test.trim_end_matches("::{{closure}}")
}

/// The value of a variable, or `None` after a skip in the name of the test around.
#[macro_export]
macro_rules! require {
    ($name:expr) => {{
        fn here() {}
        $crate::real::setting($name, $crate::real::test_of(std::any::type_name_of_val(&here)))
    }};
}
