//! Of the departures: whose turn it is, who waits, and who is told of it.

use super::{super::present::NOTED_MIN, *};
use crate::destinations::{Paused, Protection, Protections, Rate, WayOut};
use dirigent_connectors::{Attributes, ChannelKind, Message};
use dirigent_model::{
    definition::NodeId,
    instance::{InstanceId, Leg},
};
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_000_000);

fn command(seq: LaneSeq, channel: &str, saga: u32) -> Numbered {
    let instance = InstanceId::of("a", &seq.into());
    let sender = Sender { instance, run: 0, node: NodeId(1), leg: Leg::Do, attempt: 1 };
    let message = Message {
        channel: channel.into(),
        kind: ChannelKind::Work,
        key: seq.to_string(),
        attributes: Attributes::new(),
        others: vec![],
        body: vec![0; 100].into(),
    };
    (seq, Outgoing { lane: 0, sender: Some(sender), saga, message })
}

fn departures(limits: &[(&str, Protection)]) -> Departures {
    let way = Arc::new(WayOut::default());
    let within = Duration::from_secs(10);
    let channels = ["a", "b"].map(|channel| (channel.to_owned(), within, Arc::clone(&way)));
    let by_channel = limits.iter().map(|(name, p)| ((*name).to_owned(), *p)).collect();
    let protections = Protections { by_channel, ..Protections::default() };
    Departures::new(Arc::new(Destinations::new(channels, &protections)))
}

fn at() -> Instant {
    Instant::now()
}

fn confirm(departures: &mut Departures, departing: &Departing) {
    for (seq, outgoing) in &departing.window {
        let of = (*seq, outgoing.sender, outgoing.message.channel.as_str());
        departures.confirmed(of, false, || NOW);
    }
}

fn seqs(departing: &Departing) -> Vec<LaneSeq> {
    departing.window.iter().map(|(seq, _)| *seq).collect()
}

#[test]
fn the_flood_of_one_saga_delays_another_by_a_share_only() {
    let mut departures = departures(&[]);
    departures.take_in((0..10_000).map(|seq| command(seq, "a", 1)).collect());
    departures.take_in((10_000..10_010).map(|seq| command(seq, "a", 2)).collect());
    let window = departures.next(NOW, at(), 100, usize::MAX);
    let seqs = seqs(&window);
    assert_eq!(seqs.len(), 100);
    assert_eq!(seqs.iter().filter(|seq| **seq >= 10_000).count(), 10, "{seqs:?}");
    let mine: Vec<_> = seqs.iter().filter(|seq| **seq < 10_000).collect();
    assert!(mine.is_sorted(), "each saga keeps its order");
    assert_eq!(departures.ready(), 10_010 - 100);
}

#[test]
fn a_destination_that_takes_nothing_delays_no_other_one() {
    let mut departures = departures(&[]);
    let paused = Paused { by: "ann".into(), why: "repair".into(), since: NOW };
    departures.destinations.of("a").unwrap().pause(Some(paused));
    departures.take_in((0..500).map(|seq| command(seq, "a", 1)).collect());
    departures.take_in((500..600).map(|seq| command(seq, "b", 1)).collect());
    let departing = departures.next(NOW, at(), 2_000, usize::MAX);
    assert_eq!(seqs(&departing), (500..600).collect::<Vec<_>>());
    let back: Vec<_> = departing.given_back.iter().map(|given| given.seq).collect();
    assert_eq!(back, (0..500).collect::<Vec<_>>(), "their instances ask again");
    assert_eq!((departures.ready(), departures.is_waiting()), (0, false));
}

#[test]
fn what_a_rate_does_not_let_go_waits_in_its_order_and_the_latest_go_back_where_it_is_too_much() {
    let rate = Protection { rate: Some(Rate { per_second: 10, burst: 5 }), ..Default::default() };
    let mut departures = departures(&[("a", rate)]);
    departures.take_in((0..1_200).map(|seq| command(seq, "a", 1)).collect());
    let first = departures.next(NOW, at(), 2_000, usize::MAX);
    assert_eq!(seqs(&first), [0, 1, 2, 3, 4]);
    assert_eq!(first.given_back.len(), 195);
    assert!(first.given_back.iter().all(|given| given.seq >= 1_005));
    assert!(departures.is_waiting());
    let none = departures.next(NOW, at(), 2_000, usize::MAX);
    assert!(none.window.is_empty() && none.given_back.is_empty());
    let later = departures.next(NOW + Duration::from_millis(200), at(), 2_000, usize::MAX);
    assert_eq!(seqs(&later), [5, 6]);
    confirm(&mut departures, &later);
    let view = departures.destinations.of("a").unwrap().view(NOW);
    assert_eq!((view.queued, view.held, view.sent), (998, 195, 7));
}

#[test]
fn the_shares_of_a_limited_destination_are_even() {
    let rate = Protection { rate: Some(Rate { per_second: 100, burst: 1 }), ..Default::default() };
    let mut departures = departures(&[("a", rate)]);
    departures.take_in((0..900).map(|seq| command(seq, "a", 1)).collect());
    departures.take_in((900..1_000).map(|seq| command(seq, "a", 2)).collect());
    let mut left = Vec::new();
    for step in 0..100 {
        let now = NOW + Duration::from_millis(step * 10);
        left.extend(seqs(&departures.next(now, at(), 2_000, usize::MAX)));
    }
    let second = left.iter().filter(|seq| **seq >= 900).count();
    assert!((40..=60).contains(&second), "{second} of {}", left.len());
}

