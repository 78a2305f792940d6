//! A small router on loopback that knows nothing but UPnP.

use std::fmt::Write as _;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const SERVICE: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";

/// A request to a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Add {
        external: u16,
        client: String,
        internal: u16,
        seconds: u32,
    },
    Delete {
        external: u16,
    },
}

/// The router's answer: success, or an error with its code.
pub(crate) type Answer = Result<(), (u16, String)>;

pub(crate) enum HttpBehavior {
    Answers,
    Silent,
    /// An endless description; the channel counts the bytes that were taken.
    Endless(watch::Sender<usize>),
}

/// Filler of an endless description.
const NOTHING: &[u8] = &[b' '; 1 << 16];

/// Behaviour of a router.
pub(crate) struct Habits {
    /// Whether it listens to the group only, instead of its own address.
    pub(crate) hears_group: bool,
    /// The URL of its description, given the address of its HTTP server.
    pub(crate) location: Box<dyn Fn(SocketAddr) -> String + Send>,
    /// The control URL in its description.
    pub(crate) control: String,
    /// Its behaviour over HTTP.
    pub(crate) behavior: HttpBehavior,
    pub(crate) answer: Box<dyn FnMut(&Asked) -> Answer + Send>,
    /// Another host that answers a search first, with this location.
    pub(crate) stranger: Option<(UdpSocket, String)>,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            hears_group: false,
            location: Box::new(|http| format!("http://{http}/igd.xml")),
            control: "/control".to_owned(),
            behavior: HttpBehavior::Answers,
            answer: Box::new(|_| Ok(())),
            stranger: None,
        }
    }
}

/// A router on loopback, with an address of its own.
pub(crate) struct Router {
    pub(crate) address: Ipv4Addr,
    pub(crate) asked: mpsc::UnboundedReceiver<Asked>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Router {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Devices are searched at one port, so each router gets another address.
pub(crate) async fn own_address() -> (UdpSocket, Ipv4Addr) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [a, b, ..] = std::process::id().to_le_bytes();
    loop {
        let c = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(c < 250, "UDP port 1900 is taken on all of 127.{a}.{b}.0/24");
        let address = Ipv4Addr::new(127, 64 + a % 128, b, c);
        if let Ok(socket) = UdpSocket::bind((address, 1_900)).await {
            return (socket, address);
        }
    }
}

/// Receives what is sent to the group on loopback.
fn group_socket() -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    let group = SocketAddr::from((GROUP, 1_900));
    socket.bind(&group.into()).unwrap();
    socket
        .join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST)
        .unwrap();
    UdpSocket::from_std(socket.into()).unwrap()
}

impl Router {
    pub(crate) async fn start(habits: Habits) -> Self {
        let (own, address) = own_address().await;
        let http = TcpListener::bind((address, 0)).await.unwrap();
        let location = (habits.location)(http.local_addr().unwrap());
        let (tell, asked) = mpsc::unbounded_channel();
        let Habits {
            control,
            behavior,
            answer,
            stranger,
            ..
        } = habits;
        let heard = habits.hears_group.then(group_socket);
        let searched = tokio::spawn(async move {
            let mut datagram = [0; 1_500];
            loop {
                let heard = heard.as_ref().unwrap_or(&own);
                let (read, from) = heard.recv_from(&mut datagram).await.unwrap();
                let search = String::from_utf8_lossy(&datagram[..read]).into_owned();
                assert!(search.starts_with("M-SEARCH * HTTP/1.1\r\n"), "{search}");
                assert!(search.contains("MAN: \"ssdp:discover\"\r\n"), "{search}");
                if !search.contains("ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n") {
                    continue;
                }
                if let Some((stranger, location)) = &stranger {
                    let answer = search_answer(location);
                    stranger.send_to(answer.as_bytes(), from).await.unwrap();
                }
                let answer = search_answer(&location);
                own.send_to(answer.as_bytes(), from).await.unwrap();
            }
        });
        let served = tokio::spawn(serve(http, behavior, control, answer, tell));
        Self {
            address,
            asked,
            tasks: vec![searched, served],
        }
    }

    pub(crate) async fn next(&mut self) -> Asked {
        within(self.asked.recv(), "nothing was asked")
            .await
            .unwrap()
    }
}

pub(crate) fn search_answer(location: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {SERVICE}\r\nUSN: uuid:1::{SERVICE}\r\nEXT:\r\n\
         SERVER: router/1 UPnP/1.1\r\nLOCATION: {location}\r\n\r\n"
    )
}

pub(crate) async fn within<T>(future: impl Future<Output = T>, otherwise: &str) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{otherwise}"))
}

