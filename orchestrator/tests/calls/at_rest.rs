//! What a folder at rest says: whether it can be read, is sound, adds up, and holds what was promised.
//!
//! Asked on a thread of its own, so that a panic or an answer that never comes is told with what led to it.

use crate::{shop::Memories, support::purchase};
use dirigent::{
    engine::{self, InstanceView, ListFilter},
    journal::FileDisk,
    registry::Registry,
    store::{DataFolder, SledStore, StoreOptions},
};
use dirigent_connectors::names;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, channel},
    },
    time::Duration,
};

/// How long a small folder may take to answer, on the slowest machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);

/// Two folders that answer the same are the same to everybody who asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// What a check finds, harmless things too.
    pub findings: Vec<String>,
    /// What does not add up.
    pub gaps: Vec<String>,
    /// The accounts.
    pub audit: String,
    /// Every instance with all that is known of it, by its key.
    pub instances: BTreeMap<String, String>,
    /// Ids of the messages in their histories.
    causes: BTreeSet<String>,
}

impl Answers {
    /// Whether somebody who looks sees that something is wrong.
    pub fn is_amiss(&self) -> bool {
        !self.findings.is_empty() || !self.gaps.is_empty()
    }

    /// What is not sound, or was promised to the world and is not there.
    pub fn lack(&self, memories: &Memories) -> Option<String> {
        let harmful = self.findings.iter().find(|finding| finding.contains("\"harmful\""));
        if let Some(found) = harmful.or(self.gaps.first()) {
            return Some(found.clone());
        }
        memories.sent.iter().find_map(|(id, message)| {
            let is_settled = memories.settled.contains(id);
            let (order, kind) = (&message.key, message.attributes.get(names::TYPE)?);
            let (promised, is_there) = match &*message.channel {
                "work" | "ends" => (true, self.instances.contains_key(order)),
                "starts" => (is_settled, self.causes.contains(id)),
                // A reply to an attempt that nobody awaits any more leaves no line; it is counted as ignored.
                _ => {
                    let attempt = message.attributes.get(dirigent::envelope::SAGA_ATTEMPT);
                    (is_settled && attempt == Some("1"), self.causes.contains(id))
                }
            };
            (promised && !is_there).then(|| format!("{kind} {id} of order {order} is lost"))
        })
    }
}

fn registry() -> Registry {
    Registry::new(vec![purchase(1).unwrap().plan()]).unwrap()
}

/// What became of a question.
pub enum Said {
    Answers(Box<Answers>),
    /// An error, as a person would read it.
    Told(String),
    /// No answer at all: a panic, or nothing within [`ANSWERED_WITHIN`].
    Broken(String),
}

/// Asks the folder.
pub fn ask(data: &Path) -> Said {
    let data = data.to_owned();
    let (tell, told) = channel();
    let asks = std::thread::spawn(move || drop(tell.send(answers(&data))));
    match told.recv_timeout(ANSWERED_WITHIN) {
        Ok(Ok(answers)) => Said::Answers(Box::new(answers)),
        Ok(Err(error)) => Said::Told(error),
        Err(RecvTimeoutError::Timeout) => {
            Said::Broken(format!("no answer within {} s", ANSWERED_WITHIN.as_secs()))
        }
        Err(RecvTimeoutError::Disconnected) => {
            let panic = asks.join().expect_err("it told nothing");
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied());
            Said::Broken(format!("panicked: {}", text.unwrap_or("without a word")))
        }
    }
}

fn answers(data: &Path) -> Result<Answers, String> {
    let told = |error: &(dyn std::error::Error + 'static)| dirigent::describe(error);
    let opened = DataFolder::open(data).map_err(|error| told(&error))?;
    let store = SledStore::open(&opened, StoreOptions::default()).map_err(|error| told(&error))?;
    let disk = Arc::new(FileDisk::open(&opened.journal()).map_err(|error| told(&error))?);
    let store: Arc<dyn dirigent::store::Store> = Arc::new(store);
    let found = engine::fsck(Arc::clone(&store), disk.clone(), Some(&registry()));
    let found = found.map_err(|error| told(&*error))?;
    let audit = engine::audit(store, disk).map_err(|error| told(&*error))?;
    drop(opened);
    let reader = engine::open_at_rest(data, Arc::new(registry())).map_err(|error| told(&error))?;
    let all = reader.list(&ListFilter::default()).map_err(|error| told(&error))?;
    let mut instances = BTreeMap::new();
    let mut causes = BTreeSet::new();
    for InstanceView { id, key, .. } in all {
        let view = reader.show(id).map_err(|error| told(&error))?.ok_or("an instance is gone")?;
        causes.extend(view.history.iter().filter_map(|line| line.cause.clone()));
        instances.insert(key.as_str().to_owned(), serde_json::to_string(&view).unwrap());
    }
    Ok(Answers {
        findings: found.findings.iter().map(|it| serde_json::to_string(it).unwrap()).collect(),
        gaps: audit.gaps.clone(),
        audit: serde_json::to_string(&audit).unwrap(),
        instances,
        causes,
    })
}

/// Asks a folder whose process has ended, and which has to be sound: what is wrong? One that its process did not live to make has nothing
/// to say.
pub fn wrong(place: &Path) -> Option<String> {
    let memories = Memories::at(place);
    let data = place.join("data");
    if !data.join("journal").is_dir() || !data.join("store").is_dir() {
        let settled = memories.settled.first()?;
        return Some(format!("there is no folder, though {settled} was settled"));
    }
    match ask(&data) {
        Said::Answers(answers) => answers.lack(&memories),
        Said::Told(error) | Said::Broken(error) => Some(error),
    }
}

/// Fails where anything is wrong.
pub fn is_sound(place: &Path, case: &str) {
    assert_eq!(wrong(place), None, "{case}");
}
