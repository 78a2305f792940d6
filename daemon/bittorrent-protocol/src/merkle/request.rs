//! Requests for hashes of a file's merkle tree, their answers and the proof in them
//! (BEP 52, "hash request", "hashes").

use std::ops::Range;

use super::{fold, pad, parent, tree_height};
use crate::hash::MerkleHash;
use crate::layout::FileSpan;
use crate::units::BLOCK_LEN;

/// The most hashes of the base layer in one request; libtorrent rejects more. BEP 52 advises 512,
/// but the leaves of a long piece are requested at once.
pub const MAX_HASH_COUNT: u32 = 8192;

/// Why a request cannot be answered for a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// The request names another file's root, or the file is empty and has none.
    #[error("the request is about another file")]
    OtherFile,
    /// BEP 52 wants a power of two of at least 2.
    #[error("cannot ask for {count} hashes: not a power of two from 2 to {MAX_HASH_COUNT}")]
    Count {
        /// The count in the request.
        count: u32,
    },
    /// There is no such layer below the root.
    #[error("layer {base} is not below the root, which stands at {height}")]
    Base {
        /// The layer in the request.
        base: u32,
        /// The layer of the file's root.
        height: u8,
    },
    /// BEP 52 wants the index to be a multiple of the count.
    #[error("index {index} is not a multiple of the count {count}")]
    Unaligned {
        /// The index in the request.
        index: u32,
        /// The count in the request.
        count: u32,
    },
    /// The hashes would end past the padded layer.
    #[error("hashes {index} to {end} do not exist in a layer of {width}")]
    Range {
        /// The index in the request.
        index: u32,
        /// One past the last hash asked for.
        end: u64,
        /// Hashes in the padded layer.
        width: u64,
    },
    /// The proof would reach the root or go past it.
    #[error("{proof_layers} layers of proof above layer {base} pass the root at {height}")]
    ProofLayers {
        /// The proof layers in the request.
        proof_layers: u32,
        /// The layer in the request.
        base: u32,
        /// The layer of the file's root.
        height: u8,
    },
}

/// Why the hashes of an answer are not proven. Nothing of the answer may be kept, and the peer
/// that sent it is broken or lying.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    /// The answer is too long or too short.
    #[error("{found} hashes where {expected} were asked for")]
    Length {
        /// Hashes in the answer.
        found: usize,
        /// Base hashes and uncles that the request asks for.
        expected: usize,
    },
    /// A node that covers content is all zero, which no hash is.
    #[error("the hash of node {index} in layer {layer} is zero")]
    Zero {
        /// Layers above the leaves.
        layer: u8,
        /// The node's number in its layer.
        index: u64,
    },
    /// A node past the content is not what padding gives.
    #[error("node {index} in layer {layer} lies past the content but is not padding")]
    Padding {
        /// Layers above the leaves.
        layer: u8,
        /// The node's number in its layer.
        index: u64,
    },
    /// The answer leads to another node than the one that is known.
    #[error("the hashes do not lead to the known node {index} in layer {layer}")]
    Mismatch {
        /// Layers above the leaves.
        layer: u8,
        /// The node's number in its layer.
        index: u64,
    },
    /// The answer is consistent but leads to no known node.
    #[error("the hashes lead to no known node")]
    Unanchored,
}

/// A request for `count` hashes of one layer of a file's tree, and for the uncles that prove them.
/// Unchecked until [`Self::validate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashRequest {
    /// The root of the file's tree.
    pub root: MerkleHash,
    /// The layer of the requested hashes, counted from the leaves.
    pub base: u32,
    /// The number of the first requested hash in its layer.
    pub index: u32,
    /// The number of requested hashes.
    pub count: u32,
    /// The number of layers of requested uncles: those right above `base` need none if they follow
    /// from the requested hashes.
    pub proof_layers: u32,
}

