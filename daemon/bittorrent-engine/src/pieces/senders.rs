//! Who sent what: short names for remote addresses that outlive their connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A short name for an address that sent blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sender(u32);

impl Sender {
    /// For blocks that no peer sent.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// The addresses behind the names. Kept while a transfer lasts, 100 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Senders {
    by_addr: BTreeMap<SocketAddr, Sender>,
    addrs: Vec<SocketAddr>,
}

impl Senders {
    /// The name of an address, given out when it is new.
    pub(crate) fn name(&mut self, addr: SocketAddr) -> Sender {
        *self.by_addr.entry(addr).or_insert_with(|| {
            self.addrs.push(addr);
            Sender(self.addrs.len() as u32 - 1)
        })
    }

    /// The address behind a name.
    pub(crate) fn addr(&self, sender: Sender) -> Option<SocketAddr> {
        self.addrs.get(sender.0 as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_address() {
        let mut senders = Senders::default();
        let a: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let b: SocketAddr = "[::1]:1".parse().unwrap();
        let name = senders.name(a);
        assert_eq!(senders.name(a), name);
        assert_ne!(senders.name(b), name);
        assert_eq!(senders.addr(name), Some(a));
        assert_eq!(senders.addr(Sender::NONE), None);
    }
}
