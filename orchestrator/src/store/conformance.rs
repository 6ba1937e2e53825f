//! What every store owes: in memory, on disk, and in the database that `DIRIGENT_POSTGRES` names.

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;

use super::*;

fn memory(check: impl FnOnce(&dyn Store)) {
    check(&MemoryStore::new());
}

fn sled(check: impl FnOnce(&dyn Store)) {
    let place = tempfile::tempdir().expect("a folder");
    let folder = DataFolder::open(place.path()).expect("nobody else uses it");
    check(&SledStore::open(&folder, StoreOptions::default()).expect("it opens"));
}

/// At the server that the environment names.
#[cfg(feature = "postgres")]
fn in_postgres(check: impl FnOnce(&dyn Store)) {
    use super::postgres::{PostgresAddress, PostgresStore};
    use std::sync::atomic::{AtomicU32, Ordering};

    static COUNT: AtomicU32 = AtomicU32::new(0);
    let address = std::env::var("DIRIGENT_POSTGRES").expect(
        "DIRIGENT_POSTGRES names no server; `brokers up postgres` starts one and says where",
    );
    let address = PostgresAddress::parse(&address).expect("an address");
    let address = address.schema("dirigent_conformance").expect("a name");
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{:?}-{}-{number}", std::time::SystemTime::now(), std::process::id());
    let name: String = name.chars().filter(|letter| letter.is_ascii_digit()).collect();
    check(&PostgresStore::open(address, name).expect("it opens"));
}

