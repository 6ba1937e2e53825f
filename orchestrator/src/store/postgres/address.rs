//! Where the server is, who we are there, and whether TLS leads to it. A password is in no error, log or debug output.

use super::{
    layout::SCHEMA,
    link,
    tls::{PostgresTls, Said},
};
use crate::store::StoreError;
use std::{fmt, io, path::Path, time::Duration};
use tokio_postgres::{
    Client, Config,
    config::{Host, SslMode},
};

/// How long one try to connect may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// How long an answer of the server may take, where nothing else is said. Beyond what the server allows a statement itself, so that
/// its word comes first.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How long bytes may stay unacknowledged, and the connection idle before it is probed: a server that fell silent is noticed.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The address of a PostgreSQL, and the schema for the kit's own tables.
#[derive(Clone)]
pub struct PostgresAddress {
    pub(super) config: Config,
    pub(super) schema: String,
    pub(super) answer_within: Duration,
    pub(super) tls: Option<PostgresTls>,
}

/// Why an address is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It is not written as one. Not shown, as a password may be in it.
    #[error(
        "the address of PostgreSQL can't be read; write postgres://USER:PASSWORD@HOST:PORT/DATABASE, with special characters of the password percent-encoded"
    )]
    Unreadable,
    /// Something is missing in it.
    #[error("the address of PostgreSQL names no {0}; write postgres://USER@HOST:PORT/DATABASE")]
    Missing(&'static str),
    /// It says a mode of TLS that there is none. Not shown, as anything may be in it.
    #[error(
        "the address of PostgreSQL says an unknown sslmode; write disable or prefer for no TLS, or require, verify-ca or verify-full, each of which verifies the server's certificate and its name"
    )]
    SslMode,
    /// It names a file for TLS, and does not ask for TLS.
    #[error(
        "the address of PostgreSQL says `{0}`, and does not ask for TLS; write sslmode=require beside it, or leave it out"
    )]
    TlsUnasked(&'static str),
    /// It asks for TLS where there is no name that a certificate could be for.
    #[error(
        "the address of PostgreSQL asks for TLS to a server without a name; say its host name (with hostaddr, beside it), or sslmode=disable for a socket of this machine"
    )]
    TlsNameless,
    /// The name of the schema.
    #[error(
        "`{0}` is no name for a schema; use lower-case letters, digits and `_`, at most 63, and no digit first"
    )]
    Schema(String),
    /// The file with the password.
    #[error("reading the password from {path}; check the path and its permissions")]
    PasswordFile {
        /// Which file.
        path: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl PostgresAddress {
    /// Reads an address as PostgreSQL's own programs do: `postgres://user@host:port/database`, or `host=… user=… dbname=…`.
    ///
    /// Its parameters are kept to, `connect_timeout`, `options`, `application_name` and `target_session_attrs` among them. `sslmode`,
    /// `sslrootcert`, `sslcert` and `sslkey` mean what they do there, but for two things: whatever asks for TLS (`require`, `verify-ca`,
    /// `verify-full`) verifies the server's certificate and its name, and what does not (`prefer`, or nothing said) stays without it.
    ///
    /// # Errors
    /// It is none, names no host, user or database, or says of TLS what can't be done.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (said, text) = Said::take_from(text);
        let mut config: Config = text.parse().map_err(|_| AddressError::Unreadable)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(AddressError::Missing("host"));
        }
        if config.get_user().is_none() {
            return Err(AddressError::Missing("user"));
        }
        if config.get_dbname().is_none() {
            return Err(AddressError::Missing("database"));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIME_MAX);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE_MAX).keepalives_idle(SILENCE_MAX);
        }
        config.ssl_mode(SslMode::Disable);
        let tls = said.decided()?;
        let plain =
            Self { config, schema: SCHEMA.to_owned(), answer_within: ANSWER_WITHIN, tls: None };
        match tls {
            Some(tls) => plain.tls(tls),
            None => Ok(plain),
        }
    }

    /// Reaches the server by TLS, whatever the address says of it.
    ///
    /// # Errors
    /// The address names no host that a certificate could be for.
    pub fn tls(mut self, tls: PostgresTls) -> Result<Self, AddressError> {
        let hosts = self.config.get_hosts();
        let is_named = |host: &Host| matches!(host, Host::Tcp(_));
        if hosts.is_empty() || !hosts.iter().all(is_named) {
            return Err(AddressError::TlsNameless);
        }
        self.config.ssl_mode(SslMode::Require);
        self.tls = Some(tls);
        Ok(self)
    }

    /// A connection of one's own, for what a service asks beside its participant: as this address says, by TLS if that is asked for.
    /// It is driven by the runtime of the caller, and ends with the client.
    ///
    /// # Errors
    /// The server is not reached, or does not let us in.
    pub async fn connect(&self) -> Result<Client, StoreError> {
        link::connect(self).await
    }

    /// The password, where it is not in the address.
    pub fn password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.config.password(password);
        self
    }

    /// The password as a file holds it, without the end of its line.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn password_file(self, path: impl AsRef<Path>) -> Result<Self, AddressError> {
        let path = path.as_ref();
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(self.password(text.trim_end_matches(['\r', '\n']))),
            Err(source) => {
                Err(AddressError::PasswordFile { path: path.display().to_string(), source })
            }
        }
    }

    /// The schema that holds the kit's tables; [`SCHEMA`] if not said. Participants of one database may share it.
    ///
    /// # Errors
    /// It is no such name.
    pub fn schema(mut self, name: impl Into<String>) -> Result<Self, AddressError> {
        self.schema = checked(name.into())?;
        Ok(self)
    }

    /// How long the server may take to answer a statement until its connection counts as lost and the statement is cancelled; 60 s if
    /// not said. To be longer than the server's `statement_timeout`, whose word tells more.
    pub fn answer_within(mut self, time: Duration) -> Self {
        self.answer_within = time;
        self
    }

    /// The schema in which handlers find the service's own tables, where the role's path does not lead there.
    ///
    /// # Errors
    /// It is no name that needs no quotes.
    pub fn search_path(mut self, name: impl Into<String>) -> Result<Self, AddressError> {
        let name = checked(name.into())?;
        let said = self.config.get_options().unwrap_or_default();
        let options = format!("{said} -c search_path={name}");
        self.config.options(options.trim_start());
        Ok(self)
    }
}

