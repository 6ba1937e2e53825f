//! A worker that is frozen: a process of its own, stopped by the system. Another one takes its place, and once it wakes up it does
//! nothing more.

use super::*;
use std::process::Stdio;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// Tells the process where to work: the address and the schema.
const SITE_VARIABLE: &str = "DIRIGENT_TEST_FROZEN_WORKER";

/// How soon the server ends a session that fell silent. Beyond how often one shows that it is alive.
const SILENT_MS: u32 = 6_000;

/// What nobody but the second worker puts.
const OF_SECOND: i32 = 1_000_000;

fn kit(bench: &Bench) -> PostgresAddress {
    let address = &bench.address;
    let named = if address.contains('?') { '&' } else { '?' };
    let set = |name: &str| format!("-c%20{name}%3D{SILENT_MS}");
    let [idle, within] = ["idle_session_timeout", "idle_in_transaction_session_timeout"].map(set);
    bench.kit_by(&format!("{address}{named}options={idle}%20{within}"))
}

/// Not a test of its own: the worker, when started by the test below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker() {
    let Ok(site) = std::env::var(SITE_VARIABLE) else { return };
    let (address, schema) = site.split_once(' ').unwrap();
    let mut bench = Bench::within(address, schema.to_owned()).await;
    let mut running = bench.start_by(kit(&bench)).await;
    for item in 0..OF_SECOND {
        bench.send(&[asked(item, "well")]).await;
        tokio::select! {
            ended = running.ended() => {
                let ParticipantError::Store { source, .. } = ended.unwrap_err() else { panic!() };
                println!("ended {source}");
                return;
            }
            _ = bench.hears(1) => println!("done {item}"),
        }
    }
}

struct Worker {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn start(bench: &Bench) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["frozen::worker", "--exact", "--nocapture", "--test-threads=1"])
            .env(SITE_VARIABLE, format!("{} {}", bench.address, bench.schema))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    /// The rest of the next line with this word.
    async fn says(&mut self, word: &str) -> String {
        let said = async {
            while let Some(line) = self.said.next_line().await.unwrap() {
                if let Some((_, rest)) = line.split_once(word) {
                    return rest.to_owned();
                }
            }
            panic!("it ended without saying `{word}`");
        };
        timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("it does not say `{word}`"))
    }

    async fn gets(&self, signal: &str) {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status().await.unwrap();
        assert!(sent.success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_frozen_loses_its_place_and_does_nothing_once_it_wakes_up() {
    let server = server!(postgres);
    let mut bench = Bench::at(server.address()).await;
    let mut frozen = Worker::start(&bench);
    for _ in 0..3 {
        frozen.says("done ").await;
    }
    frozen.gets("STOP").await;
    // Waits until the server has ended the session that fell silent.
    let second = bench.start_by(kit(&bench)).await;
    let mut items = bench.items().await;
    assert_eq!(name_of(&bench.asks(OF_SECOND, "well").await), Stands::NAME);
    frozen.gets("CONT").await;
    let told = frozen.says("ended ").await;
    assert!(told.contains("lost its place") && told.contains("end this process"), "{told}");
    items.push(OF_SECOND);
    assert_eq!(bench.items().await, items, "it did nothing more");
    second.stop().await.unwrap();
}
