//! Logs of a binary: text or JSON on the standard error, filtered by `DIRIGENT_LOG`.
//!
//! A library installs no subscriber; a binary asks for this one. Ids of sagas and traces are fields, never parts of a sentence.

use std::{fmt, io, str::FromStr};
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt::MakeWriter};

/// Names the filter of the logs, in the syntax of `tracing_subscriber::EnvFilter`.
pub const LOG_VARIABLE: &str = "DIRIGENT_LOG";

/// What is logged if nothing is said, beside what is always [`QUIET`].
pub const LOG_DEFAULT: &str = "info";

/// Who is quiet unless a filter names them. `lapin` writes whole messages, bodies too, into its warnings; `librdkafka` and the
/// HTTP client repeat every attempt to reach something, which our connectors and the exporter tell once.
pub const QUIET: &str =
    "lapin=off,librdkafka=error,rdkafka=error,opentelemetry=error,reqwest=error,hyper=error";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::Format { found: text.chars().take(40).collect() }),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No such format.
    #[error("`{found}` is no format of logs; use `text` or `json`")]
    Format {
        /// What was said.
        found: String,
    },
    /// The filter can't be read.
    #[error(
        "reading the filter of the logs (`{LOG_VARIABLE}`); an example is `info,dirigent=debug`"
    )]
    Filter(#[source] ParseError),
    /// Something else takes this process's logs already.
    #[error("logs are set up already; call this once, and before anything else sets them up")]
    Installed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Logs from now on, for the whole process, to the standard error.
///
/// `filter` is what the environment does not say otherwise; [`LOG_DEFAULT`] for `None`.
///
/// # Errors
/// The filter can't be read, or logs are set up already.
pub fn init_logs(format: LogFormat, filter: Option<&str>) -> Result<(), LogError> {
    let said = std::env::var(LOG_VARIABLE).ok().filter(|said| !said.is_empty());
    install_logs(format, said.as_deref().or(filter).unwrap_or(LOG_DEFAULT))
}

/// Logs from now on, for the whole process, to the standard error; the environment is not asked.
///
/// # Errors
/// As for [`init_logs`].
pub fn install_logs(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let subscriber = subscriber(format, filter, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| LogError::Installed(error.into()))
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    to: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // What is said of the same one later counts.
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(LogError::Filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(to);
    Ok(match format {
        LogFormat::Text => {
            let unwanted = std::env::var_os("NO_COLOR").is_some_and(|said| !said.is_empty());
            let colours = io::IsTerminal::is_terminal(&io::stderr()) && !unwanted;
            Box::new(builder.with_ansi(colours).finish())
        }
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, log: impl FnOnce()) -> String {
        let page = Page::default();
        let to = page.clone();
        let subscriber = subscriber(format, filter, move || to.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn bodies_that_lapin_logs_are_seen_only_by_who_asks_for_lapin() {
        let returned = || {
            tracing::warn!(target: "lapin::returned_messages", message = "the body", "Server returned us a message");
        };
        for filter in [LOG_DEFAULT, "warn", "trace", "dirigent=debug,warn"] {
            assert_eq!(logged(LogFormat::Text, filter, returned), "", "{filter}");
        }
        assert!(logged(LogFormat::Text, "info,lapin=warn", returned).contains("Server returned"));
        let ours = || tracing::warn!(target: "dirigent::relay", "Ours.");
        assert!(logged(LogFormat::Text, "dirigent=debug,warn", ours).contains("Ours."));
    }

    #[test]
    fn a_line_of_json_has_its_fields_beside_the_message() {
        let text = logged(LogFormat::Json, "info", || {
            tracing::info!(saga = "order", instance = "i-1", trace = "t-1", "It began.");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "It began.");
        assert_eq!((&line["saga"], &line["trace"]), (&"order".into(), &"t-1".into()));
    }

    #[test]
    fn warnings_of_lapin_are_not_logged_unless_asked_for() {
        let text = logged(LogFormat::Text, LOG_DEFAULT, || {
            tracing::warn!(target: "lapin::channel", body = "canary", "A message was returned.");
            tracing::warn!(target: "dirigent::relay", "A command could not be sent.");
        });
        assert!(!text.contains("canary") && text.contains("could not be sent"), "{text}");
    }

    #[test]
    fn a_wrong_filter_or_format_is_named() {
        let Err(error) = subscriber(LogFormat::Text, "info,=,=x=", io::stderr) else {
            panic!("the filter is refused")
        };
        assert!(crate::describe(&error).contains("DIRIGENT_LOG"), "{error}");
        assert_eq!(
            "xml".parse::<LogFormat>().unwrap_err().to_string(),
            "`xml` is no format of logs; use `text` or `json`"
        );
    }
}
