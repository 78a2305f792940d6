//! Which configured addresses still need a socket when the service manager has passed some in.
//!
//! An inherited socket that accepts all connections to an address replaces a socket for it: the kernel refuses to bind a second one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use rustix::net::sockopt;

/// An inherited socket accepts the connections of a part of a configured address.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: the socket {inherited} from the service manager takes a part of it; name the same \
     address in {key} and in ListenStream= of the socket unit"
)]
pub struct PartlyInherited {
    address: SocketAddr,
    inherited: SocketAddr,
    key: String,
}

/// The destination addresses for which a socket accepts connections: one address of a family, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl Range {
    /// Returns the ranges of a socket bound to `ip`: two for a dual-stack socket.
    fn of(ip: IpAddr, only_v6: bool) -> Vec<Self> {
        match ip {
            IpAddr::V4(ip) => vec![Self::V4(ip)],
            IpAddr::V6(ip) if ip.is_unspecified() && !only_v6 => {
                vec![Self::V6(ip), Self::V4(Ipv4Addr::UNSPECIFIED)]
            }
            IpAddr::V6(ip) => vec![ip.to_ipv4_mapped().map_or(Self::V6(ip), Self::V4)],
        }
    }

    /// Returns whether every connection for `other` is one for `self`.
    fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::V4(own), Self::V4(_)) if own.is_unspecified() => true,
            (Self::V6(own), Self::V6(_)) if own.is_unspecified() => true,
            (own, other) => own == other,
        }
    }

    fn ip(self) -> IpAddr {
        match self {
            Self::V4(ip) => ip.into(),
            Self::V6(ip) => ip.into(),
        }
    }
}

/// Returns what must be bound so that `wanted` is served besides the `inherited` sockets. A port of 0 stands for the port of any inherited socket.
///
/// # Errors
///
/// When an inherited socket accepts the connections of a part of an address, such as `127.0.0.1:6881` of `0.0.0.0:6881`. The error names the
/// configuration key `key`.
pub fn remaining(
    wanted: &[SocketAddr],
    inherited: &[TcpListener],
    key: &str,
) -> Result<Vec<SocketAddr>, PartlyInherited> {
    let taken: Vec<(SocketAddr, Vec<Range>)> = inherited
        .iter()
        .filter_map(|socket| {
            let address = socket.local_addr().ok()?;
            let only_v6 = address.is_ipv6() && sockopt::ipv6_v6only(socket).unwrap_or(false);
            Some((address, Range::of(address.ip(), only_v6)))
        })
        .collect();
    let mut missing = Vec::new();
    for address in wanted {
        let same_port = || {
            let port = address.port();
            let ports = taken
                .iter()
                .filter(move |(own, _)| port == 0 || own.port() == port);
            ports.flat_map(|(own, ranges)| ranges.iter().map(move |range| (*own, *range)))
        };
        let open: Vec<Range> = Range::of(address.ip(), false)
            .into_iter()
            .filter(|range| !same_port().any(|(_, own)| own.covers(*range)))
            .collect();
        for range in &open {
            let within = same_port().find(|(_, own)| address.port() != 0 && range.covers(*own));
            if let Some((inherited, _)) = within {
                return Err(PartlyInherited {
                    address: *address,
                    inherited,
                    key: key.to_owned(),
                });
            }
        }
        match open.as_slice() {
            [] => {}
            // If IPv4 is taken, the caller binds `[::]` for IPv6 alone.
            [only] => missing.push(SocketAddr::new(only.ip(), address.port())),
            _ => missing.push(*address),
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    /// A listening socket on a free port of `ip`.
    fn listener(ip: &str, only_v6: bool) -> TcpListener {
        let address = SocketAddr::new(ip.parse().unwrap(), 0);
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, only_v6).unwrap();
        }
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        socket.into()
    }

    fn left(wanted: &[&str], inherited: &[TcpListener]) -> Result<Vec<String>, PartlyInherited> {
        let port = inherited[0].local_addr().unwrap().port();
        let wanted: Vec<SocketAddr> = wanted
            .iter()
            .map(|text| text.replace("PORT", &port.to_string()).parse().unwrap())
            .collect();
        let left = remaining(&wanted, inherited, "peer.listen")?;
        let text = |address: &SocketAddr| address.to_string().replace(&port.to_string(), "PORT");
        Ok(left.iter().map(text).collect())
    }

    #[test]
    fn an_inherited_socket_is_every_address_that_it_covers() {
        let dual = [listener("::", false)];
        for covered in [
            "[::]:PORT",
            "0.0.0.0:PORT",
            "127.0.0.1:PORT",
            "[::1]:PORT",
            "[::ffff:127.0.0.1]:PORT",
            "[::]:0",
        ] {
            assert_eq!(left(&[covered], &dual).unwrap(), [""; 0], "{covered}");
        }
        let v4 = [listener("0.0.0.0", false)];
        assert_eq!(
            left(&["127.0.0.1:PORT", "0.0.0.0:PORT"], &v4).unwrap(),
            [""; 0]
        );
        assert_eq!(left(&["[::1]:PORT"], &v4).unwrap(), ["[::1]:PORT"]);
        let one = [listener("127.0.0.1", false)];
        assert_eq!(left(&["127.0.0.1:PORT"], &one).unwrap(), [""; 0]);
        assert_eq!(left(&["127.0.0.2:PORT"], &one).unwrap(), ["127.0.0.2:PORT"]);
    }

    #[test]
    fn another_port_is_another_address() {
        let dual = [listener("::", false)];
        assert_eq!(left(&["[::]:1", "[::]:PORT"], &dual).unwrap(), ["[::]:1"]);
    }

    #[test]
    fn of_both_families_the_missing_one_remains() {
        let v4 = [listener("0.0.0.0", false)];
        assert_eq!(left(&["[::]:PORT"], &v4).unwrap(), ["[::]:PORT"]);
        let v6 = [listener("::", true)];
        assert_eq!(left(&["[::]:PORT"], &v6).unwrap(), ["0.0.0.0:PORT"]);
    }

    #[test]
    fn a_part_of_an_address_is_an_error_that_names_both() {
        let one = [listener("127.0.0.1", false)];
        for wanted in ["0.0.0.0:PORT", "[::]:PORT"] {
            let error = left(&[wanted], &one).unwrap_err().to_string();
            for part in ["127.0.0.1:", "peer.listen", "ListenStream="] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}
