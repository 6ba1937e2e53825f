//! The data folder, as its users find it: in use, foreign, cut off, restored.

use super::*;

#[test]
fn a_folder_in_use_names_its_holder_and_is_free_again_afterwards() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("new").join("data");
    let folder = DataFolder::open(&path).expect("nobody else uses it");
    assert!(folder.journal().is_dir() && folder.store().is_dir());

    let error = DataFolder::open(&path).expect_err("it is in use").to_string();
    assert!(error.contains(&format!("process {} (", std::process::id())), "{error}");
    assert!(error.contains("data folder") && error.contains("since 2"), "{error}");
    assert!(error.ends_with("stop it or choose another folder with --data"), "{error}");

    let clone = folder.clone();
    drop(folder);
    DataFolder::open(&path).expect_err("a clone still holds it");
    drop(clone);
    DataFolder::open(&path).expect("it is free");
}

#[test]
fn a_folder_is_free_at_once_even_while_a_child_process_is_being_started() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = DataFolder::open(place.path()).expect("nobody else uses it");
    // What a child holds between its fork and its exec: the same open file.
    let in_the_child = folder.inner.lock.try_clone().expect("a second descriptor");
    drop(folder);
    DataFolder::open(place.path()).expect("it is free");
    drop(in_the_child);
}

#[test]
fn a_lock_that_keeps_nobody_out_is_refused() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("lock");
    // As on a file system without locks: nobody holds this one.
    fs::write(&path, b"").expect("write");
    let error = check_lock(place.path(), &path).expect_err("anybody could take it");
    assert!(matches!(error, FolderError::LockWorthless { .. }));
    assert!(error.to_string().contains("local disk"), "{error}");
    let held = File::open(&path).expect("it is there");
    assert!(FileExt::try_lock_exclusive(&held).expect("a local disk locks"));
    check_lock(place.path(), &path).expect("it keeps others out");
}

#[test]
fn a_folder_with_something_else_in_it_is_refused_and_left_as_it_is() {
    let place = tempfile::tempdir().expect("a folder");
    fs::write(place.path().join("thesis.tex"), "years of work").expect("write");
    let error = DataFolder::open(place.path()).expect_err("it is no data folder").to_string();
    assert!(error.contains("something else lies in it (thesis.tex)"), "{error}");
    assert_eq!(fs::read_dir(place.path()).expect("read").count(), 1, "nothing was made there");
}

#[test]
fn a_folder_around_data_folders_is_refused_with_the_names_of_those() {
    let place = tempfile::tempdir().expect("a folder");
    fs::write(place.path().join("channels"), "demo-1.").expect("write");
    for service in ["inventory", "payment"] {
        drop(DataFolder::open(place.path().join(service)).expect("it is new"));
    }
    let error = DataFolder::open(place.path()).expect_err("it is around some").to_string();
    assert!(error.contains("holds some (inventory, payment)"), "{error}");
    assert!(error.ends_with(&place.path().join("inventory").display().to_string()), "{error}");
    assert!(!place.path().join("lock").exists(), "nothing was made there");
}

#[test]
fn a_mounted_disk_and_a_start_that_was_cut_off_make_no_folder_a_foreign_one() {
    let place = tempfile::tempdir().expect("a folder");
    for mounted in ["lost+found", "journal/lost+found", "store/lost+found"] {
        fs::create_dir_all(place.path().join(mounted)).expect("make");
    }
    for hidden in [".keep", "journal/.keep"] {
        fs::write(place.path().join(hidden), "").expect("write");
    }
    fs::write(place.path().join("lock"), "").expect("write");
    drop(DataFolder::open(place.path()).expect("it is ours"));
    fs::write(place.path().join("notes"), "").expect("write");
    drop(DataFolder::open(place.path()).expect("it was a data folder before"));
}

#[test]
fn who_uses_a_folder_is_told_without_taking_it() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("data");
    assert_eq!(DataFolder::user_of(&path), None);
    assert!(!path.exists(), "looking makes nothing");
    let folder = DataFolder::open(&path).expect("nobody else uses it");
    let user = DataFolder::user_of(&path).expect("it is in use");
    assert!(user.starts_with(&format!("process {} (", std::process::id())), "{user}");
    drop(folder);
    assert_eq!(DataFolder::user_of(&path), None);
}