async fn serve(
    http: TcpListener,
    behavior: HttpBehavior,
    control: String,
    mut answer: Box<dyn FnMut(&Asked) -> Answer + Send>,
    tell: mpsc::UnboundedSender<Asked>,
) {
    let mut silent = Vec::new();
    loop {
        let (mut stream, _) = http.accept().await.unwrap();
        match &behavior {
            HttpBehavior::Answers => {}
            HttpBehavior::Silent => {
                silent.push(stream);
                continue;
            }
            HttpBehavior::Endless(said) => {
                let begin = b"HTTP/1.1 200 OK\r\n\r\n<?xml version=\"1.0\"?><root>";
                let mut wrote = stream.write_all(begin).await;
                while wrote.is_ok() {
                    said.send_modify(|said| *said += NOTHING.len());
                    wrote = stream.write_all(NOTHING).await;
                }
                continue;
            }
        }
        let Some((line, body)) = request(&mut stream).await else {
            continue;
        };
        let (status, text) = match line.as_str() {
            "GET /igd.xml HTTP/1.1" => (200, description(&control)),
            "GET /service.xml HTTP/1.1" => (200, service()),
            "POST /control HTTP/1.1" => {
                let done = match asked(&body) {
                    Some(asked) => {
                        let done = answer(&asked);
                        // A test that has seen enough is gone.
                        let _ = tell.send(asked);
                        done
                    }
                    None => Ok(()),
                };
                soap(&body, done)
            }
            other => panic!("{other}"),
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            text.len()
        );
        // The client may have closed the connection.
        let _ = stream.write_all((head + &text).as_bytes()).await;
    }
}

/// The first line, and the body.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut all = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1);
            let length = length.map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
            if body.len() >= length {
                return Some((text.lines().next().unwrap().to_owned(), body.to_owned()));
            }
        }
        if stream.read_buf(&mut all).await.ok()? == 0 {
            return None;
        }
    }
}

fn description(control: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device>\
         <deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>\
         <deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType>\
         <deviceList><device>\
         <deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType>\
         <serviceList><service><serviceType>{SERVICE}</serviceType>\
         <controlURL>{control}</controlURL><SCPDURL>/service.xml</SCPDURL>\
         </service></serviceList></device></deviceList></device></deviceList></device></root>"
    )
}

/// A service description as short as that of some routers.
fn service() -> String {
    "<?xml version=\"1.0\"?><scpd xmlns=\"urn:schemas-upnp-org:service-1-0\"><actionList>\
     <action><name>AddPortMapping</name><argumentList><argument><name>NewExternalPort</name>\
     <direction>in</direction></argument></argumentList></action></actionList></scpd>"
        .to_owned()
}

/// The text of an element.
fn element<'a>(body: &'a str, name: &str) -> &'a str {
    let text = body.split(&format!("<{name}>")).nth(1);
    text.and_then(|rest| rest.split("</").next())
        .unwrap_or_else(|| panic!("no {name} in {body}"))
}

/// Parses a request; `None` if it is for the external address.
fn asked(body: &str) -> Option<Asked> {
    if body.contains("GetExternalIPAddress") {
        return None;
    }
    assert_eq!(element(body, "NewProtocol"), "TCP");
    assert_eq!(element(body, "NewRemoteHost"), "");
    let number = |name: &str| element(body, name).parse::<u32>().unwrap();
    let external = u16::try_from(number("NewExternalPort")).unwrap();
    if body.contains("DeletePortMapping") {
        return Some(Asked::Delete { external });
    }
    assert_eq!(number("NewEnabled"), 1);
    Some(Asked::Add {
        external,
        client: element(body, "NewInternalClient").to_owned(),
        internal: u16::try_from(number("NewInternalPort")).unwrap(),
        seconds: number("NewLeaseDuration"),
    })
}

fn soap(body: &str, done: Answer) -> (u16, String) {
    let actions = [
        "AddPortMapping",
        "DeletePortMapping",
        "GetExternalIPAddress",
    ];
    let action = actions.into_iter().find(|name| body.contains(name));
    let action = action.unwrap_or_else(|| panic!("{body}"));
    let mut text = "<?xml version=\"1.0\"?>\
                    <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>"
        .to_owned();
    let status = match done {
        Ok(()) => {
            let _ = write!(
                text,
                "<u:{action}Response xmlns:u=\"{SERVICE}\">\
                 <NewExternalIPAddress>203.0.113.7</NewExternalIPAddress></u:{action}Response>"
            );
            200
        }
        Err((code, said)) => {
            let _ = write!(
                text,
                "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>\
                 <UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>{code}</errorCode>\
                 <errorDescription>{said}</errorDescription></UPnPError></detail></s:Fault>"
            );
            500
        }
    };
    text.push_str("</s:Body></s:Envelope>");
    (status, text)
}
