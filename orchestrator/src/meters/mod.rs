//! What an engine measures while it works: handles that are told as things happen and read when somebody asks.
//!
//! Off until [`Meters::register`] is called once; before that telling costs one read of memory. Everything that can be had from
//! the accounts when somebody asks is not in here but in [`crate::http`].

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Seconds from a fast disk's sync to one that stands still.
const DURATIONS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// Inputs in one sync, from one alone to all that shards can have ready.
const GROUP_SIZES: [f64; 9] = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0];

/// How many messages of one channel became what: its name, and a number for each verdict.
pub(crate) type InputsByChannel = BTreeMap<String, Vec<(&'static str, u64)>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WindowLabels {
    connector: String,
    outcome: &'static str,
}

/// The handles.
#[derive(Debug)]
pub(crate) struct Meters {
    on: AtomicBool,
    syncs: Histogram,
    group_inputs: Histogram,
    checkpoints: Histogram,
    timers_late: Histogram,
    windows: Family<WindowLabels, Counter>,
    letters: Family<ReasonLabel, Counter>,
    inputs: Mutex<InputsByChannel>,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            on: AtomicBool::new(false),
            syncs: Histogram::new(DURATIONS),
            group_inputs: Histogram::new(GROUP_SIZES),
            checkpoints: Histogram::new(DURATIONS),
            timers_late: Histogram::new(DURATIONS),
            windows: Family::default(),
            letters: Family::default(),
            inputs: Mutex::default(),
        }
    }
}

impl Meters {
    /// Begins to measure, and lets `registry` show it.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.on.store(true, Ordering::Relaxed);
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "sync_duration",
            "How long the disk took to make groups durable",
            seconds(),
            self.syncs.clone(),
        );
        registry.register(
            "sync_inputs",
            "Inputs made durable by one sync",
            self.group_inputs.clone(),
        );
        registry.register_with_unit(
            "checkpoint_duration",
            "How long writing a checkpoint took",
            seconds(),
            self.checkpoints.clone(),
        );
        registry.register_with_unit(
            "timer_lateness",
            "How much later than due instances were looked at",
            seconds(),
            self.timers_late.clone(),
        );
        registry.register(
            "relay_windows",
            "Windows sent: decided, or with messages to be sent again",
            self.windows.clone(),
        );
        registry.register("dead_letters", "Messages set aside, by reason", self.letters.clone());
    }

    /// Whether anybody wants to know.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Groups with so many inputs were made durable.
    pub(crate) fn synced(&self, took: Duration, inputs: usize) {
        if self.is_on() {
            self.syncs.observe(took.as_secs_f64());
            self.group_inputs.observe(inputs as f64);
        }
    }

    /// A checkpoint was written.
    pub(crate) fn checkpointed(&self, took: Duration) {
        if self.is_on() {
            self.checkpoints.observe(took.as_secs_f64());
        }
    }

    /// An instance was looked at so much later than it was due.
    pub(crate) fn timer_fired(&self, late: Duration) {
        if self.is_on() {
            self.timers_late.observe(late.as_secs_f64());
        }
    }

    /// A window was sent.
    pub(crate) fn window_sent(&self, connector: &str, is_decided: bool) {
        if self.is_on() {
            let outcome = if is_decided { "decided" } else { "again" };
            let labels = WindowLabels { connector: connector.into(), outcome };
            self.windows.get_or_create(&labels).inc();
        }
    }

    /// A message was set aside.
    pub(crate) fn set_aside(&self, reason: &'static str) {
        if self.is_on() {
            self.letters.get_or_create(&ReasonLabel { reason }).inc();
        }
    }

    /// What became of all messages so far.
    pub(crate) fn consumed(&self, inputs: InputsByChannel) {
        *self.inputs.lock().unwrap_or_else(PoisonError::into_inner) = inputs;
    }

    /// The latest word of that.
    pub(crate) fn inputs(&self) -> InputsByChannel {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_measured_before_somebody_asks() {
        let meters = Meters::default();
        meters.set_aside("no-type");
        let mut registry = Registry::with_prefix("dirigent");
        meters.register(&mut registry);
        meters.set_aside("no-instance");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        assert!(!text.contains("no-type"), "{text}");
        assert!(text.contains("dirigent_dead_letters_total{reason=\"no-instance\"} 1"), "{text}");
        assert!(text.contains("# UNIT dirigent_sync_duration_seconds seconds"), "{text}");
    }
}
