//! TLS to a server that lets in by nothing else, and wants a certificate of its clients. All papers are made for the run.

use super::*;
use crate::papers::{Authority, LATER, OVER, Papers};
use dirigent_brokers::{Broker, Secured, postgres_private_secured};
use std::{fs, path::Path};
use tempfile::TempDir;

/// To be found in nothing that is told.
const PASSWORD: &str = "s3cret-of-ann";

/// A server, and the papers of its clients in a folder.
struct Site {
    server: Arc<Broker>,
    authority: Authority,
    folder: TempDir,
}

impl Site {
    async fn new() -> Option<Self> {
        let authority = Authority::new("authority");
        let papers = secured(&authority, LATER);
        let found = spawn_blocking(move || postgres_private_secured(&papers)).await.unwrap();
        let server = Arc::new(require!(found)?);
        let folder = tempfile::tempdir().unwrap();
        for (name, by) in [("", &authority), ("stranger-", &Authority::new("stranger"))] {
            let Papers { certificate, key } = by.issues("ann", "client", LATER);
            write(folder.path(), &format!("{name}ca.pem"), &by.pem());
            write(folder.path(), &format!("{name}client.pem"), &certificate);
            write(folder.path(), &format!("{name}client.key"), &key);
        }
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n";
        write(folder.path(), "encrypted.key", encrypted);
        Some(Self { server, authority, folder })
    }

    /// The address with these files, each by its setting; an empty one is not said.
    fn address(&self, files: [&str; 3]) -> String {
        let folder = self.folder.path().display();
        let said = ["sslrootcert", "sslcert", "sslkey"].into_iter().zip(files);
        let said = said.filter(|(_, file)| !file.is_empty());
        let said: String =
            said.map(|(setting, file)| format!("&{setting}={folder}/{file}")).collect();
        format!("{}?sslmode=verify-full{said}", self.server.address())
    }

    fn good(&self) -> String {
        self.address(["ca.pem", "client.pem", "client.key"])
    }

    /// Starts the server again, with a certificate that ends with this year.
    async fn renewed(&self, until: i32) {
        let (server, papers) = (Arc::clone(&self.server), secured(&self.authority, until));
        let restarted = spawn_blocking(move || {
            server.secure(&papers).unwrap();
            server.restart().unwrap();
        });
        restarted.await.unwrap();
    }
}

fn secured(authority: &Authority, until: i32) -> Secured {
    let Papers { certificate, key } = authority.issues("server", "127.0.0.1", until);
    let (user, password) = ("ann".into(), PASSWORD.into());
    Secured { ca: authority.pem(), certificate, key, user, password }
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

async fn refused(bench: &Bench, address: &str) -> String {
    let error = opened(bench.kit_by(address)).await.unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    let told = format!("{error}: {cause}");
    assert!(matches!(error, StoreError::Unusable { .. }), "{told}");
    assert!(!format!("{told} {error:?}").contains("s3cret"), "a secret was told");
    assert!(!told.contains("is it running"), "it was waited for: {told}");
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_tls_a_participant_works_and_cancels_and_papers_are_renewed_while_it_runs() {
    let Some(site) = Site::new().await else { return };
    // What is sent to prove the password counts for this channel only.
    let address = format!("{}&channel_binding=require", site.good());
    let mut bench = trouble::bench_at(&address).await;
    let running = bench.start_with(trouble::shelf(), bench.kit()).await;
    assert_eq!(name_of(&bench.asks(1, "well").await), Stands::NAME);
    let by_tls = "SELECT bool_and(ssl AND client_serial IS NOT NULL) FROM pg_stat_ssl
         JOIN pg_stat_activity USING (pid) WHERE application_name = $1";
    let row = bench.db.query_one(by_tls, &[&bench.schema]).await.unwrap();
    assert_eq!(row.get::<_, Option<bool>>(0), Some(true));
    // It expires while it is used: told to who starts, waited for by who runs.
    site.renewed(OVER).await;
    let told = refused(&bench, &address).await;
    assert!(told.contains("has expired") && told.contains("renew it there"), "{told}");
    bench.send(&[asked(2, "well")]).await;
    site.renewed(LATER).await;
    assert_eq!(name_of(&bench.hears(1).await[0]), Stands::NAME);
    running.stop().await.unwrap();
    // The server works on a statement until it is told to stop, by TLS as well.
    let kit = bench.kit().answer_within(Duration::from_secs(1));
    let running = bench.start_with(trouble::shelf(), kit).await;
    let failure = failure(&bench.asks(3, "sleeps").await);
    assert!(failure.message.contains("no answer within 1s"), "{failure:?}");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_let_in_by_tls_is_told_why_at_once_and_what_to_do() {
    let Some(site) = Site::new().await else { return };
    let bench = Bench::at(&site.good()).await;
    let plain = server!(postgres);
    let stranger = ["ca.pem", "stranger-client.pem", "stranger-client.key"];
    let elsewhere = site.good().replace("@127.0.0.1:", "@db.example:") + "&hostaddr=127.0.0.1";
    let cases = [
        (site.server.address().to_owned(), vec!["by TLS only", "sslmode=require", "sslrootcert"]),
        (site.address(["stranger-ca.pem", "", ""]), vec!["nobody who is trusted", "`sslrootcert`"]),
        (elsewhere, vec!["for another name"]),
        (site.address(["ca.pem", "", ""]), vec!["wants a certificate", "`sslcert` and `sslkey`"]),
        (site.address(stranger), vec!["refuses the certificate of this client"]),
        (site.address(["none.pem", "", ""]), vec!["`sslrootcert` names", "can't be read"]),
        (site.address(["ca.pem", "client.pem", ""]), vec!["`sslkey` is not said"]),
        (
            site.address(["ca.pem", "client.pem", "stranger-client.key"]),
            vec!["`sslkey`", "belong together"],
        ),
        (
            site.address(["ca.pem", "client.pem", "encrypted.key"]),
            vec!["`sslkey` names", "is encrypted", "openssl pkey"],
        ),
        (
            site.good().replace(PASSWORD, "s3cret-of-nobody"),
            vec!["check user and password", "authentication failed"],
        ),
        (
            format!("{}?sslmode=require", plain.address()),
            vec!["speaks no TLS", "ssl = on", "sslmode=disable"],
        ),
    ];
    for (address, expected) in cases {
        let told = refused(&bench, &address).await;
        for text in expected {
            assert!(told.contains(text), "{text} is missing in: {told}");
        }
    }
}
