//! Instructions and allocations of this program by valgrind's callgrind, which counts and does not time: the same on every machine and under
//! any load.

use super::{Error, Scratch};
use std::{collections::HashMap, process::Command};

/// How memory is asked for: mimalloc's functions that Rust calls.
const ALLOCATE: [&str; 3] = ["mi_malloc_aligned", "mi_zalloc_aligned", "mi_realloc_aligned"];

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub instructions: u64,
    pub allocations: u64,
}

impl Counted {
    /// What is more than in a smaller run.
    pub(super) fn without(self, smaller: Self) -> Self {
        Self {
            instructions: self.instructions.saturating_sub(smaller.instructions),
            allocations: self.allocations.saturating_sub(smaller.allocations),
        }
    }
}

/// Runs this program with these arguments under callgrind.
pub(super) fn counted(arguments: &[&str]) -> Result<Counted, Error> {
    let scratch = Scratch::new()?;
    let out = scratch.path().join("callgrind.out");
    let run = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(arguments)
        .output()
        .map_err(|error| {
            format!("running valgrind, which counts instructions; is it installed? {error}")
        })?;
    if !run.status.success() {
        let said = String::from_utf8_lossy(&run.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(format!("valgrind ended with {}: {last}", run.status).into());
    }
    read(&std::fs::read_to_string(out)?)
}

/// Reads what callgrind has written: its total, and the calls of the functions that ask for memory.
fn read(text: &str) -> Result<Counted, Error> {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut instructions, mut allocations, mut callee) = (None, 0, "");
    for line in text.lines() {
        if let Some(totals) = line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")) {
            instructions = totals.split(' ').next().and_then(|total| total.parse().ok());
        }
        // A name stands behind its number the first time only.
        let function = line.strip_prefix("fn=").or(line.strip_prefix("cfn="));
        if let Some((number, name)) = function.and_then(|function| function.split_once(')')) {
            if !name.is_empty() {
                names.insert(number, name.trim());
            }
            if line.starts_with("cfn=") {
                callee = names.get(number).copied().unwrap_or_default();
            }
        }
        if let Some(calls) = line.strip_prefix("calls=")
            && ALLOCATE.contains(&callee)
        {
            allocations += calls.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0_u64);
        }
    }
    let instructions = instructions.ok_or("callgrind has written no total")?;
    Ok(Counted { instructions, allocations })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_and_the_calls_that_ask_for_memory_are_read() {
        let text = "events: Ir\nfn=(1) main\n16 400\ncfn=(2) mi_malloc_aligned\ncalls=7 0 \n16 900\ncfn=(3) other\ncalls=9 0\nfn=(3)\n1 5\ncfn=(2)\ncalls=2 0\n5 6\ncfn=(4) mi_realloc_aligned\ncalls=1 3\n1 1\nsummary: 123456\n";
        let counted = read(text).unwrap();
        assert_eq!(counted, Counted { instructions: 123_456, allocations: 10 });
        let smaller = Counted { instructions: 23_456, allocations: 4 };
        assert_eq!(counted.without(smaller), Counted { instructions: 100_000, allocations: 6 });
        assert!(read("nothing").is_err());
    }
}