#[test]
fn whoever_only_asks_who_uses_a_folder_keeps_nobody_from_taking_it() {
    let place = tempfile::tempdir().expect("a folder");
    fs::write(place.path().join("lock"), "").expect("write");
    let asks = || {
        let file = File::open(place.path().join("lock")).expect("it is there");
        assert!(FileExt::try_lock_shared(&file).expect("a local disk locks"), "nobody uses it");
        file
    };
    let gets_on = |file: &File| FileExt::unlock(file).expect("it holds the lock");
    let asking = asks();
    let file = lock(place.path(), || gets_on(&asking)).expect("nobody uses it");
    gets_on(&file);

    let (asking, mut rests) = (asks(), 0_usize);
    let error = lock(place.path(), || rests += 1).expect_err("it never ends").to_string();
    assert!(error.contains("in use by a process that only asks"), "{error}");
    assert_eq!(rests, ASKED_TRIES_MAX - 1);
    gets_on(&asking);
    let folder = DataFolder::open(place.path()).expect("nobody else uses it");
    lock(place.path(), || panic!("who uses it is told at once")).expect_err("it is in use");
    drop(folder);
}

#[test]
fn a_project_that_keeps_a_sled_of_its_own_is_no_data_folder() {
    let project = tempfile::tempdir().expect("a folder");
    fs::create_dir(project.path().join("store")).expect("make");
    for file in ["store/conf", "store/db", "Cargo.toml"] {
        fs::write(project.path().join(file), "").expect("write");
    }
    let error = DataFolder::open(project.path()).expect_err("it is a project").to_string();
    assert!(error.contains("something else lies in it (Cargo.toml)"), "{error}");
}

#[test]
fn a_project_with_a_store_or_a_journal_of_its_own_is_no_data_folder_nor_one_around_it() {
    let projects = tempfile::tempdir().expect("a folder");
    let shop = projects.path().join("webshop");
    fs::create_dir_all(shop.join("store/db")).expect("make");
    fs::create_dir_all(shop.join("journal")).expect("make");
    fs::write(shop.join("store/basket.ts"), "").expect("write");
    fs::write(shop.join("journal/2026-11-21.md"), "").expect("write");
    fs::write(shop.join("lock"), "left = 1").expect("write");
    let error = DataFolder::open(&shop).expect_err("it is a project").to_string();
    assert!(error.contains("something else lies in it (journal, store)"), "{error}");
    assert!(!shop.join("store/conf").exists() && !shop.join("schemas").exists());
    let error = DataFolder::open(projects.path()).expect_err("it holds one").to_string();
    assert!(error.contains("something else lies in it (webshop)"), "{error}");
    assert!(!projects.path().join("lock").exists(), "nothing was made there");
}

#[test]
fn a_folder_whose_journal_and_store_were_deleted_begins_anew() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path();
    drop(DataFolder::open(path).expect("it is new"));
    for left in ["repairs/0001", "schemas"] {
        fs::create_dir_all(path.join(left)).expect("make");
    }
    for left in ["control.sock", "schemas/7.json", "schemas/8.unreadable"] {
        fs::write(path.join(left), "").expect("write");
    }
    for deleted in ["journal", "store"] {
        fs::remove_dir(path.join(deleted)).expect("delete");
    }
    drop(DataFolder::open(path).expect("its lock says whose it is"));
    for deleted in ["journal", "store"] {
        fs::remove_dir(path.join(deleted)).expect("delete");
    }
    fs::remove_file(path.join("lock")).expect("delete");
    drop(DataFolder::open(path).expect("only what we left lies in it"));
    for cut_off in ["lock", "store/conf", "journal/ballast"] {
        fs::write(path.join(cut_off), "").expect("write");
    }
    drop(DataFolder::open(path).expect("a start that was cut off has no db yet"));
}

#[test]
fn a_folder_that_was_restored_without_its_lock_is_a_data_folder() {
    for files in [["journal/00000000000000000001.segment", "notes"], ["store/conf", "store/db"]] {
        let place = tempfile::tempdir().expect("a folder");
        for inner in ["journal", "store"] {
            fs::create_dir(place.path().join(inner)).expect("make");
        }
        for file in files {
            fs::write(place.path().join(file), "").expect("write");
        }
        drop(DataFolder::open(place.path()).expect("it was one before"));
    }
}

#[test]
fn a_place_that_can_not_be_a_folder_is_an_error_that_names_it() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("file");
    fs::write(&path, b"").expect("write");
    let error = DataFolder::open(&path).expect_err("it is a file");
    assert!(matches!(&error, FolderError::Io { path: at, .. } if *at == path));
    assert!(error.to_string().contains("--data"));
}

#[test]
fn the_time_of_the_lock_is_shown_for_people() {
    for (seconds, shown) in [
        (0, "1970-01-01 00:00 UTC"),
        (951_782_400, "2000-02-29 00:00 UTC"),
        (1_795_289_460, "2026-11-21 19:31 UTC"),
        (1_798_761_599, "2026-12-31 23:59 UTC"),
    ] {
        assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), shown);
    }
}
