//! What the builder makes of a declaration: the graph, its fingerprint, and every mistake, reported together.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod sagas;

use dirigent_model::{
    definition::{
        AskStatus, Block, DefinitionError as E, DefinitionErrors, Graph, Kind, OnTimeout, Repeat,
        SagaDraft, WayBack, all, choose, pause, publish, saga, step, wait, when,
    },
    message::{Channel, Event, Message},
    retry::Retry,
};
use sagas::*;

fn draft(name: &str) -> SagaDraft<Trip> {
    saga(name, 1, |event: &TripAsked| event.trip.clone(), |_: TripAsked| Trip::default())
}

fn mistakes(draft: SagaDraft<Trip>) -> Vec<E> {
    draft.ends().map(drop).unwrap_err().errors
}

fn note(name: &str) -> Block<Trip> {
    publish(name, |_: &Trip| Note { text: String::new() })
}

fn undone(name: &str) -> Block<Trip> {
    step(name, |_: &Trip| Book { place: String::new() })
        .on_rejection(|_, _| ())
        .reply_within(seconds(1))
        .compensated_by(|_, _| Unbook { place: String::new(), code: None })
}

fn pivot(name: &str) -> Block<Trip> {
    step(name, |_: &Trip| Book { place: String::new() })
        .on_rejection(|_, _| ())
        .reply_within(seconds(1))
        .pivot()
}

fn retriable(name: &str) -> Block<Trip> {
    step(name, |_: &Trip| ShipOrder { order: 1, reservation: 1 })
        .reply_within(seconds(1))
        .retriable()
}

fn awaited(name: &str, on_timeout: OnTimeout) -> Block<Trip> {
    wait(name, |event: &PaxReady| event.trip.clone(), |_: &mut Trip, _| ())
        .within(seconds(1), on_timeout)
}

