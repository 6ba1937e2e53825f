//! Wrong sagas, each with what its author is told, word for word: the page `GALLERY.md`.
//!
//! The page is made here and compared with the file. `DIRIGENT_GALLERY=write cargo test -p dirigent-model --test gallery` writes it
//! anew; what then differs is read before it is kept.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod explore_sagas;

use dirigent_model::{
    definition::{
        Block, Definition, DefinitionErrors, Graph, Kind, NodeId, OnTimeout, WayBack, all, saga,
        step, wait,
    },
    explore::check_graph,
};
use explore_sagas::{
    Confirmed, Do, Finish, Own, TripAsked, begun, order, order_without_release, plain_step, trip,
};
use std::{fmt::Write, path::Path, time::Duration};

const SECOND: Duration = Duration::from_secs(1);

fn pivot(name: &str) -> Block<Own> {
    step(name, |own: &Own| Do { key: own.key }).on_rejection(|_, _| ()).reply_within(SECOND).pivot()
}

fn retriable(name: &str) -> Block<Own> {
    step(name, |own: &Own| Finish { key: own.key }).reply_within(SECOND).retriable()
}

fn confirmation(on_timeout: OnTimeout) -> Block<Own> {
    wait("confirmation", |event: &Confirmed| event.key, |_: &mut Own, _| ())
        .within(SECOND, on_timeout)
}

/// What its author is told where the saga is built.
fn refused(definition: Result<Definition<Own>, DefinitionErrors>) -> String {
    format!("```text\n{}\n```\n", definition.expect_err("this saga is wrong"))
}

/// What `check` says, with the sequence to the first violation drawn as well.
fn checked(graph: &Graph) -> String {
    let checked = check_graph(graph);
    assert!(!checked.violations.is_empty(), "this saga is wrong");
    let first = checked.violations.iter().find(|violation| !violation.sequence.is_empty());
    let told: Vec<String> = checked.violations.iter().map(ToString::to_string).collect();
    let mut told = format!("```text\n{}\n```\n", told.join("\n\n"));
    if let Some(first) = first {
        write!(told, "\n```mermaid\n{}```\n", first.to_mermaid()).unwrap();
    }
    told
}

/// A graph as it would be read from a file somebody edited.
fn edited(
    definition: Result<Definition<Own>, DefinitionErrors>,
    node: &str,
    edit: impl FnOnce(&mut Kind),
) -> Graph {
    let mut graph = definition.expect("the saga is well declared").graph().clone();
    let node = graph.find(node).expect("the saga has that node");
    edit(&mut graph.nodes[node.index()].kind);
    graph
}

fn way_back(way_back: WayBack) -> impl FnOnce(&mut Kind) {
    move |kind| match kind {
        Kind::Step(step) => step.way_back = way_back,
        _ => panic!("only steps have a way back"),
    }
}

fn nothing(reason: &str) -> WayBack {
    WayBack::Nothing { reason: reason.into() }
}

/// Title, what is wrong about it, and what its author is told.
fn built() -> Vec<(&'static str, &'static str, String)> {
    vec![
        (
            "A pivot beside others",
            "The pivot `pay` lies in a branch: `step-0` may still fail after the point of no return.",
            refused(
                begun("wrong")
                    .then(all("both").branch(pivot("pay")).branch(plain_step("step-0")))
                    .ends(),
            ),
        ),
        (
            "A step that may fail behind the pivot",
            "`step-0` can be refused, and the saga can't turn back any more.",
            refused(begun("wrong").then(pivot("pay")).then(plain_step("step-0")).ends()),
        ),
        (
            "A retriable step before the pivot",
            "`send` is asked until it is done, and nothing undoes it: yet the saga may turn back.",
            refused(begun("wrong").then(retriable("send")).then(pivot("pay")).ends()),
        ),
        (
            "Two pivots on one path",
            "Between them the saga could neither go back nor be sure to go on.",
            refused(begun("wrong").then(pivot("pay")).then(pivot("pay-more")).ends()),
        ),
        (
            "A wait that turns back behind the pivot",
            "Without the event the saga would have to turn back, and can't.",
            refused(begun("wrong").then(pivot("pay")).then(confirmation(OnTimeout::Reject)).ends()),
        ),
        (
            "A step that needs no compensation, for no reason",
            "`step-0` is declared with `.nothing_to_compensate(\"\")`.",
            refused(
                begun("wrong")
                    .then(
                        step("step-0", |own: &Own| Do { key: own.key })
                            .on_rejection(|_, _| ())
                            .reply_within(SECOND)
                            .nothing_to_compensate(""),
                    )
                    .ends(),
            ),
        ),
        (
            "Several mistakes at once",
            "All of them are told together.",
            refused(
                saga(
                    "Wrong",
                    1,
                    |event: &TripAsked| event.key,
                    |event: TripAsked| Own { key: event.key },
                )
                .then(all("both").branch(plain_step("step")))
                .then(plain_step("step"))
                .deadline(Duration::ZERO)
                .ends(),
            ),
        ),
    ]
}

