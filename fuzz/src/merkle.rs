//! Requests for hashes of merkle trees, and the answers.

use std::convert::Infallible;

use bittorrent_protocol::merkle::{HashRequest, ProofFault, file_root_from_leaves, leaf, parent};
use bittorrent_protocol::{BLOCK_LEN, Layout, MerkleHash, PieceLength};

use crate::input::Input;

/// A file, a request for some of its hashes, which nodes are known already, and changes to the
/// answer. A request is valid exactly when the rules say so; the true answer is accepted when it
/// leads to a known node; a changed answer never passes for other hashes than the true ones.
pub fn hash_reply(data: &[u8]) {
    let mut input = Input(data);
    let blocks = 1 + input.below(256);
    let layers = tree((0..blocks).map(|n| leaf(&n.to_be_bytes())).collect());
    let height = layers.len() - 1;
    let root = layers[height][0];
    let length = blocks as u64 * u64::from(BLOCK_LEN) - u64::from(input.u16() % 16_384);
    let layout = Layout::new(PieceLength::MIN, [(length, Some(root))]).expect("a small file");
    let file = &layout.files()[0];

    let request = request(&mut input, root);
    let checked = request.validate(file);
    assert_eq!(checked.is_ok(), is_valid(&request, height), "{request:?}");
    let Ok(checked) = checked else {
        return;
    };

    let honest = answer(&request, &layers);
    assert_eq!(checked.reply_len(), honest.len());
    let responded = checked.respond(|layer, range| {
        let nodes = &layers[usize::from(layer)];
        Ok::<_, Infallible>(Some(
            nodes[range.start as usize..range.end as usize].to_vec(),
        ))
    });
    assert_eq!(responded, Ok(Some(honest.clone())));

    let known_layers = input.u16();
    let trusted = |layer: u8, index: u64| {
        let known = known_layers >> layer & 1 == 1;
        known.then(|| layers[usize::from(layer)][index as usize])
    };
    let reply = changed(&mut input, honest.clone());
    match checked.verify(&reply, trusted) {
        Ok(asked) => {
            assert_eq!(asked, &honest[..request.count as usize]);
            assert_eq!(reply.len(), honest.len());
        }
        Err(fault) if reply == honest => {
            assert_eq!(fault, ProofFault::Unanchored);
            let folded = request.count.ilog2() as u8;
            for layer in checked.base() + folded..=checked.anchor_layer() {
                assert_eq!(known_layers >> layer & 1, 0, "layer {layer} is known");
            }
        }
        Err(_) => {}
    }
}

/// All layers of a tree from its padded leaves to its root.
pub(crate) fn tree(leaves: Vec<MerkleHash>) -> Vec<Vec<MerkleHash>> {
    let root = file_root_from_leaves(&leaves);
    let mut layer = leaves;
    layer.resize(layer.len().next_power_of_two(), MerkleHash::ZERO);
    let mut layers = vec![layer];
    while layers[layers.len() - 1].len() > 1 {
        let below = &layers[layers.len() - 1];
        let above = below.chunks(2).map(|pair| parent(&pair[0], &pair[1]));
        layers.push(above.collect());
    }
    assert_eq!(layers[layers.len() - 1], [root]);
    layers
}

fn request(input: &mut Input<'_>, root: MerkleHash) -> HashRequest {
    let shape = input.u8();
    // Mostly requests that make sense, or few would get past their validation.
    let small = |value: u32, bound: u32| {
        if shape & 0x80 == 0 {
            value % bound
        } else {
            value
        }
    };
    let count = match shape & 0x40 {
        0 => 1 << input.below(10),
        _ => input.u32(),
    };
    let index = match shape & 0x20 {
        0 => u32::from(input.u8()).wrapping_mul(count),
        _ => input.u32(),
    };
    HashRequest {
        root,
        base: small(input.u32(), 10),
        index: small(index, 512),
        count,
        proof_layers: small(input.u32(), 12),
    }
}

/// BEP 52, "hash request", with the bounds libtorrent sets.
fn is_valid(request: &HashRequest, height: usize) -> bool {
    let (base, count) = (request.base as usize, request.count);
    base < height
        && count.is_power_of_two()
        && (2..=8192).contains(&count)
        && request.index.is_multiple_of(count)
        && u64::from(request.index) + u64::from(count) <= 1 << (height - base)
        && (request.proof_layers as usize) < height - base
}

/// BEP 52, "hashes": the asked hashes, then the siblings on the way up from the node above them.
pub(crate) fn answer(request: &HashRequest, layers: &[Vec<MerkleHash>]) -> Vec<MerkleHash> {
    let (base, first) = (request.base as usize, request.index as usize);
    let mut reply = layers[base][first..first + request.count as usize].to_vec();
    let implied = request.count.ilog2() as usize - 1;
    for up in implied..request.proof_layers as usize {
        reply.push(layers[base + up + 1][(first >> (up + 1)) ^ 1]);
    }
    reply
}

fn changed(input: &mut Input<'_>, mut reply: Vec<MerkleHash>) -> Vec<MerkleHash> {
    while !input.is_empty() && reply.len() < 2000 {
        let kind = input.u8();
        let at = input.below(reply.len() + 1);
        match kind % 6 {
            0 if at < reply.len() => {
                let mut bytes = *reply[at].as_bytes();
                bytes[input.below(MerkleHash::LEN)] ^= 1 << (kind >> 5);
                reply[at] = MerkleHash::from_bytes(bytes);
            }
            1 if at < reply.len() => reply[at] = MerkleHash::ZERO,
            2 if at < reply.len() => drop(reply.remove(at)),
            3 => reply.insert(at, MerkleHash::ZERO),
            4 => reply.truncate(at),
            5 if at < reply.len() => {
                let other = input.below(reply.len());
                reply.swap(at, other);
            }
            _ => {}
        }
    }
    reply
}
