//! Benchmarks: the load, the measuring, and the limit that each figure is held against.

pub mod engine;
mod floor;
mod responder;
mod timed;

/// Anything that ends a benchmark.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Prints figures: one JSON object, or a line each.
pub fn report(figures: &serde_json::Value, json: bool) {
    let mut out = String::new();
    match figures.as_object().filter(|_| !json) {
        None => out.push_str(&figures.to_string()),
        Some(lines) => {
            for (name, value) in lines {
                out.push_str(&format!("{name:32} {value}\n"));
            }
        }
    }
    use std::io::Write;
    // A closed pipe is the reader's wish.
    writeln!(std::io::stdout(), "{}", out.trim_end()).unwrap_or_default();
}