/// The same for what is found by `check`.
fn found() -> Vec<(&'static str, &'static str, String)> {
    let refusing = |kind: &mut Kind| match kind {
        Kind::Wait { on_timeout, .. } => *on_timeout = OnTimeout::Reject,
        _ => panic!("only waits have a time-out"),
    };
    let mut late_wait = edited(trip(), "confirmation", refusing);
    let flight = late_wait.find("book-flight").unwrap();
    way_back(WayBack::Pivot)(&mut late_wait.nodes[flight.index()].kind);
    let mut tangled = order().unwrap().graph().clone();
    tangled.nodes[0].kind = Kind::Sequence { children: vec![NodeId(0)] };
    let never_asked = |kind: &mut Kind| match kind {
        Kind::Step(step) => {
            step.retry.attempts_max = 0;
            step.command.channel.clear();
        }
        _ => panic!("only steps are asked"),
    };
    vec![
        (
            "A step that is never asked, in a graph that was edited",
            "`ship` has `attempts_max` 0, and its command an empty channel.",
            checked(&edited(order(), "ship", never_asked)),
        ),
        (
            "A compensation is missing",
            "The way back of `reserve-stock` is `{ \"nothing\": { \"reason\": \"\" } }`: no reason is written, so what it took must not stay.",
            checked(&edited(
                order_without_release("reading only"),
                "reserve-stock",
                way_back(nothing("")),
            )),
        ),
        (
            "A compensation taken out of a graph",
            "The order as `order graph order --format json` writes it, without the compensation of `authorise-payment`; read by `order check --graph FILE`.",
            checked(&edited(order(), "authorise-payment", way_back(nothing("")))),
        ),
        (
            "A pivot among siblings, in a graph that was edited",
            "`reserve-stock` is made the pivot, though `authorise-payment` beside it may still fail.",
            checked(&edited(order(), "reserve-stock", way_back(WayBack::Pivot))),
        ),
        (
            "A step that may fail behind the pivot, in a graph that was edited",
            "`ship` is no longer retriable.",
            checked(&edited(order(), "ship", way_back(nothing("a letter is sent")))),
        ),
        (
            "A retriable step before the pivot, in a graph that was edited",
            "`reserve-stock` is asked until it is done, and stays when the saga turns back.",
            checked(&edited(order(), "reserve-stock", way_back(WayBack::Retriable))),
        ),
        (
            "A wait that turns back behind the pivot, in a graph that was edited",
            "`book-flight` is made the pivot, and `confirmation` turns the trip back where it does not come.",
            checked(&late_wait),
        ),
        ("A graph that is none", "The first block holds itself.", checked(&tangled)),
    ]
}

fn page() -> String {
    let mut page = String::from(
        "# Wrong sagas, and what is said of them\n\nEach of these is declared wrong on purpose. What is said stands here word for word; \
         a test keeps it (`cargo test -p dirigent-model --test gallery`).\n\n\
         ## Told where the saga is built\n\nThe builder refuses these with all their mistakes at once. What can be a type error is one \
         already, and never comes this far: a step without a way back, a time limit or an answer to its rejection; a compensation or a \
         retriable step that can be refused.\n",
    );
    for (title, wrong, told) in built() {
        write!(page, "\n### {title}\n\n{wrong}\n\n{told}").unwrap();
    }
    page += "\n## Found by `check`\n\nThese were edited as JSON. `order check` tells each violation with a shortest sequence that leads \
             to it; with `--mermaid` the sequence is drawn as well (below for the first), with `--json` a program gets all of it.\n";
    for (title, wrong, told) in found() {
        write!(page, "\n### {title}\n\n{wrong}\n\n{told}").unwrap();
    }
    page
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "whether the page is to be written is said from outside"
)]
fn the_gallery_says_word_for_word_what_authors_of_wrong_sagas_are_told() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../GALLERY.md");
    let page = page();
    if std::env::var("DIRIGENT_GALLERY").is_ok_and(|asked| asked == "write") {
        std::fs::write(&file, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = kept.lines().zip(page.lines()).position(|(kept, now)| kept != now);
    let differs =
        differs.or((kept != page).then(|| kept.lines().count().min(page.lines().count())));
    if let Some(at) = differs {
        let line = |page: &str| page.lines().nth(at).unwrap_or("(nothing)").to_owned();
        panic!(
            "line {} of the gallery says\n  {}\nand is now\n  {}",
            at + 1,
            line(&kept),
            line(&page)
        );
    }
}
