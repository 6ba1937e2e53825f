//! A schema registry by HTTPS: whose certificate is trusted, and that nothing is told to one whose is not.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

mod stub;

use dirigent_model::message::{Channel, Contract, Message};
use dirigent_schemas::registry::{Credentials, RegistryError, RegistrySettings, SchemaRegistry};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use stub::Stub;

#[derive(Serialize, Deserialize)]
struct Hold {
    amount: i32,
}
impl Message for Hold {
    const NAME: &'static str = "Hold";
    const SCHEMA: Option<&'static str> =
        Some(r#"{"type":"record","name":"Hold","fields":[{"name":"amount","type":"int"}]}"#);
}

/// Whoever signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A registry with a certificate for 127.0.0.1 that ends with this year, before one without. Answers its port.
    fn stands_before(&self, plain: &Stub, until: i32) -> u16 {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_after = date_time_ymd(until, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let behind = plain.url().replace("http://", "");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // Ends with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(config.clone()).unwrap();
                carries(StreamOwned::new(connection, stream), &behind);
            }
        });
        port
    }

    fn file(&self, folder: &tempfile::TempDir) -> PathBuf {
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, self.0.pem()).unwrap();
        file
    }
}

/// Carries questions to the registry behind, and its answers back, until the client goes away.
fn carries(secured: StreamOwned<ServerConnection, TcpStream>, behind: &str) {
    let mut secured = BufReader::new(secured);
    while let Some(question) = one_message(&mut secured) {
        let mut plain = TcpStream::connect(behind).unwrap();
        plain.write_all(&question).unwrap();
        let answer = one_message(&mut BufReader::new(plain)).unwrap();
        if secured.get_mut().write_all(&answer).is_err() {
            return;
        }
    }
}

/// A head of HTTP and its body, or nothing if there is none.
fn one_message(from: &mut impl BufRead) -> Option<Vec<u8>> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    loop {
        let begin = bytes.len();
        if !matches!(from.read_until(b'\n', &mut bytes), Ok(1..)) {
            return None;
        }
        let line = String::from_utf8_lossy(&bytes[begin..]).to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    bytes.extend(body);
    Some(bytes)
}

fn agrees(url: String, ca: PathBuf) -> Result<(), RegistryError> {
    let settings = RegistrySettings {
        ca: Some(ca),
        register: true,
        credentials: Credentials::Bearer("s3cret".into()),
        ..RegistrySettings::new(url)
    };
    let sent = Contract::sent::<Hold>(Channel::avro("payment"));
    SchemaRegistry::new(settings)?.agree(&[sent]).map(drop)
}

#[test]
fn a_registry_whose_certificate_is_trusted_is_agreed_with() {
    let (plain, folder) = (Stub::start(), tempfile::tempdir().unwrap());
    let house = Authority::new("house");
    let port = house.stands_before(&plain, 2200);
    agrees(format!("https://127.0.0.1:{port}"), house.file(&folder)).unwrap();
    assert_eq!(plain.authorization().as_deref(), Some("Bearer s3cret"));
}

#[test]
fn a_registry_whose_certificate_is_not_trusted_ends_the_start_at_once_and_is_told_nothing() {
    let (plain, folder) = (Stub::start(), tempfile::tempdir().unwrap());
    let house = Authority::new("house");
    let (valid, over) = (house.stands_before(&plain, 2200), house.stands_before(&plain, 2020));
    let strangers = tempfile::tempdir().unwrap();
    let stranger = Authority::new("stranger").file(&strangers);
    for (url, ca, word) in [
        (format!("https://127.0.0.1:{valid}"), stranger, "UnknownIssuer"),
        (format!("https://127.0.0.1:{over}"), house.file(&folder), "expired"),
        (format!("https://localhost:{valid}"), house.file(&folder), "not valid for name"),
    ] {
        let begun = Instant::now();
        let error = agrees(url, ca).expect_err("it is not trusted");
        assert!(matches!(error, RegistryError::Refused { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("registry.ca") && text.contains("certificate"), "{text}");
        assert!(text.contains(word) && !text.contains("s3cret"), "{word}: {text}");
        assert!(begun.elapsed() < Duration::from_secs(60), "it was asked again and again");
    }
    assert!(plain.requests().is_empty());
}
