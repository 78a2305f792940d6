//! `.torrent` files: an info dictionary, piece layers and where to find peers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::bencode::{self, BencodeError, Dict, Encoder, Limits, Node};
use crate::hash::MerkleHash;
use crate::magnet::Magnet;
use crate::metainfo::info::{Info, InfoError};
use crate::metainfo::layer::{LayerError, PieceLayer};
use crate::metainfo::urls;
use crate::units::{FileIndex, PieceIndex};

/// Why bytes are not a `.torrent` file that we can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetainfoError {
    /// Not bencode, or beyond the limits.
    #[error("the torrent file cannot be decoded")]
    Bencode(#[from] BencodeError),
    /// Not a dictionary.
    #[error("the torrent file is no dictionary")]
    NotADictionary,
    /// No info dictionary.
    #[error("the torrent file has no info dictionary")]
    MissingInfo,
    /// The info dictionary is malformed or not for us.
    #[error("the info dictionary cannot be used")]
    Info(#[from] InfoError),
    /// The piece layers are no dictionary from roots to strings of whole hashes.
    #[error("the piece layers are malformed")]
    MalformedLayers,
    /// A piece layer for a root that no file with a piece layer has.
    #[error("there is a piece layer for {root}, which is the root of no file that has one")]
    UnknownLayer {
        /// The root it is for.
        root: MerkleHash,
    },
    /// A piece layer that does not belong to its file.
    #[error("the piece layer for {root} is wrong")]
    Layer {
        /// The root it is for.
        root: MerkleHash,
        /// What is wrong.
        #[source]
        source: LayerError,
    },
}

/// The fields of a `.torrent` file outside the info dictionary and the piece layers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnhashedFields {
    /// Trackers in tiers: all of a tier are tried before the next (BEP 12). Scheme and host are
    /// unchecked: a client must not follow them to private addresses.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds, percent-encoded; those of torrents with a directory end in `/` (BEP 19). Unchecked,
    /// like the trackers.
    pub web_seeds: Vec<String>,
    /// DHT nodes as host and port (BEP 5).
    pub nodes: Vec<(String, u16)>,
    /// Free text.
    pub comment: Option<String>,
    /// The program that made it.
    pub created_by: Option<String>,
    /// When it was made, in seconds since 1970.
    pub creation_date: Option<i64>,
}

impl UnhashedFields {
    fn parse(torrent: &Dict<'_>, single_file: bool) -> Self {
        Self {
            trackers: trackers(torrent),
            web_seeds: web_seeds(torrent, single_file),
            nodes: nodes(torrent),
            comment: text(torrent, "comment"),
            created_by: text(torrent, "created by"),
            creation_date: torrent.int("creation date"),
        }
    }
}

/// A torrent: its info dictionary, the known piece layers, and the fields that the info-hash does not
/// cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metainfo {
    info: Arc<Info>,
    /// One for each file; those of files with at most one piece stay empty.
    layers: Vec<Option<Arc<PieceLayer>>>,
    /// The fields that the info-hash does not cover.
    pub unhashed: UnhashedFields,
}

impl Metainfo {
    /// Makes a torrent of which only the info dictionary is known, as received from peers.
    pub fn from_info(info: Arc<Info>) -> Self {
        Self {
            layers: vec![None; info.files().len()],
            info,
            unhashed: UnhashedFields::default(),
        }
    }

