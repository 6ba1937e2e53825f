//! RabbitMQ started here: the installed server as a node of our own, beside any system service.
//!
//! Everything that the server would share with a system service is our own: configuration, data,
//! log, plugins, cookie, ports, and the port mapper (epmd) that Erlang nodes find each other by.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::broker::Kind;
use crate::error::{Unavailable, folder};
use crate::home::{Ports, Wishes};
use crate::process::Ran;
use crate::secured::{self, RABBITMQ_PLUGIN};
use crate::{place, process, report};

/// What a person can do when it cannot be started.
pub(crate) const INSTALL: &str = "rabbitmq-server (Debian, as root: apt-get install --no-install-recommends rabbitmq-server), or run docker";

/// How long installing Debian's package (80 MB with Erlang) may take.
const PACKAGE_MAX: Duration = Duration::from_secs(600);

/// How long a command of `rabbitmqctl` may take.
const CONTROL_MAX: Duration = Duration::from_secs(60);

/// How long connecting, and then each of its words, may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The longest first frame that is read. RabbitMQ's is about 500 bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;

pub(crate) fn address([clients, ..]: Ports) -> String {
    // The user that RabbitMQ creates for loopback; nothing secret is in it.
    format!("amqp://guest:guest@127.0.0.1:{clients}/%2f")
}

/// Writes the configuration.
pub(crate) fn lay_out(
    path: &Path,
    [.., asking]: Ports,
    Wishes { secured, .. }: Wishes<'_>,
) -> Result<(), Unavailable> {
    let files = secured::lay_out(path, secured)?;
    place::create(&path.join("home"))?;
    place::create(&path.join("log"))?;
    // Test machines are small and their disks are full: alarms are raised by tests, not by chance.
    let configuration = "loopback_users.guest = true\n\
                         disk_free_limit.absolute = 50MB\n\
                         vm_memory_high_watermark.absolute = 1GB\n\
                         log.console = true\n\
                         log.console.level = warning\n\
                         log.file = false\n";
    let security = secured.map(|secured| secured::rabbitmq(&files, secured, asking));
    let plugin = if secured.is_some() { RABBITMQ_PLUGIN } else { "" };
    let configuration = format!("{configuration}{}", security.unwrap_or_default());
    place::write(&path.join("rabbitmq.conf"), &configuration)?;
    place::write(&path.join("enabled_plugins"), &format!("[{plugin}].\n"))?;
    place::write(&path.join("rabbitmq-env.conf"), "")?;
    // By a name in our folder, so that the process can be told from a system's own.
    let mapper = path.join("epmd");
    place::remove(&mapper)?;
    std::os::unix::fs::symlink(epmd()?, &mapper).map_err(folder("linking", &mapper))
}

/// Starts the port mapper and the node on what [`lay_out`] prepared.
pub(crate) fn launch(path: &Path, ports: Ports) -> Result<Vec<u32>, Unavailable> {
    let [_, _, mapper_port, _] = ports;
    let mut mapper = Command::new(path.join("epmd"));
    mapper.args(["-port", &mapper_port.to_string(), "-address", "127.0.0.1"]);
    let mut node = Command::new(server()?);
    // A flag that Erlang passes over: script, launcher and node can be told by it from the first moment.
    node.arg("-dirigent_folder").arg(path).current_dir(path);
    own_world(&mut node, path, ports);
    let log = path.join("broker.log");
    let failed = |error: std::io::Error| Unavailable::Failed {
        kind: Kind::RabbitMq,
        doing: "starting rabbitmq-server",
        why: error.to_string(),
        log: Some(log.clone()),
    };
    let mapper = process::launch(&mapper, &log).map_err(failed)?;
    match process::launch(&node, &log) {
        Ok(node) => Ok(vec![node, mapper]),
        Err(error) => {
            process::signal(mapper, "KILL", path);
            Err(failed(error))
        }
    }
}

