//! Refuses requests that are not GET or HEAD, and requests for unknown host names.
//!
//! A web page elsewhere can make a browser on this machine resolve a name of its own to our address and then read our answers (DNS rebinding). Such
//! requests have an unknown name in `Host`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::answers::refuse;

/// A host name in lower case, without the final dot of a complete name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

impl FromStr for HostName {
    /// What is wrong with the name, and what to write instead.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
        // RFC 1035, 2.3.4.
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(
                "is no host name: write it without a scheme, a port or a path, with labels of at \
                 most 63 letters, digits, `-` and `_`, such as mirror.example.org",
            );
        }
        Ok(Self(name))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host names for which requests are answered.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// The first label of this machine's name. It is accepted with any domain.
    machine: Option<HostName>,
    /// The names of `http.hosts`.
    configured: Vec<HostName>,
}

impl Hosts {
    /// Accepts addresses, `localhost`, this machine's name, and the configured names.
    pub fn of_this_machine(configured: &[HostName]) -> Self {
        let name = rustix::system::uname();
        let name = name.nodename().to_string_lossy();
        Self::new(&name, configured.to_vec())
    }

    fn new(machine: &str, configured: Vec<HostName>) -> Self {
        let label = machine.split('.').next().unwrap_or_default();
        Self {
            // `localhost` with a domain is a name that any web page may have.
            machine: label
                .parse()
                .ok()
                .filter(|name: &HostName| name.0 != "localhost"),
            configured,
        }
    }

    /// Returns whether the value of a `Host` header is an accepted name.
    fn know(&self, host: &str) -> bool {
        let name = without_port(host);
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if bare.parse::<IpAddr>().is_ok() {
            return true;
        }
        let Ok(name) = name.parse::<HostName>() else {
            return false;
        };
        let first = name.0.split('.').next();
        name.0 == "localhost"
            || self.machine.as_ref().map(|machine| machine.0.as_str()) == first
            || self.configured.contains(&name)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (name.ends_with(']') || !name.contains(':')) =>
        {
            name
        }
        _ => host,
    }
}

/// Passes a request on, or answers it with a refusal.
pub async fn pass(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let text = "nothing can be changed here: use the control socket";
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, text);
        let allow = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let headers = request.headers().get_all(header::HOST);
    let known = headers
        .iter()
        .all(|host| host.to_str().is_ok_and(|host| hosts.know(host)));
    // An HTTP/1.0 request may have no header, and no browser sends one.
    if !known || headers.iter().count() > 1 {
        let text = "the Host header of this request names another host; ask by an address, by localhost \
                    or by this machine's name, or add the name to `http.hosts` in the configuration";
        return refuse(StatusCode::MISDIRECTED_REQUEST, text);
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_accepted_names_pass() {
        let configured = vec![
            "Mirror".parse().unwrap(),
            "status.example.org.".parse().unwrap(),
        ];
        let hosts = Hosts::new("box", configured);
        for ours in [
            "localhost",
            "localhost.",
            "LOCALHOST:9109",
            "127.0.0.1:9109",
            "192.0.2.7",
            "[::1]:9109",
            "[::1]",
            "box:1",
            "BOX.",
            "box.example.org:9109",
            "mirror:9109",
            "status.example.org",
            "STATUS.example.org.:443",
            // An address with a bracket missing is accepted; it is harmless.
            "[::1",
        ] {
            assert!(hosts.know(ours), "{ours}");
        }
        for other in [
            "",
            ".",
            "evil.example",
            "localhost.evil.example:9109",
            "mirror.evil.example",
            "example.org",
            "boxes",
            "box:x",
            "box..",
            "a]",
            "localhost@evil.example",
            "0x7f.1",
        ] {
            assert!(!hosts.know(other), "{other}");
        }
    }

    #[test]
    fn the_machine_name_may_have_a_domain_unless_it_is_localhost() {
        let hosts = |machine| Hosts::new(machine, Vec::new());
        assert!(hosts("vm.example.org").know("vm"));
        assert!(hosts("vm.example.org").know("vm.example.org"));
        assert!(!hosts("localhost").know("localhost.evil.example"));
        assert!(!hosts("").know(""));
    }

    #[test]
    fn a_host_name_has_no_port_and_no_scheme() {
        for bad in ["", "a:9109", "http://a", "a/b", "a b", "*", &"a".repeat(64)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }
}
