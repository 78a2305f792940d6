//! SHA-256 in lanes.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_cvtsi128_si64, _mm_set_epi32, _mm_set_epi64x,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
    _mm_shuffle_epi32, _mm_unpackhi_epi64,
};
use std::array::from_fn;

use super::{in_lanes, load};
use crate::Block;
use crate::sha256::INITIAL;

/// Messages side by side. Each takes six vectors of the sixteen there are.
const LANES: usize = 2;

/// FIPS 180-4, section 4.2.2.
#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// `K` plus the message schedule (FIPS 180-4, section 6.2.2) of the block that ends a message of 64
/// bytes.
const K_AND_ENDING: [u32; 64] = {
    let mut w = [0_u32; 64];
    w[0] = 0x8000_0000;
    w[15] = 64 * 8;
    let mut sums = [0; 64];
    let mut t = 0;
    while t < 64 {
        if t >= 16 {
            let (a, b) = (w[t - 15], w[t - 2]);
            w[t] = (b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10))
                .wrapping_add(w[t - 7])
                .wrapping_add(a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3))
                .wrapping_add(w[t - 16]);
        }
        sums[t] = K[t].wrapping_add(w[t]);
        t += 1;
    }
    sums
};

/// The working variables in the order the instructions want them: the first named is in the highest
/// word.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

/// Takes blocks into states, some side by side.
#[target_feature(enable = "sha,ssse3,sse4.1")]
pub(super) fn compress_many(states: &mut [[u32; 8]], blocks: &[&[Block]]) {
    in_lanes::<_, LANES>(
        states,
        blocks,
        |states, blocks| compress(states, blocks),
        |state, blocks| compress([state], [blocks]),
    );
}

/// Takes equally many blocks into each state.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress<const N: usize>(states: [&mut [u32; 8]; N], blocks: [&[Block]; N]) {
    let mut lanes = from_fn(|n| State::of(states[n]));
    let count = blocks.first().map_or(0, |blocks| blocks.len());
    for at in 0..count {
        block(&mut lanes, blocks.map(|blocks| &blocks[at]));
    }
    for (state, lane) in states.into_iter().zip(lanes) {
        *state = lane.words();
    }
}

/// As [`sha256_parents`](crate::sha256_parents), for an even number of nodes.
#[target_feature(enable = "sha,ssse3,sse4.1")]
pub(super) fn parents(nodes: &mut [[u8; 32]]) {
    let count = nodes.len() / 2;
    let mut next = 0;
    while next + LANES <= count {
        parents_at::<LANES>(nodes, next);
        next += LANES;
    }
    while next < count {
        parents_at::<1>(nodes, next);
        next += 1;
    }
}

/// Computes parents from `first` on from their children, which are at or after their own index.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn parents_at<const N: usize>(nodes: &mut [[u8; 32]], first: usize) {
    let (_, children) = nodes.split_at(2 * first);
    let mut pairs = [[0; 64]; N];
    for (pair, children) in pairs.iter_mut().zip(children.as_chunks::<2>().0) {
        pair.copy_from_slice(children.as_flattened());
    }
    let mut lanes = [State::of(&INITIAL); N];
    block(&mut lanes, pairs.each_ref());
    ending(&mut lanes);
    let (_, slots) = nodes.split_at_mut(first);
    for (slot, lane) in slots.iter_mut().zip(lanes) {
        *slot = lane.digest();
    }
}

