//! What the store on sled adds to the promises of every store: its guards, its layout, its pieces.

use super::super::ALL_KEYS;
use super::*;

fn open(folder: &DataFolder) -> SledStore {
    SledStore::open(folder, StoreOptions::default()).expect("the store is sound")
}

fn data() -> (tempfile::TempDir, DataFolder) {
    let place = tempfile::tempdir().expect("a folder");
    let folder = DataFolder::open(place.path()).expect("nobody else uses it");
    (place, folder)
}

#[test]
fn a_half_written_snapshot_does_not_keep_it_from_opening() {
    let (_place, folder) = data();
    open(&folder).write(&[Change::put(Space::Keys, *b"k", *b"v")]).expect("write");
    let torn = folder.store().join("snap.00000000000000FF.generating");
    fs::write(&torn, b"half").expect("write");
    let store = open(&folder);
    assert!(!torn.exists());
    assert_eq!(store.get(Space::Keys, b"k").expect("get"), Some(b"v".to_vec()));
}

#[test]
fn a_file_that_a_child_process_still_holds_locked_for_a_moment_is_waited_for() {
    use fs4::fs_std::FileExt;

    let (_place, folder) = data();
    drop(open(&folder));
    let in_the_child = File::open(folder.store().join("db")).expect("sled's file");
    // Waited for here, too: a child of another test may hold it for a moment.
    FileExt::lock_exclusive(&in_the_child).expect("lock");
    let config = sled::Config::new().path(folder.store());
    let mut rests = 0;
    let db = open_once_unlocked(&config, || {
        rests += 1;
        if rests == 3 {
            FileExt::unlock(&in_the_child).expect("unlock");
        }
    });
    db.expect("it is waited for");
    assert_eq!(rests, 3);
}

#[test]
fn what_was_written_is_there_after_opening_again() {
    let (_place, folder) = data();
    let store = open(&folder);
    let large = vec![7; 1_000_000];
    store.write(&[Change::put(Space::Instances, *b"k", large.clone())]).expect("write");
    store.sync().expect("sync");
    drop(store);
    assert_eq!(open(&folder).get(Space::Instances, b"k").expect("get"), Some(large));
}

#[test]
fn no_value_goes_to_sled_in_one_large_record_and_nothing_stale_is_left() {
    let (_place, folder) = data();
    let store = open(&folder);
    let largest_entry = || {
        let tree = store.tree(Space::Instances);
        let lengths = tree.iter().values().map(|value| value.expect("readable").len());
        (tree.len(), lengths.max().unwrap_or(0))
    };
    for (bytes, entries) in [
        (PIECE_BYTES_MAX - HEAD_BYTES, 1),
        (PIECE_BYTES_MAX - HEAD_BYTES + 1, 2),
        (VALUE_BYTES_MAX, 1_025),
        (20_000, 6),
        (3, 1),
        (9_000, 4),
    ] {
        store.write(&[Change::put(Space::Instances, *b"k", vec![1; bytes])]).expect("write");
        let (found, largest) = largest_entry();
        assert_eq!(found, entries, "{bytes} bytes");
        assert!(largest <= PIECE_BYTES_MAX);
    }
    // Several changes of one key in one batch.
    let put = |bytes| Change::put(Space::Instances, *b"k", vec![2; bytes]);
    store.write(&[put(50_000), put(10), put(30_000), put(12_000)]).expect("write");
    assert_eq!(store.get(Space::Instances, b"k").expect("get"), Some(vec![2; 12_000]));
    assert_eq!(largest_entry().0, 4);
    store.write(&[put(50_000), Change::remove(Space::Instances, *b"k")]).expect("write");
    assert_eq!(largest_entry(), (0, 0));
    assert!(!folder.store().join("blobs").read_dir().is_ok_and(|mut blobs| blobs.next().is_some()));
}

#[test]
fn a_wrong_page_is_noticed_and_concerns_its_record_only() {
    let (_place, folder) = data();
    let store = open(&folder);
    let put = |key: &[u8], bytes| Change::put(Space::Instances, key, vec![key[0]; bytes]);
    store.write(&[put(b"a", 10), put(b"b", 10), put(b"c", 20_000), put(b"d", 10)]).expect("write");
    let tree = store.tree(Space::Instances);
    let other = tree.get(head_key(b"a")).expect("get").expect("there");
    tree.insert(head_key(b"b"), other).expect("insert");
    tree.remove(piece_key(b"c", 1)).expect("remove");

    for key in [b"b", b"c"] {
        let error = store.get(Space::Instances, key).expect_err("it is damaged");
        assert!(
            matches!(&error, StoreError::Corrupt { space: Space::Instances, key: at } if at == key)
        );
        assert!(!error.is_final());
    }
    let page = store.scan(Space::Instances, ALL_KEYS, 10).expect("a scan goes on");
    assert_eq!(page.damaged, [b"b", b"c"]);
    assert_eq!(page.records.len(), 2);
    store.write(&[put(b"b", 5), Change::remove(Space::Instances, *b"c")]).expect("write");
    assert!(store.scan(Space::Instances, ALL_KEYS, 10).expect("scan").damaged.is_empty());
}

