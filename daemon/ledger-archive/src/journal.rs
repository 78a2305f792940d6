//! The journal of an extraction: how much of the ledger is on disk, and where in the archive the next
//! frame starts.
//!
//! ```text
//! "ldgrjnl1"                8 bytes
//! archive                  32   its ArchiveId
//! archive length            8
//! ledger length             8
//! inode of the partial file 8
//! length of the names       4
//! names                         those of the entries up to the ledger, see Names::encode
//! checksum                  4   CRC-32 of all before
//! then, once for every checkpoint:
//! archive offset            8   a frame starts here
//! ledger offset             8   bytes of the ledger that are on disk
//! checksum                  4   CRC-32 of the header's checksum and both
//! ```
//!
//! Numbers are little endian. A record is written only after the data it refers to was synced, and is synced
//! before the archive is discarded. The last whole record counts; a torn record at the end is ignored.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::ArchiveId;
use crate::name::Names;

const MAGIC: &[u8; 8] = b"ldgrjnl1";
const FIXED: usize = 8 + 32 + 8 + 8 + 8 + 4;
const RECORD: usize = 20;
/// A journal of 120 GB has 40 KB. Larger ones are not read.
const MAX_LEN: u64 = 16 << 20;

/// A point at which an extraction can resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Checkpoint {
    /// Byte of the archive where a frame starts.
    pub(crate) archive: u64,
    /// Bytes of the ledger on disk.
    pub(crate) ledger: u64,
}

/// The header of a journal: which extraction it belongs to.
#[derive(Debug)]
pub(crate) struct JournalHeader {
    pub(crate) archive: ArchiveId,
    pub(crate) archive_len: u64,
    pub(crate) ledger_len: u64,
    /// The inode of the partial file, which keeps it when it is renamed.
    pub(crate) inode: u64,
    pub(crate) names: Names,
}

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    len: u64,
    header: [u8; 4],
}

impl Journal {
    /// Writes the header of a journal into an empty file.
    pub(crate) fn begin(file: File, subject: &JournalHeader) -> io::Result<Self> {
        let names = subject.names.encode();
        let mut bytes = Vec::with_capacity(FIXED + names.len() + 4);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&subject.archive.0);
        for number in [subject.archive_len, subject.ledger_len, subject.inode] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        // The total length of names is far below the limit of the field.
        bytes.extend_from_slice(&(names.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&names);
        let header = crc32fast::hash(&bytes).to_le_bytes();
        bytes.extend_from_slice(&header);
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        Ok(Self {
            file,
            len: bytes.len() as u64,
            header,
        })
    }

    /// Reads an existing journal. Returns `None` if it has no record or is damaged.
    pub(crate) fn resume(mut file: File) -> io::Result<Option<(Self, JournalHeader, Checkpoint)>> {
        let mut bytes = Vec::new();
        (&mut file).take(MAX_LEN).read_to_end(&mut bytes)?;
        let Some((subject, header, records)) = parse_header(&bytes) else {
            return Ok(None);
        };
        let mut last: Option<Checkpoint> = None;
        let mut valid = bytes.len() - records.len();
        for record in records.chunks_exact(RECORD) {
            let claim = match parse_record(record, header) {
                Some(claim) if rises(last, claim) && fits(claim, &subject) => claim,
                _ => break,
            };
            last = Some(claim);
            valid += RECORD;
        }
        let Some(claim) = last else {
            return Ok(None);
        };
        // Later records must not follow a torn one.
        file.set_len(valid as u64)?;
        let journal = Self {
            file,
            len: valid as u64,
            header,
        };
        Ok(Some((journal, subject, claim)))
    }

    /// Writes and syncs a record. The caller has synced the data it refers to.
    pub(crate) fn claim(&mut self, claim: Checkpoint) -> io::Result<()> {
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&claim.archive.to_le_bytes());
        record[8..16].copy_from_slice(&claim.ledger.to_le_bytes());
        let sum = checksum(self.header, &record);
        record[16..].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&record, self.len)?;
        self.file.sync_data()?;
        self.len += RECORD as u64;
        Ok(())
    }
}

