//! Port mapping by PCP and NAT-PMP, with a small router on loopback.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::time::Duration;

use port_mapping::{MappingProtocol, PortMapper, PortMappingStatus};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

const INTERNAL: NonZeroU16 = NonZeroU16::new(6_881).unwrap();
const WANTED: NonZeroU16 = NonZeroU16::new(16_881).unwrap();

/// What a router was asked: whether by PCP, the two ports and the lifetime in seconds.
type Asked = (bool, u16, u16, u32);

/// A router on loopback. Both protocols have one port, so it gets an address of its own.
struct Router {
    socket: UdpSocket,
    address: Ipv4Addr,
    pcp: bool,
}

impl Router {
    async fn start(pcp: bool) -> Self {
        let [a, b, ..] = std::process::id().to_le_bytes();
        for c in 1..=250 {
            let address = Ipv4Addr::new(127, 64 + a % 128, b, c);
            if let Ok(socket) = UdpSocket::bind((address, 5_351)).await {
                return Self {
                    socket,
                    address,
                    pcp,
                };
            }
        }
        panic!("UDP port 5351 is taken on all of 127.{a}.{b}.0/24");
    }

    /// Answers until a mapping is requested. Returns the request.
    async fn next(&self) -> Asked {
        let mut request = [0; 1_100];
        loop {
            let asked = tokio::time::timeout(PATIENCE, self.socket.recv_from(&mut request));
            let (read, from) = asked.await.expect("nothing was asked").unwrap();
            let request = &request[..read];
            let (answer, asked) = match (request[0], self.pcp) {
                (2, true) => self.by_pcp(request),
                // RFC 6887, 9: version 0, unsupported version.
                (2, false) => (vec![0, 128, 0, 1, 0, 0, 0, 7], None),
                (0, false) => Self::by_nat_pmp(request),
                other => panic!("version and protocol {other:?}"),
            };
            self.socket.send_to(&answer, from).await.unwrap();
            if let Some(asked) = asked {
                return asked;
            }
        }
    }

    /// RFC 6886, 3.2 and 3.3.
    fn by_nat_pmp(request: &[u8]) -> (Vec<u8>, Option<Asked>) {
        let epoch = [0, 0, 0, 7];
        match request[1] {
            0 => (
                [&[0, 128, 0, 0][..], &epoch, &[203, 0, 113, 1]].concat(),
                None,
            ),
            2 => {
                let answer = [&[0, 130, 0, 0][..], &epoch, &request[4..12]].concat();
                let port = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
                let lifetime = u32::from_be_bytes(request[8..12].try_into().unwrap());
                (answer, Some((false, port(4), port(6), lifetime)))
            }
            other => panic!("operation {other}"),
        }
    }

    /// RFC 6887, 7 and 11.
    fn by_pcp(&self, request: &[u8]) -> (Vec<u8>, Option<Asked>) {
        assert_eq!(request[1], 1, "MAP");
        let lifetime = u32::from_be_bytes(request[4..8].try_into().unwrap());
        let mut answer = request.to_vec();
        answer[1] = 0x81;
        answer[2..4].copy_from_slice(&[0, 0]);
        answer[8..24].copy_from_slice(&[0; 16]);
        answer[8..12].copy_from_slice(&[0, 0, 0, 7]);
        let external = Ipv4Addr::new(203, 0, 113, 1).to_ipv6_mapped();
        answer[44..60].copy_from_slice(&external.octets());
        let port = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        (answer, Some((true, port(40), port(42), lifetime)))
    }
}

async fn maps_and_releases(pcp: bool) {
    let router = Router::start(pcp).await;
    let mapper = PortMapper::new(Some(router.address), INTERNAL, WANTED);
    let mut status = mapper.status();
    let stop = CancellationToken::new();
    let running = tokio::spawn(mapper.run(stop.clone()));
    let expected = (pcp, INTERNAL.get(), WANTED.get(), 7_200);
    assert_eq!(router.next().await, expected);
    let mapped = status.wait_for(|status| *status != PortMappingStatus::Requesting);
    let mapped = tokio::time::timeout(PATIENCE, mapped).await;
    let mapped = mapped.expect("no port").unwrap().clone();
    let PortMappingStatus::Mapped(mapped) = mapped else {
        panic!("{mapped:?}");
    };
    assert_eq!((mapped.router, mapped.port), (router.address, WANTED));
    assert_eq!(mapped.lifetime, Some(Duration::from_secs(7_200)));
    let protocol = match pcp {
        true => MappingProtocol::Pcp,
        false => MappingProtocol::NatPmp,
    };
    assert_eq!(mapped.protocol, protocol);
    stop.cancel();
    let (protocol, internal, _, lifetime) = router.next().await;
    assert_eq!((protocol, internal, lifetime), (pcp, INTERNAL.get(), 0));
    running.await.unwrap();
}

#[tokio::test]
async fn a_port_is_requested_by_pcp_and_released() {
    maps_and_releases(true).await;
}

#[tokio::test]
async fn a_port_is_requested_by_nat_pmp_and_released() {
    maps_and_releases(false).await;
}

#[tokio::test]
async fn without_a_router_stopping_does_not_hang() {
    let stop = CancellationToken::new();
    let nowhere = Ipv4Addr::new(127, 255, 255, 254);
    let mapper = PortMapper::new(Some(nowhere), INTERNAL, WANTED);
    let running = tokio::spawn(mapper.run(stop.clone()));
    stop.cancel();
    tokio::time::timeout(PATIENCE, running)
        .await
        .unwrap()
        .unwrap();
}
