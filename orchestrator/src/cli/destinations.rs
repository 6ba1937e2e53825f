//! `destinations`, `pause destination`, `resume destination`: asked of the running process, since nobody else knows.

use super::{
    Cli, DestinationsArgs, PauseArgs, SpeakerArgs,
    ask::{asked, json, wrong_answer},
    out::{Paint, Trouble, say, table, tame},
    tell::ago,
};
use crate::{
    control::{Answer, Question},
    destinations::DestinationView,
    engine::{Clock, SystemClock},
};
use dirigent_model::time::Timestamp;
use std::process::ExitCode;

pub(super) async fn list(cli: &Cli, args: DestinationsArgs) -> Result<ExitCode, Trouble> {
    let answer = asked(cli, &args.folder, Question::Destinations).await?;
    let Answer::Destinations { destinations } = answer else { return Err(wrong_answer()) };
    if args.json {
        say(&json(&destinations)?)?;
    } else {
        say(&told(&destinations, SystemClock::default().now(), Paint::of_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn pause(cli: &Cli, args: PauseArgs) -> Result<ExitCode, Trouble> {
    let PauseArgs { channel, folder, why, speaker: SpeakerArgs { by } } = with_reason(args)?;
    let question = Question::Pause { channel: channel.clone(), by, why };
    let Answer::Destinations { .. } = asked(cli, &folder, question).await? else {
        return Err(wrong_answer());
    };
    say(&format!("paused: commands to {channel} are held until `resume destination {channel}`\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(cli: &Cli, args: PauseArgs) -> Result<ExitCode, Trouble> {
    let PauseArgs { channel, folder, why, speaker: SpeakerArgs { by } } = with_reason(args)?;
    let question = Question::Resume { channel: channel.clone(), by, why };
    let Answer::Destinations { destinations } = asked(cli, &folder, question).await? else {
        return Err(wrong_answer());
    };
    let held = destinations.first().map_or(0, |destination| destination.held);
    say(&format!("resumed: {channel}; {held} held commands come back over the next seconds\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn with_reason(args: PauseArgs) -> Result<PauseArgs, Trouble> {
    if args.why.trim().is_empty() {
        return Err(Trouble::new("an operator's word needs a reason: say it with --why"));
    }
    Ok(args)
}

/// A table of destinations.
fn told(destinations: &[DestinationView], now: Timestamp, paint: Paint) -> String {
    if destinations.is_empty() {
        return "No saga here sends commands.\n".into();
    }
    let head = [
        "DESTINATION",
        "STATE",
        "FAILED",
        "HELD",
        "OLDEST",
        "WAITING",
        "IN FLIGHT",
        "RATE",
        "NOTE",
    ];
    let mut rows = vec![head.map(ToOwned::to_owned).to_vec()];
    rows.extend(destinations.iter().map(|view| {
        let or_dash = |number: Option<String>| number.unwrap_or_else(|| "-".into());
        let in_flight = view.in_flight.zip(view.in_flight_max);
        vec![
            tame(&view.channel),
            view.state.clone(),
            format!("{} of {}", view.failures, view.outcomes),
            view.held.to_string(),
            or_dash(view.oldest_held.map(|since| ago(now.since(since)))),
            view.queued.to_string(),
            or_dash(in_flight.map(|(now, most)| format!("{now} of {most}"))),
            or_dash(view.rate.map(|rate| format!("{rate}/s"))),
            tame(&note(view, now)),
        ]
    }));
    table(&rows, |row, column, cell| match (row, column, cell) {
        (0, ..) => paint.dim(cell),
        (_, 1, "closed") => paint.green(cell),
        (_, 1, "paused") => paint.yellow(cell),
        (_, 1, _) => paint.red(cell),
        (..) => cell.into(),
    })
}

fn note(view: &DestinationView, now: Timestamp) -> String {
    let since = view.since.map_or_else(String::new, |since| ago(now.since(since)));
    match (&view.paused, view.next_try) {
        (Some(paused), _) => format!("by {} {since}: {}", paused.by, paused.why),
        (None, Some(at)) => format!("since {since}, tried again at {at}"),
        (None, None) if view.since.is_some() => format!("since {since}, being tried"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destinations::Paused;

    #[test]
    fn a_table_tells_what_is_held_since_when_and_why() {
        let now = Timestamp(1_000_000);
        let view = |channel: &str, state: &str| DestinationView {
            channel: channel.into(),
            state: state.into(),
            since: None,
            paused: None,
            next_try: None,
            outcomes: 50,
            failures: 0,
            held: 0,
            oldest_held: None,
            queued: 0,
            in_flight: None,
            in_flight_max: None,
            rate: None,
            sent: 1,
            given_back: 0,
            opened: 0,
        };
        let paused = Paused { by: "ann".into(), why: "repair".into(), since: Timestamp(940_000) };
        let rows = [
            view("mail", "closed"),
            DestinationView {
                since: Some(Timestamp(990_000)),
                next_try: Some(Timestamp(1_005_000)),
                held: 7,
                oldest_held: Some(Timestamp(992_000)),
                failures: 30,
                ..view("stock", "open")
            },
            DestinationView {
                since: Some(paused.since),
                paused: Some(paused),
                rate: Some(5),
                in_flight: Some(2),
                in_flight_max: Some(9),
                ..view("pay", "paused")
            },
        ];
        let text = told(&rows, now, Paint::plain());
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect())
            .collect();
        assert_eq!(lines[1], ["mail", "closed", "0 of 50", "0", "-", "0", "-", "-"]);
        assert_eq!(lines[2][..5], ["stock", "open", "30 of 50", "7", "8s ago"]);
        assert!(
            lines[2][8].starts_with("since 10s ago, tried again at 1970-01-01T00:16:45"),
            "{text}"
        );
        assert_eq!(lines[3][6..], ["2 of 9", "5/s", "by ann 1m 0s ago: repair"]);
    }
}
