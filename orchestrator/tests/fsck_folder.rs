//! `fsck` on folders of the machine: an engine's and a participant's, checked, harmed, mended by a plan, and refused where that is due.

#![allow(clippy::unwrap_used, reason = "a test, its helpers included")]

mod support;

use dirigent::{
    Orchestrator,
    cli::{FolderArgs, FsckArgs, SpeakerArgs, Verb},
    engine::Engine,
    participant::{Answer, Participant},
    store::{ALL_KEYS, Change, DataFolder, RepairPlan, SledStore, Space, Store, StoreOptions},
};
use dirigent_connectors::{ChannelSpec, Connector, memory::MemoryBroker};
use std::{path::Path, sync::Arc, time::Duration};
use support::{
    Paid, Pay, Stranger,
    invoices::{invoice, other, payment},
};

/// An engine that waits for two payments of one invoice, and for the invoice of another payment.
async fn works(folder: &Path) -> Engine {
    let broker = MemoryBroker::new();
    let channels = [ChannelSpec::events("starts"), ChannelSpec::events("ends")];
    broker.prepare(&channels).await.unwrap();
    let engine = Orchestrator::builder("shop")
        .saga(invoice("invoice"))
        .connector(Arc::new(broker.clone()))
        .data(folder)
        .start()
        .await
        .unwrap();
    let mut customer = Stranger::listening(&broker, ChannelSpec::events("ends"), "them").await;
    customer.begins(1, 5).await;
    customer.sends(payment(99, 7)).await;
    let handle = engine.handle();
    while (handle.snapshot().started, handle.snapshot().inputs.parked) != (1, 1) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine
}

async fn fsck(folder: &Path, plan: Option<&Path>, apply: Option<&Path>) -> String {
    let args = FsckArgs {
        folder: FolderArgs { data: Some(folder.into()), ..FolderArgs::default() },
        plan: plan.map(Into::into),
        apply: apply.map(Into::into),
        speaker: SpeakerArgs { by: "ann".into() },
        json: false,
    };
    let code = dirigent::cli("shop").saga(invoice("invoice")).execute(Verb::Fsck(args)).await;
    format!("{code:?}")
}

fn code(code: u8) -> String {
    format!("{:?}", std::process::ExitCode::from(code))
}

fn keys(folder: &Path, space: Space) -> Vec<Vec<u8>> {
    let store =
        SledStore::open(&DataFolder::open(folder).unwrap(), StoreOptions::default()).unwrap();
    let records = store.scan(space, ALL_KEYS, usize::MAX).unwrap().records;
    records.into_iter().map(|(key, _)| key).collect()
}

fn change(folder: &Path, change: Change) {
    let store =
        SledStore::open(&DataFolder::open(folder).unwrap(), StoreOptions::default()).unwrap();
    store.write(&[change]).unwrap();
    store.sync().unwrap();
}

/// Flips a bit of a record as it lies in the file, below everything that would notice.
fn flip(folder: &Path, space: Space, key: &[u8]) -> Vec<u8> {
    let db = sled::open(folder.join("store")).unwrap();
    let tree = db.open_tree(space.name()).unwrap();
    let key = [&[0], key].concat();
    let mut head = tree.get(&key).unwrap().unwrap().to_vec();
    *head.last_mut().unwrap() ^= 1;
    tree.insert(&key, head.clone()).unwrap();
    db.flush().unwrap();
    head.split_off(5)
}

