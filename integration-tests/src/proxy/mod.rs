//! A proxy between a process and its broker that does what networks do: it delays, falls silent, resets, closes one half,
//! or cuts after a certain byte.
//!
//! Bytes are carried as they are; what happens to a connection is decided when it is made, by a [`Director`].
//!
//! ```text
//! client ─► port of the proxy ─► Director::plan ─► up:   client → broker   each way: a delay, and a cut after so many bytes
//!                                                  down: broker → client
//! ```
//!
//! Kafka tells its clients where to connect: start it with [`dirigent_brokers::kafka_private_behind`], so that it tells them this port.

mod directors;

pub use directors::{Every, Random, Through};

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Bytes carried at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both ends get a reset: what was under way may be lost, delivered or not.
    Reset,
    /// The receiver gets an orderly end behind the last byte; the other way goes on.
    HalfClose,
    /// Nothing more comes through either way, for so long; then a reset.
    Silence(Duration),
}

/// What happens to the bytes of one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Way {
    /// Each piece waits for so long.
    pub delay: Duration,
    /// Behind so many bytes, this.
    pub cut: Option<(u64, Cut)>,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// From the client to the broker.
    pub up: Way,
    /// From the broker to the client.
    pub down: Way,
}

/// Bytes that came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// From the client to the broker.
    pub up: u64,
    /// From the broker to the client.
    pub down: u64,
}

/// Decides what happens to connections.
pub trait Director: Send + Sync + 'static {
    /// A connection has been made; the first one is number 0.
    fn plan(&self, number: u64) -> Plan;

    /// It is over.
    fn ended(&self, number: u64, plan: &Plan, carried: Carried);
}

/// A port that is ours, and goes nowhere yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    port: u16,
}

impl Bound {
    /// Takes a port on loopback.
    pub async fn any() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    /// Which port it is.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Carries to `broker`, a `host:port`, from now on, until the value is dropped.
    pub fn carry_to(self, broker: impl Into<String>, director: Arc<dyn Director>) -> Proxy {
        let Self { listener, port } = self;
        let (resets, reset) = watch::channel(0);
        let accepting = tokio::spawn(accept(listener, broker.into(), director, reset));
        Proxy { port, resets, accepting }
    }
}

/// A proxy that runs. Dropped, it closes its port and all its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    resets: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Resets every connection there is.
    pub fn reset_all(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    broker: String,
    director: Arc<dyn Director>,
    reset: watch::Receiver<u64>,
) {
    // Connections end with the task that accepts them.
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        while connections.try_join_next().is_some() {}
        // A failure to accept (no descriptors are left, for instance) passes.
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (own, plan) = (number, director.plan(number));
        number += 1;
        let (broker, director, mut reset) = (broker.clone(), Arc::clone(&director), reset.clone());
        reset.mark_unchanged();
        connections.spawn(async move {
            let carried = connection(client, &broker, &plan, &mut reset).await;
            director.ended(own, &plan, carried);
        });
    }
}

async fn connection(
    mut client: TcpStream,
    broker: &str,
    plan: &Plan,
    reset: &mut watch::Receiver<u64>,
) -> Carried {
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let Ok(mut server) = TcpStream::connect(broker).await else {
        // As if nobody listened there.
        let _ = client.set_zero_linger();
        return Carried { up: 0, down: 0 };
    };
    // Small pieces go at once: a cut is to fall where it was planned.
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::try_join!(
                carry(from_client, to_server, plan.up, &up),
                carry(from_server, to_client, plan.down, &down),
            )
        };
        tokio::select! {
            ended = both => ended.err(),
            _ = reset.changed() => Some(Cut::Reset),
        }
    };
    if let Some(Cut::Silence(length)) = ended {
        tokio::time::sleep(length).await;
    }
    if ended.is_some() {
        let _ = client.set_zero_linger().and_then(|()| server.set_zero_linger());
    }
    Carried { up: up.into_inner(), down: down.into_inner() }
}

/// Carries one way to its end; an error says how the whole connection is to be cut.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    way: Way,
    carried: &AtomicU64,
) -> Result<(), Cut> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = way.cut.map(|(after, _)| after);
    loop {
        if left == Some(0) {
            match way.cut {
                Some((_, Cut::HalfClose)) | None => break,
                Some((_, cut)) => return Err(cut),
            }
        }
        let room = left.map_or(CHUNK_BYTES, |left| {
            usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)
        });
        let count = match from.read(&mut buffer[..room]).await {
            Ok(0) => break,
            Ok(count) => count,
            // Whoever resets one end means both.
            Err(_) => return Err(Cut::Reset),
        };
        if !way.delay.is_zero() {
            tokio::time::sleep(way.delay).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return Err(Cut::Reset);
        }
        carried.fetch_add(count as u64, Ordering::Relaxed);
        left = left.map(|left| left - count as u64);
    }
    let _ = to.shutdown().await;
    // What still comes has nowhere to go; the sender finds out by itself.
    while matches!(from.read(&mut buffer).await, Ok(count) if count > 0) {}
    Ok(())
}

#[cfg(test)]
mod tests;
