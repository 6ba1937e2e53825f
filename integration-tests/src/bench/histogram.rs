//! Durations counted in buckets that grow with them: every percentile is right to within two percent, in a few kilobytes, however many there are.

use super::figures::Measured;
use std::time::Duration;

/// Buckets for each doubling: a bucket is at most this part of what lies in it.
const PARTS: u64 = 64;

/// Doublings from nanoseconds to all that fits 64 bits.
const DOUBLINGS: u64 = 64 - PARTS.ilog2() as u64;

/// How often each duration occurred, roughly.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = usize::try_from((DOUBLINGS + 1) * PARTS).unwrap_or_default();
        Self { buckets: vec![0; buckets], count: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    pub(super) fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(duration);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(own, other)| *own += other);
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// The duration that this part of all stays below, from 0.0 to 1.0; zero of none.
    pub(super) fn quantile(&self, part: f64) -> Duration {
        let wanted = ((self.count as f64) * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(upper_end(bucket)).min(self.max);
            }
        }
        self.max
    }

    /// The percentiles that people ask for, in milliseconds.
    pub(super) fn told(&self) -> Measured {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        Measured::from([
            ("p50_ms", ms(self.quantile(0.5))),
            ("p99_ms", ms(self.quantile(0.99))),
            ("p99.9_ms", ms(self.quantile(0.999))),
            ("max_ms", ms(self.max)),
        ])
    }
}

fn bucket_of(nanos: u64) -> usize {
    let doubling = (nanos | PARTS).ilog2() - PARTS.ilog2();
    let part = (nanos >> doubling) & (PARTS - 1);
    // Below the first doubling each number has a bucket of its own.
    let row = if nanos < PARTS { 0 } else { u64::from(doubling) + 1 };
    usize::try_from(row * PARTS + part).unwrap_or_default()
}

fn upper_end(bucket: usize) -> u64 {
    let (row, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    match row.checked_sub(1) {
        None => part,
        Some(doubling) => {
            (((PARTS + part + 1) as u128) << doubling).min(u128::from(u64::MAX)) as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_in_a_bucket_that_is_close_to_it() {
        let mut last = 0;
        for nanos in (0..200).chain((0..58).map(|power| (1_u64 << power) + 12_345)) {
            let bucket = bucket_of(nanos);
            let end = upper_end(bucket);
            assert!(end >= nanos && end - nanos <= nanos / 32 + 1, "{nanos} ends at {end}");
            if nanos < 200 {
                assert!(bucket >= last);
                last = bucket;
            }
        }
        assert!(bucket_of(u64::MAX) < Histogram::default().buckets.len());
    }

    #[test]
    fn percentiles_are_those_of_what_was_counted() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        (1..=1_000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        let near = |part: f64, ms: f64| {
            let found = histogram.quantile(part).as_secs_f64() * 1e3;
            assert!((found - ms).abs() <= ms * 0.02 + 1.0, "{part}: {found}");
        };
        near(0.5, 500.0);
        near(0.99, 990.0);
        near(0.999, 999.0);
        assert_eq!((histogram.count(), histogram.max()), (1_000, Duration::from_secs(1)));
    }
}
