//! Reaching the broker: once with a time limit while something is opened, and again and again for ever after that.
//!
//! Also tells the troubles that pass by themselves from the ones that a person must mend.

use super::{NAME, RabbitMqSettings, owner, stream, tls};
use crate::{ConnectorError, Health, retry::Delays};
use lapin::{Connection, ConnectionProperties, ErrorKind, uri::AMQPUri};
use std::{future::Future, time::Duration};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long one try may take, handshake and topology included. A black hole must not eat the whole time limit of opening.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(10);

/// How long one try to rebuild may take, with locks and topology. A broker that was killed answers late about its quorum
/// queues; giving up before that only begins the wait anew. A broker that is silent is found out by its heartbeats.
pub(super) const REBUILD_TIME_MAX: Duration = Duration::from_secs(90);

/// How long a goodbye may take. The broker notices the end of a connection without it, only later.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);

/// AMQP reply codes that we tell apart.
pub(super) mod code {
    pub(in super::super) const ACCESS_REFUSED: u16 = 403;
    pub(in super::super) const NOT_FOUND: u16 = 404;
    pub(in super::super) const PRECONDITION_FAILED: u16 = 406;
    pub(super) const INVALID_PATH: u16 = 402;
    pub(in super::super) const RESOURCE_LOCKED: u16 = 405;
    pub(super) const NOT_ALLOWED: u16 = 530;
}

/// Why something at the broker did not succeed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Trying again will not help before a person did something.
    Mend(ConnectorError),
    /// The broker and we do not come together. Whoever opens something gives up; who was in already goes on trying.
    Shut(ConnectorError),
    /// Trying again may help.
    Passing { doing: String, source: Option<lapin::Error> },
    /// Another connection reads this queue.
    Owned { group: String, queue: String },
}

impl Trouble {
    /// The end of an AMQP channel that was in use. Whatever the broker's reason (an acknowledgement that took longer than
    /// its `consumer_timeout` has the same code as a queue of another form), a new channel goes on.
    pub(super) fn passing(doing: impl Into<String>, error: lapin::Error) -> Self {
        Self::Passing { doing: doing.into(), source: Some(error) }
    }

    /// Reads an error of lapin that came up while opening or declaring something.
    pub(super) fn of(doing: impl Into<String>, error: lapin::Error) -> Self {
        let doing = doing.into();
        let advice = match refusal(&error) {
            Some((code::ACCESS_REFUSED, _)) => {
                "check user, password and the permissions of the user"
            }
            Some((code::INVALID_PATH | code::NOT_ALLOWED, _)) => {
                "check that the virtual host exists and the user may use it"
            }
            Some((code::PRECONDITION_FAILED, _)) => {
                "it exists in another form; delete it once it is empty, or use another name"
            }
            Some((code::RESOURCE_LOCKED, _)) => {
                "it belongs to one other connection; delete it there, or use another name"
            }
            _ => return Self::Passing { doing, source: Some(error) },
        };
        let said = refusal(&error).map(|(_, text)| text).unwrap_or_default();
        Self::Mend(ConnectorError::Refused {
            connector: NAME,
            doing,
            text: format!("{said}; {advice}"),
        })
    }
}

/// The broker's reply code and text, if it was the broker that ended a channel or connection.
pub(super) fn refusal(error: &lapin::Error) -> Option<(u16, String)> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some((error.get_id(), error.get_message().to_string())),
        _ => None,
    }
}

/// Makes connections of one setting.
#[derive(Debug)]
pub(super) struct Dialer {
    settings: RabbitMqSettings,
}

impl Dialer {
    pub(super) fn new(settings: RabbitMqSettings) -> Self {
        Self { settings }
    }

    pub(super) fn settings(&self) -> &RabbitMqSettings {
        &self.settings
    }