    /// Reads a `.torrent` file. Piece layers may be missing, in part or as a whole; those that
    /// are there are checked against the roots of their files. What is malformed outside the
    /// info dictionary and the piece layers is left out, and bytes after the end are ignored.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, MetainfoError> {
        let decoded = bencode::decode(bytes, limits)?;
        let torrent = decoded
            .root
            .as_dict()
            .ok_or(MetainfoError::NotADictionary)?;
        let info = torrent
            .get("info")
            .filter(|info| info.as_dict().is_some())
            .ok_or(MetainfoError::MissingInfo)?;
        let mut metainfo = Self::from_info(Arc::new(Info::parse(info.raw(), limits)?));
        if let Some(layers) = torrent.get("piece layers") {
            let layers = layers.as_dict().ok_or(MetainfoError::MalformedLayers)?;
            metainfo.read_layers(layers)?;
        }
        metainfo.unhashed = UnhashedFields::parse(torrent, metainfo.info.is_single_file());
        Ok(metainfo)
    }

    fn read_layers(&mut self, layers: &Dict<'_>) -> Result<(), MetainfoError> {
        let mut waiting: HashMap<MerkleHash, Vec<FileIndex>> = HashMap::new();
        for file in self.missing_layers() {
            if let Some(root) = self.info.layout().file(file).root() {
                waiting.entry(root).or_default().push(file);
            }
        }
        for (key, node) in layers.iter() {
            let root = MerkleHash::from_slice(key).ok_or(MetainfoError::MalformedLayers)?;
            let bytes = node.as_bytes().ok_or(MetainfoError::MalformedLayers)?;
            let (hashes, rest) = bytes.as_chunks::<{ MerkleHash::LEN }>();
            if !rest.is_empty() {
                return Err(MetainfoError::MalformedLayers);
            }
            let files = waiting
                .remove(&root)
                .ok_or(MetainfoError::UnknownLayer { root })?;
            let hashes = hashes.iter().copied().map(MerkleHash::from_bytes).collect();
            let Some(first) = files.first() else { continue };
            let span = self.info.layout().file(*first);
            let layer = PieceLayer::new(span, self.info.piece_length(), hashes)
                .map_err(|source| MetainfoError::Layer { root, source })?;
            let layer = Arc::new(layer);
            for file in files {
                self.set_layer(file, Arc::clone(&layer))
                    .map_err(|source| MetainfoError::Layer { root, source })?;
            }
        }
        Ok(())
    }

    /// Returns the checked info dictionary.
    pub const fn info(&self) -> &Arc<Info> {
        &self.info
    }

    /// Returns the known piece layers, one entry per file; always `None` for files of at most one
    /// piece.
    pub fn layers(&self) -> &[Option<Arc<PieceLayer>>] {
        &self.layers
    }

    /// Returns the piece layer of a file, if it has one and it is known.
    pub fn layer(&self, file: FileIndex) -> Option<&Arc<PieceLayer>> {
        self.layers.get(file.as_usize())?.as_ref()
    }

    /// Adds the piece layer of a file. It must match the file's root, length and piece length.
    pub fn set_layer(&mut self, file: FileIndex, layer: Arc<PieceLayer>) -> Result<(), LayerError> {
        let span = self.info.layout().file(file);
        let piece_length = self.info.piece_length();
        if file_has_no_layer(span.length(), piece_length.bytes()) {
            return Err(LayerError::NoLayer {
                length: span.length(),
                piece_length,
            });
        }
        if layer.hashes().len() != span.pieces() as usize || layer.piece_length() != piece_length {
            return Err(LayerError::Count {
                found: layer.hashes().len(),
                expected: span.pieces(),
            });
        }
        let expected = span.root().unwrap_or(MerkleHash::ZERO);
        if layer.root() != expected {
            return Err(LayerError::Root {
                found: layer.root(),
                expected,
            });
        }
        if let Some(slot) = self.layers.get_mut(file.as_usize()) {
            *slot = Some(layer);
        }
        Ok(())
    }

    /// Returns the files longer than a piece whose piece layer is not known.
    pub fn missing_layers(&self) -> impl Iterator<Item = FileIndex> + '_ {
        let layout = self.info.layout();
        let piece_length = layout.piece_length().bytes();
        (0u32..)
            .zip(layout.files())
            .zip(&self.layers)
            .filter(move |((_, span), layer)| {
                layer.is_none() && !file_has_no_layer(span.length(), piece_length)
            })
            .filter_map(|((number, _), _)| layout.file_index(number))
    }

    /// Returns the hash of a piece, if known: from its file's piece layer, or the root of a file of
    /// at most one piece.
    pub fn piece_hash(&self, piece: PieceIndex) -> Option<MerkleHash> {
        let layout = self.info.layout();
        let file = layout.file_of(piece);
        let span = layout.file(file);
        if span.pieces() == 1 {
            return span.root();
        }
        let first = span.piece_indices().next()?;
        let in_file = piece.get().checked_sub(first.get())?;
        self.layer(file)?.hashes().get(in_file as usize).copied()
    }

    /// Returns the `.torrent` file. The info dictionary has its original bytes; unknown keys
    /// outside of it are omitted.
    pub fn encode(&self) -> Vec<u8> {
        let unhashed = &self.unhashed;
        let mut encoder = Encoder::new();
        encoder.dict(|torrent| {
            if let Some(first) = unhashed.trackers.iter().flatten().next() {
                torrent.bytes("announce", first);
            }
            if unhashed.trackers.iter().map(Vec::len).sum::<usize>() > 1 {
                torrent.key("announce-list").list(|tiers| {
                    for tier in unhashed.trackers.iter().filter(|tier| !tier.is_empty()) {
                        tiers.list(|tier_out| tier.iter().for_each(|url| tier_out.bytes(url)));
                    }
                });
            }
            if let Some(comment) = &unhashed.comment {
                torrent.bytes("comment", comment);
            }
            if let Some(created_by) = &unhashed.created_by {
                torrent.bytes("created by", created_by);
            }
            if let Some(creation_date) = unhashed.creation_date {
                torrent.int("creation date", creation_date);
            }
            torrent.key("info").raw(self.info.raw());
            if !unhashed.nodes.is_empty() {
                torrent.key("nodes").list(|nodes| {
                    for (host, port) in &unhashed.nodes {
                        nodes.list(|node| {
                            node.bytes(host);
                            node.int((*port).into());
                        });
                    }
                });
            }
            torrent.key("piece layers").dict(|layers| {
                // Sorted, and one entry for all files with the same root.
                let known: BTreeMap<_, _> = self
                    .layers
                    .iter()
                    .flatten()
                    .map(|layer| (layer.root(), layer))
                    .collect();
                for (root, layer) in known {
                    let hashes = layer.hashes().iter().flat_map(MerkleHash::as_bytes);
                    let hashes: Vec<u8> = hashes.copied().collect();
                    layers.bytes(root.as_bytes(), hashes);
                }
            });
            match unhashed.web_seeds.as_slice() {
                [] => {}
                // As libtorrent writes it.
                [url] => torrent.bytes("url-list", url),
                urls => torrent
                    .key("url-list")
                    .list(|list| urls.iter().for_each(|url| list.bytes(url))),
            }
        });
        encoder.finish()
    }

    /// Returns the magnet link of this torrent: its hashes, name, trackers and web seeds.
    pub fn magnet(&self) -> Magnet {
        let (hashes, unhashed) = (self.info.hashes(), &self.unhashed);
        Magnet {
            v1: hashes.v1,
            v2: Some(hashes.v2),
            name: Some(self.info.name().to_owned()),
            trackers: unhashed.trackers.iter().flatten().cloned().collect(),
            web_seeds: unhashed.web_seeds.clone(),
            peers: Vec::new(),
        }
    }
}

