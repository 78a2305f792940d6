//! Where in memory it is good to read to.

/// Bytes in a page of memory.
pub(crate) const PAGE: usize = 4096;

/// What of a buffer begins with a page. The kernel copies pages, and some processors (AMD's since Zen 3)
/// copy several times slower to a place that is a few bytes further in its page than the source in its
/// own: exactly where the allocator puts large buffers.
pub(crate) fn page_aligned(buffer: &mut [u8]) -> &mut [u8] {
    let skipped = buffer.as_ptr().align_offset(PAGE).min(buffer.len());
    buffer.split_at_mut(skipped).1
}
