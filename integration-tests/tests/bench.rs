//! The benchmark in its smallest form: that every figure is still taken, and stands on the page. How large they are is nobody's business here.

use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// What `bench` says to these arguments.
fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(arguments)
        .arg("--json")
        .stderr(Stdio::inherit())
        .output()
        .expect("the benchmark runs");
    assert!(output.status.success(), "bench {arguments:?} ended with {}", output.status);
    serde_json::from_slice(&output.stdout).expect("figures as JSON")
}

/// The middle of a figure's rounds.
fn median(figures: &Value, place: &[&str]) -> f64 {
    let found = place.iter().try_fold(figures, |tree, name| tree.get(*name));
    let median = found.and_then(|figure| figure.get("median")).and_then(Value::as_f64);
    median.unwrap_or_else(|| panic!("no {place:?} in {figures}"))
}

/// All on one page, which is written into a folder of its own.
fn page_of(sections: &str, folder: &Path) -> (String, Value) {
    let page = folder.join("BENCHMARKS.md");
    let write = page.to_str().expect("a path is text");
    bench(&["all", "--size", "tiny", "--only", sections, "--write", write]);
    let figures = std::fs::read_to_string(folder.join("docs/bench/figures.json"));
    let figures = serde_json::from_str(&figures.expect("kept figures")).expect("figures as JSON");
    (std::fs::read_to_string(page).expect("a page"), figures)
}

#[test]
fn what_needs_no_broker_is_measured_beside_its_limit_and_stands_on_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let (page, kept) = page_of("engine,latency-memory,check,model", folder.path());
    let of = |section: &str, place: &[&str]| median(&kept[section]["figures"], place);
    for engine in ["power-loss, 2 shards", "process-crash, 2 shards"] {
        assert!(of("engine", &["subjects", engine, "events_per_second"]) > 0.0);
        assert!(of("engine", &["ratios", &format!("{engine} ÷ floor")]) > 0.0);
    }
    // A sync for each group, and none without: the engine's own count.
    let bytes = of("engine", &["subjects", "power-loss, 2 shards", "journal_bytes_per_event"]);
    assert!((100.0..10_000.0).contains(&bytes), "{bytes} bytes of the journal for an event");
    for (subject, load) in [("engine", "at 10 %"), ("bare loop", "at 80 %")] {
        assert!(of("latency-memory", &["subjects", load, subject, "p99.9_ms"]) > 0.0);
    }
    assert!(of("check", &["subjects", "order, reduced", "states_per_second"]) > 0.0);
    assert!(of("model", &["subjects", "transition", "ns_per_transition"]) > 0.0);
    for expected in ["## The engine, on a broker in memory", "## The machine", "latency-memory.svg"]
    {
        assert!(page.contains(expected), "no {expected} in\n{page}");
    }
    let plot = std::fs::read_to_string(folder.path().join("docs/bench/engine.svg")).unwrap();
    assert!(plot.starts_with("<svg"));
}

#[test]
fn instances_at_rest_are_measured_killed_and_opened_in_processes_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (_, kept) = page_of("scale,open,soak", folder.path());
    let scale = &kept["scale"]["figures"];
    assert_eq!(scale["at rest"]["400 at rest"]["live"], 400);
    assert!(median(scale, &["by the clock", "200 at rest", "p99_ms"]) > 0.0);
    assert!(median(scale, &["ratios", "events_per_second, 400 at rest ÷ 200 at rest"]) > 0.0);
    let open = &kept["open"]["figures"];
    let settled = median(open, &["subjects", "200 at rest", "first_settled_ms"]);
    assert!(settled >= median(open, &["subjects", "200 at rest", "opened_ms"]));
    let soak = &kept["soak"]["figures"];
    assert!(median(soak, &["subjects", "last fifth", "resident_mib"]) > 0.0);
    assert!(folder.path().join("docs/bench/soak.svg").is_file());
}

#[test]
fn what_is_kept_of_other_sections_stays_on_the_page() {
    let folder = tempfile::tempdir().unwrap();
    page_of("check", folder.path());
    let (page, kept) = page_of("model", folder.path());
    assert!(page.contains("## Exploring a saga") && page.contains("## A transition"), "{page}");
    assert!(kept["check"]["measured_on"].is_string());
}
