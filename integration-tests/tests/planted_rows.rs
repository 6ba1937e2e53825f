//! Holds the list of bugs that can be planted against the table of ARCHITECTURE.md, and against the code in which each is made.
//!
//! Pure text, as `tidy`: needs no feature, and runs nothing. Whoever adds a bug lets `planted` find it, and writes down where.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where bugs are listed, and where they are made.
const LIST: &str = "orchestrator/src/planted.rs";
const CODE: &[&str] = &["orchestrator/src", "orchestrator/model/src"];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("this crate lies below the root").to_owned()
}

/// The text of all code below a folder, but for the list itself.
fn collect(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of the repository can be read") {
        let path = entry.expect("an entry of a folder can be read").path();
        if path.is_dir() {
            collect(&path, text);
        } else if path.extension().is_some_and(|ext| ext == "rs") && path != root().join(LIST) {
            text.push_str(&fs::read_to_string(&path).expect("code can be read"));
        }
    }
}

#[test]
fn every_bug_that_can_be_planted_has_its_row_in_the_architecture_and_its_place_in_the_code() {
    let list = fs::read_to_string(root().join(LIST)).expect("there is a list");
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("there is a page");
    let mut code = String::new();
    CODE.iter().for_each(|folder| collect(&root().join(folder), &mut code));
    // Name, "name-of-it"[, decides Mistake];
    let bugs = list.lines().filter_map(|line| {
        let (bug, rest) = line.trim().strip_suffix(';')?.split_once(", \"")?;
        Some((bug, rest.split_once('"')?.0, rest.contains(", decides ")))
    });
    let bugs: Vec<(&str, &str, bool)> = bugs.collect();
    assert!(bugs.len() >= 25, "only {} bugs are understood", bugs.len());
    let mut breaches = Vec::new();
    for (bug, name, decides) in bugs {
        if !page.contains(&format!("\n| `{name}` |")) {
            breaches.push(format!("ARCHITECTURE.md: no row for `{name}`"));
        }
        let asked = if decides { format!("(Mistake::{bug})") } else { format!("(Bug::{bug})") };
        if !code.contains(&asked) {
            breaches.push(format!("{LIST}: nobody asks for `{name}`"));
        }
    }
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}
