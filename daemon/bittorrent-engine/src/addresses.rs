//! How far an address reaches, and which addresses are one host.

use std::net::{IpAddr, Ipv6Addr};

/// How far an address reaches. An address means something only to those who are at least as near,
/// and one that is nearer than who names it may be a trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// This machine.
    Machine,
    /// This network: private and link-local addresses.
    Network,
    /// Everybody.
    World,
}

impl Scope {
    /// How far an address reaches. IPv4 in IPv6 counts as IPv4.
    pub fn of(ip: IpAddr) -> Self {
        let (machine, network) = match ip.to_canonical() {
            IpAddr::V4(ip) => (ip.is_loopback(), ip.is_private() || ip.is_link_local()),
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

    /// Whether no router lies in between.
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

    /// Whether limits for one host apply. They do not on this machine, where proxies and tunnels hand
    /// over the connections of many.
    pub fn is_bounded(self) -> bool {
        Scope::of(self.0) != Scope::Machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_those_of_the_address_blocks() {
        use Scope::{Machine, Network, World};
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
}
