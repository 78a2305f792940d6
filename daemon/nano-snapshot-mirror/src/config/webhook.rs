//! The URL of a webhook.

use std::fmt;
use std::str::FromStr;

use axum::http::Uri;

/// The address of a webhook.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Webhook {
    host: String,
    port: u16,
    path: String,
}

impl FromStr for Webhook {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write http://HOST[:PORT]/PATH; for https use hooks.command with curl";
        let uri: Uri = text.parse().map_err(|_| form.to_owned())?;
        let authority = uri.authority().map(|authority| authority.as_str());
        // A user name or password would be in logs, and is not sent.
        if uri.scheme_str() != Some("http") || authority.is_none_or(|one| one.contains('@')) {
            return Err(form.to_owned());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            host: uri.host().unwrap_or_default().to_owned(),
            port: uri.port_u16().unwrap_or(80),
            path: path.to_owned(),
        })
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({self})")
    }
}

/// Formats the URL without the path, which is often a secret.
impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}/", self.host, self.port)?;
        match &*self.path {
            "/" => Ok(()),
            _ => f.write_str("…(hidden)"),
        }
    }
}

impl Webhook {
    /// Returns the whole URL.
    pub(crate) fn reveal(&self) -> String {
        format!("http://{}:{}{}", self.host, self.port, self.path)
    }

    /// Returns the host as the `Host` header has it, an IPv6 address in brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the path with the query.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let shown = |text: &str| text.parse::<Webhook>().unwrap().to_string();
        assert_eq!(shown("http://a.b/c?d"), "http://a.b:80/…(hidden)");
        assert_eq!(shown("http://a.b"), "http://a.b:80/");
        let parsed = |text: &str| text.parse::<Webhook>().map(|hook| hook.reveal());
        assert_eq!(parsed("http://a.b/c?d").unwrap(), "http://a.b:80/c?d");
        assert_eq!(parsed("http://[::1]:8080").unwrap(), "http://[::1]:8080/");
        for wrong in [
            "https://a.b/c",
            "a.b/c",
            "http://",
            "http://me:secret@a.b/",
            "ftp://a/",
            "",
        ] {
            assert!(
                parsed(wrong).unwrap_err().contains("hooks.command"),
                "{wrong}"
            );
        }
    }
}
