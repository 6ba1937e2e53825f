//! What `docker-compose.yml` and the Dockerfile promise, so that no edit takes it back unseen.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_norway::Value;

#[test]
fn every_image_has_a_pinned_version() {
    for (name, service) in services() {
        let image = service["image"].as_str().unwrap_or_else(|| panic!("{name} names its image"));
        assert!(is_pinned(image), "{name}: {image} has no pinned version");
    }
    for line in dockerfile().lines().filter_map(|line| line.strip_prefix("FROM ")) {
        let image = line.split_whitespace().next().unwrap_or_default();
        assert!(is_pinned(image), "Dockerfile: {image} has no pinned version");
    }
}

#[test]
fn the_tests_start_the_version_of_kafka_that_the_file_runs() {
    let image = services()
        .into_iter()
        .find(|(name, _)| name == "kafka")
        .map(|(_, kafka)| kafka["image"].as_str().expect("kafka names its image").to_owned());
    assert_eq!(image, Some(format!("apache/kafka:{}", dirigent_brokers::KAFKA_VERSION)));
}

#[test]
fn every_service_has_a_health_check_with_bounds() {
    for (name, service) in services() {
        let check = &service["healthcheck"];
        let test = check["test"].as_sequence().unwrap_or_else(|| panic!("{name} has no check"));
        assert_eq!(test[0].as_str(), Some("CMD"), "{name}: the check needs no shell");
        for bound in ["interval", "timeout", "retries"] {
            assert!(!check[bound].is_null(), "{name}: the check has no {bound}");
        }
    }
}

#[test]
fn every_port_is_published_on_this_machine_only() {
    for (name, service) in services() {
        for port in service["ports"].as_sequence().into_iter().flatten() {
            let port = port.as_str().unwrap_or_else(|| panic!("{name}: {port:?} is no text"));
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is open to the network");
        }
    }
}

#[test]
fn every_service_waits_for_services_that_exist_to_be_healthy() {
    let services = services();
    let names: BTreeSet<&str> = services.iter().map(|(name, _)| name.as_str()).collect();
    for (name, service) in &services {
        let Some(needed) = service["depends_on"].as_mapping() else {
            assert!(service["depends_on"].is_null(), "{name}: depends_on names no condition");
            continue;
        };
        for (other, terms) in needed {
            let other = other.as_str().expect("a service is named by text");
            assert!(names.contains(other), "{name} waits for {other}, which is no service");
            assert_eq!(terms["condition"].as_str(), Some("service_healthy"), "{name}: {other}");
        }
    }
}

#[test]
fn every_named_volume_is_declared_and_sagas_and_services_have_one() {
    let file = file();
    let mut mounted = BTreeSet::new();
    for (name, service) in services() {
        for volume in service["volumes"].as_sequence().into_iter().flatten() {
            let text = volume.as_str().unwrap_or_else(|| panic!("{name}: {volume:?} is no text"));
            let source = text.split(':').next().unwrap_or_default();
            assert!(!source.starts_with(['.', '/']), "{name}: {text} is a folder of this machine");
            assert!(file["volumes"].get(source).is_some(), "{name}: {source} is not declared");
            mounted.insert((name.clone(), text.to_owned()));
        }
    }
    for (service, volume) in [("orchestrator", "sagas:/data"), ("participants", "services:/data")] {
        assert!(mounted.contains(&(service.to_owned(), volume.to_owned())), "{service}: {volume}");
    }
}

#[test]
fn whoever_keeps_something_is_told_to_keep_it_on_its_volume() {
    for (name, service) in services() {
        if !service["image"].as_str().is_some_and(|image| image.starts_with("dirigent-")) {
            continue;
        }
        let words = service["command"].as_sequence().expect("our services are told what to do");
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        assert!(words.windows(2).any(|pair| pair == ["--data", "/data"]), "{name}: {words:?}");
    }
}

#[test]
fn the_orchestrator_and_its_participants_know_both_brokers_and_where_traces_go() {
    let ours: Vec<(String, Value)> = services()
        .into_iter()
        .filter(|(_, service)| {
            service["image"].as_str().is_some_and(|image| image.starts_with("dirigent-"))
        })
        .collect();
    assert!(ours.len() >= 2, "the orchestrator and somebody to conduct");
    for (name, service) in ours {
        for variable in ["DIRIGENT_KAFKA", "DIRIGENT_RABBITMQ", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
            let value = service["environment"][variable].as_str();
            assert!(value.is_some_and(|value| !value.is_empty()), "{name} has no {variable}");
        }
    }
}

#[test]
fn the_image_runs_as_a_user_without_rights_and_is_built_from_the_lock_file() {
    let text = dockerfile();
    let user = text.lines().rfind(|line| line.starts_with("USER ")).expect("it names a user");
    assert!(!["USER root", "USER 0"].contains(&user.trim()), "{user}");
    assert!(text.contains("--locked"), "the build takes the versions of the lock file");
}

fn is_pinned(image: &str) -> bool {
    if image == "scratch" {
        return true;
    }
    // The registry's port has a colon, too; a tag comes after the last slash.
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_some_and(|(_, tag)| {
        tag != "latest"
            && !tag.is_empty()
            && (tag.contains(|c: char| c.is_ascii_digit()) || tag == "bookworm-slim")
    })
}

fn services() -> Vec<(String, Value)> {
    let file = file();
    let services = file["services"].as_mapping().expect("the file has services");
    let named = services.iter().map(|(name, service)| {
        (name.as_str().expect("a service is named by text").to_owned(), service.clone())
    });
    named.collect()
}

fn file() -> Value {
    let mut file: Value =
        serde_norway::from_str(&read("docker-compose.yml")).expect("docker-compose.yml is YAML");
    file.apply_merge().expect("what is merged is a mapping");
    file
}

fn dockerfile() -> String {
    read("orchestrator/Dockerfile")
}

fn read(name: &str) -> String {
    let root: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("we lie two deep").into();
    std::fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
