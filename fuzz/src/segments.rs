//! Segments and manifests from strangers.

use std::sync::LazyLock;

use nano_segments::manifest::Manifest;
use nano_segments::{Dictionary as _, Head, Key, Keys, Proofs, Segment};

/// A body, against an empty dictionary and against one of 300 keys. What is read must be written as the same bytes.
pub fn segment_body(data: &[u8]) {
    static KEYS: LazyLock<Keys> = LazyLock::new(|| {
        let mut keys = Keys::default();
        for number in 0..300_u16 {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&(number.wrapping_mul(40_503)).to_be_bytes());
            keys.extend(&[Key(key)]);
        }
        keys
    });
    let Ok(head) = Head::read(data) else {
        return;
    };
    let proofs = 72 * u64::from(head.blocks);
    for dictionary in [&Keys::default(), &*KEYS] {
        let Ok(segment) = Segment::read(data, proofs, head.genesis, dictionary) else {
            continue;
        };
        assert_eq!(segment.write(), data);
        // As many keys as the segment knows number its difference in the same way.
        if segment.known() == dictionary.len() {
            let (runs, _) = segment.keyed(dictionary);
            let again = Segment::number(head.genesis, head.from, &runs, dictionary);
            assert_eq!(again.map(|(again, _)| again), Ok(segment));
        }
    }
}

/// The proofs of as many blocks as the length says. What is read must be written as the same bytes.
pub fn segment_proofs(data: &[u8]) {
    if let Ok(proofs) = Proofs::read(data, data.len() / 72) {
        assert_eq!(proofs.write(), data);
    }
}

/// A manifest. What is read must have been in its one spelling, and must lead from its beginning to its cut.
pub fn segment_manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::read(data) else {
        return;
    };
    assert_eq!(manifest.write().as_bytes(), data);
    let cover = manifest.cover(0).expect("segments tile the cut");
    let mut position = 0;
    for entry in cover {
        assert_eq!(entry.from, position);
        position = entry.to;
    }
    assert_eq!(position, manifest.cemented);
}
