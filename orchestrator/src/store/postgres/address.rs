//! Where the server is, and who we are there. A password is in no error, log or debug output.

use super::layout::SCHEMA;
use std::{fmt, io, path::Path, time::Duration};
use tokio_postgres::{
    Config,
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
    /// It asks for TLS.
    #[error(
        "the address of PostgreSQL asks for TLS by sslmode, which is not compiled in; reach it on a trusted network or through a tunnel, with sslmode=disable"
    )]
    Tls,
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
    /// Its parameters are kept to, `connect_timeout`, `options`, `application_name` and `target_session_attrs` among them.
    ///
    /// # Errors
    /// It is none, names no host, user or database, or asks for TLS.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
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
        match config.get_ssl_mode() {
            SslMode::Disable | SslMode::Prefer => {}
            _ => return Err(AddressError::Tls),
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIME_MAX);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE_MAX).keepalives_idle(SILENCE_MAX);
        }
        Ok(Self { config, schema: SCHEMA.to_owned(), answer_within: ANSWER_WITHIN })
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
        assert!(text("postgres://me@db/shop?sslmode=require").contains("not compiled in"));
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
