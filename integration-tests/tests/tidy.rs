//! Keeps the house as ARCHITECTURE.md draws it and as STYLE.md wants it: who may know whom, who may ask for the time,
//! and what every file owes its reader.
//!
//! Pure text: reads the files of the repository and runs nothing. A rule that is broken names file, line and rule.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Lines of a file, at the most. What is longer wants sub-rooms.
const FILE_LINES_MAX: usize = 600;

/// What holds nothing of ours. `.git` is a folder, or a file where the work tree is a linked one.
const NOT_OURS: &[&str] = &["target", ".git"];

/// A crate of ours: where it lies, and which of ours it may know, tests included.
const CRATES: &[(&str, &str, &[&str])] = &[
    ("dirigent-model", "orchestrator/model", &[]),
    ("dirigent-connectors", "connectors", &[]),
    ("dirigent-schemas", "schemas", &["dirigent-model"]),
    ("dirigent", "orchestrator", &["dirigent-model", "dirigent-schemas", "dirigent-connectors"]),
    (
        "order",
        "orchestrator/examples/order",
        &[
            "dirigent",
            "dirigent-model",
            "dirigent-schemas",
            "dirigent-connectors",
            "dirigent-brokers",
        ],
    ),
    ("dirigent-brokers", "integration-tests/brokers", &[]),
    ("dirigent-fuzz", "fuzz", &["dirigent"]),
    (
        "integration-tests",
        "integration-tests",
        &[
            "dirigent",
            "dirigent-model",
            "dirigent-schemas",
            "dirigent-connectors",
            "dirigent-brokers",
            "order",
        ],
    ),
];

/// All that the model may build on: reading, writing and naming data.
const MODEL_NEEDS: &[&str] = &[
    "erased-serde",
    "postcard",
    "rustc-hash",
    "serde",
    "serde_bytes",
    "serde_json",
    "sha1",
    "thiserror",
    "uuid",
];

/// Rooms of a crate's `src` and which of their neighbours may be named there. A room that is not listed may name all.
const ROOMS: &[(&str, &str, &[&str])] = &[
    ("orchestrator/src", "journal", &[]),
    ("orchestrator/src", "store", &[]),
    ("orchestrator/src", "registry", &[]),
    ("orchestrator/src", "envelope", &[]),
    ("orchestrator/src", "intake", &["engine", "envelope", "registry"]),
    ("orchestrator/src", "meters", &[]),
    ("orchestrator/src", "destinations", &[]),
    ("orchestrator/src", "http", &["destinations", "engine", "meters"]),
    ("orchestrator/src", "relay", &["destinations", "engine", "envelope", "meters"]),
    ("orchestrator/src", "telemetry", &["engine", "envelope"]),
    // Of the engine only the clock, of the journal only the level of durability.
    ("orchestrator/src", "participant", &["engine", "envelope", "journal", "store", "telemetry"]),
    // Of the engine only the clock.
    ("orchestrator/src", "publisher", &["engine"]),
    // Judges from outside, by what is on the wire; of the engine only the clock.
    ("orchestrator/src", "conformance", &["engine", "envelope"]),
    (
        "orchestrator/src",
        "engine",
        &[
            "destinations",
            "envelope",
            "intake",
            "journal",
            "meters",
            "registry",
            "relay",
            "store",
            "telemetry",
        ],
    ),
    ("orchestrator/model/src", "definition", &["message", "retry"]),
    ("orchestrator/model/src", "retry", &["time"]),
    ("orchestrator/model/src", "time", &[]),
    (
        "orchestrator/model/src",
        "transition",
        &["decision", "definition", "history", "instance", "message", "retry", "time"],
    ),
    ("connectors/src", "health", &[]),
    ("connectors/src", "memory", &["health", "message", "receipts"]),
    ("connectors/src", "secret", &[]),
    ("connectors/src", "tls", &[]),
    ("connectors/src", "kafka", &["health", "message", "receipts", "retry", "secret", "tls"]),
    ("connectors/src", "rabbitmq", &["health", "message", "receipts", "retry", "secret", "tls"]),
    ("connectors/src", "faulty", &["health", "message", "random", "receipts"]),
    ("connectors/src", "random", &[]),
    ("connectors/src", "retry", &["random"]),
    // Of kafka only the rules for positions, which are to be the same.
    ("connectors/src", "simulated", &["health", "kafka", "message", "random", "receipts"]),
    ("connectors/src", "conformance", &["message"]),
];

