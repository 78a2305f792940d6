//! Asking a router for a port by UPnP, at a small one of our own that knows nothing else.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod router;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use port_mapping::{MappedPort, MappingProtocol, PortMapper, PortMappingStatus};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use router::{Answer, Asked, Habits, HttpBehavior, Router, own_address, search_answer, within};

const INTERNAL: NonZeroU16 = NonZeroU16::new(6_881).unwrap();
const WANTED: NonZeroU16 = NonZeroU16::new(16_881).unwrap();

/// What asks a router.
struct Mapper {
    status: watch::Receiver<PortMappingStatus>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Mapper {
    fn start(router: &Router) -> Self {
        Self::lasting(router, Duration::from_secs(7_200))
    }

    fn lasting(router: &Router, lifetime: Duration) -> Self {
        let mapper =
            PortMapper::new(Some(router.address), INTERNAL, WANTED).with_lifetime(lifetime);
        let (status, stop) = (mapper.status(), CancellationToken::new());
        let running = tokio::spawn(mapper.run(stop.clone()));
        Self {
            status,
            stop,
            running,
        }
    }

    async fn outcome(&mut self) -> PortMappingStatus {
        let known = |status: &PortMappingStatus| *status != PortMappingStatus::Requesting;
        let outcome = within(self.status.wait_for(known), "no outcome").await;
        outcome.unwrap().clone()
    }

    async fn mapped(&mut self) -> MappedPort {
        match self.outcome().await {
            PortMappingStatus::Mapped(mapped) => mapped,
            other => panic!("{other:?}"),
        }
    }

    async fn failed(&mut self) -> String {
        match self.outcome().await {
            PortMappingStatus::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        within(self.running, "it does not stop").await.unwrap();
    }
}

fn add(seconds: u32) -> Asked {
    Asked::Add {
        external: WANTED.get(),
        client: "127.0.0.1".to_owned(),
        internal: INTERNAL.get(),
        seconds,
    }
}

const DELETE: Asked = Asked::Delete {
    external: WANTED.get(),
};

fn refuse(code: u16, said: &str) -> Answer {
    Err((code, said.to_owned()))
}

#[tokio::test]
async fn a_port_is_requested_renewed_and_released() {
    let mut router = Router::start(Habits::default()).await;
    let mut mapper = Mapper::lasting(&router, Duration::from_secs(2));
    assert_eq!(router.next().await, add(2));
    let mapped = mapper.mapped().await;
    assert_eq!(
        (mapped.router, mapped.protocol, mapped.port),
        (router.address, MappingProtocol::Upnp, WANTED)
    );
    assert_eq!(mapped.address, Some(IpAddr::from([203, 0, 113, 7])));
    assert_eq!(mapped.lifetime, Some(Duration::from_secs(2)));
    assert_eq!(
        mapped.expires(),
        Some(mapped.requested + Duration::from_secs(2)),
        "{mapped:?}"
    );
    let first = Instant::now();
    assert_eq!(router.next().await, add(2));
    assert!(first.elapsed() < Duration::from_secs(2), "before it ends");
    mapper.stop().await;
    let mut next = router.next().await;
    while next == add(2) {
        next = router.next().await;
    }
    assert_eq!(next, DELETE);
}

#[tokio::test]
async fn a_router_that_listens_to_the_group_only_is_found() {
    let habits = Habits {
        hears_group: true,
        ..Habits::default()
    };
    let mut router = Router::start(habits).await;
    let mut mapper = Mapper::start(&router);
    assert_eq!(router.next().await, add(7_200));
    assert_eq!(mapper.mapped().await.router, router.address);
    mapper.stop().await;
    assert_eq!(router.next().await, DELETE);
}

#[tokio::test]
async fn a_port_is_taken_for_ever_where_it_is_not_given_for_a_time() {
    let answer = |asked: &Asked| match asked {
        Asked::Add { seconds: 1.., .. } => refuse(725, "OnlyPermanentLeasesSupported"),
        _ => Ok(()),
    };
    let habits = Habits {
        answer: Box::new(answer),
        ..Habits::default()
    };
    let mut router = Router::start(habits).await;
    let mut mapper = Mapper::lasting(&router, Duration::from_secs(2));
    assert_eq!(router.next().await, add(2));
    assert_eq!(router.next().await, add(0));
    let mapped = mapper.mapped().await;
    assert_eq!((mapped.lifetime, mapped.expires()), (None, None));
    // Routers forget mappings when they restart, so it is renewed, as a permanent one.
    assert_eq!(router.next().await, add(0));
    mapper.stop().await;
    let mut next = router.next().await;
    while next == add(0) {
        next = router.next().await;
    }
    assert_eq!(next, DELETE);
}

#[tokio::test]
async fn the_routers_reason_is_reported() {
    let long = "no ".repeat(10_000);
    for (code, said, expected) in [
        (
            718,
            "ConflictInMappingEntry",
            "port 16881 is forwarded to another host",
        ),
        (
            724,
            "SamePortValuesRequired",
            "set peer.announce-port to 6881",
        ),
        (606, "Action not authorized", "disabled in the router"),
        (501, "Action Failed", "\"Action Failed\" (501)"),
        (501, &long, "no no no"),
    ] {
        let said = said.to_owned();
        let habits = Habits {
            answer: Box::new(move |_| refuse(code, &said)),
            ..Habits::default()
        };
        let mut router = Router::start(habits).await;
        let mut mapper = Mapper::start(&router);
        let why = mapper.failed().await;
        assert!(why.contains(expected), "{why}");
        assert!(why.contains(&router.address.to_string()), "{why}");
        assert!(why.len() < 300, "{why}");
        mapper.stop().await;
        // It neither requests another port nor deletes another host's mapping.
        assert_eq!(router.next().await, add(7_200));
        assert!(router.asked.try_recv().is_err());
    }
}

/// Returns the requests to a router with this answer, when the mapper is stopped before the answer.
async fn stopped_meanwhile(answer: Answer) -> Vec<Asked> {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let habits = Habits {
        answer: Box::new(move |_| {
            stopping.cancel();
            answer.clone()
        }),
        ..Habits::default()
    };
    let mut router = Router::start(habits).await;
    let mapper = PortMapper::new(Some(router.address), INTERNAL, WANTED);
    within(mapper.run(stop), "it does not stop").await;
    std::iter::from_fn(|| router.asked.try_recv().ok()).collect()
}

#[tokio::test]
async fn a_port_that_was_just_requested_is_released_too() {
    assert_eq!(stopped_meanwhile(Ok(())).await, [add(7_200), DELETE]);
}

#[tokio::test]
async fn another_hosts_mapping_is_not_released() {
    let conflict = refuse(718, "ConflictInMappingEntry");
    assert_eq!(stopped_meanwhile(conflict).await, [add(7_200)]);
}

#[tokio::test]
async fn a_silent_router_times_out() {
    let silent = Habits {
        behavior: HttpBehavior::Silent,
        ..Habits::default()
    };
    let router = Router::start(silent).await;
    let mut mapper = Mapper::start(&router);
    let begin = Instant::now();
    let why = mapper.failed().await;
    assert!(why.contains("no device"), "{why}");
    assert!(begin.elapsed() < Duration::from_secs(30));
    mapper.stop().await;
}

#[tokio::test]
async fn an_endless_description_is_cut_off() {
    let (count, said) = watch::channel(0);
    let endless = Habits {
        behavior: HttpBehavior::Endless(count),
        ..Habits::default()
    };
    let router = Router::start(endless).await;
    let mut mapper = Mapper::start(&router);
    let why = mapper.failed().await;
    assert!(why.contains("no device"), "{why}");
    mapper.stop().await;
    // Bytes that the kernel accepts for us count as well, for each answer to a search.
    let said = *said.borrow();
    assert!((1 << 20..256 << 20).contains(&said), "{said} bytes");
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_silent_router() {
    let silent = Habits {
        behavior: HttpBehavior::Silent,
        ..Habits::default()
    };
    let router = Router::start(silent).await;
    let mapper = Mapper::start(&router);
    let begin = Instant::now();
    mapper.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(5));
}

/// A server outside the router that counts its connections.
async fn bystander() -> (SocketAddr, watch::Receiver<u32>) {
    let (_, address) = own_address().await;
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let local = listener.local_addr().unwrap();
    let (count, came) = watch::channel(0);
    let count = Arc::new(count);
    tokio::spawn(async move {
        loop {
            // Closed without an answer.
            drop(listener.accept().await.unwrap());
            count.send_modify(|count| *count += 1);
        }
    });
    (local, came)
}

#[tokio::test]
async fn only_the_router_is_believed() {
    let (elsewhere, came) = bystander().await;
    let stranger = UdpSocket::bind((elsewhere.ip(), 0)).await.unwrap();
    let habits = Habits {
        stranger: Some((stranger, format!("http://{elsewhere}/igd.xml"))),
        ..Habits::default()
    };
    let mut router = Router::start(habits).await;
    let mut mapper = Mapper::start(&router);
    assert_eq!(mapper.mapped().await.router, router.address);
    mapper.stop().await;
    assert_eq!(router.next().await, add(7_200));
    assert_eq!(*came.borrow(), 0);
}

#[tokio::test]
async fn a_stranger_that_names_the_router_is_not_believed() {
    // The stranger's answer names the router's address, and is ignored because of its sender.
    let (elsewhere, _) = bystander().await;
    let stranger = UdpSocket::bind((elsewhere.ip(), 0)).await.unwrap();
    let (restart, mut restarted) = mpsc::unbounded_channel();
    let (own, address) = own_address().await;
    let admin = TcpListener::bind((address, 0)).await.unwrap();
    let location = format!("http://{}/restart", admin.local_addr().unwrap());
    tokio::spawn(async move {
        let mut datagram = [0; 1_500];
        loop {
            let (_, from) = own.recv_from(&mut datagram).await.unwrap();
            let answer = search_answer(&location);
            stranger.send_to(answer.as_bytes(), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            drop(admin.accept().await.unwrap());
            let _ = restart.send(());
        }
    });
    let mapper = PortMapper::new(Some(address), INTERNAL, WANTED);
    let (mut status, stop) = (mapper.status(), CancellationToken::new());
    let running = tokio::spawn(mapper.run(stop.clone()));
    let failed = |status: &PortMappingStatus| matches!(status, PortMappingStatus::Failed(_));
    within(status.wait_for(failed), "no outcome").await.unwrap();
    stop.cancel();
    within(running, "it does not stop").await.unwrap();
    assert!(
        restarted.try_recv().is_err(),
        "the router was asked to restart"
    );
}

#[tokio::test]
async fn urls_outside_the_router_are_not_followed() {
    let (elsewhere, came) = bystander().await;
    let location = format!("http://{elsewhere}/igd.xml");
    let sends_on = Habits {
        location: Box::new(move |_| location.clone()),
        ..Habits::default()
    };
    let controlled_elsewhere = Habits {
        control: format!("http://{elsewhere}/control"),
        ..Habits::default()
    };
    let routers = [
        Router::start(sends_on).await,
        Router::start(controlled_elsewhere).await,
    ];
    let mut mappers = routers.each_ref().map(Mapper::start);
    for mapper in &mut mappers {
        let why = mapper.failed().await;
        assert!(why.contains("no device"), "{why}");
    }
    for mapper in mappers {
        mapper.stop().await;
    }
    assert_eq!(*came.borrow(), 0);
}