/// Runs `rabbitmqctl` against our node. Answers what it printed.
pub(crate) fn control(
    path: &Path,
    ports: Ports,
    arguments: &[&str],
) -> Result<String, Unavailable> {
    let program = server()?.with_file_name("rabbitmqctl");
    // Several processes may ask at once, and each wants its own answer.
    let output = path.join(format!("rabbitmqctl-{}.log", std::process::id()));
    place::remove(&output)?;
    let mut command = Command::new(program);
    command.args(["-q"]).args(arguments).current_dir(path);
    own_world(&mut command, path, ports);
    match process::run(&mut command, &output, CONTROL_MAX) {
        Ran::Well => {
            let said = fs::read_to_string(&output).map_err(folder("reading", &output))?;
            place::remove(&output)?;
            Ok(said)
        }
        Ran::Badly(why) => Err(Unavailable::Failed {
            kind: Kind::RabbitMq,
            doing: "running rabbitmqctl",
            why,
            log: Some(output),
        }),
    }
}

/// The version of the broker that greets us at this address, or why nobody does.
pub(crate) fn answers(address: &str) -> Result<String, String> {
    let (host, is_tls) = host_of(address)?;
    let sockets = host.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
    let mut why = "the host has no address".to_owned();
    for socket in sockets {
        match TcpStream::connect_timeout(&socket, ANSWER_MAX) {
            // Behind TLS nothing is said in the clear: that somebody listens must do.
            Ok(_) if is_tls => return Ok("behind TLS".to_owned()),
            Ok(stream) => return greeting(stream),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// The address without user and password, for people and logs.
pub(crate) fn without_credentials(address: &str) -> String {
    match address.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://{host}"),
            None => address.to_owned(),
        },
        None => "(no amqp address)".to_owned(),
    }
}

fn host_of(address: &str) -> Result<(String, bool), String> {
    let (is_tls, port) = match address.split_once("://") {
        Some(("amqp", _)) => (false, 5672),
        Some(("amqps", _)) => (true, 5671),
        _ => return Err("it does not begin with amqp:// or amqps://".to_owned()),
    };
    let clean = without_credentials(address);
    let rest = clean.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    // The colons of an IPv6 address stand in brackets.
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let host = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
    Ok((host, is_tls))
}

/// Says the protocol header and reads the server's first frame, which tells its version.
fn greeting(mut stream: TcpStream) -> Result<String, String> {
    let mut exchange = || -> std::io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut head = [0; 7];
        stream.read_exact(&mut head)?;
        let [kind, _, _, size @ ..] = head;
        let size = u32::from_be_bytes(size) as usize;
        if kind != 1 || size > FRAME_BYTES_MAX {
            return Err(std::io::Error::other("it does not speak AMQP 0-9-1"));
        }
        let mut frame = vec![0; size];
        stream.read_exact(&mut frame)?;
        Ok(frame)
    };
    let frame = exchange().map_err(|error| error.to_string())?;
    Ok(version_in(&frame).unwrap_or_else(|| "of unknown version".to_owned()))
}

/// Finds the field `version`, a long string, in the table of the server's properties.
fn version_in(frame: &[u8]) -> Option<String> {
    const FIELD: &[u8] = b"\x07versionS";
    let at = frame.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
    let length = u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?) as usize;
    let bytes = frame.get(at + 4..)?.get(..length)?;
    String::from_utf8(bytes.to_vec()).ok()
}

