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
    tls::{ClientTls, OF_BROKERS},
};
use async_compat::Compat;
use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures::{
    Stream,
    io::{AsyncRead, AsyncWrite},
};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, ErrorKind, uri::AMQPUri};
use rustls::pki_types::ServerName;
use std::{
    future::Future,
    io::{self, Read, Write},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// TLS to an address that begins with `amqps://`. The broker's certificate is verified, its name included.
pub type RabbitMqTls = ClientTls;

/// One try. What a person must mend is told apart from what may pass.
pub(super) async fn connect(
    address: &RabbitMqUri,
    uri: AMQPUri,
    settings: &RabbitMqTls,
    properties: ConnectionProperties,
) -> Result<Connection, Trouble> {
    let doing = "to let us in";
    let passing = |error: io::Error| Trouble::passing(doing, error.into());
    let refused = |error: &io::Error| settings.why(error, &OF_BROKERS);
    let shut = |text: String| {
        Trouble::Shut(ConnectorError::NotLetIn {
            connector: NAME,
            address: address.to_string(),
            text,
        })
    };
    let files = settings.clone();
    let read = tokio::task::spawn_blocking(move || files.client(&OF_BROKERS)).await;
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
            let why = refused(&error);
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
            ErrorKind::IOError(error) => refused(error),
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
