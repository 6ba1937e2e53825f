//! Figures: the middle of several measurements with their spread, and how they are shown to people and programs.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What one round of a subject measured, by names that end in their unit.
pub(super) type Measured = BTreeMap<&'static str, f64>;

/// The middle of several measurements, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    /// The middle one; of an even number the upper of both.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many there are.
    pub rounds: usize,
}

impl Spread {
    /// Nothing of no values, and of values that are no numbers.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|it| it.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self { median: sorted[sorted.len() / 2], min, max, rounds: sorted.len() })
    }

    /// As it stands in JSON.
    pub(super) fn json(self) -> Value {
        let Self { median, min, max, rounds } = self;
        json!({ "median": rounded(median), "min": rounded(min), "max": rounded(max), "rounds": rounds })
    }

    /// From its JSON; `None` of anything else.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let number = |name| value.get(name).and_then(Value::as_f64);
        let rounds = usize::try_from(value.get("rounds")?.as_u64()?).ok()?;
        Some(Self { median: number("median")?, min: number("min")?, max: number("max")?, rounds })
    }
}

/// Four digits that say something; more would only be noise.
pub(super) fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    match scale >= 1.0 {
        true => (value * scale).round() / scale,
        // Dividing by a whole number keeps large ones free of digits behind the point.
        false => (value * scale).round() * (1.0 / scale).round(),
    }
}

/// A number as people read it: thousands apart, and no digits that say nothing.
pub(super) fn shown(value: f64) -> String {
    let value = rounded(value);
    let (whole, part) = (value.abs().trunc(), value.abs().fract());
    let digits = format!("{whole:.0}");
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digits.len() > 4 {
            text.push(' ');
        }
        text.push(digit);
    }
    if part > 0.0 && whole < 1_000.0 {
        let rest = format!("{:.6}", value.abs());
        let rest = rest.split_once('.').map_or("", |(_, rest)| rest.trim_end_matches('0'));
        if !rest.is_empty() {
            text.push('.');
            text.push_str(rest);
        }
    }
    text
}

/// A figure as people read it: a number, or a spread with its ends.
pub(super) fn told(figure: &Value) -> String {
    if let Some(Spread { median, min, max, rounds }) = Spread::from_json(figure) {
        return match rounds {
            1 => shown(median),
            _ => format!("{} ({} … {})", shown(median), shown(min), shown(max)),
        };
    }
    match figure {
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), shown),
        Value::String(text) => text.clone(),
        Value::Null => "not measured".into(),
        Value::Array(values) => values.iter().map(told).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Object(_) => figure.to_string(),
    }
}

/// All figures of a tree as lines of a name and a figure; a name is where it stands, in words. Series are left out: nobody reads them.
pub(super) fn lines(tree: &Value) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    gather(tree, "", &mut lines);
    lines
}

fn gather(tree: &Value, path: &str, lines: &mut Vec<(String, String)>) {
    let Some(branches) = tree.as_object().filter(|_| Spread::from_json(tree).is_none()) else {
        lines.push((path.to_owned(), told(tree)));
        return;
    };
    for (name, below) in branches.iter().filter(|(name, _)| *name != SERIES) {
        let path = if path.is_empty() { name.clone() } else { format!("{path}: {name}") };
        gather(below, &path, lines);
    }
}

/// Where a benchmark keeps what it plots.
pub(super) const SERIES: &str = "series";

/// An object of figures measured once.
pub(super) fn once(measured: &Measured) -> Value {
    let figures = measured.iter().map(|(name, value)| ((*name).to_owned(), json!(rounded(*value))));
    Value::Object(figures.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_told_with_its_ends() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max, spread.rounds), (2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::from_json(&spread.json()), Some(spread));
        assert_eq!(told(&spread.json()), "2 (1 … 3)");
        assert_eq!(Spread::of(&[f64::NAN]), None);
    }

    #[test]
    fn numbers_are_shown_with_the_digits_that_say_something() {
        assert_eq!(shown(1_234_567.0), "1 235 000");
        assert_eq!(shown(70_012.3), "70 010");
        assert_eq!(shown(0.042_37), "0.04237");
        assert_eq!(shown(12.345_6), "12.35");
        assert_eq!(shown(0.0), "0");
        assert_eq!(shown(-3.5), "-3.5");
    }

    #[test]
    fn a_tree_is_told_line_by_line_without_what_is_only_plotted() {
        let tree = json!({ "subjects": { "a": { "ms": Spread::of(&[1.0]).unwrap().json() } }, "series": [1, 2] });
        assert_eq!(lines(&tree), [("subjects: a: ms".to_owned(), "1".to_owned())]);
    }
}
