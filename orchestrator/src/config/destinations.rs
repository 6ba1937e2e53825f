//! What the file of settings says of destinations: of all of them, and of some.
//!
//! ```toml
//! [destinations]                # of all
//! in_flight_max = 1000
//! [destination.inventory]       # of this channel; what is not said is as for all
//! rate = 100                    # commands a second
//! burst = 20
//! circuit = { enabled = true, outcomes = 50, outcomes_min = 10, failing_percent = 50, failures_in_a_row = 5, open_seconds = 5, open_seconds_max = 60, probes = 3 }
//! ```

use super::{ConfigError, Origin};
use crate::destinations::{CircuitSettings, Protection, Protections, Rate};
use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};
use toml::Spanned;

/// What is said of destinations, as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    rate: Option<Spanned<u64>>,
    burst: Option<Spanned<u64>>,
    in_flight_max: Option<Spanned<u64>>,
    #[serde(default)]
    circuit: CircuitPart,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct CircuitPart {
    enabled: Option<Spanned<bool>>,
    outcomes: Option<Spanned<u64>>,
    outcomes_min: Option<Spanned<u64>>,
    failing_percent: Option<Spanned<u64>>,
    failures_in_a_row: Option<Spanned<u64>>,
    open_seconds: Option<Spanned<u64>>,
    open_seconds_max: Option<Spanned<u64>>,
    probes: Option<Spanned<u64>>,
}

/// A setting as it is shown: its name, its value, and who said it.
pub(super) type Shown = (String, String, String);

/// What is meant, how it is shown, and what can't be used.
pub(super) struct Understood {
    pub(super) protections: Protections,
    pub(super) shown: Vec<Shown>,
    pub(super) wrong: Vec<ConfigError>,
}

/// What is meant.
pub(super) fn understand(
    all: Part,
    some: BTreeMap<String, Part>,
    origin: &dyn Fn(usize) -> Origin,
) -> Understood {
    let mut reading = Reading { origin, shown: Vec::new(), wrong: Vec::new() };
    let all = reading.protection("destinations", all, Protection::default());
    let mut by_channel = BTreeMap::new();
    for (channel, part) in some {
        let place = format!("destination.{channel}");
        let protection = reading.protection(&place, part, all);
        by_channel.insert(channel, protection);
    }
    let Reading { shown, wrong, .. } = reading;
    Understood { protections: Protections { all, by_channel }, shown, wrong }
}

struct Reading<'a> {
    origin: &'a dyn Fn(usize) -> Origin,
    shown: Vec<Shown>,
    wrong: Vec<ConfigError>,
}

impl Reading<'_> {
    fn protection(&mut self, place: &str, part: Part, base: Protection) -> Protection {
        let mut protection = base;
        let burst_at = part.burst.as_ref().map(|burst| burst.span().start);
        let rate = self.number(place, "rate", part.rate, 1, 1_000_000);
        let burst = self.number(place, "burst", part.burst, 1, 1_000_000);
        if let Some(per_second) = rate {
            // A second's worth may leave at once, unless said otherwise.
            protection.rate = Some(Rate { per_second, burst: burst.unwrap_or(per_second) });
        } else if let (Some(burst), Some(at)) = (burst, burst_at) {
            match &mut protection.rate {
                Some(rate) => rate.burst = burst,
                None => self.refuse(
                    at,
                    place,
                    "burst",
                    "says how much of a rate may leave at once, and no rate is said",
                ),
            }
        }
        let in_flight_max = self.number(place, "in_flight_max", part.in_flight_max, 1, 1_000_000);
        if let Some(in_flight_max) = in_flight_max {
            protection.in_flight_max = usize::try_from(in_flight_max).ok();
        }
        protection.circuit = self.circuit(&format!("{place}.circuit"), part.circuit, base.circuit);
        protection
    }

    fn circuit(
        &mut self,
        place: &str,
        part: CircuitPart,
        base: Option<CircuitSettings>,
    ) -> Option<CircuitSettings> {
        let mut circuit = base.unwrap_or_default();
        let min_at = part.outcomes_min.as_ref().map(|said| said.span().start);
        let max_at = part.open_seconds_max.as_ref().map(|said| said.span().start);
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let seconds = |number: u32| Duration::from_secs(number.into());
        if let Some(outcomes) = self.number(place, "outcomes", part.outcomes, 1, 10_000) {
            circuit.outcomes = size(outcomes);
        }
        if let Some(least) = self.number(place, "outcomes_min", part.outcomes_min, 1, 10_000) {
            circuit.outcomes_min = size(least);
        }
        if let Some(percent) = self.number(place, "failing_percent", part.failing_percent, 1, 100) {
            circuit.failing_percent = u8::try_from(percent).unwrap_or(100);
        }
        let in_a_row = self.number(place, "failures_in_a_row", part.failures_in_a_row, 1, 10_000);
        if let Some(failures) = in_a_row {
            circuit.failures_in_a_row = size(failures);
        }
        if let Some(open) = self.number(place, "open_seconds", part.open_seconds, 1, 86_400) {
            circuit.open_min = seconds(open);
            circuit.open_max = circuit.open_max.max(circuit.open_min);
        }
        if let Some(open) = self.number(place, "open_seconds_max", part.open_seconds_max, 1, 86_400)
        {
            circuit.open_max = seconds(open);
        }
        if let Some(probes) = self.number(place, "probes", part.probes, 1, 1_000) {
            circuit.probes = size(probes);
        }
        if circuit.outcomes_min > circuit.outcomes {
            let text = format!(
                "is more than the {} outcomes that are looked at, so that their share would never open the circuit",
                circuit.outcomes
            );
            self.refuse(min_at.unwrap_or_default(), place, "outcomes_min", &text);
        }
        if circuit.open_max < circuit.open_min {
            let text =
                format!("is less than open_seconds, which is {}", circuit.open_min.as_secs());
            self.refuse(max_at.unwrap_or_default(), place, "open_seconds_max", &text);
        }
        match part.enabled {
            None => base.map(|_| circuit),
            Some(enabled) => {
                let origin = (self.origin)(enabled.span().start).to_string();
                let enabled = enabled.into_inner();
                self.shown.push((format!("{place}.enabled"), enabled.to_string(), origin));
                enabled.then_some(circuit)
            }
        }
    }

    fn number(
        &mut self,
        place: &str,
        key: &str,
        said: Option<Spanned<u64>>,
        least: u32,
        most: u32,
    ) -> Option<u32> {
        let said = said?;
        let at = said.span().start;
        let number = u32::try_from(said.into_inner()).ok();
        let number = number.filter(|number| (least..=most).contains(number));
        match number {
            Some(number) => {
                let origin = (self.origin)(at).to_string();
                self.shown.push((format!("{place}.{key}"), number.to_string(), origin));
            }
            None => {
                let text = format!("takes a whole number from {least} to {most}");
                self.refuse(at, place, key, &text);
            }
        }
        number
    }

    fn refuse(&mut self, at: usize, place: &str, key: &str, text: &str) {
        let (origin, key) = ((self.origin)(at), format!("{place}.{key}"));
        self.wrong.push(ConfigError::Destination { origin, key, text: text.into() });
    }
}
