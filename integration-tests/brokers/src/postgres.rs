//! PostgreSQL started here: the installed server on fresh data of its own, on loopback, beside any system service.
//!
//! No broker, but found, started, shared and ended like one. It refuses to run as root: there it runs as another user, on data
//! below the system's folder for temporary files, since that user may not get into ours.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::broker::Kind;
use crate::error::{Unavailable, folder};
use crate::home::{Ports, Wishes};
use crate::place;
use crate::process::{self, Ran};
use crate::secured::Secured;

/// What a person can do when it cannot be started.
pub(crate) const INSTALL: &str =
    "postgresql (Debian, as root: apt-get install --no-install-recommends postgresql)";

/// How long making fresh data may take.
const INITDB_MAX: Duration = Duration::from_secs(120);

/// How long connecting, and then its answer, may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The longest refusal that is read (bytes).
const ANSWER_BYTES_MAX: u64 = 8 * 1024;

/// How a refusal says that it is about who asks.
const NOT_US: &[u8] = b"C28000\0";

/// The user and the database of the tests.
const USER: &str = "dirigent";

/// Who runs the server where we are root: Debian's user of the package, else nobody.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// The password of that user.
const PASSWORD: &str = "dirigent";

/// Lets in whoever comes by TLS, shows a certificate that an authority of ours has signed, and knows the password.
const SECURED_ONLY: &str = "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n";

pub(crate) fn address(ports: Ports, Wishes { secured, .. }: Wishes<'_>) -> String {
    let place = place_of(ports);
    let (user, password) =
        secured.map_or((USER, PASSWORD), |secured| (&secured.user, &secured.password));
    format!("postgres://{user}:{password}@{place}/postgres")
}

/// Where it listens; by TLS there as well, if it does so.
pub(crate) fn place_of([clients, ..]: Ports) -> String {
    format!("127.0.0.1:{clients}")
}

/// Makes fresh data.
pub(crate) fn lay_out(path: &Path, Wishes { secured, .. }: Wishes<'_>) -> Result<(), Unavailable> {
    clear(path)?;
    let data = data(path)?;
    place::create(&data)?;
    let password = data.with_extension("password");
    let (user, word) =
        secured.map_or((USER, PASSWORD), |secured| (&secured.user, &secured.password));
    fs::write(&password, format!("{word}\n")).map_err(folder("writing", &password))?;
    let mut initdb = as_user(&program("initdb")?, path)?;
    hand_over(path, &[&data, &password])?;
    // Whoever comes needs the password, so that tests can have a wrong one. Nothing here is to survive the machine.
    initdb
        .arg("--pgdata")
        .arg(&data)
        .arg("--pwfile")
        .arg(&password)
        .args(["--username", user, "--auth", "scram-sha-256", "--no-sync"])
        .args(["--encoding", "UTF8", "--locale", "C"]);
    made(path, &mut initdb)?;
    place::remove(&password)?;
    match secured {
        Some(secured) => ask_who_clients_are(path, &data, secured),
        None => Ok(()),
    }
}

/// Other certificates, from its next start on.
pub(crate) fn secure(path: &Path, secured: &Secured) -> Result<(), Unavailable> {
    let data = data(path)?;
    for (file, text) in papers(&data, secured) {
        fs::write(&file, text).map_err(folder("writing", &file))?;
    }
    Ok(())
}

