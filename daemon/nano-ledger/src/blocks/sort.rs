//! Sorting more records than memory holds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why records could not be sorted on disk.
#[derive(Debug, thiserror::Error)]
#[error("cannot sort in {}", dir.display())]
pub struct SortError {
    /// The directory of the temporary file.
    pub dir: PathBuf,
    /// The error of the operating system.
    #[source]
    pub source: io::Error,
}

/// Sorts records of `N` bytes. Records that do not fit into memory are written to an unlinked file.
#[derive(Debug)]
pub(crate) struct Sorter<const N: usize> {
    records: Vec<[u8; N]>,
    /// Most records in memory, at least 1.
    capacity: usize,
    scratch: PathBuf,
    spilled: Option<Spilled>,
}

/// Sorted runs, one behind the other in a file.
#[derive(Debug)]
struct Spilled {
    file: File,
    /// Where each run ends; the next begins there.
    ends: Vec<u64>,
}

impl<const N: usize> Sorter<N> {
    /// Uses at most `memory` bytes, and `scratch` (a directory) for the rest.
    pub(crate) fn new(memory: usize, scratch: &Path) -> Self {
        Self {
            records: Vec::new(),
            capacity: (memory / N).max(1),
            scratch: scratch.to_owned(),
            spilled: None,
        }
    }

    pub(crate) fn push(&mut self, record: [u8; N]) -> Result<(), SortError> {
        if self.records.len() == self.capacity {
            self.spill()?;
        }
        self.records.push(record);
        Ok(())
    }

    fn spill(&mut self) -> Result<(), SortError> {
        let scratch = &self.scratch;
        let failed = |source| SortError {
            dir: scratch.clone(),
            source,
        };
        self.records.sort_unstable();
        let mut spilled = match self.spilled.take() {
            Some(spilled) => spilled,
            None => Spilled {
                file: nameless(scratch).map_err(failed)?,
                ends: Vec::new(),
            },
        };
        let bytes = self.records.as_flattened();
        spilled.file.write_all(bytes).map_err(failed)?;
        let start = spilled.ends.last().copied().unwrap_or(0);
        spilled.ends.push(start + bytes.len() as u64);
        self.spilled = Some(spilled);
        self.records.clear();
        Ok(())
    }

    /// All records in order.
    pub(crate) fn finish(mut self) -> Result<Sorted<N>, SortError> {
        if self.spilled.is_none() {
            self.records.sort_unstable();
            return Ok(Sorted::Memory(self.records.into_iter()));
        }
        self.spill()?;
        let Some(spilled) = self.spilled else {
            return Ok(Sorted::Memory(Vec::new().into_iter()));
        };
        // The memory is shared out among the runs.
        drop(self.records);
        let ahead = (self.capacity / spilled.ends.len()).clamp(1, (1 << 20) / N + 1);
        let mut start = 0;
        let mut merge = Merge {
            file: spilled.file,
            scratch: self.scratch,
            runs: Vec::new(),
            heap: BinaryHeap::new(),
            ahead,
        };
        for (index, end) in spilled.ends.into_iter().enumerate() {
            merge.runs.push(Run {
                records: Vec::new().into_iter(),
                next: start,
                end,
            });
            start = end;
            merge.refill(index)?;
        }
        Ok(Sorted::Merged(merge))
    }
}

/// Records in order.
pub(crate) enum Sorted<const N: usize> {
    Memory(std::vec::IntoIter<[u8; N]>),
    Merged(Merge<N>),
}

pub(crate) struct Merge<const N: usize> {
    file: File,
    scratch: PathBuf,
    runs: Vec<Run<N>>,
    /// The next record of each run.
    heap: BinaryHeap<Reverse<([u8; N], usize)>>,
    /// Records read at a time.
    ahead: usize,
}

struct Run<const N: usize> {
    records: std::vec::IntoIter<[u8; N]>,
    next: u64,
    end: u64,
}

impl<const N: usize> Sorted<N> {
    pub(crate) fn next(&mut self) -> Result<Option<[u8; N]>, SortError> {
        match self {
            Self::Memory(records) => Ok(records.next()),
            Self::Merged(merge) => {
                let Some(Reverse((record, run))) = merge.heap.pop() else {
                    return Ok(None);
                };
                merge.refill(run)?;
                Ok(Some(record))
            }
        }
    }
}

impl<const N: usize> Merge<N> {
    /// Puts a run's next record into the heap.
    fn refill(&mut self, index: usize) -> Result<(), SortError> {
        let Some(run) = self.runs.get_mut(index) else {
            return Ok(());
        };
        if run.records.len() == 0 && run.next < run.end {
            let left = (run.end - run.next) / N as u64;
            let count = usize::try_from(left).map_or(self.ahead, |left| left.min(self.ahead));
            let mut records = vec![[0; N]; count];
            let bytes = records.as_flattened_mut();
            self.file
                .read_exact_at(bytes, run.next)
                .map_err(|source| SortError {
                    dir: self.scratch.clone(),
                    source,
                })?;
            run.next += bytes.len() as u64;
            run.records = records.into_iter();
        }
        if let Some(record) = run.records.next() {
            self.heap.push(Reverse((record, index)));
        }
        Ok(())
    }
}

/// Creates an unlinked file in `dir`.
fn nameless(dir: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!(".sorting-{}-{number}", std::process::id()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_in_order_however_many_runs_they_make() {
        let dir = tempfile::tempdir().unwrap();
        for (count, memory) in [
            (0, 30),
            (1, 30),
            (10, 30),
            (11, 30),
            (1000, 30),
            (1000, 3),
            (5000, 700),
        ] {
            let mut sorter = Sorter::<3>::new(memory, dir.path());
            let mut expected = Vec::new();
            let mut number = 1_u32;
            for _ in 0..count {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let record = [
                    (number >> 24) as u8,
                    (number >> 16) as u8,
                    (number >> 8) as u8,
                ];
                sorter.push(record).unwrap();
                expected.push(record);
            }
            expected.sort_unstable();
            let mut sorted = sorter.finish().unwrap();
            let mut found = Vec::new();
            while let Some(record) = sorted.next().unwrap() {
                found.push(record);
            }
            assert_eq!(found, expected, "{count} records, {memory} bytes");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let mut sorter = Sorter::<1>::new(1, Path::new("/nowhere/at/all"));
        sorter.push([1]).unwrap();
        let error = sorter.push([2]).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
