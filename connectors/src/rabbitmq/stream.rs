//! lapin on streams of ours: TCP or TLS, with what comes from the broker [mended](super::mended) before lapin reads it.
//!
//! ```text
//! TCP ─► (TLS) ─► Mended ─► lapin, which is handed the stream and makes none of its own
//! ```

use super::mended::Mended;
use async_compat::Compat;
use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures::{
    Stream,
    io::{AsyncRead, AsyncWrite},
};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, uri::AMQPUri};
use std::{
    future::Future,
    io::{self, Read, Write},
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// A connection of TCP.
pub(super) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    // In an address IPv6 stands in brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One try, without TLS.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let stream = tcp(&uri.authority.host, uri.authority.port).await?;
    hand_over(Compat::new(stream), uri, properties).await
}

/// lapin's part of a connection.
pub(super) async fn hand_over<S: Duplex + 'static>(
    stream: S,
    uri: AMQPUri,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let stream: Handed = Mended::new(Box::new(stream));
    // lapin asks once, and again only for the recovery of its own, which is off.
    let stream = Mutex::new(Some(stream));
    let hand_over = move |_: AMQPUri, _: Runtime<Kit>| {
        let taken = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let spent = || lapin::Error::from(io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(taken.map(AsyncTcpStream::Plain).ok_or_else(spent))
    };
    let kit = RuntimeParts::new(Tokio::current(), Hands(Tokio::current()));
    Connection::connector(uri, Runtime::new(kit), hand_over, properties).await
}

/// What lapin reads from and writes to.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

type Handed = Mended<Box<dyn Duplex>>;

type Kit = RuntimeParts<Tokio, Hands>;

/// A reactor for streams that are handed over: time comes from tokio, connections from [`connect`] and from TLS.
#[derive(Debug, Clone)]
struct Hands(Tokio);

impl Reactor for Hands {
    type TcpStream = Handed;
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
