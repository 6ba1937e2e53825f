//! The services of an order, each under the conformance kit with its ledger looked into.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

use dirigent::conformance::{Outcome, Report};
use order::{
    demo::{AddressArgs, BrokerKind, ConformanceArgs, RateArgs, conformance},
    order::samples::Service,
};

async fn played(participant: Service, rates: RateArgs) -> Report {
    let args = ConformanceArgs {
        participant,
        broker: BrokerKind::Memory,
        address: AddressArgs::default(),
        prefix: None,
        within: 60,
        probe: None,
        rates,
        json: false,
    };
    conformance(&args).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_that_carries_out_commands_keeps_its_duties() {
    let rates = RateArgs { reject_rate: 0.1, silent_rate: 0.0, seed: 1 };
    for (service, commands) in
        [(Service::Inventory, 1), (Service::Payment, 2), (Service::Shipping, 1)]
    {
        let report = played(service, rates).await;
        assert!(report.is_good(), "{report}");
        let mut names: Vec<_> = report.checks.iter().map(|checked| checked.command).collect();
        names.dedup();
        assert_eq!(names.len(), commands, "{report}");
        let skipped = report.checks.iter().filter(|checked| match checked.outcome {
            Outcome::Skipped { .. } => true,
            Outcome::Kept { .. } | Outcome::Broken { .. } => false,
        });
        assert_eq!(skipped.count() == 0, service == Service::Inventory, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_acts_and_stays_silent_is_named() {
    let rates = RateArgs { reject_rate: 0.0, silent_rate: 1.0, seed: 1 };
    let args = ConformanceArgs {
        participant: Service::Shipping,
        broker: BrokerKind::Memory,
        address: AddressArgs::default(),
        prefix: None,
        within: 1,
        probe: None,
        rates,
        json: false,
    };
    let report = conformance(&args).await.unwrap();
    assert!(!report.is_good(), "{report}");
    assert!(report.to_string().contains("not answered within 1 s"), "{report}");
}