    /// One try. `purpose` is what the broker shows people.
    pub(super) async fn dial(&self, purpose: &str) -> Result<Connection, Trouble> {
        let doing = "to let us in";
        let name = format!("{} {purpose}", self.settings.connection_name);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = async {
            let (address, uri) = (&self.settings.uri, self.uri());
            if address.is_tls() {
                return tls::connect(address, uri, &self.settings.tls, properties).await;
            }
            stream::connect(uri, properties).await.map_err(|error| Trouble::of(doing, error))
        };
        match timeout(ATTEMPT_TIME_MAX, connecting).await {
            Ok(Err(Trouble::Mend(error))) => Err(Trouble::Shut(self.not_let_in(error))),
            Ok(connected) => connected,
            Err(_) => Err(Trouble::Passing { doing: doing.into(), source: None }),
        }
    }

    /// A refusal of the broker before anything was asked of it.
    fn not_let_in(&self, error: ConnectorError) -> ConnectorError {
        match error {
            ConnectorError::Refused { connector, text, .. } => {
                ConnectorError::NotLetIn { connector, address: self.settings.uri.to_string(), text }
            }
            other => other,
        }
    }

    /// Tries until `attempt` succeeds, a person is needed, or the time limit of opening has passed.
    pub(super) async fn while_opening<T, A>(
        &self,
        doing: &str,
        mut attempt: impl FnMut() -> A,
    ) -> Result<T, ConnectorError>
    where
        A: Future<Output = Result<T, Trouble>>,
    {
        let waited = self.settings.connect_time_max;
        let deadline = Instant::now() + waited;
        let mut delays = Delays::new();
        let mut last = None;
        let mut owned = Owned::default();
        loop {
            match timeout_at(deadline.max(owned.deadline()), attempt()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(Trouble::Mend(error) | Trouble::Shut(error))) => return Err(error),
                Ok(Err(Trouble::Passing { source, .. })) => last = source,
                Ok(Err(Trouble::Owned { group, queue })) => {
                    if owned.for_longer_than(owner::takeover_wait(self.settings.heartbeat)) {
                        return Err(owner::refused(&group, &queue));
                    }
                    sleep(delays.after_failure().min(owner::ASK_EVERY)).await;
                    continue;
                }
                Err(_) => {}
            }
            let next = Instant::now() + delays.after_failure();
            if next >= deadline {
                return Err(ConnectorError::Unreachable {
                    connector: NAME,
                    address: self.settings.uri.to_string(),
                    doing: doing.into(),
                    waited,
                    source: last.map(Into::into),
                });
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Tries until `attempt` succeeds, for ever, and says how it goes; that all is well, the caller says. What a person must mend is told to `report` each time it comes up.
    pub(super) async fn for_ever<T, A>(
        &self,
        purpose: &str,
        delays: &mut Delays,
        health: &Health,
        mut attempt: impl FnMut() -> A,
        mut report: impl FnMut(ConnectorError),
    ) -> T
    where
        A: Future<Output = Result<T, Trouble>>,
    {
        let address = &self.settings.uri;
        let mut owned = Owned::default();
        loop {
            match timeout(REBUILD_TIME_MAX, attempt()).await {
                Ok(Ok(done)) => {
                    tracing::info!(%address, purpose, "Connected to RabbitMQ again.");
                    health.reconnected();
                    return done;
                }
                Ok(Err(Trouble::Mend(error))) => {
                    tracing::error!(%address, purpose, %error, "RabbitMQ refuses us, trying again.");
                    health.degraded(error.to_string());
                    report(error);
                }
                // A password or a certificate that is being renewed: nobody is to end for it.
                Ok(Err(Trouble::Shut(error))) => {
                    tracing::error!(%address, purpose, %error, "RabbitMQ does not let us in, trying again.");
                    health.degraded(error.to_string());
                }
                Ok(Err(Trouble::Owned { group, queue })) => {
                    if owned.is_new() {
                        tracing::warn!(%address, group, queue, "Another connection reads this queue, waiting for it.");
                    }
                    health.waiting(format!("another connection to RabbitMQ at {address} reads queue {queue}; this one takes it over when that ends"));
                    if owned.for_longer_than(owner::REGAIN_WAIT_MAX) && !self.settings.stand_by {
                        report(owner::refused(&group, &queue));
                    }
                    sleep(delays.after_failure().min(owner::ASK_EVERY)).await;
                    continue;
                }
                Ok(Err(Trouble::Passing { doing, source })) => {
                    let error = source.map(|source| format!(": {source}")).unwrap_or_default();
                    tracing::warn!(%address, purpose, "RabbitMQ was asked {doing}{error}; trying again.");
                    health.away(format!("RabbitMQ at {address} is asked {doing}{error}"));
                }
                Err(_) => {
                    tracing::warn!(%address, purpose, "RabbitMQ does not answer, trying again.");
                    health.away(format!("RabbitMQ at {address} does not answer"));
                }
            }
            sleep(delays.after_failure()).await;
        }
    }

    fn uri(&self) -> AMQPUri {
        let mut uri = self.settings.for_lapin();
        let heartbeat_seconds = self.settings.heartbeat.as_secs().max(1);
        uri.query.heartbeat.get_or_insert(u16::try_from(heartbeat_seconds).unwrap_or(u16::MAX));
        let attempt_ms = u64::try_from(ATTEMPT_TIME_MAX.as_millis()).unwrap_or(u64::MAX);
        uri.query.connection_timeout.get_or_insert(attempt_ms);
        uri
    }
}

/// For how long another connection has had what we want.
#[derive(Default)]
struct Owned {
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Owned {
    fn is_new(&self) -> bool {
        self.since.is_none()
    }

    /// Whether it is longer than one could have it who is gone.
    fn for_longer_than(&mut self, wait: Duration) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let until = since + wait;
        self.until = Some(until + ATTEMPT_TIME_MAX);
        Instant::now() >= until
    }

    /// Until when an attempt may take, because asking goes on.
    fn deadline(&self) -> Instant {
        self.until.unwrap_or_else(Instant::now)
    }
}

/// A connection that says goodbye whenever it is let go, also by a future that is dropped halfway: lapin keeps one open as long
/// as an answer on it is awaited, and with it the queues that it has locked.
pub(super) struct Held(Option<Connection>);

impl Held {
    pub(super) fn new(connection: Connection) -> Self {
        Self(Some(connection))
    }

    /// Says goodbye and waits for it.
    pub(super) async fn close(mut self) {
        if let Some(connection) = self.0.take() {
            close(connection).await;
        }
    }
}

impl std::ops::Deref for Held {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0.as_ref().expect("only closing takes it, and that takes its holder")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Without a runtime the process ends, and its connections with it.
        if let (Some(connection), Ok(runtime)) =
            (self.0.take(), tokio::runtime::Handle::try_current())
        {
            // Nobody waits for it: it has a time limit of its own.
            runtime.spawn(close(connection));
        }
    }
}

/// Says goodbye, as far as the broker listens.
pub(super) async fn close(connection: Connection) {
    const REPLY_SUCCESS: u16 = 200;
    // Nothing hangs on the outcome: the broker treats a connection that breaks the same way.
    let _ = timeout(CLOSE_TIME_MAX, connection.close(REPLY_SUCCESS, "done".into())).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::{AMQPError, AMQPSoftError};

    fn closed_by_precondition() -> lapin::Error {
        let said = "PRECONDITION_FAILED - said the broker";
        ErrorKind::ProtocolError(AMQPError::new(
            AMQPSoftError::PRECONDITIONFAILED.into(),
            said.into(),
        ))
        .into()
    }

    #[test]
    fn the_same_reply_wants_a_person_when_declaring_and_passes_when_consuming() {
        let declared = Trouble::of("to declare queue q", closed_by_precondition());
        let Trouble::Mend(error) = declared else { panic!("a person is needed") };
        let text = error.to_string();
        assert!(text.contains("queue q") && text.contains("said the broker"), "{text}");
        let consumed = Trouble::passing("to deliver", closed_by_precondition());
        assert!(matches!(consumed, Trouble::Passing { .. }));
    }
}
