//! URLs of web seeds and of their files.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use bittorrent_protocol::FileIndex;
use bittorrent_protocol::metainfo::Info;
use hyper::Uri;

use crate::http::public;

/// The URL of a web seed: `http:` or `https:`, of a file or, with `/` at its end, of a directory.
/// Displayed without its query and other parts that may be secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WebSeedUrl(Uri);

/// The text is not the URL of a web seed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a web seed URL: expected http://HOST/PATH or https://HOST/PATH")]
pub struct InvalidWebSeedUrl;

impl FromStr for WebSeedUrl {
    type Err = InvalidWebSeedUrl;

    fn from_str(text: &str) -> Result<Self, InvalidWebSeedUrl> {
        let uri: Option<Uri> = text.parse().ok();
        uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
            .filter(|uri| uri.host().is_some_and(|host| !host.is_empty()))
            .map(Self)
            .ok_or(InvalidWebSeedUrl)
    }
}

impl fmt::Display for WebSeedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&public(&self.0, |_| true))
    }
}

impl fmt::Debug for WebSeedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebSeedUrl({self})")
    }
}

impl WebSeedUrl {
    /// Returns the whole URL, with its secrets.
    pub fn reveal(&self) -> String {
        self.0.to_string()
    }

    /// Returns the URL of a file (BEP 19): the URL itself if it names the file of a single-file
    /// torrent, otherwise the torrent's name and the file's path below it.
    pub(super) fn of_file(&self, info: &Info, file: FileIndex) -> Option<Uri> {
        let mut path = self.0.path().to_owned();
        if info.is_single_file() {
            if path.ends_with('/') {
                encode(info.file(file).path().first()?, &mut path);
            }
        } else {
            if !path.ends_with('/') {
                path.push('/');
            }
            encode(info.name(), &mut path);
            for component in info.file(file).path() {
                path.push('/');
                encode(component, &mut path);
            }
        }
        if let Some(query) = self.0.query() {
            path.push('?');
            path.push_str(query);
        }
        let mut parts = self.0.clone().into_parts();
        parts.path_and_query = Some(path.parse().ok()?);
        Uri::from_parts(parts).ok()
    }
}

/// Appends a component of a path and percent-encodes everything with another meaning in URLs.
fn encode(component: &str, path: &mut String) {
    for byte in component.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use bittorrent_protocol::metainfo::{HashedContent, MetainfoBuilder};
    use bittorrent_protocol::{MerkleHash, PieceLength};

    use super::*;

    fn content() -> HashedContent {
        HashedContent {
            length: 1,
            root: Some(MerkleHash::from_bytes([1; 32])),
            layer: Vec::new(),
            v1_pieces: Vec::new(),
            executable: false,
        }
    }

    #[test]
    fn files_are_where_the_specification_says() {
        let builder = || MetainfoBuilder::new("näme 1", PieceLength::MIN);
        let single = builder().single_file(content()).build().unwrap();
        let path = vec!["a b".to_owned(), "c?d#".to_owned()];
        let directory = builder().file(path, content()).build().unwrap();
        for (meta, url, expected) in [
            (&single, "http://h/x.bin", "http://h/x.bin"),
            (&single, "http://h/x.bin?a=b", "http://h/x.bin?a=b"),
            (&single, "http://h/", "http://h/n%C3%A4me%201"),
            (&single, "http://h", "http://h/n%C3%A4me%201"),
            (&single, "https://h:1/d/?a", "https://h:1/d/n%C3%A4me%201?a"),
            (
                &directory,
                "http://h/d/",
                "http://h/d/n%C3%A4me%201/a%20b/c%3Fd%23",
            ),
            (
                &directory,
                "http://h/d",
                "http://h/d/n%C3%A4me%201/a%20b/c%3Fd%23",
            ),
        ] {
            let layout = meta.info().layout();
            let file = layout.file_of(layout.piece(0).unwrap());
            let url: WebSeedUrl = url.parse().unwrap();
            let found = url.of_file(meta.info(), file).unwrap();
            assert_eq!(found, expected, "{url}");
        }
    }

    #[test]
    fn urls_lead_to_web_servers() {
        for (text, good) in [
            ("http://a/b", true),
            ("https://a:1/", true),
            ("ftp://a/b", false),
            ("a/b", false),
            ("http:///b", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<WebSeedUrl>().is_ok(), good, "{text}");
        }
    }
}
