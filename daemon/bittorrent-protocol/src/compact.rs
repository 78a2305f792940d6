//! Compact lists of addresses, as trackers and peers send them: 6 bytes for IPv4 (BEP 23), 18 for
//! IPv6 (BEP 7), the port last.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of an IPv4 address with its port.
const V4: usize = 6;

/// Bytes of an IPv6 address with its port.
const V6: usize = 18;

/// Appends an address to the list of its family.
pub(crate) fn push(addr: SocketAddr, v4: &mut Vec<u8>, v6: &mut Vec<u8>) {
    let list = match addr.ip().to_canonical() {
        IpAddr::V4(ip) => {
            v4.extend(ip.octets());
            v4
        }
        IpAddr::V6(ip) => {
            v6.extend(ip.octets());
            v6
        }
    };
    list.extend(addr.port().to_be_bytes());
}

/// Returns the IPv4 addresses in a list. Ignores bytes after the last whole one.
pub(crate) fn v4(list: &[u8]) -> impl Iterator<Item = SocketAddr> {
    let (addrs, _) = list.as_chunks::<V4>();
    addrs.iter().map(|[a, b, c, d, high, low]| {
        let port = u16::from_be_bytes([*high, *low]);
        SocketAddr::from((Ipv4Addr::new(*a, *b, *c, *d), port))
    })
}

/// Returns the IPv6 addresses in a list. Ignores bytes after the last whole one.
pub(crate) fn v6(list: &[u8]) -> impl Iterator<Item = SocketAddr> {
    let (addrs, _) = list.as_chunks::<V6>();
    addrs.iter().filter_map(|addr| {
        let (ip, port) = addr.split_first_chunk::<16>()?;
        let port = u16::from_be_bytes(*port.first_chunk()?);
        Some(SocketAddr::from((Ipv6Addr::from(*ip), port)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_from_the_list_of_their_family() {
        let addrs = [
            "192.0.2.1:6881",
            "[2001:db8::1]:1",
            "0.0.0.0:0",
            "[::]:65535",
        ];
        let addrs = addrs.map(|addr| addr.parse::<SocketAddr>().unwrap());
        let (mut four, mut six) = (Vec::new(), Vec::new());
        for addr in addrs {
            push(addr, &mut four, &mut six);
        }
        push(
            "[::ffff:192.0.2.2]:80".parse().unwrap(),
            &mut four,
            &mut six,
        );
        assert_eq!(four[..V4], [192, 0, 2, 1, 0x1a, 0xe1]);
        assert_eq!((four.len(), six.len()), (3 * V4, 2 * V6));
        // A list that was cut short.
        four.push(1);
        six.extend([0; 17]);
        let mapped = "192.0.2.2:80".parse().unwrap();
        assert!(v4(&four).eq([addrs[0], addrs[2], mapped]));
        assert!(v6(&six).eq([addrs[1], addrs[3]]));
    }
}
