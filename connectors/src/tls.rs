//! Certificates and keys in files, whom to trust, and what a handshake that failed means for a person.
//!
//! ```text
//! settings ─► certificates, key, roots: read and checked ─► client ─► handshake ─► why: what a person can do about it
//! ```
//!
//! Files are PEM. Certificates of brokers, and of whom else [`ClientTls`] leads to, are always verified, name and time included. What
//! is wrong with a file is a [`Flaw`] that names the setting; what is wrong with a handshake is told apart from a network that fails,
//! which passes. What settings are called, and who is at the other end, is said by [`Terms`].

use crate::ConnectorError;
use rustls::{
    AlertDescription as Alert, CertificateError, ClientConfig, ClientConnection, Error,
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{
    error::Error as StdError,
    fmt, io,
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Bytes of a file of certificates or of a key. All the authorities of a system fit into it; a wrong path may lead anywhere.
pub const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How long finding out why a broker is not trusted may take, each of its steps.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(2);

/// Whom to trust, and what to show of ourselves. The files are read anew for each connection: what is renewed in them counts from the
/// next one on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// PEM file of the authorities to trust; those of the system if not said.
    pub ca: Option<PathBuf>,
    /// PEM file of our certificate, with what lies between it and its authority, for servers that want one.
    pub certificate: Option<PathBuf>,
    /// PEM file of the key of our certificate, not encrypted.
    pub key: Option<PathBuf>,
}

/// What the settings are called where a person writes them, and who is at the other end.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The name of [`ClientTls::ca`].
    pub ca: &'static str,
    /// The name of [`ClientTls::certificate`].
    pub certificate: &'static str,
    /// The name of [`ClientTls::key`].
    pub key: &'static str,
    /// What is connected to: `broker`.
    pub peer: &'static str,
}

impl Terms {
    /// What is to be said of whoever knows its clients by their certificates.
    pub fn wants_certificate(&self) -> String {
        let Self { certificate, key, peer, .. } = self;
        format!(
            "the {peer} wants a certificate of its clients; name it and its key in `{certificate}` and `{key}`"
        )
    }
}

/// Those of a broker's settings.
pub(crate) const OF_BROKERS: Terms =
    Terms { ca: "tls.ca", certificate: "tls.certificate", key: "tls.key", peer: "broker" };

/// What is wrong with a setting.
#[derive(Debug)]
pub struct Flaw {
    /// Which, below its connector's name.
    pub setting: &'static str,
    /// What, and what would be right. Of a key it says nothing but that.
    pub text: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.setting, self.text)
    }
}

impl StdError for Flaw {}

impl ClientTls {
    /// Reads the files, and checks that they belong together. Blocks.
    ///
    /// # Errors
    /// A file can't be read or holds something else, or the key is another certificate's.
    pub fn client(&self, terms: &Terms) -> Result<ClientConfig, Flaw> {
        let roots = roots(terms, self.ca.as_deref())?;
        let identity = self.identity(terms)?;
        client(roots, identity).map_err(|error| Flaw {
            setting: terms.key,
            text: format!(
                "and `{}` can't be used, do they belong together? {error}",
                terms.certificate
            ),
        })
    }

    /// Why a connection failed, where a person must mend it, and what they can do. `None` if it may go well the next time.
    pub fn why(&self, error: &(dyn StdError + 'static), terms: &Terms) -> Option<String> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(tls) = error.downcast_ref::<Error>() {
                return why(tls, self.certificate.is_some(), terms);
            }
            if error.is::<InvalidDnsNameError>() {
                return Some(
                    "its name can't stand in a certificate; say a host name or an address".into(),
                );
            }
            // An error of a stream does not count what it wraps as its source.
            next = match error.downcast_ref::<io::Error>() {
                Some(of_stream) => {
                    of_stream.get_ref().map(|inner| inner as &(dyn StdError + 'static))
                }
                None => error.source(),
            };
        }
        None
    }

    fn identity(&self, terms: &Terms) -> Result<Option<Identity>, Flaw> {
        let half = |setting, other| {
            Err(Flaw { setting, text: format!("is not said, and `{other}` is; say both") })
        };
        let (certificate, key_path) = match (&self.certificate, &self.key) {
            (None, None) => return Ok(None),
            (Some(_), None) => return half(terms.key, terms.certificate),
            (None, Some(_)) => return half(terms.certificate, terms.key),
            (Some(certificate), Some(key)) => (certificate, key),
        };
        let chain = certificates(terms.certificate, certificate)?;
        match key(terms.key, key_path)? {
            Key::Plain(key) => Ok(Some((chain, key))),
            Key::Encrypted => Err(Flaw {
                setting: terms.key,
                text: format!(
                    "names {}, which is encrypted; `openssl pkey -in FILE -out PLAIN` takes that off; let nobody else read the result",
                    key_path.display()
                ),
            }),
        }
    }
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
pub(crate) fn roots(terms: &Terms, ca: Option<&Path>) -> Result<RootCertStore, Flaw> {
    let setting = terms.ca;
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
                let text = format!(
                    "is not said, and this system has no authorities of its own (Debian: ca-certificates); name the file of the {}'s",
                    terms.peer
                );
                return Err(Flaw { setting, text });
            }
        }
    }
    Ok(roots)
}

