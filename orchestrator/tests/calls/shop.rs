//! A shop that works in a process of its own and can be ended at any instruction: real engine, real journal, real store.
//!
//! Its broker lies in memory, and the world writes down what a broker and a participant remember for good: what was sent, what was
//! settled, what took effect. A line stands there before anybody acts on it, so that the next life finds the world as the last one left
//! it. What the world says was settled or sent is what the engine has promised; what took effect is what it caused.
//!
//! ```text
//! place/data    the engine's folder
//! place/world   one line of JSON for each thing that happened, appended by one write for all that happen together
//! ```

use crate::support::{LIMIT, Stranger, parts, reply, reply_to, start_event};
use async_trait::async_trait;
use dirigent::{
    engine::Engine,
    journal::{Durability, FileDisk},
    store::{DataFolder, SledStore, StoreOptions},
};
use dirigent_connectors::{
    Attributes, ChannelKind, ChannelSpec, Connector, ConnectorError, Delivery, Health, Memory,
    Message, Receipt, Sent, Settle, Settler, Sink, Source, SourceSpec, memory::MemoryBroker, names,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

/// Names the place to a child.
const PLACE: &str = "DIRIGENT_TEST_PLACE";

/// Tells a child how it works: orders in all, orders of a shift, orders under way at once.
const WORKS: &str = "DIRIGENT_TEST_WORKS";

/// Tells a child that it is to survive no more than the end of its process.
const PROCESS_CRASH: &str = "DIRIGENT_TEST_PROCESS_CRASH";

/// How long orders may take to get on before a life counts as standing still.
const STALLED_AFTER: Duration = Duration::from_secs(90);

/// How a shop works.
#[derive(Debug, Clone, Copy)]
pub struct Works {
    /// Orders in all its lives together.
    pub orders: u64,
    /// Orders until the engine stops and starts again, which writes a checkpoint.
    pub shift: u64,
    /// Orders under way at once.
    pub at_once: u64,
    /// Orders under way when it stops for good.
    pub leaves: u64,
}

/// What a world remembers.
#[derive(Debug, Default, Clone)]
pub struct Memories {
    /// By id, in the order of sending.
    pub sent: Vec<(String, Message)>,
    pub settled: BTreeSet<String>,
    /// By idempotency key: for which order, by which command, and the answer.
    effects: BTreeMap<String, (String, String, Value)>,
    known: BTreeSet<String>,
}

impl Memories {
    /// Reads what was written down; a last line that is not whole was never written.
    pub fn read(text: &str) -> Self {
        let mut memories = Self::default();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            memories.take(&serde_json::from_str(line).unwrap());
        }
        memories
    }

    pub fn at(place: &Path) -> Self {
        Self::read(&std::fs::read_to_string(place.join("world")).unwrap_or_default())
    }

    fn take(&mut self, line: &Value) {
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        match line["what"].as_str().unwrap() {
            "sent" => {
                let message = message_of(line);
                let id = message.attributes.get(names::ID).unwrap().to_owned();
                if self.known.insert(id.clone()) {
                    self.sent.push((id, message));
                }
            }
            "settled" => drop(self.settled.insert(text("id"))),
            _ => {
                let effect = (text("order"), text("command"), line["answer"].clone());
                self.effects.insert(text("key"), effect);
            }
        }
    }

    /// How often a command took effect for an order.
    fn effects(&self, order: u64, command: &str) -> usize {
        let order = order.to_string();
        self.effects.values().filter(|effect| effect.0 == order && effect.1 == command).count()
    }

    /// How orders ended, by their numbers; every one of several ways.
    fn ends(&self) -> BTreeMap<u64, BTreeSet<&str>> {
        let mut ends: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for (_, message) in self.sent.iter().filter(|(_, message)| message.channel == "ends") {
            let kind = message.attributes.get(names::TYPE).unwrap();
            ends.entry(message.key.parse().unwrap()).or_default().insert(kind);
        }
        ends
    }

    pub fn placed(&self) -> u64 {
        self.sent.iter().filter(|(_, message)| message.channel == "starts").count() as u64
    }

    /// All orders have ended as they should, and everything that was done for them was done once.
    pub fn is_as_it_should(&self, orders: u64) {
        let ends = self.ends();
        assert_eq!(ends.len() as u64, orders, "not all orders have ended");
        for order in 0..orders {
            let is_good = amount(order) <= LIMIT;
            let told = BTreeSet::from([if is_good { "Finished" } else { "Broken" }]);
            assert_eq!(ends[&order], told, "order {order}");
            let done = ["Reserve", "Pay", "Release"].map(|command| self.effects(order, command));
            assert_eq!(done, if is_good { [1, 1, 0] } else { [1, 0, 1] }, "order {order}");
        }
    }
}

