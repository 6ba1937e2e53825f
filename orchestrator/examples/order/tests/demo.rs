//! The whole of it in one process: orders come to the end that their number says, whatever happens to the messages.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

use dirigent::telemetry::Traces;
use order::{
    demo::{
        AddressArgs, AtRest, AtRestFailed, BrokerKind, DemoArgs, PostgresArgs, RateArgs,
        ReconcileArgs, RegistryArgs, Report, demo, reconcile_at_rest,
    },
    order::{Rates, order_saga},
    trip::trip_saga,
};
use std::{path::PathBuf, sync::Arc};

fn some_orders() -> DemoArgs {
    DemoArgs {
        orders: 300,
        rates: RateArgs { reject_rate: 0.2, silent_rate: 0.0, seed: 7 },
        broker: BrokerKind::Memory,
        address: AddressArgs::default(),
        registry: RegistryArgs::default(),
        postgres: PostgresArgs::default(),
        chaos: false,
        inventory: None,
        data: None,
        json: true,
    }
}

/// What the seed says, whoever runs it.
fn refused(rates: Rates) -> u64 {
    (1..=300).filter(|order| rates.refusal(*order).is_some()).count() as u64
}

fn ended_as_told(report: &Report, compensated: u64) {
    assert!(report.is_good(), "{report}");
    assert_eq!(
        (report.started, report.completed, report.compensated, report.blocked),
        (300, 300 - compensated, compensated, 0),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_order_ends_as_its_number_says_and_the_ledgers_balance() {
    let args = some_orders();
    let report = demo(&args, &Arc::new(Traces::quiet())).await.unwrap();
    ended_as_told(&report, refused(args.rates.rates()));
    assert_eq!(report.duplicates_ignored, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_doubling_delaying_and_reordering_messages_changes_no_end_and_no_ledger() {
    let args = DemoArgs { chaos: true, ..some_orders() };
    let report = demo(&args, &Arc::new(Traces::quiet())).await.unwrap();
    ended_as_told(&report, refused(args.rates.rates()));
    assert!(report.duplicates_ignored > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_whose_service_stays_silent_is_taken_back_asked_about_or_asked_for_until_it_is_done()
 {
    let rates = RateArgs { reject_rate: 0.1, silent_rate: 0.1, seed: 7 };
    let args = DemoArgs { rates, ..some_orders() };
    let given_up = |order: &i64| {
        let rates = rates.rates();
        // The payment service tells what it did when it is asked, so that a silent hold goes forward.
        let silent = rates.unanswered(*order) == Some("ReserveStock");
        silent || rates.refusal(*order).is_some()
    };
    let report = demo(&args, &Arc::new(Traces::quiet())).await.unwrap();
    ended_as_told(&report, (1..=300).filter(given_up).count() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_in_a_folder_is_known_the_next_time_and_can_be_reconciled_at_rest() {
    let folder = tempfile::tempdir().unwrap();
    let args = DemoArgs { data: Some(folder.path().to_owned()), ..some_orders() };
    let first = demo(&args, &Arc::new(Traces::quiet())).await.unwrap();
    let again = demo(&args, &Arc::new(Traces::quiet())).await.unwrap();
    ended_as_told(&again, first.compensated);
    assert_eq!(again.duplicates_ignored, 300, "every order was placed again");
    let (data, services) = (folder.path().join("orchestrator"), folder.path().join("services"));
    for (data, services) in [
        (data.clone(), Some(services)),
        (folder.path().to_owned(), None),
        (folder.path().to_owned(), Some(folder.path().to_owned())),
    ] {
        let found = reconciled(data, services).unwrap();
        assert!(found.ledger.balanced, "{found}");
        assert_eq!((found.started, found.compensated as u64), (300, first.compensated));
    }
    let error = reconciled(data.clone(), None).unwrap_err().to_string();
    assert!(error.contains("say --services DIR"), "{error}");
    let error = reconciled(data.clone(), Some(data.clone())).unwrap_err().to_string();
    assert!(error.contains("holds no ledger of order-inventory"), "{error}");
    assert!(!data.join("order-inventory").exists(), "reading makes no folder");
}

fn reconciled(data: PathBuf, services: Option<PathBuf>) -> Result<AtRest, AtRestFailed> {
    let postgres = PostgresArgs::default();
    reconcile_at_rest(&ReconcileArgs { data, services, postgres, json: true })
}

#[tokio::test]
async fn a_demo_does_not_mix_its_own_with_what_lies_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.tex"), "years of work").unwrap();
    let args = DemoArgs { data: Some(folder.path().to_owned()), ..some_orders() };
    let error = demo(&args, &Arc::new(Traces::quiet())).await.err().unwrap().to_string();
    assert!(error.contains("something else lies in it (thesis.tex)"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn both_sagas_hold_whatever_comes_in_whatever_order() {
    for checked in [order_saga().unwrap().check(), trip_saga().unwrap().check()] {
        assert!(checked.is_sound(), "{checked:?}");
    }
}
