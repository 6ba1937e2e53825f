//! Kafka started here: the jars come through Maven, the server is one KRaft node on loopback.

use std::ffi::OsString;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::broker::Kind;
use crate::error::{Unavailable, folder};
use crate::home::{Ports, Wishes};
use crate::process::Ran;
use crate::secured::{self, Secured};
use crate::{place, process, report};

/// The version of Kafka that is started; `docker-compose.yml` pins the same one.
pub const VERSION: &str = "4.3.0";

/// What a person can do when it cannot be started.
pub(crate) const INSTALL: &str = "java 17 or newer and maven (Debian: apt-get install openjdk-17-jre-headless maven), or run docker";

/// The oldest Java that runs a broker of [`VERSION`].
const JAVA_MIN: u32 = 17;

/// How long the download of the jars (44 MB) may take. A slow line at 100 kB/s makes it.
const DOWNLOAD_MAX: Duration = Duration::from_secs(600);

/// How long formatting the storage and asking for Java's version may take each.
const TOOL_MAX: Duration = Duration::from_secs(60);

/// How long one connection attempt may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How long the broker may take to tell its metadata.
const METADATA_MAX: Duration = Duration::from_secs(5);

/// Any 16 bytes, in base64: the storage wants to know whose it is.
const CLUSTER_ID: &str = "RGlyaWdlbnRUZXN0Q2x1cw";

pub(crate) fn address([clients, ..]: Ports) -> String {
    format!("127.0.0.1:{clients}")
}

/// Where the proxy carries to.
pub(crate) fn behind([_, _, behind, _]: Ports) -> String {
    format!("127.0.0.1:{behind}")
}

/// Writes the configuration and formats the storage.
pub(crate) fn lay_out(path: &Path, ports: Ports, wishes: Wishes<'_>) -> Result<(), Unavailable> {
    let properties = properties_of(path);
    place::write(&properties, &configuration(path, ports, wishes)?)?;
    let log = path.join("broker.log");
    let mut format = java(&["-Xmx128m", "-XX:TieredStopAtLevel=1"])?;
    format.arg("kafka.tools.StorageTool").args([
        "format",
        "--standalone",
        "--cluster-id",
        CLUSTER_ID,
    ]);
    format.arg("--config").arg(&properties);
    format.args(wishes.secured.map(secured::kafka_users).unwrap_or_default());
    match process::run(&mut format, &log, TOOL_MAX) {
        Ran::Well => Ok(()),
        Ran::Badly(why) => Err(Unavailable::Failed {
            kind: Kind::Kafka,
            doing: "formatting the storage",
            why,
            log: Some(log),
        }),
    }
}

/// Starts the server on what [`lay_out`] prepared.
pub(crate) fn launch(path: &Path) -> Result<Vec<u32>, Unavailable> {
    // 512 MB serve every test with room; one collector thread leaves the cores to the tests.
    let mut server =
        java(&["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-Djava.awt.headless=true"])?;
    server.arg("kafka.Kafka").arg(properties_of(path)).current_dir(path);
    let log = path.join("broker.log");
    let pid = process::launch(&server, &log).map_err(|error| Unavailable::Failed {
        kind: Kind::Kafka,
        doing: "starting java",
        why: error.to_string(),
        log: Some(log),
    })?;
    Ok(vec![pid])
}