#[test]
fn a_channel_that_does_not_confirm_delays_no_other_and_keeps_its_order() {
    let mut departures = departures(&[]);
    departures.take_in((0..10).map(|seq| command(seq, "a", 1)).collect());
    let window = departures.next(NOW, at(), 4, usize::MAX).window;
    departures.hear(window, false, at());
    departures.take_in((20..2_000).map(|seq| command(seq, "a", 2)).collect());
    departures.take_in((10..20).map(|seq| command(seq, "b", 1)).collect());
    let departing = departures.next(NOW, at(), 2_000, usize::MAX);
    assert_eq!(seqs(&departing), (10..20).collect::<Vec<_>>());
    let back: Vec<_> = departing.given_back.iter().map(|given| given.seq).collect();
    assert_eq!(
        back,
        (1_020..2_000).rev().collect::<Vec<_>>(),
        "what is too much waits with its instances"
    );
    assert_eq!(departures.queued(), 6 + QUEUED_MAX);
    departures.hear(vec![], true, at());
    let later = at() + Duration::from_secs(30);
    let tried = departures.next(NOW, later, 2_000, usize::MAX);
    assert_eq!(seqs(&tried), [0, 1, 2, 3], "alone, until it is known how they fare");
    departures.hear(vec![], true, later);
    let rest = seqs(&departures.next(NOW, later, 2_000, usize::MAX));
    assert_eq!((rest.len(), &rest[..6]), (6 + QUEUED_MAX, &[4, 5, 6, 7, 8, 9][..]));
    assert!(!departures.is_waiting());
}

#[test]
fn a_command_that_is_withdrawn_leaves_neither_its_queue_nor_its_rest_and_its_channel_goes_on() {
    let mut departures = departures(&[]);
    departures.take_in((0..6).map(|seq| command(seq, "a", 1)).collect());
    let window = departures.next(NOW, at(), 2, usize::MAX).window;
    departures.hear(window, false, at());
    let withdrawn = |seq| {
        let sender = command(seq, "a", 1).1.sender.expect("it is a command");
        Withdrawn { lane: 0, channel: "a".into(), sender }
    };
    let gone = [0, 4, 9].map(|seq| departures.withdraw(&withdrawn(seq)));
    assert_eq!(gone, [vec![0], vec![4], vec![]]);
    let later = at() + Duration::from_secs(30);
    assert_eq!(seqs(&departures.next(NOW, later, 10, usize::MAX)), [1]);
    departures.hear(vec![], true, later);
    assert_eq!(seqs(&departures.next(NOW, later, 10, usize::MAX)), [2, 3, 5]);
    assert_eq!((departures.ready(), departures.is_waiting()), (0, false));
}

#[test]
fn a_command_is_found_among_many_that_wait_whenever_it_came() {
    let mut departures = departures(&[]);
    let withdrawn = |seq| {
        let sender = command(seq, "a", 1).1.sender.expect("it is a command");
        Withdrawn { lane: 0, channel: "a".into(), sender }
    };
    let many = u64::try_from(NOTED_MIN).expect("a number");
    departures.take_in((0..2 * many).map(|seq| command(seq, "a", 1)).collect());
    let window = departures.next(NOW, at(), 2, usize::MAX).window;
    assert!(departures.withdraw(&withdrawn(5 * many)).is_empty(), "never here");
    assert!(departures.withdraw(&withdrawn(0)).is_empty(), "on its way");
    departures.hear(window, false, at());
    assert_eq!(departures.withdraw(&withdrawn(0)), [0], "not confirmed");
    assert_eq!(departures.withdraw(&withdrawn(9)), [9], "there from the beginning");
    departures.take_in((2 * many..9 * many).map(|seq| command(seq, "a", 1)).collect());
    for seq in [2 * many, 9 * many - 1, 1, 8 * many] {
        assert_eq!(departures.withdraw(&withdrawn(seq)), [seq], "came later");
        assert!(departures.withdraw(&withdrawn(seq)).is_empty(), "once");
    }
}

#[test]
fn what_the_next_window_has_no_room_for_is_known_to_wait_until_it_is_confirmed() {
    let mut departures = departures(&[]);
    departures.take_in((0..4).map(|seq| command(seq, "a", 1)).collect());
    departures.take_in((4..7).map(|seq| command(seq, "a", 2)).collect());
    let queued = |departures: &Departures| {
        departures.destinations.of("a").map(|known| known.view(NOW).queued)
    };
    for (window, waiting) in [(vec![0, 1], 5), (vec![2, 3], 3), (vec![4, 5], 1), (vec![6], 0)] {
        let departing = departures.next(NOW, at(), 2, usize::MAX);
        assert_eq!(seqs(&departing), window);
        confirm(&mut departures, &departing);
        assert_eq!(queued(&departures), Some(waiting), "after {window:?}");
    }
}

#[test]
fn windows_keep_their_bounds_and_one_message_too_large_for_them_goes_alone() {
    let mut departures = departures(&[]);
    departures.take_in((0..10).map(|seq| command(seq, "a", 1)).collect());
    assert_eq!(seqs(&departures.next(NOW, at(), 4, usize::MAX)), [0, 1, 2, 3]);
    assert_eq!(seqs(&departures.next(NOW, at(), 100, 250)), [4, 5]);
    assert_eq!(seqs(&departures.next(NOW, at(), 100, 50)), [6]);
    assert_eq!(seqs(&departures.next(NOW, at(), 100, usize::MAX)), [7, 8, 9]);
    assert_eq!(departures.ready(), 0);
    let mut large = command(20, "a", 1);
    large.1.message.body = vec![0; 10 * SHARE_BYTES].into();
    departures.take_in(vec![large]);
    assert_eq!(seqs(&departures.next(NOW, at(), 100, usize::MAX)), [20]);
}
