//! What a person sets: the address of the broker and the bounds of this connector.
//!
//! The address carries a password, so it has a type of its own that parses once and never shows it.

use super::{NAME, RabbitMqTls};
use crate::{ConnectorError, Secret};
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use std::{fmt, time::Duration};

/// Deliveries the broker may push ahead to one source, at the most (messages). Measured to keep one consumer busy;
/// RabbitMQ's own advice ends at a few thousand, and a crash loop counts all of them as delivered once more.
pub const PREFETCH_MAX: u16 = 2_000;

/// How long a window waits for its confirms. A quorum queue confirms in milliseconds; a leader election takes seconds.
pub const CONFIRM_TIME_MAX: Duration = Duration::from_secs(10);

/// How long opening tries to reach the broker before it says so. Enough for a broker that is starting beside us.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);

/// The largest body handed to the broker (bytes). RabbitMQ 4 refuses more by default, and older ones get slow.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A peer that says nothing for this long is taken for dead (it is asked at half of it). Shorter alarms without need on busy machines.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// Where RabbitMQ is and who we are there: `amqp://user:password@host:port/vhost`. Shown without credentials.
#[derive(Clone)]
pub struct RabbitMqUri(AMQPUri);

impl RabbitMqUri {
    /// Parses an address. The error never repeats it, as it may carry a password.
    pub fn parse(text: &str) -> Result<Self, ConnectorError> {
        let wrong = |text: &str| ConnectorError::Setting {
            connector: NAME,
            setting: "uri".into(),
            text: text.into(),
        };
        let mut uri: AMQPUri = text.parse().map_err(|_| {
            wrong(
                "is no AMQP address; it looks like amqp://user:password@host:5672/vhost, with special characters percent-encoded",
            )
        })?;
        // The parser takes no IPv6 literal for a host and would quietly go to localhost.
        if let Some(literal) = ipv6_literal(text) {
            uri.authority.host = literal.into();
        }
        // `amqp://host/` names the vhost with the empty name, which nobody has and everybody writes.
        if uri.vhost.is_empty() {
            uri.vhost = "/".into();
        }
        Ok(Self(uri))
    }

    /// Whether TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        self.0.scheme == AMQPScheme::AMQPS
    }

    /// The address as lapin takes it.
    pub(super) fn for_lapin(&self) -> AMQPUri {
        self.0.clone()
    }
}

fn ipv6_literal(text: &str) -> Option<&str> {
    let authority = text.split_once("://")?.1.split('/').next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.strip_prefix('[')?.split_once(']').map(|(literal, _)| literal)
}

impl fmt::Display for RabbitMqUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { authority, vhost, .. } = &self.0;
        let host = &authority.host;
        let scheme = if self.is_tls() { "amqps" } else { "amqp" };
        let vhost = if vhost == "/" { "%2f" } else { vhost };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{}/{vhost}", authority.port)
        } else {
            write!(f, "{scheme}://{host}:{}/{vhost}", authority.port)
        }
    }
}

impl fmt::Debug for RabbitMqUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How to reach RabbitMQ, and the bounds of this connector.
#[derive(Debug, Clone)]
pub struct RabbitMqSettings {
    /// Where the broker is.
    pub uri: RabbitMqUri,
    /// Whom to trust and what to show of ourselves, where the address begins with `amqps://`.
    pub tls: RabbitMqTls,
    /// The user's password, instead of the one in the address.
    pub password: Option<Secret>,
    /// The broker knows us by our certificate (SASL EXTERNAL), instead of by user and password.
    pub by_certificate: bool,
    /// What the broker shows people as the name of our connections.
    pub connection_name: String,
    /// Deliveries pushed ahead to one source, at the most (messages). See [`PREFETCH_MAX`].
    pub prefetch_max: u16,
    /// How long one window waits for its confirms, a rebuild of the connection included. See [`CONFIRM_TIME_MAX`].
    pub confirm_time_max: Duration,
    /// How long opening tries to reach the broker. See [`CONNECT_TIME_MAX`].
    pub connect_time_max: Duration,
    /// The largest body that is sent (bytes). See [`MESSAGE_BYTES_MAX`].
    pub message_bytes_max: usize,
    /// After which silence the peer is taken for dead; whole seconds. See [`HEARTBEAT`].
    pub heartbeat: Duration,
    /// A source whose queues another process reads waits for them, and says so by its health, instead of being refused. Only for
    /// processes whose state is not in a folder of their own: one that takes over must know what the other has done.
    pub stand_by: bool,
}