/// Whether a broker at this address tells its metadata.
pub(crate) fn answers(addresses: &str) -> Result<(), String> {
    // First a plain connection: a client of librdkafka is dear while nobody listens yet.
    addresses
        .split(',')
        .map(|address| connect(address.trim()))
        .find(Result::is_ok)
        .unwrap_or_else(|| Err("nobody listens".to_owned()))?;
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", addresses)
        .create()
        .map_err(|error| error.to_string())?;
    match client.fetch_metadata(None, METADATA_MAX) {
        Ok(metadata) if metadata.brokers().is_empty() => Err("it names no broker".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether anybody listens there.
pub(crate) fn connect(address: &str) -> Result<(), String> {
    let mut why = format!("{address} is no host:port");
    for socket in address.to_socket_addrs().map_err(|error| format!("{why}: {error}"))? {
        match TcpStream::connect_timeout(&socket, CONNECT_MAX) {
            Ok(_) => return Ok(()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

fn properties_of(path: &Path) -> PathBuf {
    path.join("server.properties")
}

/// One node that is broker and controller; everything that is replicated elsewhere is kept once.
fn configuration(
    path: &Path,
    [clients, controller, behind, asking]: Ports,
    Wishes { proxy, secured, properties }: Wishes<'_>,
) -> Result<String, Unavailable> {
    let files = secured::lay_out(path, secured)?;
    // A listener of its own: the broker itself and those who look after it don't go through the proxy.
    let (listens, tells) = proxy.map_or_else(Default::default, |proxy| {
        (format!(",PROXIED://127.0.0.1:{behind}"), format!(",PROXIED://127.0.0.1:{proxy}"))
    });
    let (asks, security) = secured.map_or_else(Default::default, |secured: &Secured| {
        (format!(",SECURED://127.0.0.1:{asking}"), secured::kafka(&files, secured))
    });
    let data = path.join("data").display().to_string();
    let more: String = properties.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    Ok(format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
         listeners=CLIENTS://127.0.0.1:{clients},CONTROLLER://127.0.0.1:{controller}{listens}{asks}\n\
         advertised.listeners=CLIENTS://127.0.0.1:{clients},CONTROLLER://127.0.0.1:{controller}{tells}{asks}\n\
         listener.security.protocol.map=CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT,SECURED:SASL_SSL\n\
         inter.broker.listener.name=CLIENTS\n\
         controller.listener.names=CONTROLLER\n\
         log.dirs={data}\n\
         auto.create.topics.enable=false\n\
         default.replication.factor=1\n\
         min.insync.replicas=1\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=4\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         share.coordinator.state.topic.num.partitions=4\n\
         group.initial.rebalance.delay.ms=0\n\
         group.min.session.timeout.ms=1000\n\
         num.network.threads=2\n\
         num.io.threads=4\n\
         {more}\
         {security}"
    ))
}

/// Java with the jars on its path.
fn java(options: &[&str]) -> Result<Command, Unavailable> {
    let java = java_program()?;
    let mut jars = OsString::from(libraries()?);
    jars.push("/*");
    let mut command = Command::new(java);
    // What a shell sets for other Java programs would change ours, and print a line about it.
    for name in ["JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"] {
        command.env_remove(name);
    }
    command.args(options).arg("-cp").arg(jars);
    command.args([
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
    ]);
    Ok(command)
}

pub(crate) fn java_program() -> Result<PathBuf, Unavailable> {
    let missing =
        |missing: String| Unavailable::Missing { kind: Kind::Kafka, missing, install: INSTALL };
    let at_home = std::env::var_os("JAVA_HOME")
        .map(|home| PathBuf::from(home).join("bin/java"))
        .filter(|java| java.is_file());
    let java =
        at_home.or_else(|| process::find("java")).ok_or_else(|| missing("java".to_owned()))?;
    let answer = Command::new(&java)
        .arg("-version")
        .env_remove("JAVA_TOOL_OPTIONS")
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(folder("asking for the version of", &java))?;
    let text = String::from_utf8_lossy(&answer.stderr).into_owned();
    match java_version(&text) {
        Some(version) if version >= JAVA_MIN => Ok(java),
        Some(version) => Err(missing(format!("java {JAVA_MIN} or newer, not {version}"))),
        None => Err(missing(format!("java {JAVA_MIN} or newer ({} does not run)", java.display()))),
    }
}

/// `openjdk version "17.0.15" …` is 17; `java version "1.8.0_292"` is 1.
fn java_version(text: &str) -> Option<u32> {
    let quoted = text.split('"').nth(1)?;
    quoted.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The folder of the jars, downloaded once. It only gets its name when it is complete.
fn libraries() -> Result<PathBuf, Unavailable> {
    let root = place::root()?;
    let complete = root.join(format!("kafka-libs-{VERSION}"));
    if complete.is_dir() {
        return Ok(complete);
    }
    let _lock = place::lock(&root.join("kafka-libs.lock"))?;
    if complete.is_dir() {
        return Ok(complete);
    }
    let maven = process::find("mvn").ok_or(Unavailable::Missing {
        kind: Kind::Kafka,
        missing: "mvn, to download it".to_owned(),
        install: INSTALL,
    })?;
    let draft = root.join("kafka-libs-draft");
    place::remove(&draft)?;
    place::create(&draft)?;
    let pom = root.join("kafka-libs-pom.xml");
    place::write(&pom, &project())?;
    let mut output = OsString::from("-DoutputDirectory=");
    output.push(&draft);
    let mut command = Command::new(maven);
    command.args(["-B", "-q", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
    command.arg("-DincludeScope=runtime").arg(output);
    report::aloud(&format!("downloading Kafka {VERSION} with maven\n"));
    let log = root.join("kafka-libs.log");
    match process::run(&mut command, &log, DOWNLOAD_MAX) {
        Ran::Well => {}
        Ran::Badly(why) => {
            return Err(Unavailable::Failed {
                kind: Kind::Kafka,
                doing: "downloading the jars",
                why,
                log: Some(log),
            });
        }
    }
    std::fs::rename(&draft, &complete).map_err(folder("putting in place", &complete))?;
    Ok(complete)
}

/// A project of Maven's that depends on the server and on something to write its log with.
fn project() -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>"
        )
    };
    format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>dirigent</groupId>\
         <artifactId>kafka-libs</artifactId><version>1</version><packaging>pom</packaging>\
         <dependencies>{}{}</dependencies></project>",
        dependency("org.apache.kafka", "kafka_2.13", VERSION),
        dependency("org.slf4j", "slf4j-simple", "1.7.36"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_java_is_read_in_the_old_and_the_new_way() {
        assert_eq!(java_version("openjdk version \"17.0.15\" 2025-04-15"), Some(17));
        assert_eq!(java_version("openjdk version \"21\" 2023-09-19"), Some(21));
        assert_eq!(java_version("java version \"1.8.0_292\""), Some(1));
        assert_eq!(java_version("no such thing"), None);
    }

    #[test]
    fn a_client_that_nobody_answers_is_told_so() {
        let [port, ..] = process::free_ports::<1>().expect("loopback has free ports");
        assert!(answers(&format!("127.0.0.1:{port}")).is_err());
        assert!(answers("nothing of the kind").is_err());
    }
}