fn parse_header(bytes: &[u8]) -> Option<(JournalHeader, [u8; 4], &[u8])> {
    let (fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
    let number = |at| Some(u64::from_le_bytes(*fixed.get(at..)?.first_chunk()?));
    let names_len = u32::from_le_bytes(*fixed.last_chunk()?) as usize;
    let (names, rest) = rest.split_at_checked(names_len)?;
    let (header, records) = rest.split_first_chunk::<4>()?;
    let covered = bytes.get(..FIXED + names_len)?;
    if !fixed.starts_with(MAGIC) || crc32fast::hash(covered).to_le_bytes() != *header {
        return None;
    }
    let subject = JournalHeader {
        archive: ArchiveId(*fixed.get(8..)?.first_chunk()?),
        archive_len: number(40)?,
        ledger_len: number(48)?,
        inode: number(56)?,
        names: Names::decode(names)?,
    };
    Some((subject, *header, records))
}

fn parse_record(record: &[u8], header: [u8; 4]) -> Option<Checkpoint> {
    let record: &[u8; RECORD] = record.first_chunk()?;
    let (archive, rest) = record.split_first_chunk()?;
    let (ledger, sum) = rest.split_first_chunk()?;
    (sum == checksum(header, record).to_le_bytes()).then_some(Checkpoint {
        archive: u64::from_le_bytes(*archive),
        ledger: u64::from_le_bytes(*ledger),
    })
}

fn checksum(header: [u8; 4], record: &[u8; RECORD]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header);
    hasher.update(&record[..16]);
    hasher.finalize()
}

fn rises(last: Option<Checkpoint>, claim: Checkpoint) -> bool {
    last.is_none_or(|last| last.archive <= claim.archive && last.ledger <= claim.ledger)
}

fn fits(claim: Checkpoint, subject: &JournalHeader) -> bool {
    claim.archive <= subject.archive_len && claim.ledger <= subject.ledger_len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subject() -> JournalHeader {
        let mut names = Names::default();
        names.admit(b"Nano/").unwrap();
        names.admit(b"Nano/data.ldb").unwrap();
        JournalHeader {
            archive: ArchiveId([7; 32]),
            archive_len: 1000,
            ledger_len: 5000,
            inode: 99,
            names,
        }
    }

    fn written(claims: &[Checkpoint]) -> (File, Vec<u8>) {
        let file = tempfile::tempfile().unwrap();
        let mut journal = Journal::begin(file.try_clone().unwrap(), &subject()).unwrap();
        for claim in claims {
            journal.claim(*claim).unwrap();
        }
        let mut bytes = vec![0; journal.len as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        (file, bytes)
    }

    fn resumed(bytes: &[u8]) -> Option<(Journal, JournalHeader, Checkpoint)> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        Journal::resume(file).unwrap()
    }

    fn claim(archive: u64, ledger: u64) -> Checkpoint {
        Checkpoint { archive, ledger }
    }

    #[test]
    fn the_last_claim_counts_and_more_can_follow() {
        let (_, bytes) = written(&[]);
        assert!(resumed(&bytes).is_none());
        let (_, bytes) = written(&[claim(10, 100), claim(20, 300)]);
        let (mut journal, read, last) = resumed(&bytes).unwrap();
        assert_eq!(last, claim(20, 300));
        assert_eq!(
            (read.archive_len, read.ledger_len, read.inode),
            (1000, 5000, 99)
        );
        assert_eq!(read.archive.0, [7; 32]);
        assert_eq!(read.names.encode(), subject().names.encode());
        journal.claim(claim(1000, 5000)).unwrap();
        let mut bytes = vec![0; journal.len as usize];
        journal.file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(resumed(&bytes).unwrap().2, claim(1000, 5000));
    }

    #[test]
    fn claims_that_fall_or_overshoot_end_the_journal() {
        for bad in [
            claim(9, 100),
            claim(10, 99),
            claim(1001, 100),
            claim(10, 5001),
        ] {
            let (_, bytes) = written(&[claim(10, 100), bad, claim(30, 400)]);
            assert_eq!(resumed(&bytes).unwrap().2, claim(10, 100), "{bad:?}");
        }
    }

    proptest! {
        /// A torn or damaged journal never yields a record that was not written.
        #[test]
        fn no_claim_is_invented(
            cut in 0_usize..300,
            flips in prop::collection::vec((0_usize..300, 1_u8..), 0..3),
        ) {
            let claims = [claim(10, 100), claim(20, 300), claim(1000, 5000)];
            let (_, mut bytes) = written(&claims);
            bytes.truncate(cut);
            for (at, flip) in flips {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= flip;
                }
            }
            if let Some((_, read, last)) = resumed(&bytes) {
                prop_assert!(claims.contains(&last));
                prop_assert_eq!(read.inode, 99);
            }
        }
    }
}