impl RabbitMqSettings {
    /// The defaults for a broker at `uri`. Fails on an address that can't be used.
    pub fn new(uri: &str) -> Result<Self, ConnectorError> {
        Ok(Self {
            uri: RabbitMqUri::parse(uri)?,
            tls: RabbitMqTls::default(),
            password: None,
            by_certificate: false,
            connection_name: "dirigent".into(),
            prefetch_max: PREFETCH_MAX,
            confirm_time_max: CONFIRM_TIME_MAX,
            connect_time_max: CONNECT_TIME_MAX,
            message_bytes_max: MESSAGE_BYTES_MAX,
            heartbeat: HEARTBEAT,
            stand_by: false,
        })
    }

    /// Reads the files of TLS and refuses what can't work, so that it is told before a broker is asked.
    ///
    /// # Errors
    /// [`ConnectorError::Setting`], which names the setting.
    pub fn check(&self) -> Result<(), ConnectorError> {
        let wrong = |setting: &str, text: &str| {
            Err(ConnectorError::Setting {
                connector: NAME,
                setting: setting.into(),
                text: text.into(),
            })
        };
        if !self.uri.is_tls() {
            if self.tls != RabbitMqTls::default() {
                return wrong("tls", "is said, and the address begins with amqp://; say amqps://");
            }
            if self.by_certificate {
                return wrong(
                    "mechanism",
                    "EXTERNAL wants TLS, and the address begins with amqp://; say amqps://",
                );
            }
            return Ok(());
        }
        if self.by_certificate && self.tls.certificate.is_none() {
            return wrong(
                "mechanism",
                "EXTERNAL wants a certificate of ours; say `tls.certificate` and `tls.key`",
            );
        }
        self.tls.client(&crate::tls::OF_BROKERS).map(drop).map_err(|flaw| flaw.of(NAME))
    }

    /// The address as lapin takes it, with who we are.
    pub(super) fn for_lapin(&self) -> AMQPUri {
        let mut uri = self.uri.for_lapin();
        if let Some(password) = &self.password {
            password.expose().clone_into(&mut uri.authority.userinfo.password);
        }
        if self.by_certificate {
            uri.query.auth_mechanism = Some(SASLMechanism::External);
        }
        uri
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_shown() {
        let settings = RabbitMqSettings::new("amqp://ann:s3cret@broker:5673/shop").expect("valid");
        let shown = format!("{settings:?} {}", settings.uri);
        assert!(!shown.contains("s3cret") && !shown.contains("ann"), "{shown}");
        assert_eq!(settings.uri.to_string(), "amqp://broker:5673/shop");
    }

    #[test]
    fn an_address_that_cannot_be_parsed_is_refused_without_repeating_it() {
        for address in ["s3cret", "http://ann:s3cret@host", "amqp:s3cret"] {
            let error = RabbitMqUri::parse(address).expect_err("refused");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn an_address_of_tls_has_a_port_of_its_own_and_wants_what_it_is_told_of_tls() {
        let mut settings = RabbitMqSettings::new("amqps://ann:x@broker").expect("valid");
        assert_eq!(settings.uri.to_string(), "amqps://broker:5671/%2f");
        settings.by_certificate = true;
        let told = settings.check().expect_err("refused").to_string();
        assert!(told.contains("mechanism") && told.contains("`tls.certificate`"), "{told}");
        let mut settings = RabbitMqSettings::new("amqp://ann:x@broker").expect("valid");
        settings.check().expect("nothing to check");
        settings.password = Some(Secret::new("s3cret"));
        assert_eq!(settings.for_lapin().authority.userinfo.password, "s3cret");
        settings.tls.ca = Some("ca.pem".into());
        let told = settings.check().expect_err("refused").to_string();
        assert!(told.contains("amqps://"), "{told}");
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn an_ipv6_host_and_an_empty_vhost_are_taken_as_meant() {
        let uri = RabbitMqUri::parse("amqp://ann:x@[::1]:5673/").expect("valid");
        assert_eq!(uri.to_string(), "amqp://[::1]:5673/%2f");
        let uri = RabbitMqUri::parse("amqp://127.0.0.1").expect("valid");
        assert_eq!(uri.to_string(), "amqp://127.0.0.1:5672/%2f");
    }
}
