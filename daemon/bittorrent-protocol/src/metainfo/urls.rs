//! URLs as torrents carry them.

/// No more trackers in a tier, tiers, web seeds or nodes than this are taken from a torrent.
pub(super) const MAX_URLS: usize = 64;

/// The longest URL in bytes.
const MAX_LEN: usize = 2048;

/// Returns a URL without surrounding blanks, with invalid characters percent-encoded. Returns
/// `None` if nothing useful is left.
pub(super) fn clean(raw: &[u8]) -> Option<String> {
    let raw = raw.trim_ascii();
    if raw.is_empty() || raw.len() > MAX_LEN {
        return None;
    }
    let mut url = String::with_capacity(raw.len());
    for byte in raw {
        match byte {
            b'!'..=b'~' if !br#""<>\^`{|}"#.contains(byte) => url.push(char::from(*byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_cleaned() {
        for (raw, clean_url) in [
            ("http://test.com/file", Some("http://test.com/file")),
            (
                "\t udp://test.com/announce\n",
                Some("udp://test.com/announce"),
            ),
            (
                "http://test.com/test file/foo bar",
                Some("http://test.com/test%20file/foo%20bar"),
            ),
            (
                "http://[::1]:80/a%20b?c=d&e",
                Some("http://[::1]:80/a%20b?c=d&e"),
            ),
            ("http://é/\0", Some("http://%C3%A9/%00")),
            ("", None),
            (" \t", None),
        ] {
            assert_eq!(clean(raw.as_bytes()).as_deref(), clean_url, "{raw:?}");
        }
        assert!(clean(&[b'a'; MAX_LEN]).is_some());
        assert!(clean(&[b'a'; MAX_LEN + 1]).is_none());
    }
}
