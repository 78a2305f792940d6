//! How far an address reaches, and which addresses are one host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The networks in which an address is valid. An address of a narrower scope than the connection to the peer that names it is ignored: it could make us
/// connect to a host of our own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// This machine.
    Machine,
    /// This network: private, shared and link-local addresses.
    Network,
    /// Every network.
    World,
}

impl Scope {
    /// How far an address reaches. IPv4 in IPv6 counts as IPv4.
    pub fn of(ip: IpAddr) -> Self {
        let (machine, network) = match carried(ip) {
            IpAddr::V4(ip) => (
                ip.is_loopback(),
                ip.is_private() || ip.is_link_local() || is_shared(ip),
            ),
            IpAddr::V6(ip) => (
                ip.is_loopback(),
                ip.is_unique_local() || ip.is_unicast_link_local(),
            ),
        };
        match (machine, network) {
            (true, _) => Self::Machine,
            (false, true) => Self::Network,
            (false, false) => Self::World,
        }
    }

    /// Returns whether a source at this scope may name `addr`: a peer can listen there, and the address
    /// reaches at least as far as the source. Without this rule an answer from the world would lead
    /// our connections into the network behind our firewall.
    pub fn may_name(self, addr: SocketAddr) -> bool {
        is_dialable(addr) && Self::of(addr.ip()) >= self
    }

    /// Returns whether no router lies in between.
    pub fn is_local(self) -> bool {
        self < Self::World
    }
}

/// The unit in which bans, limits and counts apply to strangers: an IPv4 address, or the /64 network
/// of an IPv6 address, since one customer gets at least that much. IPv4 in IPv6 counts as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(IpAddr);

impl Host {
    /// Returns the host of an address.
    pub fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) if ip.is_loopback() => ip.into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        })
    }

    /// Its lowest address.
    pub(crate) const fn first(self) -> IpAddr {
        self.0
    }

    /// Returns whether limits for one host apply. They do not on this machine, where proxies and tunnels hand
    /// over the connections of many.
    pub fn is_bounded(self) -> bool {
        Scope::of(self.0) != Scope::Machine
    }
}

/// An address as it is compared and dialled: IPv4 mapped into IPv6 as IPv4.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), addr.port()),
        // With its link, which a link-local address needs.
        IpAddr::V6(_) => addr,
    }
}

/// Returns whether a peer can listen at an address.
pub(crate) fn is_dialable(addr: SocketAddr) -> bool {
    let ip = addr.ip().to_canonical();
    let reserved = match ip {
        // "This network" (RFC 1122, 3.2.1.3), and the addresses from 240.0.0.0 on, broadcast
        // included (RFC 1112, 4).
        IpAddr::V4(ip) => ip.octets()[0] == 0 || ip.octets()[0] >= 240,
        IpAddr::V6(_) => false,
    };
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !reserved
}

/// The IPv4 address that an IPv6 address carries, if it is one that leads there: mapped, behind
/// NAT64 (RFC 6052) or in 6to4 (RFC 3056).
fn carried(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip.to_canonical() else {
        return ip.to_canonical();
    };
    let pair = |high: u16, low: u16| {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => pair(high, low),
        [0x2002, high, low, ..] => pair(high, low),
        _ => v6.into(),
    }
}

/// 100.64.0.0/10, which providers share out behind their own address translation (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && second & 0xc0 == 64
}

#[cfg(test)]
mod tests {
    use Scope::{Machine, Network, World};

    use super::*;

    #[test]
    fn scopes_are_those_of_the_address_blocks() {
        for (ip, scope) in [
            ("127.0.0.1", Machine),
            ("10.1.2.3", Network),
            ("172.16.0.1", Network),
            ("172.32.0.1", World),
            ("192.168.7.7", Network),
            ("169.254.1.1", Network),
            ("8.8.8.8", World),
            ("::1", Machine),
            ("::ffff:10.0.0.1", Network),
            ("::ffff:9.9.9.9", World),
            ("fd00::1", Network),
            ("fe80::1", Network),
            ("2001:db8::1", World),
            ("100.64.0.1", Network),
            ("100.128.0.1", World),
            ("169.254.169.254", Network),
            ("64:ff9b::7f00:1", Machine),
            ("64:ff9b::a00:1", Network),
            ("64:ff9b::808:808", World),
            ("2002:a00:1::1", Network),
            ("2002:808:808::1", World),
        ] {
            assert_eq!(Scope::of(ip.parse().unwrap()), scope, "{ip}");
        }
        assert!(Machine.is_local() && Network.is_local() && !World.is_local());
    }

    #[test]
    fn a_host_is_one_ipv4_address_or_64_bits_of_ipv6() {
        for (ip, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::1", "::2", false),
        ] {
            let (ip, other) = (ip.parse().unwrap(), other.parse().unwrap());
            assert_eq!(Host::of(ip) == Host::of(other), same, "{ip} {other}");
        }
    }

    #[test]
    fn limits_of_one_host_do_not_apply_to_this_machine() {
        for (ip, bounded) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("::2", true),
            ("10.0.0.1", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(Host::of(ip.parse().unwrap()).is_bounded(), bounded, "{ip}");
        }
    }

    #[test]
    fn sources_name_what_reaches_as_far_as_they_do() {
        let named = |scope: Scope, addr: &str| scope.may_name(addr.parse().unwrap());
        for (addr, nearest) in [
            ("8.8.8.8:1", Some(World)),
            ("[2001:db8::1]:1", Some(World)),
            ("10.0.0.1:1", Some(Network)),
            ("169.254.169.254:80", Some(Network)),
            ("[fd00::1]:1", Some(Network)),
            ("127.0.0.1:1", Some(Machine)),
            ("[::ffff:127.0.0.1]:1", Some(Machine)),
            ("[::1]:1", Some(Machine)),
            ("8.8.8.8:0", None),
            ("0.0.0.0:1", None),
            ("0.1.2.3:1", None),
            ("[::ffff:0.0.0.0]:1", None),
            ("[::]:1", None),
            ("224.0.0.1:1", None),
            ("[::ffff:224.0.0.1]:1", None),
            ("[ff02::1]:1", None),
            ("240.0.0.1:1", None),
            ("255.255.255.255:1", None),
        ] {
            for scope in [Machine, Network, World] {
                let may = nearest.is_some_and(|nearest| scope <= nearest);
                assert_eq!(named(scope, addr), may, "{addr} {scope:?}");
            }
        }
    }
}