#[test]
fn all_mistakes_are_reported_together_and_say_what_to_do() {
    let errors = draft("Trip")
        .then(note("twice").then(note("twice")))
        .then(all("alone").branch(note("one")))
        .then(choose("none").otherwise_nothing())
        .then(pause("at-once", seconds(0)))
        .then(retriable("soon"))
        .ends()
        .map(drop)
        .unwrap_err();
    assert_eq!(errors.errors.len(), 6, "{errors}");
    let text = errors.to_string();
    for part in [
        "the definition of saga `Trip` has 6 mistake(s):",
        "`Trip` can't be a name",
        "the name `twice` is used twice",
        "`alone` has 1 branch(es); side by side needs two or more",
        "`none` has no arm; add one with `.arm(..)`",
        "`at-once` waits for no time at all",
        "the retriable step `soon` may be reached before the pivot",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_saga_needs_a_block() {
    assert_eq!(mistakes(draft("trip")), [E::Empty]);
}

#[test]
fn a_name_is_lower_case_and_not_too_long() {
    for name in ["", "Ä", "a b", "a/b", &"a".repeat(65)] {
        assert_eq!(mistakes(draft("trip").then(note(name))), [E::Name { name: name.into() }]);
        assert_eq!(mistakes(draft(name).then(note("a"))), [E::Name { name: name.into() }]);
    }
    draft("a_b-3").then(note(&"a".repeat(64))).ends().unwrap();
}

#[test]
fn a_name_is_used_once_however_deep() {
    let nested = all("both").branch(note("one")).branch(when("if", |_: &Trip| true, note("both")));
    assert_eq!(mistakes(draft("trip").then(nested)), [E::NameTwice { name: "both".into() }]);
}

#[test]
fn the_number_of_nodes_is_bounded() {
    for (count, is_ok) in [(Graph::NODES_MAX - 1, true), (Graph::NODES_MAX, false), (70_000, false)]
    {
        let long =
            (0..count).fold(draft("trip"), |saga, index| saga.then(note(&format!("n{index}"))));
        match long.ends() {
            Ok(_) => assert!(is_ok),
            Err(error) => {
                assert_eq!(error.errors, [E::TooLarge { count: count + 1, max: Graph::NODES_MAX }]);
            }
        }
    }
}

#[test]
fn a_pivot_lies_in_no_branch_of_a_parallel_block_however_deep() {
    let deep = all("both").branch(note("one")).branch(note("two").then(when(
        "if",
        |_: &Trip| true,
        pivot("pay"),
    )));
    assert_eq!(
        mistakes(draft("trip").then(deep)),
        [E::PivotInParallel { name: "pay".into(), within: "both".into() }]
    );
}

#[test]
fn a_path_has_one_pivot_and_two_ways_may_have_one_each() {
    let two = draft("trip").then(pivot("one")).then(pivot("two"));
    assert_eq!(mistakes(two), [E::SecondPivot { name: "two".into() }]);
    let ways = || choose("way").arm("a", |_: &Trip| true, pivot("one")).otherwise(pivot("two"));
    draft("trip").then(ways()).then(retriable("go")).ends().unwrap();
    let third = draft("trip").then(ways()).then(pivot("three"));
    assert_eq!(mistakes(third), [E::SecondPivot { name: "three".into() }]);
}

#[test]
fn nothing_behind_the_pivot_turns_back() {
    let names = |draft: SagaDraft<Trip>| -> Vec<String> {
        let name = |error| match error {
            E::TurnsBackAfterPivot { name, .. } => name,
            other => panic!("{other}"),
        };
        mistakes(draft).into_iter().map(name).collect()
    };
    let nothing = step("look", |_: &Trip| Book { place: String::new() })
        .on_rejection(|_, _| ())
        .reply_within(seconds(1))
        .nothing_to_compensate("only looks");
    let refused = wait("refused", |event: &PaxReady| event.trip.clone(), |_: &mut Trip, _| ())
        .or_rejected(|event: &Note| event.text.clone(), |_, _| ())
        .within(seconds(1), OnTimeout::Proceed);
    let behind = draft("trip")
        .then(pivot("pay"))
        .then(undone("book"))
        .then(nothing)
        .then(awaited("late", OnTimeout::Reject))
        .then(refused)
        .then(all("both").branch(undone("inner")).branch(retriable("fine")));
    assert_eq!(names(behind), ["book", "look", "late", "refused", "inner"]);
    draft("trip").then(pivot("pay")).then(awaited("late", OnTimeout::Proceed)).ends().unwrap();
}

#[test]
fn a_pivot_on_some_ways_only_serves_neither_what_goes_back_nor_what_only_goes_forward() {
    let sometimes = || when("if", |_: &Trip| true, pivot("pay"));
    assert!(matches!(
        mistakes(draft("trip").then(sometimes()).then(undone("book")))[..],
        [E::TurnsBackAfterPivot { .. }]
    ));
    assert_eq!(
        mistakes(draft("trip").then(sometimes()).then(retriable("go"))),
        [E::RetriableBeforePivot { name: "go".into() }]
    );
}

#[test]
fn a_time_limit_is_above_zero() {
    let step_of = |reply, undo| {
        step("book", |_: &Trip| Book { place: String::new() })
            .on_rejection(|_, _| ())
            .reply_within(seconds(reply))
            .compensation_reply_within(seconds(undo))
            .compensated_by(|_, _| Unbook { place: String::new(), code: None })
    };
    let none = |name: &str| [E::NoTime { name: name.into() }];
    assert_eq!(mistakes(draft("trip").then(step_of(0, 1))), none("book"));
    assert_eq!(mistakes(draft("trip").then(step_of(1, 0))), none("book"));
    let wait = wait("late", |event: &PaxReady| event.trip.clone(), |_: &mut Trip, _| ());
    assert_eq!(
        mistakes(draft("trip").then(wait.within(seconds(0), OnTimeout::Reject))),
        none("late")
    );
    assert_eq!(mistakes(draft("trip").then(note("a")).deadline(seconds(0))), none("trip"));
}

#[test]
fn a_command_has_an_attempt_and_what_needs_no_way_back_a_reason() {
    let never = Retry { attempts_max: 0, ..Retry::default() };
    let book = || {
        step("book", |_: &Trip| Book { place: String::new() })
            .on_rejection(|_, _| ())
            .reply_within(seconds(1))
    };
    let of = |leg| [E::NoAttempt { name: "book".into(), leg }];
    let asked = book().retry(never.clone()).nothing_to_compensate("it is read only");
    assert_eq!(mistakes(draft("trip").then(asked)), of("command"));
    let undone = book()
        .compensation_retry(never.clone())
        .compensated_by(|_, _| Unbook { place: String::new(), code: None });
    assert_eq!(mistakes(draft("trip").then(undone)), of("compensation"));
    let status = AskStatus::within(seconds(1)).retry(never);
    let in_question = book().status_by(status).nothing_to_compensate("it is read only");
    assert_eq!(mistakes(draft("trip").then(in_question)), of("question about its status"));
    for blank in ["", "  "] {
        let unreasoned = mistakes(draft("trip").then(book().nothing_to_compensate(blank)));
        assert_eq!(unreasoned, [E::NoReason { name: "book".into() }]);
    }
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Lost {}

impl Message for Lost {
    const NAME: &'static str = " ";
}
impl Event for Lost {
    const ON: Channel = Channel::json("lost and found");
}

#[test]
fn a_message_has_a_name_and_a_channel_that_can_be_one() {
    let lost = publish("tell", |_: &Trip| Lost {});
    let name = || "tell".to_owned();
    assert_eq!(
        mistakes(draft("trip").then(lost)),
        [
            E::NamelessMessage { name: name(), role: "event" },
            E::Channel {
                name: name(),
                role: "event",
                message: " ".into(),
                channel: "lost and found".into()
            },
        ]
    );
}

#[test]
fn a_start_event_is_not_awaited_too() {
    let again = wait("again", |event: &TripAsked| event.trip.clone(), |_: &mut Trip, _| ());
    assert_eq!(
        mistakes(draft("trip").then(again.within(seconds(1), OnTimeout::Reject))),
        [E::StartAwaited { event: "TripAsked".into() }]
    );
}

#[test]
fn an_event_has_one_meaning() {
    let both = wait("gate", |event: &PaxReady| event.trip.clone(), |_: &mut Trip, _| ())
        .or_rejected(|event: &PaxReady| event.trip.clone(), |_, _| ())
        .within(seconds(1), OnTimeout::Reject);
    let twice = [E::EventAmbiguous { name: "gate".into(), event: "PaxReady".into() }];
    assert_eq!(mistakes(draft("trip").then(both)), twice);
    let cancelled = draft("trip")
        .then(awaited("gate", OnTimeout::Reject))
        .cancelled_by(|event: &PaxReady| event.trip.clone(), |_, _| ());
    assert_eq!(mistakes(cancelled), twice);
}

#[test]
fn the_answers_to_a_command_can_be_told_apart() {
    let odd = step("odd", |_: &Trip| Odd { a: 1 })
        .on_rejection(|_, _| ())
        .reply_within(seconds(1))
        .nothing_to_compensate("a test");
    let reply =
        |name: &str, reply: &str| [E::ReplyAmbiguous { name: name.into(), reply: reply.into() }];
    assert_eq!(mistakes(draft("trip").then(odd)), reply("odd", "Booked"));
    let worse = step("worse", |_: &Trip| Worse { a: 1 })
        .reply_within(seconds(1))
        .nothing_to_compensate("a test");
    assert_eq!(mistakes(draft("trip").then(worse)), reply("worse", "Failure"));
}

#[test]
fn a_mistake_names_the_block_it_is_about_and_what_is_wrong_with_it() {
    let name = || "pay".to_owned();
    let event = || "PaxReady".to_owned();
    let told = [
        (E::TooLarge { count: 70_001, max: 65_535 }, None, "70001 nodes are more than the 65535"),
        (E::StartAwaited { event: event() }, None, "`PaxReady` both starts the saga"),
        (E::NoTime { name: name() }, Some("pay"), "a time limit above zero"),
        (E::NamelessMessage { name: name(), role: "event" }, Some("pay"), "give it one"),
        (E::NameTwice { name: name() }, Some("pay"), "used twice"),
        (E::EventAmbiguous { name: name(), event: event() }, Some("pay"), "`PaxReady`, which also"),
        (
            E::ReplyAmbiguous { name: name(), reply: "Booked".into() },
            Some("pay"),
            "are called `Booked`",
        ),
    ];
    for (mistake, block, text) in told {
        assert_eq!(mistake.block(), block, "{mistake}");
        assert!(mistake.to_string().contains(text), "{mistake}");
    }
}

#[test]
fn nodes_lie_parents_first_and_are_found_by_the_name_their_author_gave() {
    let definition = draft("trip")
        .then(note("saga"))
        .then(all("both").branch(note("a")).branch(note("b")))
        .ends()
        .unwrap();
    let graph = definition.graph();
    for id in graph.ids() {
        assert!(graph.node(id).parent.is_none_or(|parent| parent < id));
        assert!(graph.children(id).iter().all(|child| graph.node(*child).parent == Some(id)));
    }
    let found = graph.find("saga").unwrap();
    assert!(matches!(graph.node(found).kind, Kind::Publish { .. }));
    assert_eq!(graph.find("nowhere"), None);
}

#[test]
fn the_graph_carries_what_was_declared() {
    let definition = order_saga().unwrap();
    let graph = definition.graph();
    let step = graph.step(graph.find("ship").unwrap()).unwrap();
    assert_eq!((&step.way_back, &step.rejection), (&WayBack::Retriable, &None));
    assert_eq!((&*step.command.name, &*step.success), ("ShipOrder", "OrderShipped"));
    let events: Vec<&str> = graph.events_awaited().map(|event| &*event.name).collect();
    assert_eq!(events, ["OrderApproved", "OrderDeclined", "OrderWithdrawn"]);
    let stored = serde_json::to_string(graph).unwrap();
    assert_eq!(&serde_json::from_str::<Graph>(&stored).unwrap(), graph);
}

#[test]
fn the_fingerprint_tells_shapes_apart_and_leaves_tuning_out() {
    let print = |draft: SagaDraft<Trip>| draft.ends().unwrap().fingerprint();
    let plain = || draft("trip").then(undone("one"));
    assert_eq!(print(plain()), print(plain()));
    assert_eq!(print(plain()), print(plain().deadline(seconds(9)).keep_for(seconds(1))));
    let others = [
        draft("other").then(undone("one")),
        draft("trip").then(undone("two")),
        draft("trip").then(pivot("one")),
        plain().then(note("more")),
        plain().on_repeated_start(Repeat::Reject),
        plain().cancelled_by(|event: &Note| event.text.clone(), |_, _| ()),
    ];
    let mut prints: Vec<_> = others.into_iter().map(|draft| print(draft).0).collect();
    prints.push(print(plain()).0);
    prints.sort_unstable();
    prints.dedup();
    assert_eq!(prints.len(), 7);
}

#[test]
fn a_released_shape_keeps_its_fingerprint() {
    // Stored instances of released sagas name the fingerprint: a change of how it is computed would orphan them all.
    assert_eq!(order_saga().unwrap().fingerprint().to_string(), "0884accccba1582a");
}

#[test]
fn the_errors_of_a_definition_are_an_error() {
    fn is_error<T: std::error::Error + Send + Sync + 'static>() {}
    is_error::<DefinitionErrors>();
}
