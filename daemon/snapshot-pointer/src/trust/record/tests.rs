use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::testing::{authority, item, key, salt};
use crate::{Seq, Succession};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn store() -> (tempfile::TempDir, RecordStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = RecordStore::open(&dir.path().join("streams")).unwrap();
    (dir, store)
}

fn take(store: &RecordStore, items: &[SignedItem], now: u64) -> Record {
    let update = |record: &mut Record| record.take(items, at(now));
    store
        .update(&authority(1), &salt(), ItemKind::Pointer, update)
        .unwrap()
        .1
}

fn load(store: &RecordStore) -> Result<Record, RecordError> {
    store.load(&authority(1), &salt(), ItemKind::Pointer)
}

fn found(item: SignedItem) -> LookupResult {
    let mut found = LookupResult::default();
    found.add(item);
    found
}

#[test]
fn records_survive() {
    let (_dir, store) = store();
    assert_eq!(
        load(&store).unwrap(),
        Record::new(authority(1), salt(), ItemKind::Pointer)
    );
    take(&store, &[item(1, 3, 1), item(1, 3, 2)], 5);
    let mut written = take(&store, &[item(1, 5, 0xaa)], 10);
    assert_eq!(load(&store).unwrap(), written);
    assert_eq!(written.state().evidence().len(), 2);
    written = take(&store, &[item(1, 5, 0xbb)], 20);
    assert_eq!(written.state().evidence().len(), 4);
    assert_eq!(load(&store).unwrap(), written);

    let name = store.path(&authority(1), &salt());
    let name = name.file_name().unwrap().to_str().unwrap();
    assert_eq!(name, format!("{}.6461696c79.json", authority(1)));
    // No other file is left.
    assert_eq!(fs::read_dir(&store.dir).unwrap().count(), 1);
}

#[test]
fn succession_records_survive() {
    let (_dir, store) = store();
    let next = salt().next().unwrap();
    let item = Succession::sign(&key(1), &key(2), &salt(), Seq::FIRST).unwrap();
    let (_, written) = store
        .update(&authority(1), &next, ItemKind::Succession, |record| {
            record.take(std::slice::from_ref(&item), at(1))
        })
        .unwrap();
    assert_eq!(written.state().accepted(), Some(&item));
    assert_eq!(
        store
            .load(&authority(1), &next, ItemKind::Succession)
            .unwrap(),
        written
    );
    assert!(matches!(
        store.load(&authority(1), &next, ItemKind::Pointer),
        Err(RecordError::Damaged {
            source: RecordDamage::Other,
            ..
        })
    ));
}

#[test]
fn the_age_of_a_snapshot_does_not_restart_with_the_seq() {
    let (_dir, store) = store();
    assert_eq!(
        take(&store, &[item(1, 1, 0xaa)], 10).first_seen(),
        Some(at(10))
    );
    let same = take(&store, &[item(1, 2, 0xaa)], 20);
    assert_eq!(same.first_seen(), Some(at(10)));
    assert_eq!(same.last_seen(), Some(at(20)));
    assert_eq!(
        take(&store, &[item(1, 3, 0xbb)], 30).first_seen(),
        Some(at(30))
    );
    // Refused items do not count as seen.
    assert_eq!(
        take(&store, &[item(1, 2, 0xaa)], 40).last_seen(),
        Some(at(30))
    );
}

#[test]
fn a_put_is_due_an_hour_after_the_last_known_one() {
    let hour = Duration::from_secs(3600);
    let mut record = Record::new(authority(1), salt(), ItemKind::Pointer);
    // The first look-up: the age of the item is unknown.
    record.take_found(&found(item(1, 1, 0xaa)), at(10_000));
    assert!(record.is_put_due(at(10_000), hour));
    record.note_put(at(10_000));
    assert!(!record.is_put_due(at(13_599), hour));
    assert!(record.is_put_due(at(13_600), hour));
    // The clock was set back.
    assert!(record.is_put_due(at(9_000), hour));
    // Seen again: that does not refresh it.
    record.take_found(&found(item(1, 1, 0xaa)), at(13_600));
    assert!(record.is_put_due(at(13_600), hour));
    // A newer one appeared since the last look-up, so it was put since.
    record.take_found(&found(item(1, 2, 0xbb)), at(14_200));
    assert!(!record.is_put_due(at(17_199), hour));
    assert!(record.is_put_due(at(17_200), hour));
    // Signed by us and never put.
    record.take(&[item(1, 3, 0xcc)], at(14_300));
    assert!(record.is_put_due(at(14_300), hour));
}

