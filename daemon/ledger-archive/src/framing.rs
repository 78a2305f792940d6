//! Writes the frames of a packed archive: every frame starts at a multiple of 16 KiB, and a seek table ends the file.
//!
//! BitTorrent v2 compares files by leaves of 16 KiB. An unchanged frame that starts at a leaf
//! consists of the same leaves in the next archive, at whatever offset. The gap to the next leaf is a skippable frame,
//! which every zstd decoder skips (RFC 8878, 3.1.2).

use std::io::{self, Write};

/// What frames are aligned to: the leaf of BitTorrent v2 (BEP 52).
pub(crate) const ALIGNMENT: u64 = 16 << 10;
/// Magic number and length of a skippable frame.
const SKIPPABLE_HEADER: u64 = 8;
/// Magic number of the padding (the first of the sixteen that mean a skippable frame).
const PADDING_MAGIC: u32 = 0x184D_2A50;
/// Magic number of the skippable frame that holds a seek table ("zstd seekable format", 0.1.0).
const SEEK_TABLE_MAGIC: u32 = 0x184D_2A5E;
/// Last number of a seek table.
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;

/// Writes frames, each at a multiple of 16 KiB.
#[derive(Debug)]
pub(crate) struct FrameWriter<W> {
    out: W,
    at: u64,
    /// Bytes and bytes of content of every frame, padding included.
    table: Vec<(u32, u32)>,
    padding: u64,
}

impl<W: Write> FrameWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            at: 0,
            table: Vec::new(),
            padding: 0,
        }
    }

    /// Bytes written so far.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes of them that are padding.
    pub(crate) fn padding(&self) -> u64 {
        self.padding
    }

    /// Writes one frame of `content` bytes, and what fills its last leaf. Frames have less than 1 GiB.
    pub(crate) fn write(&mut self, frame: &[u8], content: u32) -> io::Result<()> {
        self.put(frame, content)?;
        let gap = gap_after(self.at);
        if gap > 0 {
            self.padding += gap;
            let mut skipped = vec![0; gap as usize];
            fill_header(&mut skipped, PADDING_MAGIC);
            self.put(&skipped, 0)?;
        }
        Ok(())
    }

    fn put(&mut self, frame: &[u8], content: u32) -> io::Result<()> {
        self.out.write_all(frame)?;
        self.at += frame.len() as u64;
        self.table.push((frame.len() as u32, content));
        Ok(())
    }

    /// Writes the seek table. Returns the length of the archive and its padding.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        let mut table = vec![0; SKIPPABLE_HEADER as usize];
        for (bytes, content) in &self.table {
            table.extend_from_slice(&bytes.to_le_bytes());
            table.extend_from_slice(&content.to_le_bytes());
        }
        // 128 GiB in frames of 64 KiB are 4 million entries with their padding.
        table.extend_from_slice(&(self.table.len() as u32).to_le_bytes());
        // No checksums: every frame has its own.
        table.push(0);
        table.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
        fill_header(&mut table, SEEK_TABLE_MAGIC);
        self.out.write_all(&table)?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Bytes of the seek table.
    pub(crate) fn seek_table_len(&self) -> u64 {
        SKIPPABLE_HEADER + self.table.len() as u64 * 8 + 9
    }
}

/// Bytes of skippable frame needed at `at` so that the next frame starts at a multiple of 16 KiB.
fn gap_after(at: u64) -> u64 {
    match (ALIGNMENT - at % ALIGNMENT) % ALIGNMENT {
        0 => 0,
        // Too short for a frame: one leaf more.
        gap if gap < SKIPPABLE_HEADER => gap + ALIGNMENT,
        gap => gap,
    }
}

/// Makes `frame`, whose first eight bytes are free, a skippable frame.
fn fill_header(frame: &mut [u8], magic: u32) {
    let len = frame.len() as u32 - SKIPPABLE_HEADER as u32;
    if let Some((header, _)) = frame.split_first_chunk_mut::<8>() {
        header[..4].copy_from_slice(&magic.to_le_bytes());
        header[4..].copy_from_slice(&len.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_hold_a_skippable_frame_or_nothing() {
        for (at, gap) in [
            (0, 0),
            (1, 16383),
            (16383, 16385),
            (16384 - 7, 16384 + 7),
            (16384 - 8, 8),
            (16384, 0),
            (16385, 16383),
            (1 << 40, 0),
        ] {
            assert_eq!(gap_after(at), gap, "{at}");
            assert_eq!((at + gap) % ALIGNMENT, 0);
        }
    }

    #[test]
    fn the_layout_is_as_written_down() {
        let mut out = Vec::new();
        let mut writer = FrameWriter::new(&mut out);
        writer.write(&[7; 16384 - 3], 5).unwrap();
        writer.write(&[8; 16384], 6).unwrap();
        assert_eq!((writer.at(), writer.padding()), (3 * 16384, 16387));
        let table_len = writer.seek_table_len();
        writer.finish().unwrap();
        let (frames, table) = out.split_at(3 * 16384);
        assert_eq!(table.len() as u64, table_len);
        // A skippable frame: its number, its length, zeros.
        let padding = &frames[16381..32768];
        assert_eq!(padding[..8], [0x50, 0x2A, 0x4D, 0x18, 0xFB, 0x3F, 0, 0]);
        assert!(padding[8..].iter().all(|&byte| byte == 0));
        #[rustfmt::skip]
        assert_eq!(table, [
            0x5E, 0x2A, 0x4D, 0x18,  33, 0, 0, 0,
            0xFD, 0x3F, 0, 0,   5, 0, 0, 0,
            0x03, 0x40, 0, 0,   0, 0, 0, 0,
            0x00, 0x40, 0, 0,   6, 0, 0, 0,
            3, 0, 0, 0,  0,  0xB1, 0xEA, 0x92, 0x8F,
        ]);
    }
}