impl HashRequest {
    /// A request whose answer leads up to the node at layer `anchor` above the asked hashes, which
    /// the verifier must know. The root is always known.
    pub fn anchored(
        file: &FileSpan,
        base: u8,
        index: u32,
        count: u32,
        anchor: u8,
    ) -> Result<CheckedRequest, RequestFault> {
        let folded = count.checked_ilog2().unwrap_or(0);
        let uncles = u32::from(anchor)
            .saturating_sub(u32::from(base))
            .saturating_sub(folded);
        let request = Self {
            root: file.root().ok_or(RequestFault::OtherFile)?,
            base: base.into(),
            index,
            count,
            proof_layers: match uncles {
                0 => 0,
                uncles => uncles + folded.saturating_sub(1),
            },
        };
        request.validate(file)
    }

    /// Checks a request, ours or a peer's, against the file it names.
    ///
    /// Stricter than libtorrent in one thing: an index that is no multiple of the count, or a count
    /// that is no power of two, is refused, because no proof could follow from it.
    pub fn validate(&self, file: &FileSpan) -> Result<CheckedRequest, RequestFault> {
        if file.root() != Some(self.root) {
            return Err(RequestFault::OtherFile);
        }
        let Self {
            base,
            index,
            count,
            proof_layers,
            ..
        } = *self;
        let height = tree_height(file.blocks());
        let short_base = u8::try_from(base)
            .ok()
            .filter(|base| *base < height)
            .ok_or(RequestFault::Base { base, height })?;
        if !count.is_power_of_two() || !(2..=MAX_HASH_COUNT).contains(&count) {
            return Err(RequestFault::Count { count });
        }
        // A file's length is a `u64`, so that the height is at most 50.
        let width = 1 << (height - short_base);
        let end = u64::from(index) + u64::from(count);
        if end > width {
            return Err(RequestFault::Range { index, end, width });
        }
        if !index.is_multiple_of(count) {
            return Err(RequestFault::Unaligned { index, count });
        }
        if proof_layers >= u32::from(height - short_base) {
            return Err(RequestFault::ProofLayers {
                proof_layers,
                base,
                height,
            });
        }
        // A count of at least 2 that fits the layer: its logarithm is 1 to 13.
        let folded = count.ilog2() as u8;
        // Below `height`, as just checked.
        let uncles = (proof_layers as u8).saturating_sub(folded - 1);
        Ok(CheckedRequest {
            request: *self,
            base: short_base,
            folded,
            uncles,
            length: file.length(),
        })
    }
}

/// A valid [`HashRequest`] for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CheckedRequest {
    request: HashRequest,
    base: u8,
    /// The number of layers above the base that follow from the requested hashes alone.
    folded: u8,
    uncles: u8,
    /// The length of the file in bytes.
    length: u64,
}

impl CheckedRequest {
    /// Returns the request as it is sent.
    pub const fn request(&self) -> HashRequest {
        self.request
    }

    /// Returns the number of uncles after the requested hashes in the answer.
    pub const fn uncle_count(&self) -> u8 {
        self.uncles
    }

    /// Returns the number of hashes in the answer.
    pub const fn reply_len(&self) -> usize {
        self.request.count as usize + self.uncles as usize
    }

    /// Returns the layer of the requested hashes.
    pub const fn base(&self) -> u8 {
        self.base
    }

    /// Returns the numbers of the requested hashes that cover content; the others are padding.
    pub fn content(&self) -> Range<u64> {
        let first = u64::from(self.request.index);
        let end = first + u64::from(self.request.count);
        first..end.min(self.occupied(self.base)).max(first)
    }

    /// Returns the layer up to which the answer leads: a node there must be known.
    pub const fn anchor_layer(&self) -> u8 {
        self.base + self.folded + self.uncles
    }

    /// Returns the number of nodes of a layer that cover content.
    fn occupied(&self, layer: u8) -> u64 {
        let blocks = self.length.div_ceil(BLOCK_LEN.into());
        blocks.div_ceil(1 << layer)
    }

