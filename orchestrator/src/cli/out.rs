//! What people see: colours where a terminal wants them, and errors with their causes and what to do.

use std::{
    error::Error,
    fmt::{self, Display},
    io::{self, IsTerminal, Write},
};

/// Paints, or leaves as it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(bool);

impl Paint {
    /// For the standard output: on a terminal that knows colours, unless `NO_COLOR` says otherwise.
    pub(super) fn of_stdout() -> Self {
        Self(io::stdout().is_terminal() && colours_are_welcome())
    }

    /// For the standard error.
    pub(super) fn of_stderr() -> Self {
        Self(io::stderr().is_terminal() && colours_are_welcome())
    }

    /// Never.
    #[cfg(test)]
    pub(super) const fn plain() -> Self {
        Self(false)
    }

    fn with(self, code: &str, text: impl Display) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }

    pub(super) fn bold(self, text: impl Display) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: impl Display) -> String {
        self.with("2", text)
    }

    pub(super) fn red(self, text: impl Display) -> String {
        self.with("31", text)
    }

    pub(super) fn green(self, text: impl Display) -> String {
        self.with("32", text)
    }

    pub(super) fn yellow(self, text: impl Display) -> String {
        self.with("33", text)
    }
}

fn colours_are_welcome() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|said| !said.is_empty());
    !unwanted && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes to the standard output. A reader that has gone away, as `head` does, is no error of ours.
pub(super) fn say(text: &str) -> Result<(), Trouble> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Trouble::new("writing to the standard output").because(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a line to the standard error; there is nobody to tell if that fails.
pub(super) fn note(text: impl Display) {
    writeln!(io::stderr().lock(), "{text}").unwrap_or_default();
}

/// Text of others, in one line and without what could play tricks on a terminal.
pub(super) fn tame(text: &str) -> String {
    let tamed = text.chars().map(|c| match c {
        '\n' | '\t' | '\r' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    });
    tamed.collect()
}

/// Why a verb failed: what we were doing, why it went wrong, and what a person can do.
#[derive(Debug)]
pub(super) struct Trouble {
    text: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Trouble {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), causes: Vec::new(), hint: None }
    }

    /// From an error with its causes; what a cause repeats is said once.
    pub(super) fn of(error: impl Error + 'static) -> Self {
        Self::new(error.to_string()).caused_by(error.source())
    }

    pub(super) fn because(self, error: impl Error + 'static) -> Self {
        let with = Self { causes: vec![error.to_string()], ..self };
        with.caused_by(error.source())
    }

    fn caused_by(mut self, mut cause: Option<&(dyn Error + 'static)>) -> Self {
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors of libraries repeat their cause in their own text.
            if !self.causes.last().unwrap_or(&self.text).ends_with(&text) {
                self.causes.push(text);
            }
            cause = error.source();
        }
        self
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// As it is shown.
    pub(super) fn told(&self, paint: Paint) -> String {
        let mut lines = self.text.lines().map(tame);
        let mut text = format!("{} {}", paint.red("error:"), lines.next().unwrap_or_default());
        for line in lines {
            text.push_str(&format!("\n       {line}"));
        }
        for cause in &self.causes {
            text.push_str(&format!("\n  {} {}", paint.dim("cause:"), tame(cause)));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\n  {} {hint}", paint.dim("hint:")));
        }
        text
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(Paint(false)))
    }
}

/// A table: columns as wide as their widest cell, the last one as it comes. Cells are painted after they are measured.
pub(super) fn table(rows: &[Vec<String>], paint: impl Fn(usize, usize, &str) -> String) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let gap = widths[column].saturating_sub(cell.chars().count()) + 2;
            line.push_str(&paint(number, column, cell));
            line.push_str(&" ".repeat(gap));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("opening the folder")]
    struct Outer(#[source] io::Error);

    #[test]
    fn an_error_is_told_with_its_causes_and_what_to_do() {
        let trouble = Trouble::of(Outer(io::Error::other("no such disk"))).hint("buy one");
        assert_eq!(
            trouble.to_string(),
            "error: opening the folder\n  cause: no such disk\n  hint: buy one"
        );
    }

    #[test]
    fn a_cause_that_was_told_already_is_not_repeated() {
        let trouble = Trouble::new("reading: no such disk").because(io::Error::other("gone"));
        assert_eq!(trouble.to_string(), "error: reading: no such disk\n  cause: gone");
        let inner = Outer(io::Error::other("opening the folder"));
        assert_eq!(Trouble::of(inner).to_string(), "error: opening the folder");
    }

    #[test]
    fn text_of_others_can_not_play_tricks_on_a_terminal() {
        assert_eq!(tame("a\u{1b}[31mred\nb"), "a\u{fffd}[31mred b");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()]];
        assert_eq!(table(&rows, |_, _, cell| cell.into()), "a    bb\nccc  d\n");
    }
}
