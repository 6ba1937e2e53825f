//! A schema registry started here: Apicurio through Maven, in memory, on loopback. It speaks Confluent's API.
//!
//! No broker, but found, started, shared and ended like one. Its schemas are gone when it is started again.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::broker::Kind;
use crate::error::{Unavailable, folder};
use crate::home::Ports;
use crate::process::{self, Ran};
use crate::{kafka, place, report};

/// The version that is started: the last one that runs on Java 17.
pub(crate) const VERSION: &str = "3.0.9";

/// What a person can do when it cannot be started.
pub(crate) const INSTALL: &str =
    "java 17 or newer and maven (Debian: apt-get install openjdk-17-jre-headless maven)";

/// How long the download (109 MB) may take. A slow line at 200 kB/s makes it.
const DOWNLOAD_MAX: Duration = Duration::from_secs(600);

/// How long it may take to accept a connection, and to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Where it serves Confluent's API.
const API: &str = "/apis/ccompat/v7";

pub(crate) fn address([clients, ..]: Ports) -> String {
    format!("http://127.0.0.1:{clients}{API}")
}

/// Starts it with nothing in it.
pub(crate) fn launch(path: &Path, [clients, ..]: Ports) -> Result<Vec<u32>, Unavailable> {
    let archive = unpacked()?;
    let mut server = Command::new(kafka::java_program()?);
    for name in ["JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"] {
        server.env_remove(name);
    }
    // What a shell sets for other programs of its kind would change ours.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("QUARKUS_") || text.starts_with("APICURIO_") {
            server.env_remove(&name);
        }
    }
    server
        .args(["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        // By this the process can be told from others.
        .arg(format!("-Ddirigent.folder={}", path.display()))
        .arg("-Dquarkus.http.host=127.0.0.1")
        .arg(format!("-Dquarkus.http.port={clients}"))
        .arg("-jar")
        .arg(archive.join(format!("apicurio-registry-app-{VERSION}-runner.jar")))
        .current_dir(path);
    let log = path.join("broker.log");
    let pid = process::launch(&server, &log).map_err(|error| Unavailable::Failed {
        kind: Kind::SchemaRegistry,
        doing: "starting java",
        why: error.to_string(),
        log: Some(log),
    })?;
    Ok(vec![pid])
}

/// Whether a registry at this address lists its subjects. Behind TLS, that somebody listens must do.
pub(crate) fn answers(address: &str) -> Result<(), String> {
    let (is_tls, rest) = match address.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        _ => return Err("it does not begin with http:// or https://".to_owned()),
    };
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let default = if is_tls { 443 } else { 80 };
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let socket = if has_port { host.to_owned() } else { format!("{host}:{default}") };
    let mut why = format!("{host} has no address");
    for socket in socket.to_socket_addrs().map_err(|error| format!("{host}: {error}"))? {
        match TcpStream::connect_timeout(&socket, ANSWER_MAX) {
            Ok(_) if is_tls => return Ok(()),
            Ok(stream) => return lists(stream, host, path.trim_end_matches('/')),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

fn lists(mut stream: TcpStream, host: &str, path: &str) -> Result<(), String> {
    let mut exchange = || -> std::io::Result<String> {
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        write!(
            stream,
            "GET {path}/subjects HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(String::from_utf8_lossy(&head).into_owned())
    };
    match exchange().map_err(|error| error.to_string())? {
        // One that asks who we are is there, too.
        status if [" 200", " 401", " 403"].iter().any(|good| status.ends_with(good)) => Ok(()),
        status => Err(format!("it answers {status}")),
    }
}

/// The folder of the archive, downloaded once. It only gets its name when it is complete.
fn unpacked() -> Result<PathBuf, Unavailable> {
    let root = place::root()?;
    let complete = root.join(format!("apicurio-{VERSION}"));
    if complete.is_dir() {
        return Ok(complete);
    }
    let _lock = place::lock(&root.join("apicurio.lock"))?;
    if complete.is_dir() {
        return Ok(complete);
    }
    let maven = process::find("mvn").ok_or(Unavailable::Missing {
        kind: Kind::SchemaRegistry,
        missing: "mvn, to download it".to_owned(),
        install: INSTALL,
    })?;
    let draft = root.join("apicurio-draft");
    place::remove(&draft)?;
    place::create(&draft)?;
    let mut command = Command::new(maven);
    command
        .args(["-B", "-q", "dependency:unpack"])
        .arg(format!("-Dartifact=io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"));
    command.arg(format!("-DoutputDirectory={}", draft.display())).current_dir(&root);
    report::aloud(&format!("downloading Apicurio Registry {VERSION} with maven\n"));
    let log = root.join("apicurio.log");
    match process::run(&mut command, &log, DOWNLOAD_MAX) {
        Ran::Well => {}
        Ran::Badly(why) => {
            return Err(Unavailable::Failed {
                kind: Kind::SchemaRegistry,
                doing: "downloading it",
                why,
                log: Some(log),
            });
        }
    }
    std::fs::rename(&draft, &complete).map_err(folder("putting in place", &complete))?;
    Ok(complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_nobody_answers_for_is_told_so() {
        let [port, ..] = process::free_ports::<1>().expect("loopback has free ports");
        assert!(answers(&format!("http://127.0.0.1:{port}{API}")).is_err());
        assert!(answers("127.0.0.1:8080").unwrap_err().contains("http://"));
    }
}
