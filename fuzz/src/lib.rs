//! What all targets share: each calls one function with the bytes, which panics where a promise is broken.
//!
//! libFuzzer ends the process at the first panic, a caught one too. Some are caught on purpose: rdkafka panics at the name of a header that is no
//! text, and a graph that the builder would refuse may have no answer to an input. So a panic counts here once nobody has caught it.

pub use libfuzzer_sys::fuzz_target;

/// A target that calls a function with the bytes.
#[macro_export]
macro_rules! target {
    ($function:path) => {
        $crate::fuzz_target!(
            init: $crate::let_panics_be_caught(),
            |bytes: &[u8]| {
                let called = std::panic::catch_unwind(|| $function(bytes));
                if called.is_err() {
                    $crate::give_up();
                }
            }
        );
    };
}

thread_local! {
    static LAST: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// Remembers what a panic says instead of ending the process.
pub fn let_panics_be_caught() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        LAST.with(|last| *last.borrow_mut() = text);
    }));
}

/// Nobody has caught it.
pub fn give_up() -> ! {
    LAST.with(|last| eprintln!("{}", last.borrow()));
    std::process::abort()
}
