//! Other programs: run to their end within a time limit, or started to outlive us.
//!
//! A program that outlives us has no share in our terminal or pipes, else `cargo test | tee`
//! would wait for it. A process is ours while its command line names our folder: a process id
//! alone may have gone to somebody else.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, io};

/// How often a running program is asked whether it has ended.
const END_POLL: Duration = Duration::from_millis(20);

/// How often, and after which pause, to look again at a process without a command line: it has none
/// for a moment while it becomes another program.
const EXEC_LOOKS_MAX: u32 = 50;
const EXEC_POLL: Duration = Duration::from_millis(2);

/// Ports to choose from. Below those that systems give to outgoing connections, which could
/// otherwise take the port of a killed broker before its restart.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// How much of a log's end goes into an error: enough for the cause, little enough to read.
const LOG_TAIL_BYTES_MAX: u64 = 2_000;

/// How a program that was run to its end fared.
pub(crate) enum Ran {
    Well,
    Badly(String),
}

/// Runs it without input, its output appended to `log`, for at most `limit`.
pub(crate) fn run(command: &mut Command, log: &Path, limit: Duration) -> Ran {
    let mut attempt = || -> io::Result<Ran> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()?;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(if status.success() {
                    Ran::Well
                } else {
                    Ran::Badly(format!("ended with {status}; {}", tail(log)))
                });
            }
            if begun.elapsed() > limit {
                child.kill()?;
                child.wait()?;
                return Ok(Ran::Badly(format!("not done within {} s", limit.as_secs())));
            }
            thread::sleep(END_POLL);
        }
    };
    attempt().unwrap_or_else(|error| Ran::Badly(format!("could not be run: {error}")))
}

/// Starts a program that outlives us, its output in `log`, and answers its process id.
pub(crate) fn launch(command: &Command, log: &Path) -> io::Result<u32> {
    // The shell forks it away, so that nobody has to wait for it, closes what we may have
    // inherited, and lets it ignore the interrupt key and the end of the terminal. Only bash can
    // name descriptors of two digits; a plain shell closes those of one.
    const DETACH: &str = r#"
        log=$1; shift
        trap '' HUP INT QUIT
        for fd in /proc/self/fd/* 3 4 5 6 7 8 9; do
            fd=${fd##*/}
            case $fd in
                0 | 1 | 2 | '*') ;;
                ?) eval "exec $fd>&-" ;;
                *) [ -z "$BASH_VERSION" ] || eval "exec $fd>&-" ;;
            esac
        done
        "$@" </dev/null >>"$log" 2>&1 &
        echo $!"#;
    let mut shell = Command::new(find("bash").unwrap_or_else(|| PathBuf::from("sh")));
    shell.arg("-c").arg(DETACH).arg("sh").arg(log).arg(command.get_program());
    shell.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    let answer = shell.stdin(Stdio::null()).stderr(Stdio::null()).process_group(0).output()?;
    let text = String::from_utf8_lossy(&answer.stdout);
    text.trim().parse().map_err(|_| io::Error::other("the shell told no process id"))
}

/// Whether the process lives and its command line names `folder`.
pub(crate) fn is_ours(pid: u32, folder: &Path) -> bool {
    let words = String::from_utf8_lossy(&command_line(pid)).replace('\0', " ");
    words.contains(&*folder.to_string_lossy())
}

/// Empty when there is no such process.
fn command_line(pid: u32) -> Vec<u8> {
    if !Path::new("/proc/self").exists() {
        let told = Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output();
        return told.map(|output| output.stdout).unwrap_or_default();
    }
    for _ in 0..EXEC_LOOKS_MAX {
        match fs::read(format!("/proc/{pid}/cmdline")) {
            Ok(bytes) if bytes.is_empty() && !is_dead(pid) => thread::sleep(EXEC_POLL),
            Ok(bytes) => return bytes,
            Err(_) => return Vec::new(),
        }
    }
    Vec::new()
}

/// Ended, perhaps not yet waited for by its parent.
fn is_dead(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The state follows the name, which stands in parentheses and may hold some itself.
    stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

/// Sends a signal (`KILL`, `STOP`, `CONT`) to a process that is ours; to no other.
pub(crate) fn signal(pid: u32, name: &str, folder: &Path) {
    if is_ours(pid, folder) {
        // The shell's own `kill`: the program of that name is not on every machine.
        let sent = Command::new("sh")
            .args(["-c", r#"kill -s "$1" "$2""#, "sh", name, &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        tracing::debug!(pid, name, ?sent, "Signalled a broker.");
    }
}

/// Sends a signal to processes that whoever calls has just found to be ours.
pub(crate) fn signal_all(pids: &[u32], name: &str) {
    if pids.is_empty() {
        return;
    }
    let sent = Command::new("sh")
        .args(["-c", r#"name=$1; shift; kill -s "$name" "$@""#, "sh", name])
        .args(pids.iter().map(u32::to_string))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tracing::debug!(?pids, name, ?sent, "Signalled the children of a server.");
}

/// The path of a program, when it can be found.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    // Debian keeps server programs where a user's path does not look.
    let more = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&folders)
        .chain(more)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Loopback ports that were free a moment ago. Whoever uses them must cope with losing the race.
pub(crate) fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let span = u64::from(PORTS.end - PORTS.start);
    // Different processes begin at different places, so that they seldom meet.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let begin = u64::from(std::process::id()) * 7919 + u64::from(since.subsec_micros());
    let mut candidates = (0..span).map(|step| {
        let offset = (begin + step) % span;
        PORTS.start + u16::try_from(offset).expect("an offset within the span is a port's")
    });
    // All are held until all are known, so that no port comes twice.
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let (free, listener) = candidates
            .by_ref()
            .find_map(|port| Some((port, TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?)))
            .ok_or_else(|| io::Error::other(format!("all ports of {PORTS:?} are taken")))?;
        *port = free;
        held.push(listener);
    }
    Ok(ports)
}

/// The end of a log, as one line.
pub(crate) fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().replace('\n', " | "))
    };
    match read() {
        Ok(text) if text.is_empty() => "its log is empty".to_owned(),
        Ok(text) => format!("its log ends: {text}"),
        Err(error) => format!("its log cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ours_only_while_it_lives_and_names_our_folder() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let mut child = Command::new("sh")
            .args(["-c", "read line", "sh"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        assert!(is_ours(child.id(), folder.path()));
        assert!(!is_ours(child.id(), Path::new("/some/other/folder")));
        child.kill().expect("the child lives");
        // Waited for only later: what is dead is nobody's, though its number is still taken.
        while !is_dead(child.id()) {
            thread::yield_now();
        }
        assert!(!is_ours(child.id(), folder.path()));
        child.wait().expect("the child is ours");
    }

    #[test]
    fn free_ports_are_different_and_free() {
        let ports = free_ports::<3>().expect("loopback has free ports");
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2]);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn what_takes_too_long_is_ended_and_what_fails_shows_the_end_of_its_log() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let log = folder.path().join("log");
        let mut endless = Command::new("sh");
        endless.args(["-c", "while :; do :; done"]);
        let ran = run(&mut endless, &log, Duration::from_millis(50));
        assert!(matches!(ran, Ran::Badly(why) if why.contains("not done within")));
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo no such luck; exit 3"]);
        let ran = run(&mut failing, &log, Duration::from_secs(60));
        assert!(matches!(ran, Ran::Badly(why) if why.contains("no such luck")));
    }
}