/// Every fourth order is too dear, and is compensated.
fn amount(order: u64) -> u64 {
    if order % 4 == 3 { LIMIT + 1 } else { 5 }
}

fn line_of(message: &Message) -> Value {
    let attributes: Vec<_> = message.attributes.iter().collect();
    let body = String::from_utf8(message.body.to_vec()).unwrap();
    let is_event = message.kind == ChannelKind::Events;
    json!({ "what": "sent", "channel": message.channel, "event": is_event, "key": message.key, "attributes": attributes, "body": body })
}

fn message_of(line: &Value) -> Message {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut attributes = Attributes::new();
    for attribute in line["attributes"].as_array().unwrap() {
        attributes.set(text(&attribute[0]), text(&attribute[1]));
    }
    let kind = if line["event"] == true { ChannelKind::Events } else { ChannelKind::Work };
    let (channel, key) = (text(&line["channel"]), text(&line["key"]));
    Message { channel, kind, key, attributes, others: vec![], body: text(&line["body"]).into() }
}

/// The memories and their file.
struct World {
    file: Mutex<File>,
    memories: Mutex<Memories>,
}

impl World {
    fn open(place: &Path) -> std::io::Result<Self> {
        let memories = Mutex::new(Memories::at(place));
        let file = OpenOptions::new().create(true).append(true).open(place.join("world"))?;
        Ok(Self { file: Mutex::new(file), memories })
    }

    fn note(&self, lines: &[Value]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut file = self.file.lock().unwrap();
        file.write_all(text.as_bytes()).expect("the world remembers");
        let mut memories = self.memories.lock().unwrap();
        lines.iter().for_each(|line| memories.take(line));
    }

    fn ask<T>(&self, ask: impl FnOnce(&Memories) -> T) -> T {
        ask(&self.memories.lock().unwrap())
    }
}

/// A broker that remembers what it is given, and that it was taken care of.
#[derive(Clone)]
struct Remembering {
    broker: MemoryBroker,
    world: Arc<World>,
}

struct RememberingSink(Box<dyn Sink>, Arc<World>);

struct RememberingSource {
    inner: Box<dyn Source>,
    settler: Arc<RememberingSettler>,
}

struct RememberingSettler {
    inner: Arc<dyn Settler>,
    world: Arc<World>,
    ids: Mutex<HashMap<Receipt, String>>,
}

#[async_trait]
impl Connector for Remembering {
    fn name(&self) -> &str {
        self.broker.name()
    }

    fn memory(&self) -> Memory {
        self.broker.memory()
    }

    async fn prepare(&self, channels: &[ChannelSpec]) -> Result<(), ConnectorError> {
        self.broker.prepare(channels).await
    }

    async fn source(&self, spec: SourceSpec) -> Result<Box<dyn Source>, ConnectorError> {
        let inner = self.broker.source(spec).await?;
        let world = Arc::clone(&self.world);
        let settler = RememberingSettler { inner: inner.settler(), world, ids: Mutex::default() };
        Ok(Box::new(RememberingSource { inner, settler: Arc::new(settler) }))
    }