const fn file_has_no_layer(length: u64, piece_length: u32) -> bool {
    length <= piece_length as u64
}

fn text(torrent: &Dict<'_>, key: &str) -> Option<String> {
    torrent
        .bytes(key)
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// `announce-list`, or else `announce`.
fn trackers(torrent: &Dict<'_>) -> Vec<Vec<String>> {
    let list = torrent.get("announce-list").and_then(Node::as_list);
    let mut tiers: Vec<Vec<String>> = Vec::new();
    for tier in list.unwrap_or_default() {
        let urls = tier.as_list().unwrap_or_default().iter();
        let mut kept: Vec<String> = Vec::new();
        for url in urls.filter_map(|url| urls::clean(url.as_bytes()?)) {
            if !kept.contains(&url) && !tiers.iter().any(|tier| tier.contains(&url)) {
                kept.push(url);
            }
            if kept.len() >= urls::MAX_URLS {
                break;
            }
        }
        if !kept.is_empty() {
            tiers.push(kept);
        }
        if tiers.len() >= urls::MAX_URLS {
            break;
        }
    }
    if tiers.is_empty() {
        tiers.extend(
            torrent
                .bytes("announce")
                .and_then(urls::clean)
                .map(|url| vec![url]),
        );
    }
    tiers
}

/// `url-list`, which is a list or a single URL, each URL once.
fn web_seeds(torrent: &Dict<'_>, single_file: bool) -> Vec<String> {
    let Some(node) = torrent.get("url-list") else {
        return Vec::new();
    };
    let one = std::slice::from_ref(node);
    let mut seeds: Vec<String> = Vec::new();
    for url in node.as_list().unwrap_or(one) {
        let Some(mut url) = url.as_bytes().and_then(urls::clean) else {
            continue;
        };
        if !single_file && !url.ends_with('/') {
            url.push('/');
        }
        if !seeds.contains(&url) {
            seeds.push(url);
        }
        if seeds.len() >= urls::MAX_URLS {
            break;
        }
    }
    seeds
}

/// `nodes`, a list of `[host, port]`.
fn nodes(torrent: &Dict<'_>) -> Vec<(String, u16)> {
    let list = torrent.get("nodes").and_then(Node::as_list);
    let pairs = list.unwrap_or_default().iter().filter_map(|node| {
        let [host, port] = node.as_list()? else {
            return None;
        };
        let host = str::from_utf8(host.as_bytes()?).ok()?;
        let port = u16::try_from(port.as_int()?).ok()?;
        (port > 0 && !host.is_empty() && host.len() <= 255).then(|| (host.to_owned(), port))
    });
    pairs.take(urls::MAX_URLS).collect()
}
