//! How the server is reached: a thread that drives connections, and questions that end in time.

use super::{PostgresAddress, layout::Layout, trouble};
use crate::store::StoreError;
use futures_executor::block_on;
use std::{fs, io, thread};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    time::timeout,
};
use tokio_postgres::{Client, Error, NoTls};

/// What sessions are set to where the server, the role or the address leaves it at PostgreSQL's default: name, ours, the default.
///
/// A statement that waits for ever would hold back everything behind it; a frozen process must not keep its place.
const SETTINGS: &str = "('statement_timeout', '30000', '0'), ('lock_timeout', '10000', '0'),
    ('idle_in_transaction_session_timeout', '15000', '0'), ('idle_session_timeout', '15000', '0'),
    ('tcp_keepalives_idle', '10', '7200'), ('tcp_keepalives_interval', '5', '75'), ('tcp_keepalives_count', '3', '9'),
    ('synchronous_commit', 'on', 'off')";

/// The oldest release that ends sessions that fell silent, as `idle_session_timeout` says.
const SERVER_RELEASE_MIN: u32 = 14;

/// One server, as one participant reaches it.
#[derive(Debug)]
pub(super) struct Link {
    address: PostgresAddress,
    pub(super) participant: String,
    /// For people: without secrets.
    pub(super) place: String,
    /// Who we are, for people.
    pub(super) owner: String,
    pub(super) layout: Layout,
    driver: Driver,
}

impl Link {
    pub(super) fn new(
        mut address: PostgresAddress,
        participant: String,
    ) -> Result<Self, StoreError> {
        if address.config.get_application_name().is_none() {
            address.config.application_name(format!("dirigent {participant}"));
        }
        let place = address.to_string();
        let driver = Driver::start().map_err(|source| StoreError::Unusable {
            doing: "starting a thread for the connection".into(),
            place: place.clone(),
            advice: "check the limits of this process".into(),
            source: Box::new(source),
        })?;
        let layout = Layout::of(&address.schema, &participant);
        Ok(Self { address, participant, place, owner: owner(), layout, driver })
    }

    /// A session of its own.
    pub(super) fn connect(&self) -> Result<Client, StoreError> {
        let doing = "connecting";
        let (client, connection) = self.within(doing, self.address.config.connect(NoTls))?;
        let version = connection.parameter("server_version").unwrap_or_default().to_owned();
        self.driver.handle.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("A connection to PostgreSQL ended: {error}");
            }
        });
        if release(&version).is_some_and(|release| release < SERVER_RELEASE_MIN) {
            return Err(StoreError::Unusable {
                doing: doing.into(),
                place: self.place.clone(),
                advice: format!("use PostgreSQL {SERVER_RELEASE_MIN} or later"),
                source: format!(
                    "this server is of release {version}, which keeps sessions that fell silent, and with them a participant's place"
                )
                .into(),
            });
        }
        let settings = format!(
            "SELECT set_config(name, ours, false) FROM (VALUES {SETTINGS}) AS s (name, ours, unset)
             WHERE current_setting(name, true) = unset"
        );
        self.ask(&client, "preparing the session", client.batch_execute(&settings))?;
        Ok(client)
    }

    /// Asks by a client that is of no more use where that is not answered.
    pub(super) fn ask<T>(
        &self,
        _: &Client,
        doing: &str,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        self.within(doing, question)
    }

    fn within<T>(
        &self,
        doing: &str,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        self.answered(question)
            .map_err(|source| trouble::silent(self, doing, source))?
            .map_err(|error| trouble::of_ours(self, doing, &error))
    }

    /// Has the server cancel what it does for a client that waited too long: so that its session ends, and the place comes free.
    pub(super) fn cancel(&self, client: &Client) {
        let cancel = client.cancel_token();
        self.beside(async move {
            if let Err(error) = cancel.cancel_query(NoTls).await {
                tracing::debug!("A statement without an answer could not be cancelled: {error}");
            }
        });
    }

    /// The server's answer, unless it takes too long.
    pub(super) fn answered<T>(
        &self,
        question: impl Future<Output = Result<T, Error>>,
    ) -> io::Result<Result<T, Error>> {
        // The timer belongs to the driver, whoever waits here.
        let _within = self.driver.handle.enter();
        let answered =
            block_on(tokio::task::unconstrained(timeout(self.address.answer_within, question)));
        answered.map_err(|_| {
            let text = format!("no answer within {:?}", self.address.answer_within);
            io::Error::new(io::ErrorKind::TimedOut, text)
        })
    }

    /// Has something done beside, until it ends by itself or the link does.
    pub(super) fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.driver.handle.spawn(work);
    }
}

/// The thread that drives the connections.
#[derive(Debug)]
struct Driver {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Driver {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("postgres".into()).spawn(move || {
            // Told, or dropped: both are the end.
            let _ = runtime.block_on(ended);
            // A name that is being looked up must hold up nobody.
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The thread of the connections to PostgreSQL panicked.");
        }
    }
}

fn owner() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("process {} on host {}", std::process::id(), host.trim())
}

/// The number of a release, of `16.4 (Debian 16.4-1)` or `14beta1`.
fn release(version: &str) -> Option<u32> {
    let end = version.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(version.len());
    version[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_told_from_what_a_server_says_of_itself() {
        let releases =
            ["16.4 (Debian 16.4-1)", "14beta1", "9.6.24", "13", "devel", ""].map(release);
        assert_eq!(releases, [Some(16), Some(14), Some(9), Some(13), None, None]);
    }
}