/// The files of the server, with what stands in them.
fn papers<'a>(data: &Path, secured: &'a Secured) -> [(PathBuf, &'a str); 3] {
    let Secured { ca, certificate, key, .. } = secured;
    [("clients-ca.pem", ca), ("server.pem", certificate), ("server.key", key)]
        .map(|(name, text)| (data.join(name), text.as_str()))
}

fn ask_who_clients_are(path: &Path, data: &Path, secured: &Secured) -> Result<(), Unavailable> {
    secure(path, secured)?;
    let files = papers(data, secured).map(|(file, _)| file);
    for file in &files {
        // It takes no key that others could read.
        let own = fs::Permissions::from_mode(0o600);
        fs::set_permissions(file, own).map_err(folder("keeping to its owner", file))?;
    }
    hand_over(path, &files.each_ref().map(PathBuf::as_path))?;
    let settings = data.join("postgresql.conf");
    let mut text = fs::read_to_string(&settings).map_err(folder("reading", &settings))?;
    text.push_str(
        "\nssl = on\nssl_ca_file = 'clients-ca.pem'\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\n",
    );
    for (file, text) in [(settings, text.as_str()), (data.join("pg_hba.conf"), SECURED_ONLY)] {
        fs::write(&file, text).map_err(folder("writing", &file))?;
    }
    Ok(())
}

/// Gives files to whoever runs the server.
fn hand_over(path: &Path, files: &[&Path]) -> Result<(), Unavailable> {
    let Some(user) = other_user()? else { return Ok(()) };
    let mut command = Command::new("chown");
    command.arg(format!("{}:{}", user.id, user.group)).args(files);
    made(path, &mut command)
}

fn made(path: &Path, command: &mut Command) -> Result<(), Unavailable> {
    let log = path.join("broker.log");
    match process::run(command, &log, INITDB_MAX) {
        Ran::Well => Ok(()),
        Ran::Badly(why) => Err(Unavailable::Failed {
            kind: Kind::Postgres,
            doing: "making fresh data",
            why,
            log: Some(log),
        }),
    }
}

/// Starts the server on what [`lay_out`] made.
pub(crate) fn launch(path: &Path, [clients, ..]: Ports) -> Result<Vec<u32>, Unavailable> {
    let mut server = as_user(&program("postgres")?, path)?;
    let data = data(path)?;
    // Left by one that was killed. Its number may still be taken: by itself, where nobody has waited for it yet.
    place::remove(&data.join("postmaster.pid"))?;
    server.arg("-D").arg(&data).args(["-p", &clients.to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=60",
        "shared_buffers=32MB",
        // To the system at each commit, not to the disk: what a killed server has promised is there all the same.
        "fsync=off",
    ] {
        server.args(["-c", setting]);
    }
    // By this the process can be told from others.
    server.arg("-c").arg(format!("dirigent.folder={}", path.display())).current_dir("/");
    let log = path.join("broker.log");
    let pid = process::launch(&server, &log).map_err(|error| Unavailable::Failed {
        kind: Kind::Postgres,
        doing: "starting postgres",
        why: error.to_string(),
        log: Some(log),
    })?;
    Ok(vec![pid])
}

/// The processes of the server beside its first one: they work on its data, and name our folder nowhere else.
pub(crate) fn children(path: &Path) -> Vec<u32> {
    let Ok(data) =
        data(path).and_then(|data| data.canonicalize().map_err(folder("finding", &data)))
    else {
        return Vec::new();
    };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data))
        .collect()
}