#[test]
fn a_damaged_record_is_an_error_and_stays_as_it_is() {
    let (_dir, store) = store();
    take(&store, &[item(1, 5, 0xaa)], 10);
    take(&store, &[item(1, 5, 0xbb)], 10);
    let path = store.path(&authority(1), &salt());
    let good = fs::read_to_string(&path).unwrap();
    let other_seq = good.replace("\"seq\": 5", "\"seq\": 4");
    assert_ne!(other_seq, good);
    let mut unpaired: serde_json::Value = serde_json::from_str(&good).unwrap();
    unpaired["equivocations"].as_array_mut().unwrap().pop();
    let mut timeless: serde_json::Value = serde_json::from_str(&good).unwrap();
    timeless["first_seen"] = serde_json::Value::Null;
    let mut unending: serde_json::Value = serde_json::from_str(&good).unwrap();
    unending["last_seen"] = u64::MAX.into();
    let own_file_of_another = {
        let (_dir, other) = self::store();
        other
            .update(&authority(2), &salt(), ItemKind::Pointer, |record| {
                record.take(&[item(2, 5, 0xaa)], at(1))
            })
            .unwrap();
        fs::read_to_string(other.path(&authority(2), &salt())).unwrap()
    };
    type Check = fn(&RecordDamage) -> bool;
    let cases: [(String, Check); 11] = [
        (String::new(), |d| matches!(d, RecordDamage::Json(_))),
        ("\0".repeat(good.len()), |d| {
            matches!(d, RecordDamage::Json(_))
        }),
        (good[..good.len() / 2].to_owned(), |d| {
            matches!(d, RecordDamage::Json(_))
        }),
        ("{}".to_owned(), |d| matches!(d, RecordDamage::Json(_))),
        (format!("{good}{}", " ".repeat(65_536)), |d| {
            matches!(d, RecordDamage::TooLong)
        }),
        (
            good.replace("\"format\": 1", "\"format\": 2, \"news\": true"),
            |d| matches!(d, RecordDamage::Format { found: 2 }),
        ),
        (other_seq, |d| matches!(d, RecordDamage::Item(_))),
        (own_file_of_another, |d| matches!(d, RecordDamage::Other)),
        (unpaired.to_string(), |d| {
            matches!(d, RecordDamage::Inconsistent)
        }),
        (timeless.to_string(), |d| {
            matches!(d, RecordDamage::Inconsistent)
        }),
        (unending.to_string(), |d| {
            matches!(d, RecordDamage::Inconsistent)
        }),
    ];
    for (text, check) in cases {
        fs::write(&path, &text).unwrap();
        let error = load(&store).unwrap_err();
        let RecordError::Damaged { source, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(check(source), "{source:?}");
        assert!(error.to_string().contains("restore it from a backup"));
        // An update does not write over it.
        let update = store.update(&authority(1), &salt(), ItemKind::Pointer, |record| {
            record.take(&[item(1, 1, 0xcc)], at(20))
        });
        assert!(matches!(update, Err(RecordError::Damaged { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn an_unreadable_record_is_not_a_missing_one() {
    let (_dir, store) = store();
    // Reading a directory as a file fails for every user, root included.
    fs::create_dir(store.path(&authority(1), &salt())).unwrap();
    assert!(matches!(load(&store), Err(RecordError::Read { .. })));
}

#[test]
fn what_a_crash_left_behind_is_removed() {
    let (_dir, store) = store();
    take(&store, &[item(1, 5, 0xaa)], 10);
    let path = store.path(&authority(1), &salt());
    let left_over = path.with_extension("new.7");
    fs::write(&left_over, "x".repeat(100_000)).unwrap();
    assert_eq!(
        load(&store).unwrap().state().accepted(),
        Some(&item(1, 5, 0xaa))
    );
    let written = take(&store, &[item(1, 6, 0xbb)], 20);
    assert_eq!(load(&store).unwrap(), written);
    assert!(!left_over.exists());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o022, 0);
}

#[test]
fn concurrent_updates_all_count() {
    let (_dir, store) = store();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let store = store.clone();
            scope.spawn(move || {
                for i in 0..5 {
                    // Each in its own order; the greatest must win.
                    take(&store, &[item(1, (n * 7 + i * 11) % 40, 0xaa)], 10);
                }
            });
        }
    });
    let greatest = (0..8)
        .flat_map(|n| (0..5).map(move |i| (n * 7 + i * 11) % 40))
        .max();
    let held = load(&store).unwrap().state().high_water().map(Seq::get);
    assert_eq!(held, greatest);
}
