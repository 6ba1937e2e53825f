//! Both sagas as their authors test them: what happens, what is said in answer, how it ends.

// Clippy takes the helpers of an integration test for code that is no test.
#![allow(clippy::unwrap_used)]

use dirigent_model::scenario::{Coverage, Scenario, scenario};
use order::{
    order::{Order, messages::*, order_saga},
    trip::{Trip, messages::*, trip_saga},
};
use std::time::Duration;

fn placed(amount_cents: i64) -> Scenario<Order> {
    let (customer, sku) = ("ada".into(), "brush".into());
    scenario(&order_saga().unwrap())
        .starts(OrderPlaced { order: 80, customer, sku, quantity: 2, amount_cents })
        .says(&["ReserveStock order=80 quantity=2", "AuthorisePayment order=80"])
}

fn secured(amount_cents: i64) -> Scenario<Order> {
    placed(amount_cents)
        .succeeds("reserve-stock", StockReserved { reservation: 3 })
        .says(&[])
        .succeeds("authorise-payment", PaymentAuthorised { hold: 5 })
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 60 * 60)
}

#[test]
fn a_small_order_is_secured_paid_and_shipped() {
    secured(4_200)
        .says(&["CapturePayment hold=5"])
        .succeeds("capture-payment", PaymentCaptured { receipt: 1 })
        .says(&["ShipOrder reservation=3"])
        .succeeds("ship", OrderShipped { tracking: "p1".into() })
        .says(&["publish OrderCompleted order=80 tracking=p1"])
        .ends_completed();
}

#[test]
fn a_large_order_waits_for_a_person() {
    secured(100_000)
        .says(&["publish ApprovalRequested amount_cents=100000"])
        .receives(OrderApproved { order: 80, by: "eve".into() })
        .says(&["CapturePayment"])
        .is_running();
}

#[test]
fn a_declined_order_is_taken_back() -> Scenario<Order> {
    secured(100_000)
        .says(&["publish ApprovalRequested"])
        .receives(OrderDeclined { order: 80, by: "eve".into() })
        .says(&["compensate ReleaseStock reservation=3", "compensate VoidPayment hold=5"])
        .compensates("reserve-stock")
        .says(&[])
        .compensates("authorise-payment")
        .says(&["publish OrderFailed reason=declined by eve"])
        .ends_compensated("declined by eve")
}

#[test]
fn an_order_nobody_decides_about_is_taken_back_after_a_day() {
    secured(100_000)
        .says(&["publish ApprovalRequested"])
        .after(hours(23))
        .says(&[])
        .is_running()
        .after(hours(1))
        .says(&["compensate ReleaseStock", "compensate VoidPayment"])
        .is_turning_back();
}

#[test]
fn a_refusal_waits_for_the_other_branch_and_then_compensates_it() -> Scenario<Order> {
    placed(4_200)
        .rejects("authorise-payment", PaymentDeclined { reason: "card declined".into() })
        .says(&[])
        .succeeds("reserve-stock", StockReserved { reservation: 3 })
        .says(&["compensate ReleaseStock reservation=3"])
        .compensates("reserve-stock")
        .says(&["publish OrderFailed reason=card declined"])
        .ends_compensated("card declined")
}

#[test]
fn without_stock_only_the_hold_is_let_go() -> Scenario<Order> {
    placed(4_200)
        .succeeds("authorise-payment", PaymentAuthorised { hold: 5 })
        .says(&[])
        .rejects("reserve-stock", StockRejected { sku: "brush".into() })
        .says(&["compensate VoidPayment hold=5"])
        .compensates("authorise-payment")
        .says(&["publish OrderFailed reason=no stock of brush"])
        .ends_compensated("no stock of brush")
}

#[test]
fn an_inventory_that_never_answers_is_compensated_without_knowing_the_reservation()
-> Scenario<Order> {
    placed(4_200)
        .succeeds("authorise-payment", PaymentAuthorised { hold: 5 })
        .says(&[])
        .never_answers("reserve-stock")
        .is_turning_back()
}

#[test]
fn a_hold_that_can_not_be_taken_turns_the_order_back() -> Scenario<Order> {
    secured(4_200)
        .says(&["CapturePayment"])
        .rejects("capture-payment", CaptureDeclined { reason: "hold expired".into() })
        .says(&["compensate ReleaseStock", "compensate VoidPayment"])
        .compensates("authorise-payment")
        .says(&[])
        .compensates("reserve-stock")
        .says(&["publish OrderFailed reason=hold expired"])
        .ends_compensated("hold expired")
}

