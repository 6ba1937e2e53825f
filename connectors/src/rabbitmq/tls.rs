//! AMQPS: whom to trust, what to show of ourselves, and a stream that is TLS.
//!
//! ```text
//! files (read anew for each connection) ─► TCP ─► TLS ─► stream, which hands it to lapin
//! ```
//!
//! lapin's own TLS would bring some forty crates along for PKCS#12; files in PEM need none of them. Certificates that are renewed in
//! their files count from the next connection on.

use super::{
    NAME,
    config::RabbitMqUri,
    connection::{Trouble, refusal},
    stream,
};
use crate::{
    ConnectorError,
    tls::{ClientTls, OF_BROKERS},
};
use async_compat::Compat;
use lapin::{Connection, ConnectionProperties, ErrorKind, uri::AMQPUri};
use rustls::pki_types::ServerName;
use std::{io, sync::Arc};
use tokio_rustls::TlsConnector;

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
    let plain = stream::tcp(&host, port).await.map_err(passing)?;
    let secured = TlsConnector::from(Arc::new(client)).connect(name, plain).await;
    let stream = match secured {
        Ok(stream) => Compat::new(stream),
        Err(error) => {
            let why = refused(&error);
            return Err(why.map_or_else(|| passing(error), shut));
        }
    };
    let connected = stream::hand_over(stream, uri, properties).await;
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