/// What a client shows of itself.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The client of these roots. An error is one of the identity: its key belongs to another certificate, or is of no use.
fn client(roots: RootCertStore, identity: Option<Identity>) -> Result<ClientConfig, Error> {
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
fn why(error: &Error, identified: bool, terms: &Terms) -> Option<String> {
    Some(match error {
        Error::InvalidCertificate(flaw) => why_certificate(flaw, terms),
        Error::AlertReceived(alert) => return why_alert(*alert, identified, terms),
        Error::InvalidMessage(_) => {
            "what answers there does not speak TLS; is this the port for TLS?".into()
        }
        Error::PeerIncompatible(text) => no_common_way(&format!("{text:?}"), terms),
        _ => return None,
    })
}

fn why_certificate(flaw: &CertificateError, Terms { ca, peer, .. }: &Terms) -> String {
    use CertificateError as Flaw;
    match flaw {
        Flaw::Expired | Flaw::ExpiredContext { .. } => format!(
            "the certificate of the {peer} has expired ({flaw}); renew it there, and check the clock here"
        ),
        Flaw::NotValidYet | Flaw::NotValidYetContext { .. } => format!(
            "the certificate of the {peer} is not valid yet ({flaw}); check the clocks there and here"
        ),
        Flaw::NotValidForName | Flaw::NotValidForNameContext { .. } => format!(
            "the certificate of the {peer} is for another name ({flaw}); say the address by a name that is in it, or have one made \
             for this name"
        ),
        Flaw::UnknownIssuer | Flaw::BadSignature => format!(
            "the certificate of the {peer} is signed by nobody who is trusted here ({flaw}); name the file of its authority in `{ca}`"
        ),
        Flaw::Revoked => format!("the certificate of the {peer} was revoked; renew it there"),
        other => {
            format!("the certificate of the {peer} can't be trusted ({other}); renew it there")
        }
    }
}

fn why_alert(alert: Alert, identified: bool, terms: &Terms) -> Option<String> {
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
        (Alert::CertificateRequired | Alert::NoCertificate, _) => terms.wants_certificate(),
        (Alert::HandshakeFailure, false) => terms.wants_certificate(),
        (_, false) if of_certificates => terms.wants_certificate(),
        (alert, true) if of_certificates => refuses_certificate(&format!("{alert:?}"), terms),
        (Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity, _) => {
            no_common_way(&format!("{alert:?}"), terms)
        }
        (Alert::UnrecognisedName, _) => format!(
            "the {} does not know itself by this name; say the address by a name of its",
            terms.peer
        ),
        _ => return None,
    })
}

fn no_common_way(said: &str, Terms { peer, .. }: &Terms) -> String {
    format!(
        "client and {peer} have no way of TLS in common ({said}); let the {peer} offer TLS 1.2 or 1.3"
    )
}

/// What is to be said of one that does not take the certificate of this client.
fn refuses_certificate(alert: &str, Terms { peer, .. }: &Terms) -> String {
    format!(
        "the {peer} refuses the certificate of this client ({alert}); is it signed by an authority that the {peer} trusts, and still \
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
            Err(error) => return why(within(&error)?, false, &OF_BROKERS),
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

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
        let why = |error: &Error, identified| why(error, identified, &OF_BROKERS);
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

    /// A certificate of its own, and its key, in files.
    fn pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
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
        let mut settings = ClientTls {
            ca: Some(certificate.clone()),
            certificate: Some(certificate),
            key: Some(key),
        };
        settings.client(&OF_BROKERS).expect("they belong together");
        settings.key = Some(other);
        let flaw = settings.client(&OF_BROKERS).expect_err("they don't");
        assert_eq!(flaw.setting, "tls.key");
        assert!(flaw.text.contains("belong together"), "{}", flaw.text);
        settings.key = None;
        assert!(settings.client(&OF_BROKERS).expect_err("half of it").text.contains("say both"));
    }

    #[test]
    fn why_a_connection_failed_is_found_wherever_it_lies_in_the_error_and_said_in_the_settings_words()
     {
        let terms = Terms { ca: "sslrootcert", certificate: "c", key: "k", peer: "server" };
        let tls = ClientTls::default();
        let expired = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::other(expired));
        let why = tls.why(&wrapped, &terms).unwrap();
        assert!(why.contains("of the server") && why.contains("`sslrootcert`"), "{why}");
        assert_eq!(tls.why(&io::Error::from(io::ErrorKind::ConnectionReset), &terms), None);
    }
}