#[test]
fn a_hold_that_was_made_without_a_word_is_kept_and_the_order_goes_on() {
    placed(4_200)
        .succeeds("reserve-stock", StockReserved { reservation: 3 })
        .says(&[])
        .never_answers("authorise-payment")
        .says(&[
            "AuthorisePayment order=80 (attempt 2)",
            "AuthorisePayment order=80 (attempt 3)",
            "status AuthorisePayment",
        ])
        .status_of("authorise-payment")
        .is_done(PaymentAuthorised { hold: 5 })
        .says(&["CapturePayment hold=5"])
        .is_running();
}

#[test]
fn a_hold_that_was_not_made_and_never_will_be_leaves_nothing_to_let_go() {
    placed(4_200)
        .succeeds("reserve-stock", StockReserved { reservation: 3 })
        .says(&[])
        .never_answers("authorise-payment")
        .status_of("authorise-payment")
        .is_not_done()
        .says(&["compensate ReleaseStock reservation=3"])
        .compensates("reserve-stock")
        .ends_compensated("no reply to attempt 3");
}

#[test]
fn money_that_was_not_taken_and_never_will_be_turns_the_order_back() {
    secured(4_200)
        .says(&["CapturePayment"])
        .never_answers("capture-payment")
        .status_of("capture-payment")
        .is_not_done()
        .says(&["compensate ReleaseStock", "compensate VoidPayment"])
        .is_turning_back();
}

#[test]
fn taking_the_money_is_asked_for_until_somebody_answers() {
    secured(4_200)
        .says(&["CapturePayment"])
        .never_answers("capture-payment")
        .never_answers("capture-payment")
        .is_blocked("no reply to attempt 3")
        .succeeds("capture-payment", PaymentCaptured { receipt: 1 })
        .says(&["ShipOrder"])
        .is_not_blocked();
}

fn requested() -> Scenario<Trip> {
    let (traveller, from, to) = ("ada".into(), "Delft".into(), "Walkville".into());
    scenario(&trip_saga().unwrap())
        .starts(TripRequested { trip: 4, traveller, from, to, nights: 2 })
        .says(&["BookFlight from=Delft to=Walkville", "BookHotel city=Walkville nights=2"])
}

#[test]
fn a_trip_is_booked_when_flight_hotel_and_car_are() {
    requested()
        .succeeds("book-flight", FlightBooked { booking: 1 })
        .says(&[])
        .succeeds("book-hotel", HotelBooked { booking: 2 })
        .says(&["RentCar city=Walkville days=3"])
        .succeeds("rent-car", CarRented { contract: 3 })
        .says(&["publish TripBooked trip=4"])
        .ends_completed();
}

#[test]
fn without_a_car_seat_and_bed_are_given_back() -> Scenario<Trip> {
    requested()
        .succeeds("book-flight", FlightBooked { booking: 1 })
        .says(&[])
        .succeeds("book-hotel", HotelBooked { booking: 2 })
        .says(&["RentCar"])
        .rejects("rent-car", NoCarLeft { city: "Walkville".into() })
        .says(&["compensate CancelFlight booking=1", "compensate CancelHotel booking=2"])
        .compensates("book-hotel")
        .says(&[])
        .compensates("book-flight")
        .says(&["publish TripFailed reason=no car in Walkville"])
        .ends_compensated("no car in Walkville")
}

#[test]
fn a_car_in_doubt_is_returned_before_seat_and_bed() -> Scenario<Trip> {
    requested()
        .succeeds("book-flight", FlightBooked { booking: 1 })
        .says(&[])
        .succeeds("book-hotel", HotelBooked { booking: 2 })
        .says(&["RentCar"])
        .never_answers("rent-car")
        .is_turning_back()
        .compensates("rent-car")
        .says(&["compensate CancelFlight", "compensate CancelHotel"])
}

#[test]
fn no_compensation_of_an_order_is_untested() {
    Coverage::over([
        a_refusal_waits_for_the_other_branch_and_then_compensates_it(),
        without_stock_only_the_hold_is_let_go(),
    ])
    .assert_compensations_covered();
}

#[test]
fn no_compensation_of_a_trip_is_untested() {
    let all = [
        without_a_car_seat_and_bed_are_given_back(),
        a_car_in_doubt_is_returned_before_seat_and_bed(),
    ];
    let coverage = Coverage::over(all);
    coverage.assert_compensations_covered();
    assert!(coverage.missing().contains(&("book-hotel", "rejected")), "{coverage}");
}