/// Whether a PostgreSQL at this address speaks to us. Without a password, that it wants one is enough.
pub(crate) fn answers(address: &str) -> Result<String, String> {
    let rest = address
        .strip_prefix("postgres://")
        .or_else(|| address.strip_prefix("postgresql://"))
        .ok_or("it does not begin with postgres://")?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let socket = if has_port { host.to_owned() } else { format!("{host}:5432") };
    let mut why = format!("{host} has no address");
    for socket in socket.to_socket_addrs().map_err(|error| format!("{host}: {error}"))? {
        match TcpStream::connect_timeout(&socket, ANSWER_MAX) {
            Ok(stream) => return greeted(stream).map(|()| version().unwrap_or_default()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// Asks to be let in, as version 3 of the protocol wants it.
fn greeted(mut stream: TcpStream) -> Result<(), String> {
    let exchange = || -> std::io::Result<(u8, Vec<u8>)> {
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let mut words = 196_608_u32.to_be_bytes().to_vec();
        for word in ["user", USER, "database", "postgres", ""] {
            words.extend_from_slice(word.as_bytes());
            words.push(0);
        }
        let length = u32::try_from(words.len() + 4).unwrap_or(u32::MAX);
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&words)?;
        let mut first = [0; 1];
        stream.read_exact(&mut first)?;
        let mut rest = Vec::new();
        if first[0] == b'E' {
            stream.take(ANSWER_BYTES_MAX).read_to_end(&mut rest)?;
        }
        Ok((first[0], rest))
    };
    match exchange().map_err(|error| error.to_string())? {
        (b'R', _) => Ok(()),
        // It is there, and lets in others than us: by TLS, say.
        (b'E', rest) if rest.windows(NOT_US.len()).any(|part| part == NOT_US) => Ok(()),
        // It is starting, or going down; or it knows no such user, as somebody else's server may.
        (b'E', _) => Err("it does not let anybody in yet".to_owned()),
        (other, _) => Err(format!("it answers with a message of kind {other}")),
    }
}

fn version() -> Option<String> {
    let output = Command::new(program("postgres").ok()?).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number =
        text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    Some(format!("PostgreSQL {}", number?))
}

/// Where the data lie.
fn data(path: &Path) -> Result<PathBuf, Unavailable> {
    if other_user()?.is_none() {
        return Ok(path.join("data"));
    }
    // Different folders of ours, and different machines' users of one system, get different ones.
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for byte in path.to_string_lossy().bytes() {
        sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Ok(std::env::temp_dir().join(format!("dirigent-postgres-{sum:016x}")))
}

/// Removes data that lie elsewhere, and tells the watchdog where they will be.
pub(crate) fn clear(path: &Path) -> Result<(), Unavailable> {
    let data = data(path)?;
    place::remove(&data)?;
    if path.is_dir() && !data.starts_with(path) {
        place::write(&path.join("elsewhere"), &format!("{}\n", data.display()))?;
    }
    Ok(())
}

/// Another user of this system.
struct User {
    id: String,
    group: String,
}

/// The user to become, where we are root.
fn other_user() -> Result<Option<User>, Unavailable> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if !is_root {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = |name: &str| {
        let line = users.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2).map(str::to_owned);
        Some(User { id: fields.next()?, group: fields.next()? })
    };
    USERS.into_iter().find_map(known).map(Some).ok_or(Unavailable::Missing {
        kind: Kind::Postgres,
        missing: "a user other than root".to_owned(),
        install: INSTALL,
    })
}

/// The program, run by whom it agrees to be run by.
fn as_user(program: &Path, path: &Path) -> Result<Command, Unavailable> {
    let Some(user) = other_user()? else {
        let mut command = Command::new(program);
        command.current_dir(path);
        return Ok(command);
    };
    let setpriv = process::find("setpriv").ok_or(Unavailable::Missing {
        kind: Kind::Postgres,
        missing: "setpriv, to start it as another user than root".to_owned(),
        install: "util-linux",
    })?;
    let mut command = Command::new(setpriv);
    command.args([format!("--reuid={}", user.id), format!("--regid={}", user.group)]);
    command.arg("--clear-groups").arg(program).current_dir("/");
    Ok(command)
}

/// The newest one that is installed: Debian keeps each release in a folder of its own, where no path leads.
fn program(name: &str) -> Result<PathBuf, Unavailable> {
    let releases = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = releases
        .filter_map(|release| Some((release.file_name().to_str()?.parse().ok()?, release.path())))
        .map(|(number, release): (u32, PathBuf)| (number, release.join("bin").join(name)))
        .filter(|(_, program)| program.is_file())
        .max();
    newest.map(|(_, program)| program).or_else(|| process::find(name)).ok_or(Unavailable::Missing {
        kind: Kind::Postgres,
        missing: name.to_owned(),
        install: INSTALL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_postgres_that_nobody_answers_for_is_told_so() {
        let [port, ..] = process::free_ports::<1>().expect("loopback has free ports");
        assert!(answers(&format!("postgres://127.0.0.1:{port}/x")).is_err());
        assert!(answers("mysql://127.0.0.1").unwrap_err().contains("postgres://"));
    }
}
