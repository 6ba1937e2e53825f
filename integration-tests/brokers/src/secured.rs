//! Brokers that ask who their clients are: certificates, users, and what a user may do.
//!
//! A secured broker has a listener with TLS beside the plain one, by which it is looked after; PostgreSQL has one that lets in by TLS
//! only. Whoever starts it makes the
//! certificates, and is free to make bad ones.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Unavailable, folder};
use crate::place;

/// How long connecting to the broker for a change of permissions, and each of its words, may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The longest answer to such a change (bytes). The broker's has some dozens.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a broker of one's own shows and asks, as PEM texts.
#[derive(Clone)]
pub struct Secured {
    /// The authorities whose clients are let in; a client without a certificate is not.
    pub ca: String,
    /// The broker's certificate, with what lies between it and its authority.
    pub certificate: String,
    /// The key of that certificate, as PKCS#8.
    pub key: String,
    /// The user, who may do everything. Of Kafka by PLAIN and SCRAM; of RabbitMQ by PLAIN, and by a certificate with this common name; of
    /// PostgreSQL by SCRAM-SHA-256.
    pub user: String,
    /// The user's password.
    pub password: String,
}

/// The files of a secured broker.
pub(crate) struct Files {
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Key and certificate in one, as Kafka wants them.
    pub(crate) both: PathBuf,
}

impl Files {
    pub(crate) fn of(path: &Path) -> Self {
        let file = |name: &str| path.join(name);
        Self {
            ca: file("ca.pem"),
            certificate: file("certificate.pem"),
            key: file("key.pem"),
            both: file("key-and-certificate.pem"),
        }
    }

    /// Writes them; what runs reads them when it is started again.
    pub(crate) fn write(&self, secured: &Secured) -> Result<(), Unavailable> {
        let Secured { ca, certificate, key, .. } = secured;
        for (path, text) in [
            (&self.ca, ca),
            (&self.certificate, certificate),
            (&self.key, key),
            (&self.both, &format!("{key}{certificate}")),
        ] {
            fs::write(path, text).map_err(folder("writing", path))?;
        }
        Ok(())
    }
}

/// What Kafka's configuration says of it.
pub(crate) fn kafka(files: &Files, secured: &Secured) -> String {
    let Secured { user, password, .. } = secured;
    let login = "org.apache.kafka.common.security";
    let (ca, both) = (files.ca.display(), files.both.display());
    format!(
        "listener.name.secured.ssl.keystore.type=PEM\n\
         listener.name.secured.ssl.keystore.location={both}\n\
         listener.name.secured.ssl.truststore.type=PEM\n\
         listener.name.secured.ssl.truststore.location={ca}\n\
         listener.name.secured.ssl.client.auth=required\n\
         listener.name.secured.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         listener.name.secured.plain.sasl.jaas.config={login}.plain.PlainLoginModule required user_{user}=\"{password}\";\n\
         listener.name.secured.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;\n\
         listener.name.secured.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS\n\
         allow.everyone.if.no.acl.found=true\n"
    )
}

/// What Kafka's storage is to know of the user before the broker starts.
pub(crate) fn kafka_users(secured: &Secured) -> Vec<String> {
    let Secured { user, password, .. } = secured;
    let of = |mechanism: &str| {
        ["--add-scram".to_owned(), format!("{mechanism}=[name={user},password={password}]")]
    };
    ["SCRAM-SHA-256", "SCRAM-SHA-512"].into_iter().flat_map(of).collect()
}

/// What RabbitMQ's configuration says of it.
pub(crate) fn rabbitmq(files: &Files, secured: &Secured, port: u16) -> String {
    let Secured { user, password, .. } = secured;
    let (ca, certificate, key) =
        (files.ca.display(), files.certificate.display(), files.key.display());
    format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\n\
         ssl_options.cacertfile = {ca}\n\
         ssl_options.certfile = {certificate}\n\
         ssl_options.keyfile = {key}\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = true\n\
         auth_mechanisms.1 = PLAIN\n\
         auth_mechanisms.2 = EXTERNAL\n\
         ssl_cert_login_from = common_name\n\
         default_user = {user}\n\
         default_pass = {password}\n"
    )
}

/// The plugin of RabbitMQ that knows clients by their certificates.
pub(crate) const RABBITMQ_PLUGIN: &str = "rabbitmq_auth_mechanism_ssl";

/// Denies a user of Kafka to write to a topic, and permits everything else about it to everybody.
pub(crate) fn deny_writing(address: &str, user: &str, topic: &str) -> Result<(), String> {
    // Kafka's own numbers. Permissions are changed by a tool that is not among the server's jars, so it is said here in its words:
    // CreateAcls, version 1.
    const CREATE_ACLS: i16 = 30;
    const VERSION: i16 = 1;
    const TOPIC: u8 = 2;
    const LITERAL: u8 = 3;
    const ALL: u8 = 2;
    const WRITE: u8 = 4;
    const DENY: u8 = 2;
    const ALLOW: u8 = 3;
    let mut body = Vec::new();
    body.extend(CREATE_ACLS.to_be_bytes());
    body.extend(VERSION.to_be_bytes());
    body.extend(1_i32.to_be_bytes());
    text(&mut body, "dirigent-brokers");
    body.extend(2_i32.to_be_bytes());
    let denied = format!("User:{user}");
    for (who, operation, permission) in [(denied.as_str(), WRITE, DENY), ("User:*", ALL, ALLOW)] {
        body.push(TOPIC);
        text(&mut body, topic);
        body.push(LITERAL);
        text(&mut body, who);
        text(&mut body, "*");
        body.extend([operation, permission]);
    }
    let answer = exchange(address, &body).map_err(|error| error.to_string())?;
    // Correlation, throttling, how many results; then a code and a text for each.
    let mut rest = answer.get(12..).unwrap_or_default();
    for _ in 0..2 {
        let [a, b, c, d, ..] = rest else { return Err("its answer is too short".to_owned()) };
        let code = i16::from_be_bytes([*a, *b]);
        let length = usize::try_from(i16::from_be_bytes([*c, *d])).unwrap_or_default();
        let said = rest.get(4..4 + length).unwrap_or_default();
        if code != 0 {
            return Err(format!("error {code}: {}", String::from_utf8_lossy(said)));
        }
        rest = rest.get(4 + length..).unwrap_or_default();
    }
    Ok(())
}

fn text(body: &mut Vec<u8>, text: &str) {
    let length = i16::try_from(text.len()).expect("names are short");
    body.extend(length.to_be_bytes());
    body.extend(text.as_bytes());
}

fn exchange(address: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let length = u32::try_from(body.len()).expect("a request is short");
    stream.write_all(&[&length.to_be_bytes()[..], body].concat())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > ANSWER_BYTES_MAX {
        return Err(std::io::Error::other("it does not speak Kafka"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Lays the files out, where they are wanted.
pub(crate) fn lay_out(path: &Path, secured: Option<&Secured>) -> Result<Files, Unavailable> {
    let files = Files::of(path);
    if let Some(secured) = secured {
        place::create(path)?;
        files.write(secured)?;
    }
    Ok(files)
}
