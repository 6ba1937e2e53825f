//! Which orders go wrong, and where: decided by the seed and the order's number alone, so that every run of a demo ends the same.

use super::{messages::OrderPlaced, saga::APPROVAL_FROM_CENTS};
use dirigent::participant::{Asked, Misbehaviour};
use dirigent_model::instance::Leg;

/// One order in this many is large.
const LARGE_ONE_IN: u64 = 10;

/// Unanswered attempts of a step that is never given up.
const SILENT_ATTEMPTS: u32 = 2;

/// How often orders are refused and services stay silent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Repeats the same decisions.
    pub seed: u64,
    /// The part of the orders that is refused somewhere, from 0.0 to 1.0.
    pub reject: f64,
    /// The part of the orders for which one service acts and does not answer, from 0.0 to 1.0.
    pub silent: f64,
}

/// Where an order is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not enough stock.
    NoStock,
    /// The card is declined.
    CardDeclined,
    /// A person declines a large order.
    Declined,
    /// The hold can't be taken.
    CaptureDeclined,
}

impl Rates {
    /// Nothing goes wrong.
    pub fn none(seed: u64) -> Self {
        Self { seed, reject: 0.0, silent: 0.0 }
    }

    /// Where this order is refused, if it is. Only large orders are declined by a person, nobody else is asked.
    pub fn refusal(&self, order: i64) -> Option<Refusal> {
        if self.chance(order, "reject") >= self.reject {
            return None;
        }
        let asked = if is_large(self.seed, order) { 4 } else { 3 };
        Some(match draw(self.seed, order, "refusal") % asked {
            0 => Refusal::NoStock,
            1 => Refusal::CardDeclined,
            2 => Refusal::CaptureDeclined,
            _ => Refusal::Declined,
        })
    }

    /// The command that is not answered for this order, if there is one.
    pub fn unanswered(&self, order: i64) -> Option<&'static str> {
        if self.chance(order, "silent") >= self.silent {
            return None;
        }
        const COMMANDS: [&str; 4] =
            ["ReserveStock", "AuthorisePayment", "CapturePayment", "ShipOrder"];
        Some(COMMANDS[(draw(self.seed, order, "unanswered") % 4) as usize])
    }

    /// How a service treats a command: what may be given up is never answered, what may not be is answered in the end. A question
    /// what became of it is answered always.
    pub fn misbehaviour(&self, asked: &Asked) -> Misbehaviour {
        let Ok(order) = asked.subject.parse() else { return Misbehaviour::None };
        if asked.leg == Leg::Compensate || self.unanswered(order) != Some(asked.command.as_str()) {
            return Misbehaviour::None;
        }
        match asked.command.as_str() {
            "CapturePayment" | "ShipOrder" if asked.attempt > SILENT_ATTEMPTS => Misbehaviour::None,
            _ => Misbehaviour::SilentAfter,
        }
    }

    fn chance(&self, order: i64, what: &str) -> f64 {
        // The upper 53 bits are what a double holds exactly.
        (draw(self.seed, order, what) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The order with this number, as its customer places it.
pub fn placed(seed: u64, order: i64) -> OrderPlaced {
    let amount = draw(seed, order, "amount");
    let below = u64::try_from(APPROVAL_FROM_CENTS - 500).unwrap_or(1);
    let small = i64::try_from(amount % below).unwrap_or(0) + 500;
    let large = APPROVAL_FROM_CENTS + small;
    OrderPlaced {
        order,
        customer: format!("customer-{}", draw(seed, order, "customer") % 1_000),
        sku: format!("sku-{}", draw(seed, order, "sku") % 100),
        quantity: i32::try_from(draw(seed, order, "quantity") % 5).unwrap_or(0) + 1,
        amount_cents: if is_large(seed, order) {
            large
        } else {
            small.min(APPROVAL_FROM_CENTS - 1)
        },
    }
}

fn is_large(seed: u64, order: i64) -> bool {
    draw(seed, order, "large").is_multiple_of(LARGE_ONE_IN)
}

/// A number that looks random and follows from its arguments: FNV-1a of the purpose, mixed by the finaliser of SplitMix64.
fn draw(seed: u64, order: i64, what: &str) -> u64 {
    let purpose = what.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    let mixed = mix(seed ^ purpose).wrapping_add(order.cast_unsigned());
    mix(mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { seed: 7, reject: 0.1, silent: 0.05 };

    #[test]
    fn about_as_many_orders_are_refused_as_the_rate_says_in_all_places() {
        let refusals: Vec<_> = (1..=20_000).filter_map(|order| RATES.refusal(order)).collect();
        assert!((1_850..2_150).contains(&refusals.len()), "{}", refusals.len());
        for place in
            [Refusal::NoStock, Refusal::CardDeclined, Refusal::Declined, Refusal::CaptureDeclined]
        {
            assert!(refusals.iter().filter(|found| **found == place).count() > 20, "{place:?}");
        }
    }

    #[test]
    fn only_large_orders_are_declined_by_a_person() {
        for order in 1..=20_000 {
            if RATES.refusal(order) == Some(Refusal::Declined) {
                assert!(placed(RATES.seed, order).amount_cents >= APPROVAL_FROM_CENTS);
            }
        }
    }

    #[test]
    fn one_order_in_ten_is_large() {
        let large = (1..=20_000)
            .filter(|order| placed(7, *order).amount_cents >= APPROVAL_FROM_CENTS)
            .count();
        assert!((1_800..2_200).contains(&large), "{large}");
    }

    #[test]
    fn nothing_goes_wrong_at_a_rate_of_zero_and_everything_at_one() {
        let all = Rates { seed: 3, reject: 1.0, silent: 1.0 };
        for order in 1..=1_000 {
            assert_eq!(Rates::none(3).refusal(order), None);
            assert_eq!(Rates::none(3).unanswered(order), None);
            assert!(all.refusal(order).is_some() && all.unanswered(order).is_some());
        }
    }
}
