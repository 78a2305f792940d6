//! Which requests are answered at all: those that only look, and those that name us.
//!
//! A page elsewhere can make a browser on this machine resolve a name of its own to our address and
//! then read our answers (DNS rebinding). Such requests name a host that we do not know.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::serve::refuse;

/// The names under which we are asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts(Vec<String>);

impl Hosts {
    /// Addresses, `localhost`, and this machine's name.
    pub(crate) fn of_this_machine() -> Self {
        let name = rustix::system::uname();
        let name = name.nodename().to_string_lossy().to_ascii_lowercase();
        Self(vec!["localhost".to_owned(), name])
    }

    /// Whether a `Host` header names us.
    fn know(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok() || self.0.contains(&name)
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

/// Lets a request through, or says why not.
pub(super) async fn pass(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
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
    // HTTP/1.0 may come without the header, and no browser speaks it.
    if !known || headers.iter().count() > 1 {
        let text = "this mirror is asked by its address, by localhost or by the machine's name";
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
    fn our_names_and_no_others() {
        let hosts = Hosts(vec!["localhost".to_owned(), "box".to_owned()]);
        for ours in [
            "localhost",
            "LOCALHOST:9109",
            "127.0.0.1:9109",
            "192.0.2.7",
            "[::1]:9109",
            "[::1]",
            "box:1",
        ] {
            assert!(hosts.know(ours), "{ours}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example:9109",
            "box:x",
            "[::1",
            "a]",
        ] {
            // A bracket too few still is an address and harms nobody.
            assert_eq!(hosts.know(other), other == "[::1", "{other}");
        }
    }
}
