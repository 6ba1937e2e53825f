//! The process is killed at random moments, again and again on the same folder: everything it promised is there each time.
//!
//! By default six times. More: `DIRIGENT_TEST_STORE_KILLS=2000 cargo test -p dirigent --test calls killed -- --nocapture`.

use crate::{
    Draw, at_rest, number,
    shop::{Memories, Works, child},
};
use std::{
    io::Read,
    path::Path,
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

/// How often it is killed, where it is asked for.
const KILLS: &str = "DIRIGENT_TEST_STORE_KILLS";
const KILLS_DEFAULT: u64 = 6;

/// Kills on one folder before all its orders have to end.
const KILLS_OF_A_FOLDER: u64 = 20;

/// Orders that a life finds to be placed, more than it has the time for; so few of them to a shift that many a kill falls into an opening, a
/// checkpoint or an orderly end.
const ORDERS_OF_A_LIFE: u64 = 100;

fn works(orders: u64) -> Works {
    Works { orders, shift: 4, at_once: 3, leaves: 0 }
}

/// Up to how long after its start it is killed, or after it has done something.
const STARTING_WITHIN_MS: u64 = 400;
const WORKING_WITHIN_MS: u64 = 250;

/// How long it may take until it does something.
const WORKS_WITHIN: Duration = Duration::from_secs(60);

fn world_bytes(place: &Path) -> u64 {
    std::fs::metadata(place.join("world")).map_or(0, |world| world.len())
}

/// Lives until it is killed; answers whether it had done something by then.
fn lives_and_is_killed(place: &Path, draw: &mut Draw) -> bool {
    let before = world_bytes(place);
    let orders = Memories::at(place).placed() + ORDERS_OF_A_LIFE;
    let mut child = child(place, works(orders)).spawn().unwrap();
    let has_ended = |child: &mut Child| child.try_wait().unwrap().is_some();
    if draw.below(3) == 0 {
        sleep(Duration::from_millis(draw.below(STARTING_WITHIN_MS)));
    } else {
        let begun = Instant::now();
        while world_bytes(place) == before && !has_ended(&mut child) {
            assert!(begun.elapsed() < WORKS_WITHIN, "it does nothing");
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_millis(draw.below(WORKING_WITHIN_MS)));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.code().is_none_or(|code| code == 0), "it ended by itself: {said}");
    world_bytes(place) > before
}

#[test]
fn a_process_that_is_killed_again_and_again_keeps_what_it_promised() {
    let kills = number(KILLS).unwrap_or(KILLS_DEFAULT);
    let mut draw = Draw::new();
    let (mut killed, mut met, mut promised, begun) = (0, 0, 0, Instant::now());
    while killed < kills {
        let place = tempfile::tempdir().unwrap();
        for _ in 0..KILLS_OF_A_FOLDER.min(kills - killed) {
            killed += 1;
            met += u64::from(lives_and_is_killed(place.path(), &mut draw));
            at_rest::is_sound(place.path(), &format!("seed {}, kill {killed}", draw.seed()));
        }
        let orders = Memories::at(place.path()).placed();
        let status = child(place.path(), works(orders)).status().unwrap();
        assert!(status.success(), "seed {}: the last life ended with {status}", draw.seed());
        at_rest::is_sound(place.path(), &format!("seed {}, after kill {killed}", draw.seed()));
        let memories = Memories::at(place.path());
        memories.is_as_it_should(orders);
        promised += memories.settled.len() + memories.sent.len();
    }
    assert!(met > 0, "no kill met a process at work");
    let seconds = begun.elapsed().as_secs();
    eprintln!("{killed} kills in {seconds} s, {met} at work; {promised} promises kept");
}