#[test]
fn a_damaged_head_leaves_no_pieces_behind_when_it_is_replaced() {
    let (_place, folder) = data();
    let store = open(&folder);
    store.write(&[Change::put(Space::Ledger, *b"k", vec![1; 30_000])]).expect("write");
    let tree = store.tree(Space::Ledger);
    tree.insert(head_key(b"k"), b"?").expect("insert");
    store.write(&[Change::put(Space::Ledger, *b"k", *b"new")]).expect("write");
    assert_eq!(tree.len(), 1);
}

#[test]
fn a_failed_sync_ends_everything() {
    let (_place, folder) = data();
    let mut store = open(&folder);
    store.write(&[Change::put(Space::Keys, *b"k", *b"v")]).expect("write");
    // A device that refuses to be synced.
    store.file = File::open("/dev/null").expect("every system has it");
    let error = store.sync().expect_err("it can't be synced");
    assert!(matches!(error, StoreError::Sync { .. }) && error.is_final());
    assert!(matches!(store.sync(), Err(StoreError::Stopped)));
    let change = Change::put(Space::Keys, *b"k", *b"w");
    assert!(matches!(store.write(&[change]), Err(StoreError::Stopped)));
    assert_eq!(store.get(Space::Keys, b"k").expect("reading goes on"), Some(b"v".to_vec()));
}

#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    let error = |kind: io::ErrorKind| storage("writing", Space::Keys)(sled::Error::Io(kind.into()));
    assert!(matches!(error(io::ErrorKind::StorageFull), StoreError::Full { .. }));
    assert!(matches!(error(io::ErrorKind::Other), StoreError::Storage { .. }));
}

#[test]
fn damage_that_starting_again_does_not_mend_asks_for_a_backup() {
    let damaged = sled::Error::Corruption { at: None, bt: () };
    let damaged = storage("reading", Space::Instances)(damaged);
    assert!(matches!(damaged, StoreError::Damaged { .. }) && damaged.is_final());
    let text = damaged.to_string();
    assert!(text.contains("restore the data folder from a backup"), "{text}");
    assert!(!text.contains("then start again"), "{text}");
}

#[test]
fn a_store_of_a_later_release_is_refused() {
    let (_place, folder) = data();
    let store = open(&folder);
    store.tree(Space::Meta).insert(FORMAT_KEY, &2u32.to_be_bytes()).expect("insert");
    drop(store);
    let error = SledStore::open(&folder, StoreOptions::default()).expect_err("it is newer");
    assert!(matches!(error, StoreError::Newer { version: 2, known: 1, .. }), "{error}");
}

#[test]
fn the_first_version_keeps_its_bytes() {
    let (_place, folder) = data();
    let store = open(&folder);
    store.write(&[Change::put(Space::Keys, *b"order-7", *b"instance")]).expect("write");
    store.write(&[Change::put(Space::Ledger, *b"k", vec![5; 9_000])]).expect("write");
    let stored = |space: Space| -> Vec<(Vec<u8>, Vec<u8>)> {
        let entries = store.tree(space).iter();
        entries
            .map(|entry| entry.expect("readable"))
            .map(|(k, v)| (k.to_vec(), v.to_vec()))
            .collect()
    };
    assert_eq!(
        stored(Space::Keys),
        [(b"\x00order-7".to_vec(), b"\x01\x3e\xc3\x2b\x4cinstance".to_vec())]
    );
    let ledger = stored(Space::Ledger);
    assert_eq!(ledger[0], (b"\x00k".to_vec(), b"\x02\x48\xd5\x77\x40\0\0\x23\x28".to_vec()));
    assert_eq!((&ledger[1].0[..], ledger[1].1.len()), (&b"\x01k\0\0\0\0"[..], 4_096));
    assert_eq!((&ledger[3].0[..], ledger[3].1.len()), (&b"\x01k\0\0\0\x02"[..], 808));
}

#[test]
fn settings_of_sled_that_a_power_cut_left_in_part_are_written_anew() {
    let (_place, folder) = data();
    let store = open(&folder);
    store.write(&[Change::put(Space::Keys, *b"k", *b"v")]).expect("write");
    store.sync().expect("sync");
    drop(store);
    let path = folder.store().join(SETTINGS);
    let whole = fs::read(&path).expect("sled has written them");
    assert!(are_whole(&whole), "{whole:?}");
    let text = whole.len() - 4;
    let checksum_only = [&vec![0; text], &whole[text..]].concat();
    for torn in [&whole[..0], &whole[..text], &whole[..9], &checksum_only, &vec![0; whole.len()]] {
        fs::write(&path, torn).expect("write");
        let store = open(&folder);
        assert_eq!(store.get(Space::Keys, b"k").expect("get"), Some(b"v".to_vec()), "{torn:?}");
        drop(store);
        assert_eq!(fs::read(&path).expect("they are back"), whole);
    }
}