    async fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(RememberingSink(self.broker.sink().await?, Arc::clone(&self.world))))
    }

    async fn owner_sink(&self, _: &str) -> Result<Box<dyn Sink>, ConnectorError> {
        self.sink().await
    }
}

#[async_trait]
impl Sink for RememberingSink {
    async fn send(&mut self, window: &[Message]) -> Vec<Sent> {
        let lines: Vec<Value> = window.iter().map(line_of).collect();
        self.1.note(&lines);
        self.0.send(window).await
    }

    fn health(&self) -> Health {
        self.0.health()
    }
}

#[async_trait]
impl Source for RememberingSource {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, ConnectorError> {
        let deliveries = self.inner.receive(max).await?;
        let mut ids = self.settler.ids.lock().unwrap();
        for Delivery { message, receipt, .. } in &deliveries {
            ids.insert(*receipt, message.attributes.get(names::ID).unwrap().to_owned());
        }
        drop(ids);
        Ok(deliveries)
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.settler) as _
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

impl Settler for RememberingSettler {
    fn settle(&self, settlements: &[(Receipt, Settle)]) {
        let mut ids = self.ids.lock().unwrap();
        let done = settlements.iter().filter(|(_, settle)| *settle == Settle::Done);
        let ids = done.filter_map(|(receipt, _)| ids.remove(receipt));
        let lines: Vec<Value> = ids.map(|id| json!({ "what": "settled", "id": id })).collect();
        if !lines.is_empty() {
            self.world.note(&lines);
        }
        self.inner.settle(settlements);
    }
}

/// Carries out what it is asked for, once by key; what was compensated first is not carried out any more.
async fn participant(shop: Remembering) {
    let mut worker = Stranger::listening(&shop, ChannelSpec::work("work"), "worker").await;
    loop {
        for delivery in worker.source.receive(64).await.unwrap() {
            let command = &delivery.message;
            let of = |name: &str| command.attributes.get(name).unwrap().to_owned();
            let key = of(names::IDEMPOTENCY_KEY);
            let known = shop.world.ask(|world| world.effects.get(&key).cloned());
            let released = |world: &Memories| {
                world.effects.values().any(|it| it.0 == *command.key && it.1 == "Release")
            };
            if known.is_none() && of(names::TYPE) == "Reserve" && shop.world.ask(released) {
                worker.source.settler().settle(&[(delivery.receipt, Settle::Done)]);
                continue;
            }
            let answer = known.map_or_else(
                || {
                    let answer = reply_to(command);
                    let body = String::from_utf8(answer.body.to_vec()).unwrap();
                    let name = answer.attributes.get(names::TYPE).unwrap();
                    let told = json!([name, body]);
                    // What is refused has no effect.
                    let done = if name == "Refused" { "refused".into() } else { of(names::TYPE) };
                    shop.world.note(&[json!({ "what": "effect", "key": key, "order": command.key, "command": done, "answer": told })]);
                    told
                },
                |(_, _, told)| told,
            );
            let [name, body] = [0, 1].map(|at: usize| answer[at].as_str().unwrap().to_owned());
            worker.sink.send(&[reply(command, &name, body.into_bytes())]).await;
            worker.source.settler().settle(&[(delivery.receipt, Settle::Done)]);
        }
    }
}

/// One life, which is to survive a power cut: goes on where the last one ended, until all orders have ended but for those that it
/// leaves. An error is the engine's, and the life is over.
pub async fn live(place: &Path, works: Works) -> Result<(), String> {
    live_at(place, works, Durability::PowerLoss).await
}

/// The same at that level.
async fn live_at(place: &Path, works: Works, durability: Durability) -> Result<(), String> {
    let told = |error: &(dyn std::error::Error + 'static)| dirigent::describe(error);
    let world = Arc::new(World::open(place).map_err(|error| told(&error))?);
    let broker = MemoryBroker::new();
    let shop = Remembering { broker: broker.clone(), world: Arc::clone(&world) };
    let channels = ["work", "shop.replies"].map(ChannelSpec::work);
    broker.prepare(&channels).await.map_err(|error| told(&error))?;
    drop(Stranger::listening(&broker, ChannelSpec::events("starts"), "shop").await);
    let memories = world.ask(Memories::clone);
    let waits = memories.sent.iter().filter(|(id, _)| !memories.settled.contains(id));
    let waits: Vec<Message> = waits.map(|(_, message)| message.clone()).collect();
    broker.sink().await.map_err(|error| told(&error))?.send(&waits).await;
    let mut customer = shop.sink().await.map_err(|error| told(&error))?;
    let worker = tokio::spawn(participant(shop.clone()));
    let mut placed = memories.placed();
    loop {
        let data = place.join("data");
        let opened = DataFolder::open(&data).map_err(|error| told(&error))?;
        let store = SledStore::open(&opened, StoreOptions::default()).map_err(|e| told(&e))?;
        let disk = FileDisk::open(&opened.journal()).map_err(|error| told(&error))?;
        drop(opened);
        let mut parts = parts(&broker, Arc::new(store), Arc::new(disk));
        parts.lanes[0].connector = Arc::new(shop.clone());
        parts.journal.durability = durability;
        let engine = Engine::start(parts).await.map_err(|error| told(&error))?;
        let until = (placed + works.shift).min(works.orders);
        let is_last = until == works.orders;
        let (mut last, mut since) = (0, tokio::time::Instant::now());
        loop {
            let ended = world.ask(|world| world.ends().len() as u64);
            while placed < until && placed - ended.min(placed) < works.at_once {
                customer.send(&[start_event(placed, amount(placed))]).await;
                placed += 1;
            }
            if placed == until
                && ended + if is_last { works.leaves } else { works.at_once } >= placed
            {
                break;
            }
            if ended > last {
                (last, since) = (ended, tokio::time::Instant::now());
            }
            assert!(
                since.elapsed() < STALLED_AFTER,
                "nothing gets on any more at {ended} of {until}"
            );
            let failed = tokio::time::timeout(Duration::from_millis(2), engine.failed());
            if failed.await.is_ok() {
                break;
            }
        }
        engine.stop().await.map_err(|error| told(&error))?;
        if is_last {
            break;
        }
    }
    worker.abort();
    Ok(())
}

/// The command that lives in a process of its own, and is to survive a power cut.
pub fn child(place: &Path, works: Works) -> Command {
    child_at(place, works, Durability::PowerLoss)
}

/// The same at that level.
pub fn child_at(place: &Path, works: Works, durability: Durability) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let Works { orders, shift, at_once, leaves } = works;
    command.args(["--exact", "shop::lives", "--ignored", "--nocapture", "--quiet"]);
    command.env(PLACE, place).env(WORKS, format!("{orders} {shift} {at_once} {leaves}"));
    match durability {
        Durability::PowerLoss => command.env_remove(PROCESS_CRASH),
        Durability::ProcessCrash => command.env(PROCESS_CRASH, "1"),
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Ends with 0 where all is done, and with 1 and an error where the engine had to end.
#[test]
#[ignore = "run by others here as a process of its own"]
fn lives() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let works = std::env::var(WORKS).unwrap();
    let works: Vec<u64> = works.split(' ').map(|number| number.parse().unwrap()).collect();
    let [orders, shift, at_once, leaves] = works[..] else { panic!("{WORKS} names four numbers") };
    let works = Works { orders, shift, at_once, leaves };
    let durability = match std::env::var_os(PROCESS_CRASH) {
        Some(_) => Durability::ProcessCrash,
        None => Durability::PowerLoss,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let code = match runtime.unwrap().block_on(live_at(&PathBuf::from(place), works, durability)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error}");
            1
        }
    };
    std::process::exit(code);
}