macro_rules! every_store {
    ($($promise:ident)*) => {
        mod in_memory { $(#[test] fn $promise() { super::memory(super::$promise); })* }
        mod on_disk { $(#[test] fn $promise() { super::sled(super::$promise); })* }
        #[cfg(feature = "postgres")]
        mod in_a_database {
            $(
                #[test]
                #[ignore = "wants a server: DIRIGENT_POSTGRES, and `-- --ignored in_a_database`"]
                fn $promise() { super::in_postgres(super::$promise); }
            )*
        }
    };
}

every_store! {
    a_value_is_read_as_it_was_put
    spaces_do_not_see_each_other
    the_last_change_of_a_key_wins
    a_scan_gives_the_range_in_order_page_by_page
    large_values_make_short_pages
    what_is_too_large_is_refused_and_nothing_is_changed
    more_than_a_batch_is_written_in_full
    a_prefix_is_a_range
    any_changes_leave_what_a_map_would_hold
}

fn put(key: &[u8], value: &[u8]) -> Change {
    Change::put(Space::Instances, key, value)
}

fn keys(page: &Page) -> Vec<&[u8]> {
    page.records.iter().map(|(key, _)| key.as_slice()).collect()
}

fn a_value_is_read_as_it_was_put(store: &dyn Store) {
    for bytes in [0, 1, 8_000, 8_187, 8_188, 8_192, 8_193, 100_000, VALUE_BYTES_MAX] {
        let value: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        store.write(&[put(b"", &value), put(b"\x01\0\0\0\0", &value)]).expect("write");
        store.sync().expect("sync");
        assert!(store.get(Space::Instances, b"").expect("get") == Some(value.clone()), "{bytes}");
        assert!(store.get(Space::Instances, b"\x01\0\0\0\0").expect("get") == Some(value));
    }
    store.write(&[Change::remove(Space::Instances, *b"")]).expect("write");
    assert_eq!(store.get(Space::Instances, b"").expect("get"), None);
}

fn spaces_do_not_see_each_other(store: &dyn Store) {
    let changes: Vec<_> =
        Space::ALL.into_iter().map(|space| Change::put(space, *b"k", space.name())).collect();
    store.write(&changes).expect("write");
    for space in Space::ALL {
        assert_eq!(store.get(space, b"k").expect("get"), Some(space.name().into()));
        assert_eq!(store.scan(space, ALL_KEYS, 10).expect("scan").records.len(), 1);
    }
}

fn the_last_change_of_a_key_wins(store: &dyn Store) {
    store.write(&[put(b"k", b"1"), put(b"k", b"2"), put(b"l", b"1")]).expect("write");
    store.write(&[put(b"l", b"2"), Change::remove(Space::Instances, *b"l")]).expect("write");
    assert_eq!(store.get(Space::Instances, b"k").expect("get"), Some(b"2".to_vec()));
    assert_eq!(store.get(Space::Instances, b"l").expect("get"), None);
}

fn a_scan_gives_the_range_in_order_page_by_page(store: &dyn Store) {
    let order: [&[u8]; 6] = [b"", b"\0", b"a", b"a\0", b"b", b"\xff\xff"];
    let changes: Vec<_> = order.iter().rev().map(|key| put(key, &[9; 10_000])).collect();
    store.write(&changes).expect("write");
    let all = store.scan(Space::Instances, ALL_KEYS, 100).expect("scan");
    assert_eq!((keys(&all), &all.next), (order.to_vec(), &None));

    let mut seen = Vec::new();
    let mut from = Vec::new();
    loop {
        let range = (Bound::Included(from.as_slice()), Bound::Excluded(&b"b"[..]));
        let page = store.scan(Space::Instances, range, 2).expect("scan");
        assert!(page.records.len() <= 2);
        seen.extend(page.records.into_iter().map(|(key, _)| key));
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!(seen, order[..4]);

    let range = (Bound::Excluded(&b"a"[..]), Bound::Included(&b"b"[..]));
    assert_eq!(keys(&store.scan(Space::Instances, range, 9).expect("scan")), [&b"a\0"[..], b"b"]);
    for nothing in [
        (Bound::Excluded(&b"a"[..]), Bound::Excluded(&b"a"[..])),
        (Bound::Included(&b"b"[..]), Bound::Included(&b"a"[..])),
    ] {
        assert_eq!(store.scan(Space::Instances, nothing, 9).expect("scan"), Page::default());
    }
}

fn large_values_make_short_pages(store: &dyn Store) {
    for key in 0..6u8 {
        store.write(&[put(&[key], &vec![key; VALUE_BYTES_MAX])]).expect("write");
    }
    let page = store.scan(Space::Instances, ALL_KEYS, 100).expect("scan");
    assert_eq!((page.records.len(), page.next), (4, Some(vec![4])));
}

fn what_is_too_large_is_refused_and_nothing_is_changed(store: &dyn Store) {
    let value = vec![0; VALUE_BYTES_MAX + 1];
    let error = store.write(&[put(b"a", b"1"), put(b"b", &value)]).expect_err("it is too large");
    assert!(
        matches!(error, StoreError::ValueTooLarge { bytes: 4_194_305, .. }) && !error.is_final()
    );
    let error =
        store.write(&[put(b"a", b"1"), put(&vec![b'k'; 2_049], b"")]).expect_err("too long");
    assert!(matches!(error, StoreError::KeyTooLong { bytes: 2_049, .. }) && !error.is_final());
    assert_eq!(store.scan(Space::Instances, ALL_KEYS, 9).expect("scan"), Page::default());
    store.write(&[put(&vec![b'k'; 2_048], b"")]).expect("at the bound it is taken");
}

fn more_than_a_batch_is_written_in_full(store: &dyn Store) {
    let value = vec![3; 1_000_000];
    let mut changes: Vec<_> = (0..20u8).map(|key| put(&[key], &value)).collect();
    changes.push(put(&[0], b"small again"));
    store.write(&changes).expect("write");
    let page = store.scan(Space::Instances, (Bound::Included(&[10][..]), Bound::Unbounded), 9);
    assert_eq!(page.expect("scan").records.len(), 9);
    assert_eq!(store.get(Space::Instances, &[0]).expect("get"), Some(b"small again".to_vec()));
}

fn a_prefix_is_a_range(store: &dyn Store) {
    for key in [&b"a"[..], b"ab", b"ab\xff\xff", b"ac", b"\xff", b"\xff\xff"] {
        store.write(&[put(key, b"")]).expect("write");
    }
    let with = |prefix: &[u8]| {
        let end = prefix_end(prefix);
        let range = (Bound::Included(prefix), end.as_ref().map(Vec::as_slice));
        store.scan(Space::Instances, range, 9).expect("scan").records.len()
    };
    assert_eq!([with(b"a"), with(b"ab"), with(b"\xff"), with(b""), with(b"b")], [4, 2, 2, 6, 0]);
}

fn any_changes_leave_what_a_map_would_hold(store: &dyn Store) {
    let key = proptest::collection::vec(0..3u8, 0..5);
    let length = prop_oneof![4 => 0..50usize, 1 => 8_000..30_000usize];
    let change = (key, proptest::option::of((length, any::<u8>())));
    let changes = proptest::collection::vec(change, 1..20);
    let mut expected = BTreeMap::new();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let expected = std::cell::RefCell::new(&mut expected);
    runner
        .run(&changes, |changes| {
            let mut expected = expected.borrow_mut();
            let mut written = Vec::new();
            for (key, value) in changes {
                let value = value.map(|(length, byte)| vec![byte; length]);
                match &value {
                    Some(value) => expected.insert(key.clone(), value.clone()),
                    None => expected.remove(&key),
                };
                written.push(Change { space: Space::Timers, key, value });
            }
            store.write(&written).expect("write");
            let page = store.scan(Space::Timers, ALL_KEYS, usize::MAX).expect("scan");
            prop_assert!(page.damaged.is_empty());
            prop_assert!(page.records.iter().map(|(k, v)| (k, v)).eq(expected.iter()));
            Ok(())
        })
        .expect("every run agrees with the map");
}
