//! Measures look-ups of a pointer in a DHT of real nodes on the loopback interface.
//!
//! ```text
//! lookup [--nodes N] [--stopped N] [--repeat N]
//! ```
//!
//! Prints one JSON object a look-up, times in seconds. `start` is a node that has just been made,
//! so its time has the joining in it; `warm` are look-ups of one that has joined. With `--stopped`,
//! so many nodes fall silent before the look-ups, as a part of every real network has: a client
//! that queries them waits until its time limit, as the program does.

use std::time::{Duration, Instant};

use bittorrent_protocol::InfoHashV2;
use snapshot_pointer::loopback::LoopbackDht;
use snapshot_pointer::publish::put_and_read_back;
use snapshot_pointer::{
    Authority, Dht, MainlineDht, NodeSettings, Pointer, Salt, Seq, SignedItem, SigningKey,
};

type Error = Box<dyn std::error::Error>;

/// Between two look-ups. One that is still open would take the next one in.
const PAUSE: Duration = Duration::from_millis(50);

fn main() -> Result<(), Error> {
    let (mut nodes, mut stopped, mut repeat) = (20, 0, 5);
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value: usize = args
            .next()
            .ok_or(format!("{name} needs a value"))?
            .parse()?;
        match name.as_str() {
            "--nodes" => nodes = value,
            "--stopped" => stopped = value,
            "--repeat" => repeat = value,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    tokio::runtime::Runtime::new()?.block_on(measure(nodes, stopped, repeat))
}

async fn measure(nodes: usize, stopped: usize, repeat: usize) -> Result<(), Error> {
    let mut network = LoopbackDht::start(nodes).await?;
    let settings = NodeSettings {
        request_timeout: NodeSettings::default().request_timeout,
        ..network.client_settings()
    };
    let key = SigningKey::generate()?;
    let salt: Salt = "daily".parse()?;
    let pointer = Pointer {
        snapshot: InfoHashV2::from_bytes([7; 32]),
        seq: Seq::FIRST,
    };
    let item = SignedItem::sign_pointer(&key, &salt, pointer)?;
    let producer = MainlineDht::start(settings.clone()).await?;
    put_and_read_back(&producer, &item).await?;

    let warm = MainlineDht::start(settings.clone()).await?;
    look_up(&warm, &key.authority(), &salt).await?;
    network.stop_oldest(stopped).await;
    for _ in 0..repeat {
        tokio::time::sleep(PAUSE).await;
        report("warm", &warm, &key.authority(), &salt).await?;
        let fresh = MainlineDht::start(settings.clone()).await?;
        report("start", &fresh, &key.authority(), &salt).await?;
    }
    Ok(())
}

async fn report(
    kind: &str,
    dht: &MainlineDht,
    authority: &Authority,
    salt: &Salt,
) -> Result<(), Error> {
    let (first, settled, answers) = look_up(dht, authority, salt).await?;
    println!(
        r#"{{"node":"{kind}","first":{:.4},"settled":{:.4},"answers":{answers}}}"#,
        first.as_secs_f64(),
        settled.as_secs_f64()
    );
    Ok(())
}

/// How long it took to the first verified item and to the end, and how many nodes had it.
async fn look_up(
    dht: &MainlineDht,
    authority: &Authority,
    salt: &Salt,
) -> Result<(Duration, Duration, u32), Error> {
    let begin = Instant::now();
    let mut first = None;
    let found = dht
        .get_item(authority, salt, &mut |_| {
            first.get_or_insert_with(|| begin.elapsed());
        })
        .await?;
    let settled = begin.elapsed();
    let first = first.ok_or("no node had the pointer")?;
    Ok((first, settled, found.counts.valid))
}