/// The only file of the product that asks for the time of day.
const CLOCK: &str = "orchestrator/src/engine/clock.rs";

/// Programs around the product, which may ask for it too.
const AROUND: &[&str] = &["integration-tests/", "orchestrator/examples/"];

/// A file of the repository.
struct File {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_locked_versions(&self) -> bool {
        self.path.ends_with("Cargo.lock")
    }

    fn is_this_test(&self) -> bool {
        self.path.ends_with("integration-tests/tests/tidy.rs")
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("this crate lies below the root").to_owned()
}

/// Every text file of the repository, in order.
fn files() -> Vec<File> {
    let root = root();
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 100, "only {} files below {}", found.len(), root.display());
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository can be read") {
        let entry = entry.expect("an entry of a folder can be read");
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().expect("an entry has a kind");
        if NOT_OURS.iter().any(|not_ours| name == *not_ours) {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, found);
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(&path)
        {
            let path = path.strip_prefix(root).expect("found below the root");
            let path = path.components().map(|part| part.as_os_str().to_string_lossy());
            found.push(File { path: path.collect::<Vec<_>>().join("/"), text });
        }
    }
}

/// Fails with every breach, not only the first.
fn none(breaches: &[String]) {
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

/// The code of a file: without comments, and without what is compiled for tests only.
fn code(file: &File) -> Vec<(usize, &str)> {
    let mut code = Vec::new();
    let mut lines = file.lines().peekable();
    while let Some((number, line)) = lines.next() {
        let bare = line.trim_start();
        if bare.starts_with("#[cfg(test)]") {
            let indent = &line[..line.len() - bare.len()];
            skip_item(indent, &mut lines);
        } else if !bare.starts_with("//") {
            code.push((number, bare.split(" // ").next().unwrap_or(bare)));
        }
    }
    code
}

/// Skips one item. The layout is rustfmt's: an item ends where its indentation is met again.
fn skip_item<'a>(indent: &str, lines: &mut impl Iterator<Item = (usize, &'a str)>) {
    for (_, line) in lines {
        let Some(bare) = line.strip_prefix(indent) else { continue };
        let ends_here = bare.ends_with(';') || bare.ends_with('}') || bare.ends_with("},");
        if !bare.starts_with([' ', '#', '/']) && ends_here {
            return;
        }
    }
}

/// Files that only tests are made of: in `tests` and `benches`, or modules declared for tests only.
fn test_files(files: &[File]) -> BTreeSet<&str> {
    let mut tests: BTreeSet<&str> = BTreeSet::new();
    let mut modules: Vec<String> = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        if file.path.split('/').any(|part| part == "tests" || part == "benches") {
            tests.insert(&file.path);
        }
        let folder = match file.path.strip_suffix("/mod.rs").or(file.path.strip_suffix("/lib.rs")) {
            Some(folder) => folder,
            None => file.path.trim_end_matches(".rs"),
        };
        let mut for_tests = false;
        for (_, line) in file.lines() {
            let declares = line.strip_prefix("pub(crate) ").unwrap_or(line).strip_prefix("mod ");
            if let Some(name) = declares.and_then(|rest| rest.strip_suffix(';'))
                && for_tests
            {
                modules.push(format!("{folder}/{name}.rs"));
                modules.push(format!("{folder}/{name}/"));
            }
            for_tests = line.starts_with("#[cfg(test)]");
        }
    }
    let below = |path: &str| modules.iter().any(|module| path.starts_with(module.as_str()));
    tests.extend(files.iter().map(|file| file.path.as_str()).filter(|path| below(path)));
    tests
}

/// Names of the packages that a manifest asks for, tests and builds included.
fn needs(manifest: &str) -> Vec<String> {
    let mut needs = Vec::new();
    let mut within = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_matches(['[', ']']);
            let table = section.split_once("dependencies.");
            within = section.ends_with("dependencies");
            needs.extend(table.map(|(_, name)| name.trim_matches('"').to_owned()));
        } else if within && let Some((name, what)) = line.split_once('=') {
            let name = name.split('.').next().unwrap_or(name).trim().trim_matches('"');
            let renamed =
                what.split_once("package = \"").and_then(|(_, rest)| rest.split_once('"'));
            needs.push(renamed.map_or(name, |(package, _)| package).to_owned());
        }
    }
    needs.retain(|name| !name.starts_with('#'));
    needs
}

