//! Plots as SVG: bars with their spread, and lines over time. Small files that any browser shows, written by hand.

use super::figures::{Spread, shown};
use std::fmt::Write;

const WIDTH: f64 = 760.0;
/// Where bars and lines begin; names stand before.
const LEFT: f64 = 250.0;
/// Where they end; numbers stand behind.
const RIGHT: f64 = 640.0;
const TITLE: f64 = 34.0;
const BAR: f64 = 26.0;
const PANEL: f64 = 96.0;
const COLOUR: &str = "#3a6ea5";

/// One bar.
pub(super) struct Bar {
    pub label: String,
    pub spread: Spread,
}

/// Bars below each other, each with a line from its smallest to its largest value.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let largest = bars.iter().map(|bar| bar.spread.max).fold(f64::MIN_POSITIVE, f64::max);
    let across = |value: f64| LEFT + (RIGHT - LEFT) * (value / largest).clamp(0.0, 1.0);
    let mut out = begin(title, TITLE + BAR * bars.len() as f64 + 10.0);
    for (row, Bar { label, spread }) in bars.iter().enumerate() {
        let top = TITLE + BAR * row as f64;
        let (middle, end) = (top + BAR / 2.0, across(spread.median));
        text(&mut out, LEFT - 8.0, middle + 4.0, "end", label);
        let height = BAR - 10.0;
        let wide = (end - LEFT).max(1.0);
        push(
            &mut out,
            format_args!(
                r#"<rect x="{LEFT}" y="{:.1}" width="{wide:.1}" height="{height}" fill="{COLOUR}"/>"#,
                top + 5.0
            ),
        );
        let (from, to) = (across(spread.min), across(spread.max));
        push(
            &mut out,
            format_args!(
                r##"<path d="M{from:.1} {middle:.1}H{to:.1}" stroke="#222" stroke-width="2"/>"##
            ),
        );
        text(&mut out, RIGHT + 8.0, middle + 4.0, "start", &shown(spread.median));
    }
    out + "</svg>\n"
}

/// One line over time.
pub(super) struct Panel<'a> {
    pub label: &'a str,
    pub points: Vec<f64>,
}

/// Lines below each other that share their time. Each begins at zero, so that flat looks flat.
pub(super) fn lines(title: &str, seconds_of_a_point: f64, panels: &[Panel<'_>]) -> String {
    let mut out = begin(title, TITLE + PANEL * panels.len() as f64 + 24.0);
    let mut longest = 0;
    for (row, Panel { label, points }) in panels.iter().enumerate() {
        longest = longest.max(points.len());
        let (top, height) = (TITLE + PANEL * row as f64, PANEL - 22.0);
        let largest = points.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        push(
            &mut out,
            format_args!(
                r##"<path d="M{LEFT} {top:.1}V{0:.1}H{RIGHT}" fill="none" stroke="#999"/>"##,
                top + height
            ),
        );
        text(&mut out, LEFT - 8.0, top + height / 2.0, "end", label);
        text(&mut out, RIGHT + 8.0, top + 10.0, "start", &shown(largest));
        text(&mut out, RIGHT + 8.0, top + height, "start", "0");
        let step = (RIGHT - LEFT) / points.len().saturating_sub(1).max(1) as f64;
        let mut path = String::new();
        for (place, point) in points.iter().enumerate() {
            let letter = if place == 0 { 'M' } else { 'L' };
            let (x, y) = (LEFT + step * place as f64, top + height * (1.0 - point / largest));
            push(&mut path, format_args!("{letter}{x:.1} {y:.1}"));
        }
        push(
            &mut out,
            format_args!(r#"<path d="{path}" fill="none" stroke="{COLOUR}" stroke-width="1.5"/>"#),
        );
    }
    let minutes = longest as f64 * seconds_of_a_point / 60.0;
    let below = TITLE + PANEL * panels.len() as f64 + 6.0;
    text(&mut out, RIGHT, below, "end", &format!("{} minutes", shown(minutes)));
    out + "</svg>\n"
}

fn begin(title: &str, height: f64) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    push(
        &mut out,
        format_args!(
            r#"<text x="10" y="20" font-size="14" font-weight="bold">{}</text>"#,
            escaped(title)
        ),
    );
    out.push('\n');
    out
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    push(
        out,
        format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
            escaped(what)
        ),
    );
    out.push('\n');
}

fn push(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("writing to a string never fails");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_plot_and_half_of_it_is_half_as_long() {
        let bar = |label: &str, value| Bar {
            label: label.into(),
            spread: Spread { median: value, min: value, max: value, rounds: 1 },
        };
        let plot = bars("events & more", &[bar("a", 10.0), bar("b <2>", 5.0)]);
        assert!(plot.starts_with("<svg ") && plot.ends_with("</svg>\n"));
        assert!(plot.contains("events &amp; more") && plot.contains("b &lt;2&gt;"));
        assert!(plot.contains(r#"width="390.0""#) && plot.contains(r#"width="195.0""#), "{plot}");
    }

    #[test]
    fn lines_begin_at_zero_and_share_their_time() {
        let panels = [Panel { label: "p99", points: vec![0.0, 5.0, 10.0] }];
        let plot = lines("a soak", 20.0, &panels);
        assert!(plot.contains("1 minutes") && plot.contains(">10<"), "{plot}");
        assert!(plot.contains(r#"d="M250.0 108.0L445.0 71.0L640.0 34.0""#), "{plot}");
    }
}