    /// Returns the uncles of the answer from low to high, as layer and number.
    fn uncle_nodes(&self) -> impl Iterator<Item = (u8, u64)> + use<> {
        let first = self.base + self.folded;
        let node = u64::from(self.request.index) >> self.folded;
        (0..self.uncles).map(move |up| (first + up, (node >> up) ^ 1))
    }

    /// Checks an answer and returns the requested hashes, now proven. Past the content they are
    /// padding ([`Self::content`]).
    ///
    /// `trusted` returns the known nodes, by layer and number. It is called for the node above the
    /// requested hashes and those on the way to [`Self::anchor_layer`]. Each known node must agree,
    /// and at least one must be known.
    pub fn verify<'h>(
        &self,
        hashes: &'h [MerkleHash],
        trusted: impl Fn(u8, u64) -> Option<MerkleHash>,
    ) -> Result<&'h [MerkleHash], ProofFault> {
        let (asked, uncles) = hashes
            .split_at_checked(self.request.count as usize)
            .filter(|(_, uncles)| uncles.len() == usize::from(self.uncles))
            .ok_or(ProofFault::Length {
                found: hashes.len(),
                expected: self.reply_len(),
            })?;
        for (hash, index) in asked.iter().zip(u64::from(self.request.index)..) {
            self.check_node(hash, self.base, index)?;
        }
        for (hash, (layer, index)) in uncles.iter().zip(self.uncle_nodes()) {
            self.check_node(hash, layer, index)?;
        }

        let mut node = fold(asked, self.base, self.folded);
        let mut layer = self.base + self.folded;
        let mut index = u64::from(self.request.index) >> self.folded;
        let mut anchored = false;
        let mut uncles = uncles.iter();
        loop {
            match trusted(layer, index) {
                Some(known) if known == node => anchored = true,
                Some(_) => return Err(ProofFault::Mismatch { layer, index }),
                None => {}
            }
            let Some(uncle) = uncles.next() else { break };
            node = match index % 2 {
                0 => parent(&node, uncle),
                _ => parent(uncle, &node),
            };
            layer += 1;
            index /= 2;
        }
        if anchored {
            Ok(asked)
        } else {
            Err(ProofFault::Unanchored)
        }
    }

    fn check_node(&self, hash: &MerkleHash, layer: u8, index: u64) -> Result<(), ProofFault> {
        if index >= self.occupied(layer) {
            if *hash != pad(layer) {
                return Err(ProofFault::Padding { layer, index });
            }
        } else if *hash == MerkleHash::ZERO {
            return Err(ProofFault::Zero { layer, index });
        }
        Ok(())
    }

    /// Makes the answer: the requested hashes from left to right, then the uncles from low to high.
    ///
    /// `nodes` returns the nodes of a layer with the given numbers, all of which cover content. If
    /// it returns `None`, so does this method: a hash reject. It is called once for the requested
    /// hashes and once for each uncle.
    pub fn respond<E>(
        &self,
        mut nodes: impl FnMut(u8, Range<u64>) -> Result<Option<Vec<MerkleHash>>, E>,
    ) -> Result<Option<Vec<MerkleHash>>, E> {
        let mut reply = Vec::with_capacity(self.reply_len());
        let content = self.content();
        if !content.is_empty() {
            let wanted = (content.end - content.start) as usize;
            match nodes(self.base, content)? {
                Some(known) if known.len() == wanted => reply.extend_from_slice(&known),
                _ => return Ok(None),
            }
        }
        reply.resize(self.request.count as usize, pad(self.base));
        for (layer, index) in self.uncle_nodes() {
            if index >= self.occupied(layer) {
                reply.push(pad(layer));
                continue;
            }
            match nodes(layer, index..index + 1)?.as_deref() {
                Some([uncle]) => reply.push(*uncle),
                _ => return Ok(None),
            }
        }
        Ok(Some(reply))
    }
}
