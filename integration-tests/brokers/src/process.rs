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
use std::time::{Duration, Instant};
use std::{env, io};

/// How often a running program is asked whether it has ended.
const END_POLL: Duration = Duration::from_millis(20);

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
    let command_line = match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(bytes) => bytes,
        Err(_) if Path::new("/proc/self").exists() => return false,
        Err(_) => Command::new("ps")
            .args(["-o", "command=", "-p", &pid.to_string()])
            .output()
            .map(|output| output.stdout)
            .unwrap_or_default(),
    };
    let words = String::from_utf8_lossy(&command_line).replace('\0', " ");
    words.contains(&*folder.to_string_lossy())
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
    // All are held until all are known, so that no port comes twice.
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
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
