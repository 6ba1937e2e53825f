//! System calls of a process, from what strace wrote down: `strace -f -y -s BYTES -o FILE …`.
//!
//! In: the lines of that file. Out: every call with what it was given, how it ended, and the lines at which it was entered and left. A
//! call that another thread's calls interrupt stands in two lines; one that the process did not live to leave has no result. What
//! comes out is in the order of entering. A line that is none of strace's is an error, never passed over.

#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    reason = "shared by several test binaries, each of which uses a part"
)]

use std::{collections::HashMap, path::Path, process::Command};

/// One system call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub name: String,
    pub arguments: Vec<Argument>,
    /// What it returned, -1 for an error; none where the process ended first.
    pub result: Option<i64>,
    /// Whether strace refused it in the system's place.
    pub is_injected: bool,
    /// The line at which it was entered.
    pub entered: usize,
    /// The line at which it was left; `usize::MAX` where it never was.
    pub left: usize,
}

/// What a call was given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Argument {
    /// As strace wrote it, without the contents of texts.
    pub text: String,
    /// The contents of its texts, one after another.
    pub bytes: Vec<u8>,
    /// Whether some of them were too long for strace.
    pub is_cut: bool,
}

impl Argument {
    /// The file or socket that a descriptor stands for.
    pub fn stands_for(&self) -> Option<&str> {
        let (_, rest) = self.text.split_once('<')?;
        rest.split_once('>').map(|(place, _)| place)
    }

    pub fn number(&self) -> Option<i64> {
        self.text.parse().ok()
    }
}

impl Call {
    /// The file or socket it is about.
    pub fn about(&self) -> &str {
        self.arguments.first().and_then(Argument::stands_for).unwrap_or_default()
    }

    /// What it wrote or read, as far as it came.
    pub fn moved(&self) -> &[u8] {
        let bytes = self.arguments.get(1).map_or(&[][..], |argument| &argument.bytes);
        let moved = self.result.and_then(|moved| usize::try_from(moved).ok()).unwrap_or(0);
        &bytes[..moved.min(bytes.len())]
    }

    /// Whether strace wrote down less than it moved.
    pub fn is_cut(&self) -> bool {
        self.arguments.iter().any(|argument| argument.is_cut)
    }
}

/// A line that is none of strace's.
#[derive(Debug, PartialEq)]
pub struct Malformed {
    pub line: usize,
    pub why: &'static str,
}

/// Whether there is a strace, which says aloud that it is missing. Where everything is required that tests need, it is an error.
pub fn is_here() -> bool {
    let found = Command::new("strace").arg("--version").output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        let required = std::env::var("DIRIGENT_REQUIRE_BROKERS").is_ok_and(|set| set == "1");
        assert!(!required, "there is no strace; install Debian's package of that name");
        let line = b"SKIPPED what traces system calls: there is no strace; install Debian's package of that name\n";
        std::io::Write::write_all(&mut std::io::stderr(), line).unwrap();
    }
    found
}

/// The same program and environment, with strace before it. It is the child, and strace beside it ends with it.
pub fn under(command: &Command, how: &[&str], into: &Path) -> Command {
    let mut traced = Command::new("strace");
    traced.args(["-D", "-f", "-y", "-qq", "--seccomp-bpf"]).args(how).arg("-o").arg(into);
    traced.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        traced.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    traced
}

/// All calls of a file, in the order of entering.
pub fn calls(text: &str) -> Result<Vec<Call>, Malformed> {
    let mut calls = Vec::new();
    let mut begun: HashMap<&str, (usize, &str)> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let malformed = |why| Malformed { line: number + 1, why };
        let (thread, rest) = line.split_once(' ').ok_or(malformed("it names no thread"))?;
        if !thread.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed("it names no thread"));
        }
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, tail) = resumed.split_once(" resumed>").ok_or(malformed("what goes on?"))?;
            let begun = begun.remove(thread).ok_or(malformed("it goes on without a beginning"))?;
            let whole = [begun.1, tail].concat();
            calls.push(call(&whole, begun.0, number).map_err(malformed)?);
        } else if let Some(first) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(thread, (number, first));
        } else {
            calls.push(call(rest, number, number).map_err(malformed)?);
        }
    }
    for (number, first) in begun.into_values() {
        let unfinished = call(first, number, usize::MAX);
        calls.push(unfinished.map_err(|why| Malformed { line: number + 1, why })?);
    }
    calls.sort_by_key(|call| call.entered);
    Ok(calls)
}

/// `name(argument, argument) = result`; the end is missing where it was never left.
fn call(text: &str, entered: usize, left: usize) -> Result<Call, &'static str> {
    let (name, rest) = text.split_once('(').ok_or("it has no arguments")?;
    let (arguments, rest) = arguments(rest)?;
    let result = match rest.trim_start().strip_prefix('=') {
        Some(result) => {
            let result = result.trim_start();
            let end = result.find(|letter: char| !letter.is_ascii_digit() && letter != '-');
            result[..end.unwrap_or(result.len())].parse().ok()
        }
        None if left == usize::MAX => None,
        None => return Err("it has no result"),
    };
    let is_injected = rest.ends_with("(INJECTED)");
    Ok(Call { name: name.to_owned(), arguments, result, is_injected, entered, left })
}

