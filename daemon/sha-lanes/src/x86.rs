//! The SHA instructions of x86-64 (Intel SDM, volume 1, "Intel SHA Extensions").

mod sha1;
mod sha256;

use std::arch::x86_64::{__m128i, _mm_set_epi64x};

use crate::{Block, Work};

/// Does the work, or returns it if the processor has no instructions for it.
pub(crate) fn run(work: Work<'_>) -> Result<(), Work<'_>> {
    if !(is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1"))
    {
        return Err(work);
    }
    // SAFETY: the processor has what the function is compiled for, as was asked just now.
    #[expect(
        unsafe_code,
        reason = "calling what is compiled for more than the base processor"
    )]
    unsafe {
        run_here(work);
    }
    Ok(())
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn run_here(work: Work<'_>) {
    match work {
        Work::Sha256(states, blocks) => sha256::compress_many(states, blocks),
        Work::Sha256Parents(nodes) => sha256::parents(nodes),
        Work::Sha1(states, blocks) => sha1::compress_many(states, blocks),
    }
}

/// Takes blocks into states: `N` side by side as long as all of them have some, the others alone.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn in_lanes<S, const N: usize>(
    states: &mut [S],
    blocks: &[&[Block]],
    together: impl Fn([&mut S; N], [&[Block]; N]),
    alone: impl Fn(&mut S, &[Block]),
) {
    let (groups, rest) = states.as_chunks_mut::<N>();
    let (blocks_of_groups, blocks_of_rest) = blocks.as_chunks::<N>();
    for (states, blocks) in groups.iter_mut().zip(blocks_of_groups) {
        let common = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
        together(
            states.each_mut(),
            blocks.map(|blocks| blocks.split_at(common).0),
        );
        for (state, blocks) in states.iter_mut().zip(blocks) {
            alone(state, blocks.split_at(common).1);
        }
    }
    for (state, blocks) in rest.iter_mut().zip(blocks_of_rest) {
        alone(state, blocks);
    }
}

/// Bytes 16`at` and following; compiles to one load.
#[inline]
#[target_feature(enable = "sse2")]
fn load(bytes: &[u8; 64], at: usize) -> __m128i {
    let (eights, _) = bytes.as_chunks();
    _mm_set_epi64x(
        i64::from_le_bytes(eights[2 * at + 1]),
        i64::from_le_bytes(eights[2 * at]),
    )
}
