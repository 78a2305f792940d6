//! Buffers that sockets are read into. A received block is a slice of such a buffer and keeps it
//! alive until the block is written, so nothing is copied on the way from socket to disk.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

/// The size at which a fast link is read: 32 blocks a system call. Half of it costs a seventh of the
/// speed on two processors; twice as much gains nothing.
const LARGE: usize = 512 * 1024;

/// The size for links that bring little, which are most: room for one block message.
const SMALL: usize = 20 * 1024;

/// Large buffers whose blocks were still on their way to disk when the next one was needed.
/// Taking one back saves the page faults of a fresh allocation.
#[derive(Debug)]
pub(crate) struct BufferPool {
    retired: Mutex<VecDeque<BytesMut>>,
    max_retired: usize,
}

impl BufferPool {
    /// A pool that keeps at most `bytes` of memory.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            retired: Mutex::default(),
            max_retired: (bytes / LARGE).max(1),
        }
    }

    fn retired(&self) -> std::sync::MutexGuard<'_, VecDeque<BytesMut>> {
        // Nothing can panic between two states of the list.
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> BytesMut {
        let mut retired = self.retired();
        // The oldest are the most likely to be free; blocks are written roughly in order.
        for at in 0..retired.len().min(4) {
            if retired[at].try_reclaim(LARGE)
                && let Some(buffer) = retired.remove(at)
            {
                return buffer;
            }
        }
        drop(retired);
        BytesMut::with_capacity(LARGE)
    }

    fn put(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut retired = self.retired();
        if retired.len() >= self.max_retired {
            retired.pop_front();
        }
        retired.push_back(buffer);
    }

    /// Gives the memory back; called when the downloads have come to rest.
    pub(crate) fn clear(&self) {
        self.retired().clear();
    }
}

/// The unread input of one connection.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    buffer: BytesMut,
    pool: Arc<BufferPool>,
    /// Whether `buffer` is one of the pool's.
    large: bool,
    /// Whether the last read filled all there was room for.
    filled: bool,
}

impl ReadBuffer {
    pub(crate) fn new(pool: Arc<BufferPool>) -> Self {
        Self {
            buffer: BytesMut::with_capacity(SMALL),
            pool,
            large: false,
            filled: false,
        }
    }