impl State {
    #[inline]
    #[target_feature(enable = "sse2")]
    fn of(words: &[u32; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = words.map(u32::cast_signed);
        Self {
            abef: _mm_set_epi32(a, b, e, f),
            cdgh: _mm_set_epi32(c, d, g, h),
        }
    }

    /// The words two by two: `a` and `b`, `c` and `d`, and so on.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn pairs(self) -> [u64; 4] {
        let low = |vector| _mm_cvtsi128_si64(vector).cast_unsigned();
        let high = |vector| _mm_cvtsi128_si64(_mm_unpackhi_epi64(vector, vector)).cast_unsigned();
        [
            high(self.abef),
            high(self.cdgh),
            low(self.abef),
            low(self.cdgh),
        ]
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn words(self) -> [u32; 8] {
        let [ab, cd, ef, gh] = self.pairs().map(|two| [(two >> 32) as u32, two as u32]);
        [ab[0], ab[1], cd[0], cd[1], ef[0], ef[1], gh[0], gh[1]]
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn digest(self) -> [u8; 32] {
        let mut digest = [0; 32];
        for (bytes, two) in digest.chunks_mut(8).zip(self.pairs()) {
            bytes.copy_from_slice(&two.to_be_bytes());
        }
        digest
    }
}

/// Takes one block into each lane.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn block<const N: usize>(lanes: &mut [State; N], blocks: [&Block; N]) {
    let before = *lanes;
    // The last sixteen words of the message schedule; word `t` is in vector `t / 4 % 4`.
    let mut words: [[__m128i; 4]; N] = from_fn(|n| from_fn(|at| big_endian(load(blocks[n], at))));
    macro_rules! four_rounds {
        ($($at:literal)*) => { $(
            let k = constants(&K, $at);
            let mut sums = [k; N];
            for n in 0..N {
                sums[n] = _mm_add_epi32(words[n][$at % 4], k);
                lanes[n].cdgh = _mm_sha256rnds2_epu32(lanes[n].cdgh, lanes[n].abef, sums[n]);
            }
            for n in 0..N {
                if 3 <= $at && $at < 15 {
                    // Finishes the four words that the next rounds want.
                    let last = words[n][$at % 4];
                    let seven_back = _mm_alignr_epi8(last, words[n][($at + 3) % 4], 4);
                    let sum = _mm_add_epi32(words[n][($at + 1) % 4], seven_back);
                    words[n][($at + 1) % 4] = _mm_sha256msg2_epu32(sum, last);
                }
            }
            for n in 0..N {
                let sum = _mm_shuffle_epi32(sums[n], 0x0e);
                lanes[n].abef = _mm_sha256rnds2_epu32(lanes[n].abef, lanes[n].cdgh, sum);
            }
            for n in 0..N {
                if 1 <= $at && $at < 13 {
                    words[n][($at + 3) % 4] = _mm_sha256msg1_epu32(words[n][($at + 3) % 4], words[n][$at % 4]);
                }
            }
        )* };
    }
    four_rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    add(lanes, &before);
}

/// Takes the block that ends a message of 64 bytes into each lane.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn ending<const N: usize>(lanes: &mut [State; N]) {
    let before = *lanes;
    for at in 0..16 {
        let sum = constants(&K_AND_ENDING, at);
        for lane in &mut *lanes {
            lane.cdgh = _mm_sha256rnds2_epu32(lane.cdgh, lane.abef, sum);
        }
        let sum = _mm_shuffle_epi32(sum, 0x0e);
        for lane in &mut *lanes {
            lane.abef = _mm_sha256rnds2_epu32(lane.abef, lane.cdgh, sum);
        }
    }
    add(lanes, &before);
}

#[inline]
#[target_feature(enable = "sse2")]
fn add<const N: usize>(lanes: &mut [State; N], others: &[State; N]) {
    for (lane, other) in lanes.iter_mut().zip(others) {
        lane.abef = _mm_add_epi32(lane.abef, other.abef);
        lane.cdgh = _mm_add_epi32(lane.cdgh, other.cdgh);
    }
}

/// Constants of rounds 4`at` to 4`at` + 3.
#[inline]
#[target_feature(enable = "sse2")]
fn constants(table: &[u32; 64], at: usize) -> __m128i {
    let [a, b, c, d] = table.as_chunks().0[at].map(u32::cast_signed);
    _mm_set_epi32(d, c, b, a)
}

/// Loads four big-endian words.
#[inline]
#[target_feature(enable = "ssse3")]
fn big_endian(bytes: __m128i) -> __m128i {
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    _mm_shuffle_epi8(bytes, order)
}
