//! No message before its cause: whatever the orchestrator hands to a broker lies in the journal by then, and a power cut would not take it away.
//!
//! What goes in: brokers and the orchestrator's disk, before anything runs. What comes out: messages that reached a broker before they were durable. What
//! must be true: a message is looked for by its id, as bytes in what the disk has synced; nothing of the journal's own code has a say in it.

use super::{
    Findings,
    process::{APP, lock},
};
use crate::journal::SimDisk;
use dirigent_connectors::{
    names,
    simulated::{SimBroker, What},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

/// What was sent too early, by its id.
#[derive(Default)]
pub(super) struct Causes(Arc<Mutex<BTreeMap<String, String>>>);

/// Looks at each message of the orchestrator as it reaches a broker.
pub(super) fn watch(brokers: &[(SimBroker, Vec<String>)], disk: &SimDisk) -> Causes {
    let causes = Causes::default();
    let source = format!("/dirigent/{APP}");
    for (broker, _) in brokers {
        let (early, disk, source) = (Arc::clone(&causes.0), disk.clone(), source.clone());
        let mut known = BTreeSet::new();
        broker.watch(Box::new(move |event| {
            let What::Stored { message, .. } = &event.what else { return };
            let id = message.attributes.get(names::ID).unwrap_or_default();
            let is_ours = message.attributes.get(names::SOURCE) == Some(&source);
            if !is_ours || known.contains(id) {
                return;
            }
            known.insert(id.to_owned());
            if !disk.keeps(id.as_bytes()) {
                let name = message.attributes.get(names::TYPE).unwrap_or_default();
                let text = format!("{name} ({id}) for {}", message.channel);
                lock(&early).insert(id.to_owned(), text);
            }
        }));
    }
    causes
}

impl Causes {
    pub(super) fn judge(&self, findings: &mut Findings) {
        for text in lock(&self.0).values() {
            findings.add("no message before its cause is durable", text.clone());
        }
    }
}
