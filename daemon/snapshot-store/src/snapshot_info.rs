//! `x-snapshot`: what a producer claims in the info dictionary about the ledger in a snapshot.
//!
//! It is JSON with the key `original_filename`, as the deployed producer writes it. As part of the info dictionary it
//! is covered by the snapshot's hash, and so by the authority's signature. It remains a claim: verification reads the
//! ledger.

use nano_ledger::{LedgerSummary, minimum_node_version};
use serde::{Deserialize, Serialize};

/// The longest `x-snapshot` that is read, in bytes; ours have about 150.
const MAX_LEN: usize = 64 * 1024;

/// What a producer claims about a snapshot. Unknown keys are ignored, missing ones are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// The name of the file that the snapshot was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_filename: Option<String>,
    /// The version of the ledger's tables, from its `meta` table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_version: Option<u32>,
    /// The oldest node release that opens this ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_node_version: Option<String>,
    /// Blocks in the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_count: Option<u64>,
    /// Blocks that the network had cemented.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cemented_count: Option<u64>,
}

impl SnapshotInfo {
    /// Returns what to claim about a ledger with this summary.
    pub fn of(original_filename: &str, summary: &LedgerSummary) -> Self {
        Self {
            original_filename: Some(original_filename.to_owned()),
            store_version: Some(summary.store_version),
            minimum_node_version: minimum_node_version(summary.store_version).map(str::to_owned),
            block_count: Some(summary.blocks),
            cemented_count: Some(summary.cemented),
        }
    }

    /// Returns what to claim about an archive whose content was not read.
    pub fn of_archive(original_filename: &str) -> Self {
        Self {
            original_filename: Some(original_filename.to_owned()),
            ..Self::default()
        }
    }

    /// Describes what an earlier snapshot had more of. Cemented blocks never become fewer, and other blocks hardly
    /// ever.
    pub fn shrank_from(&self, before: &Self) -> Option<String> {
        let counts = [
            (
                "cemented blocks",
                before.cemented_count,
                self.cemented_count,
            ),
            ("blocks", before.block_count, self.block_count),
        ];
        counts.into_iter().find_map(|(what, before, now)| {
            let (before, now) = before.zip(now)?;
            (now < before).then(|| format!("{now} {what}, {before} before"))
        })
    }

    /// Returns the bytes for the info dictionary, always the same for the same content.
    ///
    /// # Errors
    ///
    /// Never in practice: all fields have a JSON form.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// Parses what a producer wrote; returns `None` for anything else. Nothing depends on it, so a producer's mistake
    /// here does not keep a snapshot from being mirrored.
    pub fn parse(raw: &[u8]) -> Option<Self> {
        if raw.len() > MAX_LEN {
            return None;
        }
        serde_json::from_slice(raw).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let info = SnapshotInfo {
            original_filename: Some("data.ldb".into()),
            store_version: Some(24),
            minimum_node_version: Some("27.0".into()),
            block_count: Some(5460),
            cemented_count: Some(5338),
        };
        let json = info.to_json().unwrap();
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            r#"{"original_filename":"data.ldb","store_version":24,"minimum_node_version":"27.0","block_count":5460,"cemented_count":5338}"#
        );
        assert_eq!(SnapshotInfo::parse(&json), Some(info));
    }

    #[test]
    fn a_ledger_that_fell_behind_is_noticed() {
        let counts = |blocks, cemented| SnapshotInfo {
            block_count: blocks,
            cemented_count: cemented,
            ..SnapshotInfo::default()
        };
        let before = counts(Some(5966), Some(5926));
        let now = |blocks, cemented| counts(blocks, cemented).shrank_from(&before);
        assert_eq!(now(Some(5966), Some(5926)), None);
        assert_eq!(now(Some(5967), Some(5927)), None);
        // A producer without a claim cannot fall behind.
        assert_eq!(now(None, None), None);
        let text = now(Some(5460), Some(5926)).unwrap();
        assert_eq!(text, "5460 blocks, 5966 before");
        let text = now(Some(5966), Some(5338)).unwrap();
        assert_eq!(text, "5338 cemented blocks, 5926 before");
    }

    #[test]
    fn other_producers_claim_less_or_more() {
        let theirs = br#"{"original_filename": "Nano_64_2026.7z", "version": 1}"#;
        let info = SnapshotInfo::parse(theirs).unwrap();
        assert_eq!(info.original_filename.as_deref(), Some("Nano_64_2026.7z"));
        assert_eq!(info.store_version, None);
        assert_eq!(SnapshotInfo::parse(b""), None);
        assert_eq!(SnapshotInfo::parse(b"{\"store_version\": -1}"), None);
        assert_eq!(SnapshotInfo::parse(&vec![b' '; MAX_LEN + 1]), None);
    }
}
