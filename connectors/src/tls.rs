//! Certificates and keys in files, whom to trust, and what a handshake that failed means for a person.
//!
//! ```text
//! settings ─► certificates, key, roots: read and checked ─► client ─► handshake ─► why: what a person can do about it
//! ```
//!
//! Files are PEM. Certificates of brokers are always verified, name and time included. What is wrong with a file is a [`Flaw`] that
//! names the setting; what is wrong with a handshake is told apart from a network that fails, which passes.

use crate::ConnectorError;
use rustls::{
    AlertDescription as Alert, CertificateError, ClientConfig, ClientConnection, Error,
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{
    io,
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    sync::Arc,
    time::Duration,
};

/// Bytes of a file of certificates or of a key. All the authorities of a system fit into it; a wrong path may lead anywhere.
pub const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How long finding out why a broker is not trusted may take, each of its steps.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(2);

/// What is wrong with a setting.
#[derive(Debug)]
pub(crate) struct Flaw {
    /// Which, below its connector's name.
    pub(crate) setting: &'static str,
    /// What, and what would be right. Of a key it says nothing but that.
    pub(crate) text: String,
}

impl Flaw {
    pub(crate) fn of(self, connector: &'static str) -> ConnectorError {
        ConnectorError::Setting { connector, setting: self.setting.into(), text: self.text }
    }
}

/// What a file of a key holds.
#[derive(Debug)]
pub(crate) enum Key {
    /// A key that can be used.
    Plain(PrivateKeyDer<'static>),
    /// One that wants a password first.
    Encrypted,
}

/// The certificates of a file, at least one.
pub(crate) fn certificates(
    setting: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, Flaw> {
    let wrong = |text: String| Flaw { setting, text: format!("names {}, {text}", path.display()) };
    let bytes = read(setting, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| wrong(format!("which is no whole PEM file: {error:?}")))?;
    if found.is_empty() {
        return Err(wrong(
            "in which there is no certificate in PEM (-----BEGIN CERTIFICATE-----)".into(),
        ));
    }
    Ok(found)
}

/// The private key of a file.
pub(crate) fn key(setting: &'static str, path: &Path) -> Result<Key, Flaw> {
    let bytes = read(setting, path)?;
    let says = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    if says("BEGIN ENCRYPTED PRIVATE KEY") || says("Proc-Type: 4,ENCRYPTED") {
        return Ok(Key::Encrypted);
    }
    PrivateKeyDer::from_pem_slice(&bytes).map(Key::Plain).map_err(|_| Flaw {
        setting,
        text: format!(
            "names {}, in which there is no private key in PEM (-----BEGIN PRIVATE KEY-----)",
            path.display()
        ),
    })
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, Flaw> {
    let wrong = |text: String| Flaw {
        setting,
        text: format!("names {}, which can't be read: {text}", path.display()),
    };
    let bytes = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if bytes > PEM_BYTES_MAX {
        return Err(wrong(format!(
            "it has {bytes} bytes, and such a file at most {PEM_BYTES_MAX}"
        )));
    }
    std::fs::read(path).map_err(|error| wrong(error.to_string()))
}

/// Whom to trust: the authorities of the file, and nobody else, or those of the system.
pub(crate) fn roots(setting: &'static str, ca: Option<&Path>) -> Result<RootCertStore, Flaw> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(setting, path)? {
                roots.add(certificate).map_err(|error| Flaw {
                    setting,
                    text: format!(
                        "names {}, which holds a certificate that can't be trusted as an authority: {error}",
                        path.display()
                    ),
                })?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let text = "is not said, and this system has no authorities of its own (Debian: ca-certificates); name the file of \
                            the broker's";
                return Err(Flaw { setting, text: text.into() });
            }
        }
    }
    Ok(roots)
}

/// What a client shows of itself.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The client of these roots. An error is one of the identity: its key belongs to another certificate, or is of no use.
pub(crate) fn client(
    roots: RootCertStore,
    identity: Option<Identity>,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// The error of TLS within one of a stream.
pub(crate) fn within(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Why a handshake failed, and what a person can do. `None` if it may go well the next time. `identified` says whether the client
/// has shown a certificate.
pub(crate) fn why(error: &Error, identified: bool) -> Option<String> {
    Some(match error {
        Error::InvalidCertificate(flaw) => why_certificate(flaw),
        Error::AlertReceived(alert) => return why_alert(*alert, identified),
        Error::InvalidMessage(_) => {
            "what answers there does not speak TLS; is this the port for TLS?".into()
        }
        Error::PeerIncompatible(text) => {
            format!(
                "client and broker have no way of TLS in common ({text:?}); let the broker offer TLS 1.2 or 1.3"
            )
        }
        _ => return None,
    })
}

fn why_certificate(flaw: &CertificateError) -> String {
    use CertificateError as Flaw;
    match flaw {
        Flaw::Expired | Flaw::ExpiredContext { .. } => format!(
            "the certificate of the broker has expired ({flaw}); renew it there, and check the clock here"
        ),
        Flaw::NotValidYet | Flaw::NotValidYetContext { .. } => format!(
            "the certificate of the broker is not valid yet ({flaw}); check the clocks there and here"
        ),
        Flaw::NotValidForName | Flaw::NotValidForNameContext { .. } => format!(
            "the certificate of the broker is for another name ({flaw}); say the address by a name that is in it, or have one made \
             for this name"
        ),
        Flaw::UnknownIssuer | Flaw::BadSignature => format!(
            "the certificate of the broker is signed by nobody who is trusted here ({flaw}); name the file of its authority in \
             `tls.ca`"
        ),
        Flaw::Revoked => "the certificate of the broker was revoked; renew it there".into(),
        other => {
            format!("the certificate of the broker can't be trusted ({other}); renew it there")
        }
    }
}

fn why_alert(alert: Alert, identified: bool) -> Option<String> {
    let of_certificates = matches!(
        alert,
        Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
    );
    Some(match (alert, identified) {
        (Alert::CertificateRequired | Alert::NoCertificate, _) => wants_certificate(),
        (Alert::HandshakeFailure, false) => wants_certificate(),
        (_, false) if of_certificates => wants_certificate(),
        (alert, true) if of_certificates => refuses_certificate(&format!("{alert:?}")),
        (Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity, _) => {
            format!(
                "client and broker have no way of TLS in common ({alert:?}); let the broker offer TLS 1.2 or 1.3"
            )
        }
        (Alert::UnrecognisedName, _) => {
            "the broker does not know itself by this name; say the address by a name of its".into()
        }
        _ => return None,
    })
}

/// What is to be said of a broker that knows its clients by their certificates.
pub(crate) fn wants_certificate() -> String {
    "the broker wants a certificate of its clients; name it and its key in `tls.certificate` and `tls.key`".into()
}

/// What is to be said of a broker that does not take the certificate of this client.
pub(crate) fn refuses_certificate(alert: &str) -> String {
    format!(
        "the broker refuses the certificate of this client ({alert}); is it signed by an authority that the broker trusts, and still \
         valid?"
    )
}

/// Looks why the broker at `host:port` is not trusted, by a handshake of its own; nothing else is said to it. Blocks.
pub(crate) fn look(address: &str, roots: RootCertStore) -> Option<String> {
    let (host, _) = address.rsplit_once(':')?;
    let name = ServerName::try_from(host.trim_matches(['[', ']'])).ok()?.to_owned();
    let mut stream = address
        .to_socket_addrs()
        .ok()?
        .find_map(|at| TcpStream::connect_timeout(&at, LOOK_WAIT_MAX).ok())?;
    stream.set_read_timeout(Some(LOOK_WAIT_MAX)).ok()?;
    stream.set_write_timeout(Some(LOOK_WAIT_MAX)).ok()?;
    let mut connection = ClientConnection::new(Arc::new(client(roots, None).ok()?), name).ok()?;
    while connection.is_handshaking() {
        match connection.complete_io(&mut stream) {
            Ok((0, 0)) => return None,
            Ok(_) => {}
            Err(error) => return why(within(&error)?, false),
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_something_else_is_named_with_its_setting() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let told = |flaw: Flaw| format!("{} {}", flaw.setting, flaw.text);
        let missing = told(certificates("tls.ca", &file).unwrap_err());
        assert!(missing.contains("tls.ca names") && missing.contains("ca.pem"), "{missing}");
        std::fs::write(&file, "no certificate").unwrap();
        let other = told(certificates("tls.ca", &file).unwrap_err());
        assert!(other.contains("no certificate in PEM"), "{other}");
        let other = told(key("tls.key", &file).unwrap_err());
        assert!(other.contains("no private key in PEM"), "{other}");
        std::fs::write(&file, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap();
        assert!(matches!(key("tls.key", &file), Ok(Key::Encrypted)));
    }

    #[test]
    fn a_handshake_that_a_person_must_mend_is_told_from_one_that_may_go_well() {
        let expired = Error::InvalidCertificate(CertificateError::Expired);
        assert!(why(&expired, false).is_some_and(|why| why.contains("has expired")));
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(why(&unknown, false).is_some_and(|why| why.contains("`tls.ca`")));
        let wanted = Error::AlertReceived(Alert::CertificateRequired);
        assert!(why(&wanted, false).is_some_and(|why| why.contains("`tls.certificate`")));
        let refused = Error::AlertReceived(Alert::UnknownCA);
        assert!(why(&refused, true).is_some_and(|why| why.contains("refuses the certificate")));
        assert_eq!(why(&Error::AlertReceived(Alert::InternalError), true), None);
        assert_eq!(why(&Error::HandshakeNotComplete, false), None);
    }
}