fn record(folder: &Path, number: u32) -> serde_json::Value {
    let path = folder.join(format!("repairs/{number:04}/repair.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_checked_planned_for_and_mended_with_a_record_of_it() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("data");
    works(&folder).await.stop().await.unwrap();
    assert_eq!(fsck(&folder, None, None).await, code(0));
    let timers = keys(&folder, Space::Timers);
    change(&folder, Change::remove(Space::Timers, timers[0].clone()));
    let bytes = flip(&folder, Space::Kept, &keys(&folder, Space::Kept)[0]);
    assert_eq!(fsck(&folder, None, None).await, code(1));
    let plan = place.path().join("plan.json");
    assert_eq!(fsck(&folder, Some(&plan), None).await, code(1));
    assert_eq!(fsck(&folder, Some(&plan), None).await, code(2), "it takes no other file's place");
    assert!(
        !folder.join("repairs").exists() && keys(&folder, Space::Timers).is_empty(),
        "nothing is changed"
    );
    let text = std::fs::read(&plan).unwrap();
    let planned: RepairPlan = serde_json::from_slice(&text).unwrap();
    let mends: Vec<_> = planned.repairs.iter().map(|repair| repair.finding.as_str()).collect();
    assert_eq!(mends, ["due-time-missing", "kept-message-unreadable", "accounts-corrected"]);

    assert_eq!(fsck(&folder, None, Some(&plan)).await, code(0));
    assert_eq!(keys(&folder, Space::Timers), timers);
    let told = record(&folder, 1);
    assert_eq!((&told["by"], told["found"].as_array().unwrap().len()), (&"ann".into(), 3));
    assert!(
        told["at"].as_u64().is_some() && told["after"]["findings"].as_array().unwrap().is_empty()
    );
    assert_eq!(told["plan"], serde_json::from_slice::<serde_json::Value>(&text).unwrap());
    let beside: Vec<_> = std::fs::read_dir(folder.join("repairs/0001")).unwrap().collect();
    let kept = beside.into_iter().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = kept.filter(|path| path.extension().unwrap() == "record").collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(std::fs::read(&kept[0]).unwrap(), bytes);

    // The state is another one by now.
    assert_eq!(fsck(&folder, None, Some(&plan)).await, code(2));
    assert!(!folder.join("repairs/0002").exists(), "what is refused leaves no record");
    let engine = works(&folder).await;
    assert_eq!(fsck(&folder, None, None).await, code(2), "a process works on it");
    engine.stop().await.unwrap();
    assert_eq!(fsck(&folder, None, None).await, code(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_whose_name_was_set_aside_is_not_taken_by_a_wrong_program_that_merely_tries() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("data");
    works(&folder).await.stop().await.unwrap();
    change(&folder, Change::remove(Space::Meta, b"application"));
    let wrong = Orchestrator::builder("wrong").saga(other()).data(&folder);
    let refused = wrong.connector(Arc::new(MemoryBroker::new())).start().await.err().unwrap();
    assert!(refused.to_string().contains("definitions that this process does not have"));
    assert!(!keys(&folder, Space::Meta).contains(&b"application".to_vec()));
    works(&folder).await.stop().await.unwrap();
    assert!(keys(&folder, Space::Meta).contains(&b"application".to_vec()));
}

#[tokio::test]
async fn what_is_no_folder_and_what_can_not_be_read_is_an_error_with_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("nowhere");
    assert_eq!(fsck(&folder, None, None).await, code(2));
    assert!(!folder.exists(), "a check makes no folder");
    let registry =
        dirigent::registry::Registry::new(vec![invoice("invoice").unwrap().plan()]).unwrap();
    let error = dirigent::fsck::check_folder(&folder, &registry).unwrap_err().to_string();
    assert!(error.contains("is no data folder") && error.contains("--data"), "{error}");
    drop(DataFolder::open(&folder).unwrap());
    change(&folder, Change::put(Space::Meta, b"checkpoint", [1]));
    let error = dirigent::fsck::check_folder(&folder, &registry).unwrap_err();
    let error = dirigent::describe(&error);
    assert!(error.contains("restore the data folder from a backup"), "{error}");
    let held = DataFolder::open(&folder).unwrap();
    let error = dirigent::fsck::check_folder(&folder, &registry).unwrap_err().to_string();
    assert!(error.contains("is in use by process"), "{error}");
    drop(held);
    let plan = place.path().join("plan.json");
    std::fs::write(&plan, "{}").unwrap();
    assert_eq!(fsck(&folder, None, Some(&plan)).await, code(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_folder_of_a_participant_is_checked_and_mended_as_well() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("billing");
    let broker = MemoryBroker::new();
    let store: Arc<dyn Store> = Arc::new(
        SledStore::open(&DataFolder::open(&folder).unwrap(), StoreOptions::default()).unwrap(),
    );
    let billing = Participant::new("billing").on::<Pay>(|tx, pay, _| {
        tx.put("paid", pay.amount.to_be_bytes());
        Answer::Done(Paid {})
    });
    let running = billing.start(Arc::new(broker.clone()), store).await.unwrap();
    let replies = ChannelSpec::work("shop.replies");
    broker.prepare(std::slice::from_ref(&replies)).await.unwrap();
    let mut asker = Stranger::listening(&broker, replies, "shop").await;
    asker.sends(support::command("Pay", br#"{"amount":5}"#)).await;
    asker.next().await;
    running.stop().await.unwrap();

    let engine = Orchestrator::builder("shop").saga(invoice("invoice")).data(&folder);
    let refused = engine.connector(Arc::new(broker.clone())).start().await.err().unwrap();
    assert!(refused.to_string().contains("a participant keeps its answers"), "{refused}");
    assert_eq!(fsck(&folder, None, None).await, code(0));
    let ledger = keys(&folder, Space::Ledger);
    let find = |prefix: &[u8]| ledger.iter().find(|key| key.starts_with(prefix)).unwrap().clone();
    change(&folder, Change::remove(Space::Ledger, find(b"x/")));
    let bytes = flip(&folder, Space::Ledger, &find(b"r/"));
    assert_eq!(fsck(&folder, None, None).await, code(1));
    let plan = place.path().join("plan.json");
    assert_eq!(fsck(&folder, Some(&plan), None).await, code(1));
    assert_eq!(fsck(&folder, None, Some(&plan)).await, code(0));
    assert_eq!(record(&folder, 1)["whose"], "participant");
    let kept = std::fs::read(folder.join("repairs/0001/ledger-722f70616964.record")).unwrap();
    assert_eq!(kept, bytes);
}
