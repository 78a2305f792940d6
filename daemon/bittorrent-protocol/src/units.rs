//! Piece, block and file numbers, and piece lengths.

use std::fmt;

/// Bytes in a block: the unit of a request and of a leaf of a merkle tree (BEP 52).
pub const BLOCK_LEN: u32 = 16 * 1024;

/// The most pieces a torrent may have here; the same bound libtorrent uses.
pub const MAX_PIECES: u32 = 0x20_0000;

/// The longest info dictionary that is fetched from peers, and so the longest a producer may make, in bytes.
pub const MAX_INFO_LEN: u32 = 4 << 20;

/// A piece length that is no power of two between 16 KiB and 256 MiB.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("piece length {0} is not a power of two from 16384 to 268435456")]
pub struct InvalidPieceLength(pub u64);

/// Bytes in a piece: a power of two, 16 KiB to 256 MiB (BEP 52, "piece length").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceLength(u32);

impl PieceLength {
    /// The shortest piece: one block.
    pub const MIN: Self = Self(BLOCK_LEN);
    /// The longest piece that other clients accept.
    pub const MAX: Self = Self(1 << 28);
    /// The default of producers.
    pub const DEFAULT: Self = Self(4 << 20);

    /// Checks a length in bytes.
    pub fn new(bytes: u64) -> Result<Self, InvalidPieceLength> {
        match u32::try_from(bytes) {
            Ok(short)
                if short.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&short) =>
            {
                Ok(Self(short))
            }
            _ => Err(InvalidPieceLength(bytes)),
        }
    }

    /// Returns the length in bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// Returns the length in blocks: a power of two, 1 to 16384.
    pub const fn blocks(self) -> u32 {
        self.0 / BLOCK_LEN
    }

    /// Returns the number of layers from the leaves up to the piece layer: 0 for 16 KiB pieces.
    pub const fn layer(self) -> u8 {
        self.blocks().trailing_zeros() as u8
    }
}

impl fmt::Debug for PieceLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceLength({})", self.0)
    }
}

impl fmt::Display for PieceLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) u32);

        impl $name {
            /// Returns the number, counted from zero.
            pub const fn get(self) -> u32 {
                self.0
            }

            /// Returns the number as an index of a slice with one entry each.
            pub const fn as_usize(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index! {
    /// A piece that exists in the [`Layout`](crate::Layout) that made it.
    PieceIndex
}
index! {
    /// A file that exists in the [`Layout`](crate::Layout) that made it, in file-tree order.
    FileIndex
}

/// A block that exists in the [`Layout`](crate::Layout) that made it: a piece and the block's
/// number in it. Blocks that would be padding only do not exist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex {
    piece: PieceIndex,
    in_piece: u16,
}

impl BlockIndex {
    pub(crate) const fn new(piece: PieceIndex, in_piece: u16) -> Self {
        Self { piece, in_piece }
    }

    /// Returns the piece of the block.
    pub const fn piece(self) -> PieceIndex {
        self.piece
    }

    /// Returns the number of the block in the piece, from zero.
    pub const fn in_piece(self) -> u16 {
        self.in_piece
    }

    /// Returns the position of the block in the piece, in bytes.
    pub const fn begin(self) -> u32 {
        self.in_piece as u32 * BLOCK_LEN
    }
}

impl fmt::Debug for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.piece.0, self.in_piece)
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_lengths_are_powers_of_two_in_range() {
        for good in [16_384, 32_768, 1 << 20, 32 << 20, 1 << 28] {
            assert_eq!(u64::from(PieceLength::new(good).unwrap().bytes()), good);
        }
        for bad in [
            0,
            1,
            8_192,
            16_383,
            16_385,
            49_152,
            1 << 29,
            1 << 32,
            u64::MAX,
        ] {
            assert_eq!(PieceLength::new(bad), Err(InvalidPieceLength(bad)));
        }
        assert_eq!(PieceLength::MIN.layer(), 0);
        assert_eq!(PieceLength::DEFAULT.layer(), 8);
        assert_eq!(PieceLength::MAX.blocks(), 16_384);
    }
}