/// The settings that make it a node of ours, for the server and for its tools.
fn own_world(command: &mut Command, path: &Path, [clients, nodes, mapper, _]: Ports) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("RABBITMQ_") || text.starts_with("ERL_") {
            command.env_remove(&name);
        }
    }
    command
        .env("HOME", path.join("home"))
        .env("LANG", "C.UTF-8")
        .env("ERL_EPMD_PORT", mapper.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", format!("dirigent{clients}@localhost"))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", clients.to_string())
        .env("RABBITMQ_DIST_PORT", nodes.to_string())
        .env("RABBITMQ_BASE", path)
        .env("RABBITMQ_MNESIA_BASE", path.join("data"))
        .env("RABBITMQ_LOG_BASE", path.join("log"))
        .env("RABBITMQ_PID_FILE", path.join("data").join("node.pid"))
        .env("RABBITMQ_CONF_ENV_FILE", path.join("rabbitmq-env.conf"))
        .env("RABBITMQ_CONFIG_FILE", path.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", path.join("advanced.config"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", path.join("enabled_plugins"))
        .env("RABBITMQ_GENERATED_CONFIG_DIR", path.join("data").join("config"))
        // Makes the script become the node instead of watching over it, so that a kill hits the node.
        .env("RABBITMQ_ALLOW_INPUT", "1")
        // On two cores, waiting schedulers that spin take the time of those that work.
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-noinput -kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
        );
}

/// The server's own script. Debian's wrapper in the path would change to the service's user.
fn server() -> Result<PathBuf, Unavailable> {
    let found = || {
        let debian = PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server");
        if debian.is_file() { Some(debian) } else { process::find("rabbitmq-server") }
    };
    if let Some(server) = found() {
        return Ok(server);
    }
    let missing = || Unavailable::Missing {
        kind: Kind::RabbitMq,
        missing: "rabbitmq-server".to_owned(),
        install: INSTALL,
    };
    let apt = process::find("apt-get").filter(|_| is_root()).ok_or_else(missing)?;
    let root = place::root()?;
    let _lock = place::lock(&root.join("apt.lock"))?;
    if let Some(server) = found() {
        return Ok(server);
    }
    report::aloud("installing Debian's package rabbitmq-server\n");
    let log = root.join("apt.log");
    for arguments in [
        &["update", "-q"][..],
        &["install", "-y", "-q", "--no-install-recommends", "rabbitmq-server"][..],
    ] {
        let mut command = Command::new(&apt);
        // The run level keeps the package from starting the system's service where it asks for it.
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        match process::run(&mut command, &log, PACKAGE_MAX) {
            Ran::Well => {}
            Ran::Badly(why) => {
                return Err(Unavailable::Failed {
                    kind: Kind::RabbitMq,
                    doing: "installing rabbitmq-server",
                    why,
                    log: Some(log),
                });
            }
        }
    }
    found().ok_or_else(missing)
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Erlang's port mapper, which comes with every Erlang.
fn epmd() -> Result<PathBuf, Unavailable> {
    server()?;
    process::find("epmd").ok_or(Unavailable::Missing {
        kind: Kind::RabbitMq,
        missing: "epmd".to_owned(),
        install: INSTALL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        assert_eq!(without_credentials("amqp://me:s@cret@host:1/v"), "amqp://host:1/v");
        assert_eq!(without_credentials("amqp://host"), "amqp://host");
        assert_eq!(without_credentials("s3cret"), "(no amqp address)");
    }

    #[test]
    fn an_address_without_a_port_means_the_usual_one() {
        assert_eq!(host_of("amqp://u:p@host/%2f"), Ok(("host:5672".to_owned(), false)));
        assert_eq!(host_of("amqps://host"), Ok(("host:5671".to_owned(), true)));
        assert_eq!(host_of("amqp://[::1]"), Ok(("[::1]:5672".to_owned(), false)));
        assert_eq!(host_of("amqp://[::1]:7"), Ok(("[::1]:7".to_owned(), false)));
        assert!(host_of("http://host").is_err());
    }

    #[test]
    fn the_version_is_read_from_the_greeting_and_a_short_greeting_is_no_trouble() {
        assert_eq!(version_in(b"..\x07versionS\0\0\0\x063.10.8\x01"), Some("3.10.8".to_owned()));
        assert_eq!(version_in(b"\x07versionS\0\0\0\xff3.1"), None);
        assert_eq!(version_in(b"\x07versionS\0"), None);
        assert_eq!(version_in(b""), None);
    }
}
