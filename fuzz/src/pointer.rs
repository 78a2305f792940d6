//! Signed pointers and what a mirror remembers of them.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};
use std::{fs, thread_local};

use snapshot_pointer::{
    Acceptance, AuthorityState, ItemKind, RawItem, Record, RecordStore, Salt, Seq, SignedItem,
    SigningKey,
};
use tempfile::TempDir;

use crate::input::Input;

/// The key whose signatures the seeds of the corpus carry.
static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_seed(&[7; 32]));

fn salt() -> Salt {
    "daily".parse().expect("a short salt")
}

/// The text of an item from a file or a socket. What verifies must say the same when written again.
pub fn pointer_item(data: &[u8]) {
    let Ok(raw) = serde_json::from_slice::<RawItem>(data) else {
        return;
    };
    let Ok(item) = SignedItem::try_from(&raw) else {
        return;
    };
    let written = RawItem::from(&item);
    assert_eq!(written.seq, raw.seq);
    assert!(written.value.eq_ignore_ascii_case(&raw.value));
    assert_eq!(SignedItem::try_from(&written).as_ref(), Ok(&item));
    let _ = item.pointer();
}

/// The file of a record. What can be read must be the same after it was written, and its high-water
/// mark must hold against older items.
pub fn pointer_record(data: &[u8]) {
    thread_local! {
        static DIRECTORY: TempDir = tempfile::tempdir().expect("a temporary directory");
    }
    DIRECTORY.with(|directory| {
        let store = RecordStore::open(directory.path()).expect("a directory for records");
        let (authority, salt) = (KEY.authority(), salt());
        fs::write(store.path(&authority, &salt), data).expect("a record");
        let load = || store.load(&authority, &salt, ItemKind::Pointer);
        let Ok(record) = load() else {
            return;
        };
        for item in record
            .state()
            .accepted()
            .into_iter()
            .chain(record.state().evidence())
        {
            assert_eq!(item.authority(), &authority);
            assert!(record.state().high_water() >= Some(item.seq()));
        }
        let later = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (_, written) = store
            .update(
                &authority,
                &salt,
                ItemKind::Pointer,
                |record: &mut Record| {
                    record.take(&items()[..1], later);
                    record.note_put(later);
                },
            )
            .expect("a record that can be read can be written");
        assert_eq!(load().expect("what was written can be read"), written);
        assert!(written.state().high_water() >= record.state().high_water());
    });
}

const SEQS: i64 = 6;
const VALUES: u8 = 3;

/// Items with every pair of a few sequence numbers and values.
fn items() -> &'static [SignedItem] {
    static ITEMS: LazyLock<Vec<SignedItem>> = LazyLock::new(|| {
        let sign = |seq, value| {
            let seq = Seq::new(seq).expect("not negative");
            SignedItem::sign(&KEY, &salt(), seq, &[value; 32]).expect("a short value")
        };
        (1..=SEQS)
            .flat_map(|seq| (0..VALUES).map(move |value| (seq, value)))
            .map(|(seq, value)| sign(seq, value))
            .collect()
    });
    &ITEMS
}

/// Batches of items, as look-ups bring them. The high-water mark never falls, an item is accepted
/// only above it, and double signing leaves evidence.
pub fn pointer_standing(data: &[u8]) {
    let mut input = Input(data);
    let mut state = AuthorityState::new(KEY.authority(), salt(), ItemKind::Pointer);
    while !input.is_empty() {
        let batch: Vec<SignedItem> = (0..1 + input.below(4))
            .map(|_| items()[input.below(items().len())].clone())
            .collect();
        let before = state.clone();
        let verdicts = state.take(&batch);
        assert_eq!(verdicts.len(), batch.len());
        assert!(state.high_water() >= before.high_water());
        for (item, verdict) in batch.iter().zip(&verdicts) {
            match verdict {
                Ok(Acceptance::Newer) => {
                    assert!(Some(item.seq()) > before.high_water());
                    assert_eq!(state.accepted(), Some(item));
                }
                Ok(Acceptance::Same) => assert_eq!(before.accepted(), Some(item)),
                Err(_) => {
                    assert!(state.accepted() != Some(item) || before.accepted() == Some(item))
                }
            }
        }
        match (before.accepted(), state.accepted()) {
            (Some(old), Some(new)) if old != new => assert!(new.seq() > old.seq()),
            (Some(_), None) => panic!("an accepted item is gone"),
            _ => {}
        }
        for pair in state.evidence().chunks(2) {
            assert_eq!(pair.len(), 2);
            assert_eq!(pair[0].seq(), pair[1].seq());
            assert_ne!(pair[0].value(), pair[1].value());
        }
        // Taken again, nothing new comes of it.
        let again = state.take(&batch);
        assert!(!again.contains(&Ok(Acceptance::Newer)));
    }
}
