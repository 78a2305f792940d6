//! SHA-1 in lanes.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_cvtsi128_si64, _mm_set_epi32, _mm_set_epi64x, _mm_setzero_si128,
    _mm_sha1msg1_epu32, _mm_sha1msg2_epu32, _mm_sha1nexte_epu32, _mm_sha1rnds4_epu32,
    _mm_shuffle_epi8, _mm_unpackhi_epi64, _mm_xor_si128,
};
use std::array::from_fn;

use super::{in_lanes, load};
use crate::{Block, Sha1};

/// Takes blocks into states, some side by side.
#[target_feature(enable = "sha,ssse3,sse4.1")]
pub(super) fn compress_many(states: &mut [[u32; 5]], blocks: &[&[Block]]) {
    in_lanes::<_, { Sha1::LANES }>(
        states,
        blocks,
        |states, blocks| compress(states, blocks),
        |state, blocks| compress([state], [blocks]),
    );
}

/// The working variables; the first named is in the highest word.
#[derive(Clone, Copy)]
struct State {
    abcd: __m128i,
    /// In the highest word; the others are zero or have no meaning.
    e: __m128i,
}

/// Takes equally many blocks into each state.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress<const N: usize>(states: [&mut [u32; 5]; N], blocks: [&[Block]; N]) {
    let mut lanes = from_fn(|n| State::of(states[n]));
    let count = blocks.first().map_or(0, |blocks| blocks.len());
    for at in 0..count {
        block(&mut lanes, blocks.map(|blocks| &blocks[at]));
    }
    for (state, lane) in states.into_iter().zip(lanes) {
        *state = lane.words();
    }
}

impl State {
    #[inline]
    #[target_feature(enable = "sse2")]
    fn of(words: &[u32; 5]) -> Self {
        let [a, b, c, d, e] = words.map(u32::cast_signed);
        Self {
            abcd: _mm_set_epi32(a, b, c, d),
            e: _mm_set_epi32(e, 0, 0, 0),
        }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn words(self) -> [u32; 5] {
        let low = |vector| _mm_cvtsi128_si64(vector).cast_unsigned();
        let high = |vector| _mm_cvtsi128_si64(_mm_unpackhi_epi64(vector, vector)).cast_unsigned();
        let (ab, cd, e) = (high(self.abcd), low(self.abcd), high(self.e));
        [ab >> 32, ab, cd >> 32, cd, e >> 32].map(|word| word as u32)
    }
}

/// Takes one block into each lane.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn block<const N: usize>(lanes: &mut [State; N], blocks: [&Block; N]) {
    let before = *lanes;
    // The last sixteen words of the message schedule; word `t` is in vector `t / 4 % 4`.
    let mut words: [[__m128i; 4]; N] = from_fn(|n| from_fn(|at| big_endian(load(blocks[n], at))));
    // What `abcd` was four rounds ago holds the `e` of now.
    let mut earlier = [_mm_setzero_si128(); N];
    macro_rules! four_rounds {
        ($($at:literal)*) => { $(
            for n in 0..N {
                if $at >= 4 {
                    let [w0, w1, w2, w3] = from_fn(|back| words[n][($at + back) % 4]);
                    let sum = _mm_xor_si128(_mm_sha1msg1_epu32(w0, w1), w2);
                    words[n][$at % 4] = _mm_sha1msg2_epu32(sum, w3);
                }
                let e = if $at == 0 {
                    _mm_add_epi32(lanes[n].e, words[n][0])
                } else {
                    _mm_sha1nexte_epu32(earlier[n], words[n][$at % 4])
                };
                earlier[n] = lanes[n].abcd;
                lanes[n].abcd = _mm_sha1rnds4_epu32(lanes[n].abcd, e, $at / 5);
            }
        )* };
    }
    four_rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
    for n in 0..N {
        lanes[n].abcd = _mm_add_epi32(lanes[n].abcd, before[n].abcd);
        lanes[n].e = _mm_sha1nexte_epu32(earlier[n], before[n].e);
    }
}

/// Loads four big-endian words, the first into the highest word.
#[inline]
#[target_feature(enable = "ssse3")]
fn big_endian(bytes: __m128i) -> __m128i {
    let order = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    _mm_shuffle_epi8(bytes, order)
}
