//! Both sagas in drawn worlds: whatever happens to processes, brokers and disks, every rule holds, and no compensation is left untried.
//!
//! `DIRIGENT_TEST_SEEDS=10000` draws more of them.

use dirigent::simulation::simulate;
use order::{
    order::{Rates, order_saga, placed, services::services},
    trip::{messages::TripRequested, services as offices, trip_saga},
};

/// Large orders are declined now and then, and the services refuse some of the others by themselves.
const RATES: Rates = Rates { seed: 7, reject: 0.2, silent: 0.0 };

#[test]
fn an_order_keeps_every_rule_whatever_goes_wrong() {
    let simulated = simulate(order_saga())
        .participants(|| services(RATES).into_iter().map(|(_, service)| service).collect())
        .starts(|number| placed(RATES.seed, number.cast_signed()))
        .check();
    println!("{simulated}");
    simulated.coverage.assert_compensations_covered();
}

#[test]
fn a_trip_keeps_every_rule_whatever_goes_wrong() {
    let cities = ["Ghent", "Nowhere", "Fulltown", "Walkville", "Turin", "Porto"];
    let simulated = simulate(trip_saga())
        .participants(|| offices::services().into_iter().map(|(_, office)| office).collect())
        .starts(move |number| TripRequested {
            trip: number.cast_signed(),
            traveller: "ada".into(),
            from: "Graz".into(),
            to: cities[(number % 6) as usize].into(),
            nights: 2,
        })
        .check();
    println!("{simulated}");
    simulated.coverage.assert_compensations_covered();
}

#[test]
fn a_trip_is_simulated_before_its_offices_are_written() {
    let simulated = simulate(trip_saga())
        .starts(|number| TripRequested {
            trip: number.cast_signed(),
            traveller: "ada".into(),
            from: "Graz".into(),
            to: "Ghent".into(),
            nights: 2,
        })
        .seeds(0..20)
        .check();
    assert_eq!(simulated.worlds, 20);
    assert!(simulated.ended["completed"] > 0 && simulated.ended["compensated"] > 0);
}