fn manifest(files: &[File], folder: &str) -> String {
    let path = format!("{folder}/Cargo.toml");
    let file = files.iter().find(|file| file.path == path);
    file.unwrap_or_else(|| panic!("{path} is missing")).text.clone()
}

#[test]
fn every_crate_knows_only_the_crates_below_it() {
    let files = files();
    let mut breaches = Vec::new();
    for (name, folder, may_know) in CRATES {
        for need in needs(&manifest(&files, folder)) {
            let ours = CRATES.iter().any(|(other, _, _)| *other == need);
            if ours && need != *name && !may_know.contains(&need.as_str()) {
                breaches.push(format!("{folder}/Cargo.toml: {name} must not know {need}"));
            }
        }
    }
    none(&breaches);
}

#[test]
fn every_crate_of_the_workspace_has_its_place_in_the_arrows() {
    let files = files();
    let manifests = files.iter().filter_map(|file| file.path.strip_suffix("/Cargo.toml"));
    let known: Vec<&str> = CRATES.iter().map(|(_, folder, _)| *folder).collect();
    let strangers = manifests.filter(|folder| !known.contains(folder));
    none(
        &strangers
            .map(|folder| format!("{folder}: not in CRATES of this test"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn the_model_builds_on_nothing_that_could_ask_the_world() {
    let files = files();
    let strange = needs(&manifest(&files, "orchestrator/model"))
        .into_iter()
        .filter(|need| !MODEL_NEEDS.contains(&need.as_str()))
        // What its tests draw and compile does not get into it.
        .filter(|need| need != "proptest" && need != "trybuild")
        .map(|need| format!("orchestrator/model/Cargo.toml: {need}"));
    none(&strange.collect::<Vec<_>>());
    let workspace = files.iter().find(|file| file.path == "Cargo.toml").expect("the root manifest");
    let uuid =
        workspace.text.lines().find(|line| line.starts_with("uuid ")).expect("uuid is shared");
    for random in ["v4", "v7", "fast-rng", "rng"] {
        assert!(!uuid.contains(&format!("\"{random}")), "uuid with `{random}` draws ids: {uuid}");
    }
}

#[test]
fn a_room_names_only_the_rooms_it_may_know() {
    let files = files();
    let tests = test_files(&files);
    let mut breaches = Vec::new();
    for (src, room, may_name) in ROOMS {
        let neighbours = rooms(&files, src);
        let within = files.iter().filter(|file| {
            let rest = file.path.strip_prefix(&format!("{src}/{room}"));
            file.is_rust() && rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
        for file in within.filter(|file| !tests.contains(file.path.as_str())) {
            for name in named(file) {
                if name != *room && neighbours.contains(&name) && !may_name.contains(&name.as_str())
                {
                    breaches.push(format!("{}: {room} must not name {name}", file.path));
                }
            }
        }
    }
    none(&breaches);
}

/// The rooms of a crate: the modules directly below its `src`.
fn rooms(files: &[File], src: &str) -> BTreeSet<String> {
    let below = files.iter().filter_map(|file| file.path.strip_prefix(&format!("{src}/")));
    let first = below.map(|rest| rest.split('/').next().unwrap_or(rest).trim_end_matches(".rs"));
    // What is planted may be planted anywhere: it is no room.
    first.filter(|room| !["lib", "main", "planted"].contains(room)).map(str::to_owned).collect()
}

/// What a file takes from its crate's root: each `crate::name`, and each `name` of `crate::{name, ..}`.
fn named(file: &File) -> BTreeSet<String> {
    let text: Vec<&str> = code(file).into_iter().map(|(_, line)| line).collect();
    let text = text.join("\n");
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let (mut depth, mut expects) = (1, true);
        for (place, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expects = true,
                letter if depth == 1 && expects && !letter.is_whitespace() => {
                    names.insert(word(&group[place..]));
                    expects = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

#[test]
fn only_the_clock_asks_for_the_time_of_day() {
    let files = files();
    let tests = test_files(&files);
    let asks = ["SystemTime::now", "UNIX_EPOCH.elapsed", "Utc::now", "Local::now"];
    let product = files.iter().filter(|file| {
        file.is_rust()
            && file.path != CLOCK
            && !AROUND.iter().any(|folder| file.path.starts_with(folder))
            && !tests.contains(file.path.as_str())
    });
    none(&breaches_in(product, &asks));
}

#[test]
fn what_only_decides_asks_no_clock_at_all() {
    let files = files();
    let tests = test_files(&files);
    let asks = ["Instant::now", "SystemTime", "thread::sleep", "std::env::", "std::fs::", "tokio"];
    let model = files.iter().filter(|file| {
        file.is_rust()
            && file.path.starts_with("orchestrator/model/src/")
            && !tests.contains(file.path.as_str())
    });
    none(&breaches_in(model, &asks));
}

#[test]
fn nothing_unwraps_outside_tests() {
    let files = files();
    let tests = test_files(&files);
    let product = files.iter().filter(|file| file.is_rust() && !tests.contains(file.path.as_str()));
    none(&breaches_in(product, &[".unwrap()", ".unwrap_err()", ".unwrap_unchecked()"]));
}

fn breaches_in<'a>(files: impl Iterator<Item = &'a File>, wrong: &[&str]) -> Vec<String> {
    let breaches = files.flat_map(|file| {
        code(file).into_iter().filter_map(|(number, line)| {
            let wrong = wrong.iter().find(|wrong| line.contains(*wrong))?;
            Some(format!("{}:{number}: {wrong}", file.path))
        })
    });
    breaches.collect()
}

#[test]
fn no_marker_of_unfinished_work_is_left() {
    let markers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("HA", "CK"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
    ];
    let mut breaches = Vec::new();
    for file in files().iter().filter(|file| !file.is_locked_versions()) {
        // A hidden line of an example stands for what the reader has already.
        let is_shown = |line: &str| !line.starts_with("//! # ") && !line.contains("/// # ");
        for (number, line) in file.lines().filter(|(_, line)| is_shown(line)) {
            if let Some(marker) = markers.iter().find(|marker| has_word(line, marker)) {
                breaches.push(format!("{}:{number}: {marker}", file.path));
            }
        }
    }
    none(&breaches);
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let is_part =
            |letter: Option<char>| letter.is_some_and(|l| l.is_alphanumeric() || l == '_');
        let after = line[at + word.len()..].chars().next();
        !is_part(line[..at].chars().next_back()) && (word.ends_with('(') || !is_part(after))
    })
}

#[test]
fn every_file_opens_with_its_story() {
    let files = files();
    let silent = files
        .iter()
        .filter(|file| file.is_rust() && !file.text.starts_with("//! "))
        .map(|file| format!("{}: does not open with `//! `", file.path));
    none(&silent.collect::<Vec<_>>());
}

#[test]
fn no_file_is_longer_than_its_bound() {
    let files = files();
    let long = files.iter().filter(|file| file.is_rust()).filter_map(|file| {
        let lines = file.text.lines().count();
        (lines > FILE_LINES_MAX)
            .then(|| format!("{}: {lines} lines, the bound is {FILE_LINES_MAX}", file.path))
    });
    none(&long.collect::<Vec<_>>());
}

#[test]
fn no_file_names_a_machine_or_the_host_of_a_registry() {
    // Spelled in parts, so that this file does not break its own rule.
    let folders = ["home/", "root/", "Users/", "work/", "mnt/"];
    let hosts = [
        concat!("index.", "crates.io"),
        concat!("static.", "crates.io"),
        concat!("repo.maven.", "apache.org"),
        concat!("repo1.", "maven.org"),
        concat!("pypi", ".org"),
        concat!("registry.", "npmjs"),
        concat!("arti", "factory"),
    ];
    let mut breaches = Vec::new();
    for file in files().iter().filter(|file| !file.is_locked_versions() && !file.is_this_test()) {
        for (number, line) in file.lines() {
            let folder = folders.iter().find(|folder| has_absolute(line, folder));
            let host = hosts.iter().find(|host| line.contains(*host));
            if let Some(found) = folder.or(host) {
                breaches.push(format!("{}:{number}: {found}", file.path));
            }
        }
    }
    none(&breaches);
}

/// Whether a path from the root of a machine begins in this line.
fn has_absolute(line: &str, folder: &str) -> bool {
    line.match_indices(&format!("/{folder}")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|letter| letter.is_whitespace() || "\"'`(=:,".contains(letter))
    })
}

#[test]
fn all_locked_versions_come_from_one_source() {
    let files = files();
    let lock = files.iter().find(|file| file.path == "Cargo.lock").expect("versions are locked");
    let sources: BTreeSet<&str> =
        lock.text.lines().filter(|line| line.starts_with("source = ")).collect();
    let sources: Vec<&str> = sources.into_iter().collect();
    assert_eq!(sources.len(), 1, "packages of several sources: {sources:?}");
    assert!(sources[0].contains("registry+"), "not a registry: {}", sources[0]);
}

#[test]
fn the_documents_link_to_files_that_exist() {
    let files = files();
    let mut breaches = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = Path::new(&file.path).parent().expect("a file lies in a folder");
        let mut is_code = false;
        for (number, line) in file.lines() {
            is_code ^= line.starts_with("```");
            for (_, rest) in line.match_indices("](").map(|(at, _)| line.split_at(at + 2)) {
                let Some((link, _)) = rest.split_once(')') else { continue };
                let path = link.split('#').next().unwrap_or(link);
                let elsewhere = is_code || path.is_empty() || path.contains("://");
                if !elsewhere && !root().join(folder).join(path).exists() {
                    breaches.push(format!("{}:{number}: no file {path}", file.path));
                }
            }
        }
    }
    none(&breaches);
}

#[test]
fn every_bound_and_every_test_that_the_architecture_names_exists() {
    let files = files();
    let page = files.iter().find(|file| file.path == "ARCHITECTURE.md").expect("it is there");
    let (mut named, mut breaches) = (0, Vec::new());
    for (number, line) in page.lines() {
        // | `BOUND` | value | `file` | .. |    or    | fault | what happens | `file` `test` |
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [first, _, third, ..] = cells[..] else { continue };
        let (path, what) = match third.trim_matches('`').split_once("` `") {
            Some((path, test)) => (path, format!("fn {test}(")),
            None => (third.trim_matches('`'), format!("const {}:", first.trim_matches('`'))),
        };
        if !third.starts_with('`') || !path.ends_with(".rs") {
            continue;
        }
        named += 1;
        let file = files.iter().find(|file| file.path == path);
        if !file.is_some_and(|file| file.text.contains(&what)) {
            breaches.push(format!("ARCHITECTURE.md:{number}: no `{what}` in {path}"));
        }
    }
    assert!(named > 50, "only {named} rows are understood");
    none(&breaches);
}

#[test]
fn the_rules_of_this_test_see_what_they_forbid() {
    let text = "//! Story.\nuse crate::{engine::Clock, store};\nfn f() { x.unwrap(); } // crate::relay\n#[cfg(test)]\nmod tests {\n    fn g() { y.unwrap(); }\n}\nfn h() -> crate::intake::Job {}\n";
    let file = File { path: "a/src/b.rs".into(), text: text.into() };
    let expected: BTreeSet<String> = ["engine", "intake", "store"].map(String::from).into();
    assert_eq!(named(&file), expected);
    assert_eq!(breaches_in([&file].into_iter(), &[".unwrap()"]), ["a/src/b.rs:3: .unwrap()"]);
    assert!(
        has_absolute(&format!("cd /{}x", "work/"), "work/") && !has_absolute("net/work/x", "work/")
    );
    let marker = concat!("TO", "DO");
    assert!(has_word(&format!("// {marker}: x"), marker) && !has_word("MASTODON", marker));
    let asked = needs(
        "[dependencies]\na.workspace = true\nb = { package = \"c\" }\n[dev-dependencies.d]\npath = \"x\"\n",
    );
    assert_eq!(asked, ["a", "c", "d"]);
    let module = File { path: "a/src/mod.rs".into(), text: "#[cfg(test)]\nmod t;\n".into() };
    let hidden = File { path: "a/src/t.rs".into(), text: String::new() };
    assert!(test_files(&[module, hidden]).contains("a/src/t.rs"));
}