/// Up to the parenthesis that ends them; answers what is behind it.
fn arguments(text: &str) -> Result<(Vec<Argument>, &str), &'static str> {
    let bytes = text.as_bytes();
    let (mut arguments, mut now) = (Vec::new(), Argument::default());
    let (mut at, mut depth) = (0, 0_u32);
    while at < bytes.len() {
        let byte = bytes[at];
        match byte {
            b'"' => {
                now.text.push('"');
                at = unescape(bytes, at + 1, &mut now.bytes)?;
                now.is_cut |= bytes[at..].starts_with(b"...");
                continue;
            }
            b'<' => {
                let end = text[at..].find('>').ok_or("a name without an end")?;
                now.text.push_str(&text[at..=at + end]);
                at += end + 1;
                continue;
            }
            b')' if depth == 0 => break,
            b',' if depth == 0 => {
                arguments.push(std::mem::take(&mut now));
                at += 1;
                while bytes.get(at) == Some(&b' ') {
                    at += 1;
                }
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.checked_sub(1).ok_or("a bracket too many")?,
            _ => {}
        }
        now.text.push(char::from(byte));
        at += 1;
    }
    now.text.truncate(now.text.trim_end().len());
    if !now.text.is_empty() {
        arguments.push(now);
    }
    Ok((arguments, text.get(at + 1..).unwrap_or_default()))
}

/// The bytes of a text of C from behind its first quote on; answers the place behind the last one.
fn unescape(text: &[u8], mut at: usize, into: &mut Vec<u8>) -> Result<usize, &'static str> {
    let ended = "a text without an end";
    loop {
        let byte = *text.get(at).ok_or(ended)?;
        at += 1;
        match byte {
            b'"' => return Ok(at),
            b'\\' => {
                let escape = *text.get(at).ok_or(ended)?;
                at += 1;
                into.push(match escape {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'v' => 0x0b,
                    b'f' => 0x0c,
                    b'0'..=b'7' => {
                        let mut value = u32::from(escape - b'0');
                        for _ in 0..2 {
                            match text.get(at) {
                                Some(digit @ b'0'..=b'7') => {
                                    value = value * 8 + u32::from(digit - b'0');
                                    at += 1;
                                }
                                _ => break,
                            }
                        }
                        u8::try_from(value).map_err(|_| "an octal number above a byte")?
                    }
                    // In what strace takes apart itself, such as messages to the system's own sockets.
                    b'x' => {
                        let digits = text.get(at..at + 2).ok_or(ended)?;
                        let digits = std::str::from_utf8(digits).map_err(|_| "no digits")?;
                        at += 2;
                        u8::from_str_radix(digits, 16).map_err(|_| "no digits")?
                    }
                    b'"' | b'\\' => escape,
                    _ => return Err("an escape that C does not know"),
                });
            }
            byte => into.push(byte),
        }
    }
}

mod tests {
    use super::*;

    /// Recorded, but for the names.
    const RECORDED: &str = r#"71  openat(AT_FDCWD</a>, "/a/b \"c\"", O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 12</a/b>
72  pwrite64(12</a/b>, "\0\1x\177\n\x39", 6, 4096) = 6
71  fdatasync(12</a/b> <unfinished ...>
72  writev(9<socket:[44]>, [{iov_base="ab", iov_len=2}, {iov_base="cde"..., iov_len=30}], 2) = 4
71  <... fdatasync resumed>)            = -1 EIO (Input/output error) (INJECTED)
72  recvfrom(9<socket:[44]>,  <unfinished ...>
71  --- SIGTERM {si_signo=SIGTERM, si_code=SI_USER, si_pid=3, si_uid=0} ---
72  <... recvfrom resumed>"\316", 8192, 0, NULL, NULL) = 1
72  read(3</a>,  <unfinished ...>
71  +++ exited with 0 +++
"#;

    #[test]
    fn calls_of_threads_that_interrupt_each_other_come_out_whole() {
        let calls = calls(RECORDED).unwrap();
        let names: Vec<&str> = calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["openat", "pwrite64", "fdatasync", "writev", "recvfrom", "read"]);
        assert_eq!(calls[0].arguments[1].bytes, b"/a/b \"c\"");
        assert_eq!(calls[0].result, Some(12));
        assert_eq!((calls[1].about(), calls[1].moved()), ("/a/b", &b"\0\x01x\x7f\n9"[..]));
        assert_eq!(calls[1].arguments[3].number(), Some(4096));
        let sync = &calls[2];
        assert_eq!((sync.entered, sync.left, sync.result), (2, 4, Some(-1)));
        assert!(sync.is_injected && !calls[1].is_injected);
        // Of what it was given, only what it moved counts.
        assert_eq!((calls[3].about(), calls[3].moved()), ("socket:[44]", &b"abcd"[..]));
        assert!(calls[3].is_cut() && !calls[4].is_cut());
        assert_eq!((calls[4].moved(), calls[4].entered, calls[4].left), (&b"\xce"[..], 5, 7));
        assert_eq!((calls[5].result, calls[5].left), (None, usize::MAX));
    }

    #[test]
    fn what_is_no_line_of_strace_is_told_with_its_number() {
        for (line, why) in [
            ("strace: attach failed", "it names no thread"),
            ("71  fdatasync(3</a>)", "it has no result"),
            ("71  <... read resumed>) = 0", "it goes on without a beginning"),
            (r#"71  write(3</a>, "ab"#, "a text without an end"),
            (r#"71  write(3</a>, "\q", 1) = 1"#, "an escape that C does not know"),
        ] {
            let text = format!("71  close(3</a>) = 0\n{line}\n");
            assert_eq!(calls(&text), Err(Malformed { line: 2, why }), "{line}");
        }
    }
}
