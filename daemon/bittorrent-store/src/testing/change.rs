//! Changes of a file, and what may be left of them.

/// What a disk writes as a whole or not at all, in bytes.
const SECTORS: [usize; 2] = [512, 4096];

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(_, data) if data.is_empty() => {}
            Self::Write(offset, data) => {
                let start = *offset as usize;
                let end = start + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(data);
            }
            Self::Length(length) => bytes.resize(*length as usize, 0),
        }
    }

    /// The same change as changes of at most a sector each.
    fn sectors(&self, sector: usize) -> Vec<Self> {
        match self {
            Self::Length(_) => vec![self.clone()],
            Self::Write(offset, data) => {
                let mut sectors = Vec::new();
                let mut at = 0;
                while at < data.len() {
                    let room = sector - (*offset as usize + at) % sector;
                    let end = data.len().min(at + room);
                    sectors.push(Self::Write(offset + at as u64, data[at..end].to_vec()));
                    at = end;
                }
                sectors
            }
        }
    }
}

/// Applies what the dice leave of changes: each as a whole, not at all, up to a sector, or any of its
/// sectors. The file may be prolonged all the same, with zeros where nothing was left.
pub(super) fn survivors(changes: &[Change], bytes: &mut Vec<u8>, dice: &mut Dice) {
    let sector = SECTORS[dice.below(SECTORS.len() as u64) as usize];
    let prolonged = dice.toss();
    for change in changes {
        let sectors = change.sectors(sector);
        let way = dice.below(4);
        let some = dice.below(sectors.len() as u64 + 1) as usize;
        for (number, one) in sectors.iter().enumerate() {
            let survives = match way {
                0 => true,
                1 => false,
                2 => number < some,
                _ => dice.toss(),
            };
            if survives {
                one.apply(bytes);
            }
        }
        if let Change::Write(offset, data) = change
            && prolonged
        {
            let end = *offset as usize + data.len();
            bytes.resize(bytes.len().max(end), 0);
        }
    }
}

/// Small and repeatable randomness (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice that always fall the same way for a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// Heads or tails.
    pub fn toss(&mut self) -> bool {
        self.below(2) == 0
    }
}