    /// Begins with what was read before there was a buffer.
    pub(crate) fn prefill(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What was read and not yet taken.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes the first `len` bytes without copying them.
    pub(crate) fn take(&mut self, len: usize) -> Bytes {
        self.buffer.split_to(len).freeze()
    }

    /// Calls `read` once to append to the buffer. `wanted` is how many bytes the unfinished
    /// message at its start takes in all, as far as known; the caller bounds it.
    pub(crate) fn fill(
        &mut self,
        wanted: usize,
        read: impl FnOnce(&mut BytesMut) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.make_room(wanted);
        let room = self.buffer.capacity() - self.buffer.len();
        let read = read(&mut self.buffer)?;
        self.filled = read == room;
        Ok(read)
    }

    fn make_room(&mut self, wanted: usize) {
        let len = self.buffer.len();
        let missing = wanted.saturating_sub(len).max(1);
        let room = self.buffer.capacity() - len;
        // A short rest of a large buffer would cost a system call for a few bytes.
        if room >= missing && (!self.large || room >= SMALL) {
            return;
        }
        if wanted > LARGE {
            // A long bitfield or hash list. Rare, so a buffer of its own size does.
            self.replace(BytesMut::with_capacity(wanted), false);
        } else if self.filled || (self.large && room < missing) {
            let next = self.pool.take();
            self.replace(next, true);
        } else if !self.buffer.try_reclaim(missing.max(SMALL - len.min(SMALL))) {
            self.replace(BytesMut::with_capacity(SMALL.max(wanted)), false);
        }
    }

    /// Goes on in `next`; the beginning of an unfinished message moves along, at most one block.
    fn replace(&mut self, mut next: BytesMut, large: bool) {
        next.extend_from_slice(&self.buffer);
        let old = std::mem::replace(&mut self.buffer, next);
        if std::mem::replace(&mut self.large, large) {
            self.pool.put(old);
        }
        self.filled = false;
    }

    /// A quiet link needs no large buffer: called now and then when nothing is buffered.
    pub(crate) fn rest(&mut self) {
        if self.large && self.buffer.is_empty() {
            self.replace(BytesMut::with_capacity(SMALL), false);
        }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        if self.large {
            self.pool.put(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut as _;

    fn feed(input: &mut ReadBuffer, wanted: usize, source: &mut &[u8]) -> usize {
        input
            .fill(wanted, |buffer| {
                let room = buffer.capacity() - buffer.len();
                let n = room.min(source.len());
                buffer.put_slice(source.split_at(n).0);
                *source = source.split_at(n).1;
                Ok(n)
            })
            .unwrap()
    }

    #[test]
    fn bytes_come_out_as_they_went_in_whatever_is_kept_alive() {
        let pool = Arc::new(BufferPool::new(4 * LARGE));
        let mut input = ReadBuffer::new(pool);
        let data: Vec<u8> = (0..5_000_000_u32).map(|n| (n * 7 / 3) as u8).collect();
        let mut source = data.as_slice();
        let mut kept = VecDeque::new();
        let mut checked = 0;
        let mut sizes = [16_397, 17, 5, 700_000, 16_397, 1].into_iter().cycle();
        let mut wanted = sizes.next().unwrap();
        while checked + kept.iter().map(Bytes::len).sum::<usize>() < data.len() {
            if input.bytes().len() >= wanted {
                kept.push_back(input.take(wanted));
                wanted = sizes.next().unwrap();
            } else if source.is_empty() {
                kept.push_back(input.take(input.bytes().len()));
            } else {
                assert!(feed(&mut input, wanted, &mut source) > 0);
            }
            // Blocks leave in order, some time after they came.
            if kept.len() > 40 {
                let block = kept.pop_front().unwrap();
                assert_eq!(block, data[checked..checked + block.len()]);
                checked += block.len();
            }
        }
        for block in kept {
            assert_eq!(block, data[checked..checked + block.len()]);
            checked += block.len();
        }
        assert_eq!(checked, data.len());
    }

    #[test]
    fn a_fast_link_reads_large_and_takes_buffers_back() {
        let pool = Arc::new(BufferPool::new(8 * LARGE));
        let mut input = ReadBuffer::new(pool.clone());
        let data = vec![1; 64 * LARGE];
        let mut source = data.as_slice();
        let mut reads = 0;
        while !source.is_empty() {
            feed(&mut input, 16_397, &mut source);
            reads += 1;
            while input.bytes().len() >= 16_397 {
                drop(input.take(16_397));
            }
        }
        assert!(reads < 140, "{reads} reads");
        assert!(pool.retired().len() <= 1, "free buffers are used again");
        input.take(input.bytes().len());
        input.rest();
        assert!(input.buffer.capacity() < LARGE);
    }

    #[test]
    fn a_slow_link_stays_small() {
        let pool = Arc::new(BufferPool::new(LARGE));
        let mut input = ReadBuffer::new(pool.clone());
        for _ in 0..1_000 {
            let mut source = [2; 1_448].as_slice();
            feed(&mut input, 16_397, &mut source);
            if input.bytes().len() >= 16_397 {
                drop(input.take(16_397));
            }
        }
        assert!(input.buffer.capacity() <= SMALL);
        assert!(pool.retired().is_empty());
    }

    #[test]
    fn the_pool_keeps_no_more_than_it_may() {
        let pool = BufferPool::new(2 * LARGE);
        for _ in 0..5 {
            pool.put(BytesMut::with_capacity(LARGE));
        }
        assert_eq!(pool.retired().len(), 2);
        pool.clear();
        assert!(pool.retired().is_empty());
    }
}