fn checked(name: String) -> Result<String, AddressError> {
    let is_letter = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let fits = (1..=63).contains(&name.len())
        && name.starts_with(is_letter)
        && name.chars().all(|letter| is_letter(letter) || letter.is_ascii_digit());
    if fits { Ok(name) } else { Err(AddressError::Schema(name)) }
}

/// Host, port and database, without who we are.
impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        let (hosts, ports) = (self.config.get_hosts(), self.config.get_ports());
        for (index, host) in hosts.iter().enumerate() {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            let comma = if index == 0 { "" } else { "," };
            match host {
                Host::Tcp(host) => write!(f, "{comma}{host}:{port}")?,
                Host::Unix(folder) => write!(f, "{comma}{}:{port}", folder.display())?,
            }
        }
        if hosts.is_empty() {
            for (index, address) in self.config.get_hostaddrs().iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                write!(f, "{comma}{address}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresAddress({self}, schema {})", self.schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_shown_nowhere() {
        let address = PostgresAddress::parse("postgres://me:s3cret@db:5433/shop").unwrap();
        let shown = format!("{address} {address:?}");
        assert_eq!(
            shown,
            "postgres://db:5433/shop PostgresAddress(postgres://db:5433/shop, schema dirigent_participant)"
        );
        for odd in [
            "postgres://me:s3cret@db/shop?s3cret=1",
            "postgres://me:s3cret@db:x/y",
            "password=s3cret s3cret=1",
        ] {
            let shown = match PostgresAddress::parse(odd) {
                Ok(address) => format!("{address} {address:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("s3cret"), "{odd}");
        }
    }

    #[test]
    fn what_an_address_lacks_or_asks_for_in_vain_is_named() {
        let text = |address: &str| PostgresAddress::parse(address).unwrap_err().to_string();
        assert!(text("postgres://me@db").contains("no database"));
        assert!(text("postgres://db/shop").contains("no user"));
        assert!(text("user=me dbname=shop").contains("no host"));
        assert!(text("postgres://me@db/shop?sslmode=full").contains("unknown sslmode"));
        for nameless in ["hostaddr=127.0.0.1 user=me dbname=shop", "postgres://me@%2Frun%2Fdb/shop"]
        {
            assert!(PostgresAddress::parse(nameless).is_ok(), "{nameless}");
            let named = if nameless.contains("://") { '?' } else { ' ' };
            assert!(text(&format!("{nameless}{named}sslmode=require")).contains("without a name"));
        }
    }

    #[test]
    fn tls_is_asked_for_by_the_address_or_beside_it() {
        let plain = PostgresAddress::parse("postgres://me@db/shop?sslmode=prefer").unwrap();
        assert_eq!((plain.config.get_ssl_mode(), &plain.tls), (SslMode::Disable, &None));
        let tls = PostgresTls { ca: Some("ca.pem".into()), ..PostgresTls::default() };
        let said = "postgres://me@db/shop?sslmode=verify-full&sslrootcert=ca.pem";
        for secured in [plain.tls(tls.clone()).unwrap(), PostgresAddress::parse(said).unwrap()] {
            assert_eq!(secured.config.get_ssl_mode(), SslMode::Require);
            assert_eq!(secured.tls, Some(tls.clone()));
        }
    }

    #[test]
    fn a_schema_is_named_without_anything_to_quote() {
        let address = || PostgresAddress::parse("postgres://me@db/shop").unwrap();
        assert!(address().schema("sagas_2").is_ok());
        for odd in ["", "2x", "Sagas", "a b", "a\"; DROP SCHEMA b", &"x".repeat(64)] {
            assert!(matches!(address().schema(odd), Err(AddressError::Schema(_))), "{odd}");
        }
    }

    #[test]
    fn a_password_is_read_from_a_file_without_the_end_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "s3cret\n").unwrap();
        let address = PostgresAddress::parse("postgres://me@db/shop").unwrap();
        let address = address.password_file(&path).unwrap();
        assert_eq!(address.config.get_password(), Some(b"s3cret".as_slice()));
        let missing = address.password_file(folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().starts_with("reading the password from"));
    }
}
