//! AMQPS: whom to trust, what to show of ourselves, and lapin on a stream that is TLS.
//!
//! ```text
//! files (read anew for each connection) ─► TCP ─► TLS ─► lapin, which is handed the stream and makes none of its own
//! ```
//!
//! lapin's own TLS would bring some forty crates along for PKCS#12; files in PEM need none of them. Certificates that are renewed in
//! their files count from the next connection on.

use super::{
    NAME,
    config::RabbitMqUri,
    connection::{Trouble, refusal},
};
use crate::{
    ConnectorError,
    tls::{self, Flaw, Identity, Key},
};
use async_compat::Compat;
use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures::{
    Stream,
    io::{AsyncRead, AsyncWrite},
};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, ErrorKind, uri::AMQPUri};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    future::Future,
    io::{self, Read, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// TLS to an address that begins with `amqps://`. The broker's certificate is verified, its name included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RabbitMqTls {
    /// PEM file of the authorities to trust; those of the system if not said.
    pub ca: Option<PathBuf>,
    /// PEM file of our certificate, with what lies between it and its authority, for brokers that want one.
    pub certificate: Option<PathBuf>,
    /// PEM file of the key of our certificate, not encrypted.
    pub key: Option<PathBuf>,
}

impl RabbitMqTls {
    /// Reads the files, and checks that they belong together.
    pub(super) fn client(&self) -> Result<ClientConfig, Flaw> {
        let roots = tls::roots("tls.ca", self.ca.as_deref())?;
        let identity = self.identity()?;
        tls::client(roots, identity).map_err(|error| Flaw {
            setting: "tls.key",
            text: format!("and `tls.certificate` can't be used, do they belong together? {error}"),
        })
    }

    fn identity(&self) -> Result<Option<Identity>, Flaw> {
        let flaw = |setting, text: &str| Err(Flaw { setting, text: text.into() });
        let (certificate, key) = match (&self.certificate, &self.key) {
            (None, None) => return Ok(None),
            (Some(_), None) => {
                return flaw("tls.key", "is not said, and `tls.certificate` is; say both");
            }
            (None, Some(_)) => {
                return flaw("tls.certificate", "is not said, and `tls.key` is; say both");
            }
            (Some(certificate), Some(key)) => (certificate, key),
        };
        let chain = tls::certificates("tls.certificate", certificate)?;
        match tls::key("tls.key", key)? {
            Key::Plain(key) => Ok(Some((chain, key))),
            Key::Encrypted => Err(Flaw {
                setting: "tls.key",
                text: format!(
                    "names {}, which is encrypted; `openssl pkey -in FILE -out PLAIN` takes that off; let nobody else read the result",
                    key.display()
                ),
            }),
        }
    }
}

/// One try. What a person must mend is told apart from what may pass.
pub(super) async fn connect(
    address: &RabbitMqUri,
    uri: AMQPUri,
    settings: &RabbitMqTls,
    properties: ConnectionProperties,
) -> Result<Connection, Trouble> {
    let doing = "to let us in";
    let passing = |error: io::Error| Trouble::passing(doing, error.into());
    let identified = settings.certificate.is_some();
    let refused = |error: &rustls::Error| tls::why(error, identified);
    let shut = |text: String| {
        Trouble::Shut(ConnectorError::NotLetIn {
            connector: NAME,
            address: address.to_string(),
            text,
        })
    };
    let files = settings.clone();
    let read = tokio::task::spawn_blocking(move || files.client()).await;
    let client = read
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
        .map_err(|flaw| Trouble::Shut(flaw.of(NAME)))?;
    let (host, port) = (uri.authority.host.clone(), uri.authority.port);
    let name = ServerName::try_from(host.clone()).map_err(|_| {
        shut("its name can't stand in a certificate; say a host name or an address".into())
    })?;
    let plain = TcpStream::connect((host, port)).await.map_err(passing)?;
    plain.set_nodelay(true).map_err(passing)?;
    let secured = TlsConnector::from(Arc::new(client)).connect(name, plain).await;
    let stream = match secured {
        Ok(stream) => Compat::new(stream),
        Err(error) => {
            let why = tls::within(&error).and_then(refused);
            return Err(why.map_or_else(|| passing(error), shut));
        }
    };
    // lapin asks once, and again only for the recovery of its own, which is off.
    let stream = Mutex::new(Some(stream));
    let hand_over = move |_: AMQPUri, _: Runtime<Kit>| {
        let taken = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let spent = || lapin::Error::from(io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(taken.map(AsyncTcpStream::Plain).ok_or_else(spent))
    };
    let kit = RuntimeParts::new(Tokio::current(), Handed(Tokio::current()));
    let connected = Connection::connector(uri, Runtime::new(kit), hand_over, properties).await;
    connected.map_err(|error| {
        // With TLS 1.3, what the broker thinks of our certificate comes behind the handshake.
        let told = match error.kind() {
            ErrorKind::IOError(error) => tls::within(error).and_then(refused),
            _ => None,
        };
        match told {
            Some(why) => shut(why),
            None if refusal(&error).is_some() => Trouble::of(doing, error),
            None => Trouble::passing(doing, error),
        }
    })
}

type Kit = RuntimeParts<Tokio, Handed>;

/// A reactor for streams that are handed over: time comes from tokio, connections from [`connect`].
#[derive(Debug, Clone)]
struct Handed(Tokio);

impl Reactor for Handed {
    type TcpStream = Compat<TlsStream<TcpStream>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, wait: Duration) -> Self::Sleep {
        self.0.sleep(wait)
    }

    fn interval(&self, wait: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(wait)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    /// A certificate of its own, and its key, in files.
    fn pair(folder: &std::path::Path, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key);
        let files = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&files.0, made.unwrap().pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_with_its_setting() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = pair(folder.path(), "a");
        let (_, other) = pair(folder.path(), "b");
        let mut settings = RabbitMqTls {
            ca: Some(certificate.clone()),
            certificate: Some(certificate),
            key: Some(key),
        };
        settings.client().expect("they belong together");
        settings.key = Some(other);
        let flaw = settings.client().expect_err("they don't");
        assert_eq!(flaw.setting, "tls.key");
        assert!(flaw.text.contains("belong together"), "{}", flaw.text);
        settings.key = None;
        assert!(settings.client().expect_err("half of it").text.contains("say both"));
    }
}
