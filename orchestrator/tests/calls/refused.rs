//! The machine refuses one system call of each thread, its N-th: the process goes on rightly or ends with an error, and the next one finds everything.
//!
//! By default one call of each kind, drawn anew each time. All of them:
//! `DIRIGENT_TEST_REFUSALS=200 cargo test -p dirigent --test calls refuses -- --nocapture`.

use crate::{
    Draw, at_rest, number,
    shop::{Memories, Works, child},
    strace,
};
use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How many calls of each kind are refused, from the first on, where it is asked for.
const REFUSALS: &str = "DIRIGENT_TEST_REFUSALS";

/// Where it is not: one of so many is drawn.
const REFUSED_UP_TO: u64 = 40;

/// What is refused.
const CALLS: [&str; 4] = ["fdatasync", "pwrite64", "openat", "rename"];

/// Cases that are tried at once.
const AT_ONCE: usize = 4;

/// One after another, so that each order costs the committer several syncs.
const WORKS: Works = Works { orders: 70, shift: 60, at_once: 1, leaves: 0 };

/// The same for the quick run.
const WORKS_BRIEFLY: Works = Works { orders: 14, shift: 10, at_once: 1, leaves: 0 };

/// How a life ended that was refused something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    /// No thread came as far as that call.
    NeverRefused,
    WentOn,
    WithAnError,
    /// Before its first line: what it is made of could not be loaded.
    NotLoaded,
}

fn refuse(call: &str, nth: u64, works: Works) -> Ended {
    let place = tempfile::tempdir().unwrap();
    let trace = place.path().join("trace");
    let only = format!("trace={call}");
    let inject = format!("inject={call}:error=EIO:when={nth}");
    let child = child(place.path(), works);
    let output = run(&strace::under(&child, &["-e", &only, "-e", &inject], &trace));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let case = format!("{call} {nth}: {:?}, {said}", output.status);
    assert!(!said.contains("panicked"), "{case}");
    let was_refused = std::fs::read_to_string(&trace).unwrap().contains("(INJECTED)");
    let ended = match output.status.code() {
        Some(0) if was_refused => Ended::WentOn,
        Some(0) => Ended::NeverRefused,
        Some(1) if said.contains("error: ") => Ended::WithAnError,
        Some(127) if said.contains("error while loading shared libraries") => Ended::NotLoaded,
        _ => panic!("{case}"),
    };
    assert!(was_refused || ended == Ended::NeverRefused, "{case}");
    at_rest::is_sound(place.path(), &case);
    if ended != Ended::NeverRefused {
        goes_on(place.path(), works, &case);
    }
    Memories::at(place.path()).is_as_it_should(works.orders);
    ended
}

/// The next life, which is refused nothing.
fn goes_on(place: &Path, works: Works, case: &str) {
    let output = run(&crate::shop::child(place, works));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}, and then {:?}: {said}", output.status);
    at_rest::is_sound(place, &format!("{case}, and then"));
}

/// Runs to its end. A process that hangs is ended, and told by a code of its own.
fn run(command: &Command) -> Output {
    let mut bounded = Command::new("timeout");
    bounded.args(["--kill-after=5", "240"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        bounded.env(name, value);
    }
    bounded.stdout(std::process::Stdio::null()).output().unwrap()
}

#[test]
fn whatever_call_the_machine_refuses_it_goes_on_or_says_why_not_and_the_next_start_finds_everything()
 {
    if !strace::is_here() {
        return;
    }
    let mut draw = Draw::new();
    let (works, cases): (Works, Vec<(&str, u64)>) = match number(REFUSALS) {
        Some(count) => (WORKS, (1..=count).flat_map(|nth| CALLS.map(|call| (call, nth))).collect()),
        None => (WORKS_BRIEFLY, CALLS.map(|call| (call, 1 + draw.below(REFUSED_UP_TO))).into()),
    };
    let next = AtomicUsize::new(0);
    let ends: Mutex<BTreeMap<(&str, Ended), usize>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((call, nth)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ended = refuse(call, *nth, works);
                    *ends.lock().unwrap().entry((*call, ended)).or_default() += 1;
                }
            });
        }
    });
    eprintln!("{} calls refused: {:?}", cases.len(), ends.lock().unwrap());
}
