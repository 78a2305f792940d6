//! Makes pairs of ledgers: one, and what it has become some days later.
//!
//! ```text
//! grown_ledger DIRECTORY MIB BLOCKS...
//! ```
//!
//! Writes an invented ledger of so many MiB to `DIRECTORY/0/data.ldb`, and for each number of blocks a copy to which
//! a day with so many blocks was added, one in each transaction, to `DIRECTORY/1/data.ldb` and on. The first
//! has been through three days of as many blocks as the first number says: a fresh ledger is more orderly than
//! a used one.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use nano_ledger::synthetic;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("no directory")?);
    let mib: u64 = arguments.next().ok_or("no size")?.parse()?;
    let days: Vec<u64> = arguments
        .map(|blocks| blocks.parse())
        .collect::<Result<_, _>>()?;
    let place = |number: usize| dir.join(number.to_string()).join("data.ldb");
    let first = place(0);
    make_parent(&first)?;
    let options = synthetic::Options {
        seed: 1,
        target_len: mib << 20,
    };
    synthetic::create(&first, &options)?;
    for _ in 0..3 {
        synthetic::add_day(&first, days.first().copied().unwrap_or(1), 1)?;
    }
    for (number, blocks) in (1..).zip(&days) {
        let grown = place(number);
        make_parent(&grown)?;
        fs::copy(&first, &grown)?;
        synthetic::add_day(&grown, *blocks, 1)?;
    }
    Ok(())
}

fn make_parent(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}
