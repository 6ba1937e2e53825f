//! Benchmarks: the load, the measuring, and the limit that each figure is held against.
//!
//! ```text
//! what (engine, brokers, latency, scale, soak, check, model) ─► subjects ─► alternate: A B A B … ─► figures ─► lines, JSON
//!                                                                  │                                             │
//!   house: an engine, services, a listener, customers (track) ◄────┤                          page: tables, plots (svg)
//!   bare: a loop that consumes and produces the same, without any ◄┘
//! ```
//!
//! Whatever makes the load runs on the same cores as what is measured: figures are of all of it together, for every subject alike. Only where
//! memory counts, or a kill, there is a process of its own (`measured`).

mod alternate;
mod bare;
pub mod brokers;
mod callgrind;
pub mod check;
pub mod engine;
mod figures;
mod floor;
mod histogram;
mod house;
pub mod latency;
pub mod measured;
pub mod model;
mod orders;
pub mod page;
mod plan;
mod resting;
pub mod scale;
mod services;
pub mod soak;
pub mod stage;
mod svg;
mod system;
mod timed;
mod track;
mod watch;

use dirigent_connectors::Sent;
use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// Anything that ends a benchmark.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Prints figures: one JSON object, or a line each.
pub fn report(figures: &serde_json::Value, json: bool) {
    let mut out = String::new();
    match json {
        true => out.push_str(&figures.to_string()),
        false => {
            let lines = figures::lines(figures);
            let widest = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
            lines
                .iter()
                .for_each(|(name, told)| out.push_str(&format!("{name:widest$}  {told}\n")));
        }
    }
    // A closed pipe is the reader's wish.
    writeln!(std::io::stdout(), "{}", out.trim_end()).unwrap_or_default();
}

/// A folder for this run alone. Beside the build, not in the system's folder for temporary files, which may be in memory.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Result<Self, Error> {
        Ok(Self(tempfile::tempdir_in(Self::place()?)?))
    }

    /// Where they lie.
    fn place() -> Result<PathBuf, Error> {
        let program = std::env::current_exe()?;
        let place = program.parent().ok_or("a program has a folder")?.join("bench-data");
        std::fs::create_dir_all(&place)?;
        Ok(place)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The error of messages that the broker did not take. A benchmark repeats none: it would measure something else.
fn sent(outcomes: &[Sent]) -> Result<(), Error> {
    match outcomes.iter().find(|outcome| **outcome != Sent::Confirmed) {
        None => Ok(()),
        Some(outcome) => Err(format!("the broker did not take a message: {outcome:?}").into()),
    }
}
