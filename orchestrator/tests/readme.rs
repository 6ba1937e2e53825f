//! What README.md shows of a process of one's own is the example that is run here, word for word.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

#[allow(dead_code, reason = "its `main` is for whoever runs it as a program")]
#[path = "../examples/tickets.rs"]
mod tickets;

use std::{fs, path::Path};

const EXAMPLE: &str = include_str!("../examples/tickets.rs");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tickets_of_the_readme_are_sold_and_refused() {
    let ends = tickets::sell_two_tickets().await.unwrap();
    assert_eq!(ends, ["ticket 1: seat 101", "ticket 2: refused, above the limit of the card"]);
}

/// The block of code behind a mark in the page.
fn block<'p>(page: &'p str, mark: &str, language: &str) -> &'p str {
    let (_, behind) = page.split_once(mark).unwrap_or_else(|| panic!("no {mark} in README.md"));
    let (_, block) = behind.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```\n").unwrap().0
}

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap()
}

#[test]
fn the_readme_shows_the_example_word_for_word() {
    let page = readme();
    let shown = block(&page, "<!-- tickets -->", "rust");
    let differs = shown.lines().zip(EXAMPLE.lines()).find(|(shown, real)| shown != real);
    assert_eq!(differs, None, "left: README.md, right: orchestrator/examples/tickets.rs");
    assert_eq!(shown.lines().count(), EXAMPLE.lines().count());
}

#[test]
fn the_tests_of_a_saga_that_the_readme_shows_are_those_of_the_example() {
    let page = readme();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/order/tests");
    for (mark, file) in [
        ("<!-- scenario -->", "sagas.rs"),
        ("<!-- coverage -->", "sagas.rs"),
        ("<!-- simulated -->", "simulated.rs"),
    ] {
        let shown = block(&page, mark, "rust");
        let real = fs::read_to_string(tests.join(file)).unwrap();
        assert!(real.contains(shown), "{mark} is not what {file} has:\n{shown}");
    }
}

#[test]
fn the_cargo_toml_of_the_readme_names_every_crate_that_the_example_uses() {
    let page = readme();
    let manifest: toml::Table = block(&page, "<!-- manifest -->", "toml").parse().unwrap();
    let named: Vec<&str> =
        manifest["dependencies"].as_table().unwrap().keys().map(String::as_str).collect();
    assert_eq!(named, ["dirigent", "serde", "tokio"]);
    let used = EXAMPLE.lines().filter_map(|line| line.trim().strip_prefix("use "));
    for used in used.filter_map(|path| path.split("::").next()) {
        let is_known = named.contains(&used) || ["std", "super"].contains(&used);
        assert!(is_known, "{used} is used and not in the manifest");
    }
}
