//! How the server is reached: a thread that drives connections, and questions that end in time.

use super::{PostgresAddress, layout::Layout, sql::said, tls, trouble};
use crate::store::StoreError;
use dirigent_connectors::tls::Flaw;
use futures_executor::block_on;
use std::{fs, io, thread};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    time::timeout,
};
use tokio_postgres::{Client, Config, Error, NoTls, Socket, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

/// What sessions are set to where the server, the role or the address leaves it at PostgreSQL's default: name, ours, the default.
///
/// A statement that waits for ever would hold back everything behind it; a frozen process must not keep its place.
const SETTINGS: &str = "('statement_timeout', '30000', '0'), ('lock_timeout', '10000', '0'),
    ('idle_in_transaction_session_timeout', '15000', '0'), ('idle_session_timeout', '15000', '0'),
    ('tcp_keepalives_idle', '10', '7200'), ('tcp_keepalives_interval', '5', '75'), ('tcp_keepalives_count', '3', '9'),
    ('synchronous_commit', 'on', 'off')";

/// What is being done where a connection is made.
const CONNECTING: &str = "connecting";

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

    /// A session of its own, the first one.
    pub(super) fn connect(&self) -> Result<Client, StoreError> {
        self.try_to_connect().map_err(|refused| refused.at_start(self.place.clone()))
    }

    /// A session of its own, later: papers and passwords are renewed while processes run, so what is wrong with them is waited for. A
    /// connection that is cut while the password is proven looks like a wrong one, too.
    pub(super) fn connect_again(&self) -> Result<Client, StoreError> {
        self.try_to_connect().map_err(|refused| refused.later(self.place.clone()))
    }

    fn try_to_connect(&self) -> Result<Client, Refused> {
        let connecting = {
            let _within = self.driver.handle.enter();
            Way::of(&self.address)?.connect(&self.address.config)
        };
        let (client, version) = match self.answered(connecting) {
            Ok(connected) => connected.map_err(|error| Refused::of(&self.address, &error))?,
            Err(silent) => return Err(trouble::silent(self, CONNECTING, silent).into()),
        };
        if release(&version).is_some_and(|release| release < SERVER_RELEASE_MIN) {
            let old = StoreError::Unusable {
                doing: CONNECTING.into(),
                place: self.place.clone(),
                advice: format!("use PostgreSQL {SERVER_RELEASE_MIN} or later"),
                source: format!(
                    "this server is of release {version}, which keeps sessions that fell silent, and with them a participant's place"
                )
                .into(),
            };
            return Err(old.into());
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
        self.answered(question)
            .map_err(|source| trouble::silent(self, doing, source))?
            .map_err(|error| trouble::of_ours(self, doing, &error))
    }

    /// Has the server cancel what it does for a client that waited too long: so that its session ends, and the place comes free.
    pub(super) fn cancel(&self, client: &Client) {
        let cancel = client.cancel_token();
        let way = match Way::of(&self.address) {
            Ok(way) => way,
            Err(flaw) => {
                tracing::debug!("A statement without an answer can't be cancelled: {flaw}");
                return;
            }
        };
        self.beside(async move {
            let cancelled = match way {
                Way::Plain => cancel.cancel_query(NoTls).await,
                Way::Tls(tls) => cancel.cancel_query(tls).await,
            };
            if let Err(error) = cancelled {
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

/// A connection that is driven by the runtime it is made in.
pub(super) async fn connect(address: &PostgresAddress) -> Result<Client, StoreError> {
    let read = address.clone();
    let way = tokio::task::spawn_blocking(move || Way::of(&read)).await;
    let way = way.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    let connecting = match way {
        Ok(way) => way.connect(&address.config).await,
        Err(flaw) => return Err(Refused::from(flaw).at_start(address.to_string())),
    };
    let refused = |error| Refused::of(address, &error).at_start(address.to_string());
    connecting.map(|(client, _)| client).map_err(refused)
}

/// How the server is reached.
enum Way {
    Plain,
    Tls(MakeRustlsConnect),
}

impl Way {
    /// Reads the files of TLS. Blocks.
    fn of(address: &PostgresAddress) -> Result<Self, Flaw> {
        match &address.tls {
            None => Ok(Way::Plain),
            Some(tls) => tls::connector(tls).map(Way::Tls),
        }
    }

    /// The client, and the release of the server; the connection is driven by the runtime around.
    fn connect(
        self,
        config: &Config,
    ) -> impl Future<Output = Result<(Client, String), Error>> + Send + 'static {
        let (config, driver) = (config.clone(), Handle::current());
        async move {
            match self {
                Way::Plain => driven(&config, NoTls, &driver).await,
                Way::Tls(tls) => driven(&config, tls, &driver).await,
            }
        }
    }
}

async fn driven<T>(config: &Config, tls: T, driver: &Handle) -> Result<(Client, String), Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    let version = connection.parameter("server_version").unwrap_or_default().to_owned();
    driver.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("A connection to PostgreSQL ended: {error}");
        }
    });
    Ok((client, version))
}

/// Why there is no connection.
enum Refused {
    /// A file for TLS, what either side thinks of the other's certificate, a user, a password. Somebody has to mend it.
    Shut { doing: &'static str, advice: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// All else.
    Otherwise(StoreError),
}

impl Refused {
    fn of(address: &PostgresAddress, error: &Error) -> Self {
        let of_tls = address.tls.as_ref().and_then(|tls| tls::advice(tls, error));
        match of_tls.or_else(|| trouble::advice_at_the_door(address, error)) {
            Some(advice) => Refused::Shut { doing: CONNECTING, advice, source: said(error).into() },
            None => Refused::Otherwise(trouble::of_connecting(address, CONNECTING, error)),
        }
    }

    /// Whoever starts is told at once what to mend.
    fn at_start(self, place: String) -> StoreError {
        match self {
            Refused::Shut { doing, advice, source } => {
                StoreError::Unusable { doing: doing.into(), place, advice, source }
            }
            Refused::Otherwise(error) => error,
        }
    }

    /// Whoever runs waits for it.
    fn later(self, place: String) -> StoreError {
        match self {
            Refused::Shut { doing, advice, source } => {
                let source = format!("{source}; {advice}").into();
                StoreError::Unreached { doing: doing.into(), place, source }
            }
            Refused::Otherwise(error) => error,
        }
    }
}

impl From<Flaw> for Refused {
    fn from(flaw: Flaw) -> Self {
        let doing = "reading the files for TLS before connecting";
        let advice = format!("mend `{}` in the address, or the file that it names", flaw.setting);
        Refused::Shut { doing, advice, source: flaw.into() }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Refused::Otherwise(error)
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
