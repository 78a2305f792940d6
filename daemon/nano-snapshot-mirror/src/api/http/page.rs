//! The status page. The server renders all of it, so that it works without JavaScript. With JavaScript, the page replaces its middle with each
//! version that the server pushes. Above 600 lines: it is one document from top to bottom.

use std::fmt::{Display, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bittorrent_protocol::is_printable;
use bittorrent_session::MapCell;

use crate::observe::report::{
    AuthorityReport, PeerReport, RateHistory, Report, StreamReport, TorrentReport, TorrentState,
};
use crate::progress::percent;
use crate::text::{Bytes, Time};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The most connections to show: those with the highest rates.
const PEERS_SHOWN: usize = 30;

/// The size of the chart in SVG units.
const CHART: (f64, f64) = (720.0, 160.0);

/// The data of one rendering.
pub(super) struct Scene<'a> {
    pub(super) report: &'a Report,
    pub(super) rates: &'a RateHistory,
    pub(super) peers: &'a [PeerReport],
    /// Maps of torrents, by snapshot.
    pub(super) maps: &'a [(String, Vec<MapCell>)],
}

/// Formats text with all markup escaped.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Control characters include line breaks, which would end a line of an event stream.
                other if !is_printable(other) => f.write_str("\u{fffd}")?,
                other => write!(f, "{other}")?,
            }
        }
        Ok(())
    }
}

/// Renders the whole page. `nonce` permits its script (Content-Security-Policy).
pub(super) fn page(scene: &Scene<'_>, nonce: &str) -> String {
    let mut out = String::with_capacity(32 * 1024);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>nano-snapshot-mirror</title><link rel=\"icon\" href=\"data:,\">\
         <noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\
         <style>{STYLE}</style></head><body>\
         <header><h1>nano-snapshot-mirror</h1><span id=\"live\" class=\"dim\"></span></header><main>"
    );
    out.push_str(&middle(scene));
    let _ = write!(
        out,
        "</main><footer>version {} · <a href=\"status.json\">status.json</a> · \
         <a href=\"metrics\">metrics</a> · <a href=\"readyz\">readyz</a></footer>\
         <script nonce=\"{nonce}\">{SCRIPT}</script></body></html>",
        Escaped(&scene.report.version)
    );
    out
}

/// Renders the part that is updated in an open page. It contains no line breaks.
pub(super) fn middle(scene: &Scene<'_>) -> String {
    let mut out = String::with_capacity(16 * 1024);
    let report = scene.report;
    summary(report, &mut out);
    for stream in &report.streams {
        draw_stream(report, stream, &mut out);
    }
    disk(report, &mut out);
    for torrent in &report.torrents {
        let map = scene.maps.iter().find(|(id, _)| *id == torrent.snapshot);
        draw_torrent(torrent, map.map(|(_, map)| &**map), &mut out);
    }
    chart(report, scene.rates, &mut out);
    draw_peers(report, scene.peers, &mut out);
    out
}

fn summary(report: &Report, out: &mut String) {
    let (class, word) = if report.ready {
        ("ready", "ready")
    } else if report.problems.is_empty() {
        ("", "not ready yet")
    } else {
        ("degraded", "degraded")
    };
    let up = report.now.saturating_sub(report.started);
    let _ = write!(
        out,
        "<section class=\"wide\"><span class=\"badge {class}\">{word}</span> <strong>{}</strong>",
        report.phase.name()
    );
    if let Some(percent) = report.percent() {
        let _ = write!(out, " {percent} %");
    }
    let _ = write!(out, " <span class=\"dim\">up {}</span>", seconds(up));
    let reasons = report.reasons();
    if !reasons.is_empty() {
        let class = if report.problems.is_empty() {
            "dim"
        } else {
            "bad"
        };
        let _ = write!(out, "<ul class=\"{class}\">");
        for reason in reasons {
            let _ = write!(out, "<li>{}</li>", Escaped(reason));
        }
        out.push_str("</ul>");
    }
    for work in report.work.iter().filter(|work| work.total > 0) {
        let _ = write!(
            out,
            "<h3>{} · {} of {}</h3><progress max=\"{}\" value=\"{}\"></progress>",
            Escaped(&work.name),
            Bytes(work.done),
            Bytes(work.total),
            work.total,
            work.done.min(work.total)
        );
    }
    out.push_str("</section>");
}

fn draw_stream(report: &Report, stream: &StreamReport, out: &mut String) {
    let name = Escaped(&stream.name);
    let _ = write!(out, "<section><h2>Stream {name}</h2><dl>");
    match &stream.desired {
        Some(desired) => row(
            out,
            "snapshot",
            format_args!("<code>{}</code>", Escaped(desired)),
        ),
        None => row(out, "snapshot", "no pointer yet"),
    }
    if let Some(seq) = stream.seq {
        row(out, "sequence", seq);
    }
    if let Some(since) = stream.since {
        let age = seconds(report.now.saturating_sub(since));
        let stale = if stream.stale {
            " <span class=\"bad\">stale</span>"
        } else {
            ""
        };
        row(out, "named for", format_args!("{age}{stale}"));
    }
    match &stream.current {
        Some(current) if stream.desired.as_ref() == Some(current) => {
            row(out, "current", "<span class=\"good\">the same</span>");
        }
        Some(current) => row(
            out,
            "current",
            format_args!("<code>{}</code>", Escaped(current)),
        ),
        None => row(out, "current", "nothing yet"),
    }
    match stream.answered {
        Some(at) => {
            let ago = seconds(report.now.saturating_sub(at));
            row(out, "DHT answered", format_args!("{ago} ago"));
        }
        None => row(out, "DHT answered", "not yet"),
    }
    if stream.current.is_some() || stream.desired.is_some() && !stream.refused {
        let links = format_args!(
            "<a href=\"{name}/latest.magnet\">magnet</a> · <a href=\"{name}/latest.torrent\">torrent</a>"
        )
        .to_string();
        row(out, "get it", links);
    }
    let agree = |one: &&AuthorityReport| one.state == crate::observe::report::VoteState::Agrees;
    let agreeing = stream.authorities.iter().filter(agree).count();
    row(
        out,
        "quorum",
        format_args!(
            "{agreeing} of {} authorities, {} needed",
            stream.authorities.len(),
            stream.threshold
        ),
    );
    out.push_str("</dl><div class=\"scroll\"><table><tr><th>authority<th>stands<th class=\"n\">seq<th>last look-up</tr>");
    for authority in &stream.authorities {
        draw_authority(report, authority, out);
    }
    out.push_str("</table></div></section>");
}

fn draw_authority(report: &Report, authority: &AuthorityReport, out: &mut String) {
    let key = authority.authority.get(..12).unwrap_or_default();
    let seq = authority.seq.map(|seq| seq.to_string()).unwrap_or_default();
    let _ = write!(
        out,
        "<tr><td><code title=\"{}\">{}…</code><td>{}<td class=\"n\">{seq}<td>",
        Escaped(&authority.authority),
        Escaped(key),
        authority.state.name()
    );
    match &authority.failure {
        Some(failure) => drop(write!(
            out,
            "<span class=\"bad\">{}</span>",
            Escaped(failure)
        )),
        None => drop(write!(out, "{} nodes answered", authority.answers)),
    }
    out.push_str("</tr>");
    for refused in &authority.refused {
        let ago = seconds(report.now.saturating_sub(refused.at));
        let _ = write!(
            out,
            "<tr><td class=\"dim\" colspan=\"4\">refused {} times, last {ago} ago: {}</tr>",
            refused.times,
            Escaped(&refused.text)
        );
    }
}

fn draw_torrent(torrent: &TorrentReport, map: Option<&[MapCell]>, out: &mut String) {
    let name = torrent.name.as_deref().unwrap_or("snapshot");
    let _ = write!(
        out,
        "<section class=\"wide\"><h2>{} <span class=\"dim\">{}</span></h2>",
        Escaped(name),
        torrent.state.name()
    );
    if let Some(failure) = &torrent.failure {
        let _ = write!(out, "<p class=\"bad\">{}</p>", Escaped(failure));
    }
    if torrent.state == TorrentState::Fetching {
        let _ = write!(
            out,
            "<progress max=\"{}\" value=\"{}\"></progress>",
            torrent.bytes_total.max(1),
            torrent.bytes_verified
        );
    }
    if let Some(map) = map {
        draw_map(map, out);
    }
    let _ = write!(out, "<dl>");
    row(
        out,
        "snapshot",
        format_args!("<code>{}</code>", Escaped(&torrent.snapshot)),
    );
    if torrent.bytes_total > 0 {
        let done = percent(torrent.bytes_verified, torrent.bytes_total);
        let line = format_args!(
            "{} of {} ({done} %), {} reused",
            Bytes(torrent.bytes_verified),
            Bytes(torrent.bytes_total),
            Bytes(torrent.bytes_reused)
        )
        .to_string();
        row(out, "verified", line);
    }
    if let Some(left) = torrent.seconds_left {
        row(out, "time left", seconds(left));
    }
    let moved = format_args!(
        "{} down, {} up, {} in vain",
        Bytes(torrent.downloaded),
        Bytes(torrent.uploaded),
        Bytes(torrent.wasted)
    )
    .to_string();
    row(out, "moved", moved);
    row(
        out,
        "peers",
        format_args!("{}, {} of them seeds", torrent.peers, torrent.seeds),
    );
    out.push_str("</dl></section>");
}

/// Renders one stripe. Adjacent equal cells become one rectangle.
fn draw_map(map: &[MapCell], out: &mut String) {
    let kind = |cell: &MapCell| {
        let fetched = cell.verified.saturating_sub(cell.before + cell.reused);
        let missing = cell.blocks.saturating_sub(cell.verified);
        let shares = [
            (missing, "missing"),
            (cell.before, "held"),
            (fetched, "fetched"),
            (cell.reused, "reused"),
        ];
        // Of equal shares the last one is chosen.
        shares
            .iter()
            .max_by_key(|(share, _)| *share)
            .map_or("missing", |(_, kind)| kind)
    };
    let _ = write!(
        out,
        "<svg class=\"map\" viewBox=\"0 0 {} 1\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"map of pieces by origin\">",
        map.len()
    );
    let kinds: Vec<&str> = map.iter().map(kind).collect();
    let mut at = 0;
    for run in kinds.chunk_by(|a, b| a == b) {
        let kind = run.first().copied().unwrap_or("missing");
        if kind != "missing" {
            let _ = write!(
                out,
                "<rect class=\"f-{kind}\" x=\"{at}\" width=\"{}\" height=\"1\"/>",
                run.len()
            );
        }
        at += run.len();
    }
    out.push_str("</svg><div class=\"legend\">");
    let sum = |of: fn(&MapCell) -> u64| map.iter().map(of).sum::<u64>() * 16 * 1024;
    let legend = [
        ("reused", "found in what is held", sum(|cell| cell.reused)),
        (
            "fetched",
            "from peers",
            sum(|cell| cell.verified.saturating_sub(cell.before + cell.reused)),
        ),
        ("held", "here since the start", sum(|cell| cell.before)),
        (
            "missing",
            "missing",
            sum(|cell| cell.blocks.saturating_sub(cell.verified)),
        ),
    ];
    for (class, text, bytes) in legend.into_iter().filter(|(_, _, bytes)| *bytes > 0) {
        let _ = write!(
            out,
            "<span><i class=\"b-{class}\"></i>{text} {}</span>",
            Bytes(bytes)
        );
    }
    out.push_str("</div>");
}

fn chart(report: &Report, rates: &RateHistory, out: &mut String) {
    let transfer = &report.transfer;
    let _ = write!(
        out,
        "<section class=\"wide\"><h2>Rates of the last hour</h2><div class=\"legend\">\
         <span><i class=\"b-down\"></i>down {}/s</span><span><i class=\"b-up\"></i>up {}/s</span>",
        Bytes(transfer.down_rate),
        Bytes(transfer.up_rate)
    );
    let (width, height) = CHART;
    let points = rates.points();
    let top = points
        .clone()
        .map(|point| point.down.max(point.up))
        .max()
        .unwrap_or(0);
    let _ = write!(
        out,
        "<span>highest {}/s</span></div><svg class=\"chart\" viewBox=\"0 0 {width} {height}\" \
         preserveAspectRatio=\"none\" role=\"img\" aria-label=\"rates of the last hour\">\
         <path class=\"axis\" d=\"M0 {height}H{width}\"/>",
        Bytes(top)
    );
    // The newest point is at the right edge.
    let step = width / (crate::observe::report::RATE_POINTS - 1) as f64;
    let first = crate::observe::report::RATE_POINTS - points.len();
    for (class, of) in [
        (
            "l-up",
            (|point| point.up) as fn(&crate::observe::report::RatePoint) -> u64,
        ),
        ("l-down", |point| point.down),
    ] {
        let _ = write!(out, "<polyline class=\"{class}\" points=\"");
        for (number, point) in points.clone().enumerate() {
            let x = (first + number) as f64 * step;
            let y = height - 2.0 - (height - 4.0) * of(&point) as f64 / top.max(1) as f64;
            let _ = write!(out, "{x:.0},{y:.1} ");
        }
        out.push_str("\"/>");
    }
    out.push_str("</svg>");
    let _ = write!(
        out,
        "<p class=\"dim\">since the start: {} down, {} up, {} reused, {} in vain</p>",
        Bytes(transfer.downloaded),
        Bytes(transfer.uploaded),
        Bytes(transfer.reused),
        Bytes(transfer.wasted)
    );
    let month = &report.month;
    if let Some(limit) = month.limit {
        let end = if month.paused {
            "; nothing more before the next month"
        } else {
            ""
        };
        let _ = write!(
            out,
            "<p class=\"dim\">{}: {} of {} given{end}</p>",
            month.month,
            Bytes(month.uploaded),
            Bytes(limit)
        );
    }
    out.push_str("</section>");
}

fn draw_peers(report: &Report, peers: &[PeerReport], out: &mut String) {
    let counts = &report.peers;
    let reachable = counts.reachable.name();
    let _ = write!(
        out,
        "<section class=\"wide\"><h2>Peers</h2><dl><dt>connections<dd>{} ({} seeds, {} incoming, {} banned)\
         <dt>reachable<dd>{reachable}: {}",
        counts.connections,
        counts.seeds,
        counts.incoming,
        counts.banned,
        Escaped(&counts.reachable_because),
    );
    if let Some(mapping) = &report.port_mapping {
        let text = mapping.text(report.now);
        let _ = write!(out, "<dt>port mapping<dd>{}", Escaped(&text));
    }
    let _ = write!(out, "<dt>DHT nodes<dd>{}</dl>", report.dht.nodes);
    let mut shown: Vec<&PeerReport> = peers.iter().collect();
    shown.sort_by_key(|peer| std::cmp::Reverse(peer.down_rate + peer.up_rate));
    if !shown.is_empty() {
        out.push_str(
            "<div class=\"scroll peers\"><table><tr><th>network<th>client<th>has<th class=\"n\">down\
             <th class=\"n\">up<th class=\"n\">received<th class=\"n\">given</tr>",
        );
    }
    for peer in shown.iter().take(PEERS_SHOWN) {
        let has = if peer.seed {
            "all".to_owned()
        } else {
            format!("{} pieces", peer.pieces)
        };
        let _ = write!(
            out,
            "<tr><td>{}{}<td>{}<td>{has}<td class=\"n\">{}/s<td class=\"n\">{}/s<td class=\"n\">{}<td class=\"n\">{}</tr>",
            Escaped(network(&peer.address)),
            if peer.incoming { " ←" } else { " →" },
            Escaped(peer.client.as_deref().unwrap_or("unknown")),
            Bytes(peer.down_rate),
            Bytes(peer.up_rate),
            Bytes(peer.downloaded),
            Bytes(peer.uploaded)
        );
    }
    if !shown.is_empty() {
        out.push_str("</table></div>");
    }
    out.push_str("</section>");
}

/// Returns the network of a peer. Only the control socket shows whole addresses.
fn network(address: &str) -> String {
    match address
        .parse::<SocketAddr>()
        .map(|address| address.ip().to_canonical())
    {
        Ok(IpAddr::V4(ip)) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}.x")
        }
        Ok(IpAddr::V6(ip)) => {
            let [a, b, c, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}::x")
        }
        Err(_) => String::new(),
    }
}

fn disk(report: &Report, out: &mut String) {
    let disk = &report.disk;
    let used = disk.total.saturating_sub(disk.free);
    let _ = write!(
        out,
        "<section><h2>Disk</h2><progress max=\"{}\" value=\"{used}\"></progress><dl>",
        disk.total.max(1)
    );
    let line = format_args!("{} of {}", Bytes(disk.free), Bytes(disk.total)).to_string();
    row(out, "free", line);
    if disk.next_update > 0 {
        let tight = disk.next_update > disk.free;
        let class = if tight { "bad" } else { "good" };
        row(
            out,
            "next update",
            format_args!(
                "<span class=\"{class}\">up to {}</span>",
                Bytes(disk.next_update)
            ),
        );
    }
    row(out, "data directory", Escaped(&report.data_dir));
    out.push_str("</dl></section>");
}

fn row(out: &mut String, name: &str, value: impl Display) {
    let _ = write!(out, "<dt>{name}<dd>{value}");
}

fn seconds(count: u64) -> Time {
    Time(Duration::from_secs(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::report::testing::{NEW, OLD, report};

    fn drawn(report: &Report, peers: &[PeerReport]) -> String {
        let cell = |verified, before, reused| MapCell {
            blocks: 4,
            verified,
            before,
            reused,
        };
        let map = vec![
            cell(4, 4, 0),
            cell(4, 0, 3),
            cell(4, 0, 3),
            cell(4, 0, 0),
            cell(0, 0, 0),
        ];
        page(
            &Scene {
                report,
                rates: &RateHistory::new(),
                peers,
                maps: &[(NEW.to_owned(), map)],
            },
            "n",
        )
    }

    #[test]
    fn everything_is_there_without_a_script() {
        let page = drawn(&report(), &[]);
        for part in [
            OLD,
            NEW,
            "degraded",
            "fetching",
            "25 %",
            "dht-silent: no DHT node has answered",
            "refused 2 times",
            "1 of 2 authorities, 1 needed",
            "daily/latest.magnet",
            "<rect class=\"f-held\" x=\"0\" width=\"1\" height=\"1\"/>",
            "<rect class=\"f-reused\" x=\"1\" width=\"2\" height=\"1\"/>",
            "<rect class=\"f-fetched\" x=\"3\" width=\"1\" height=\"1\"/></svg>",
            "http-equiv=\"refresh\"",
            "<dt>port mapping<dd>port 6881 on router 192.0.2.1 (203.0.113.9) is forwarded here by upnp",
        ] {
            assert!(page.contains(part), "no {part} in {page}");
        }
    }

    #[test]
    fn the_chart_has_numbers_where_numbers_belong() {
        let mut rates = RateHistory::new();
        let start = std::time::Instant::now();
        for step in 0..4 {
            let now = start + Duration::from_secs(20 * step);
            rates.measure((step << 30) + 1, step << 28, now);
        }
        let (mut out, report) = (String::new(), report());
        chart(&report, &rates, &mut out);
        assert!(
            out.contains("<path class=\"axis\" d=\"M0 160H720\"/>"),
            "{out}"
        );
        assert!(out.contains("viewBox=\"0 0 720 160\""), "{out}");
        for line in out.split("points=\"").skip(1) {
            let points = line.split('"').next().unwrap();
            assert_eq!(points.split_whitespace().count(), 3, "{points}");
            for number in points.split([' ', ',']).filter(|part| !part.is_empty()) {
                assert!(
                    (0.0..=720.0).contains(&number.parse::<f64>().unwrap()),
                    "{points}"
                );
            }
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        let page = drawn(&report(), &[]);
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn what_strangers_write_is_text() {
        let mut report = report();
        let evil = "</main><script>alert('x')</script>\r\n&\"";
        report.streams[0].name = evil.to_owned();
        report.torrents[0].name = Some(evil.to_owned());
        report.problems[0].text = evil.to_owned();
        report.streams[0].authorities[1].refused[0].text = evil.to_owned();
        let peer = PeerReport {
            snapshot: OLD.to_owned(),
            address: "198.51.100.77:6881".to_owned(),
            client: Some(evil.to_owned()),
            incoming: true,
            v1: false,
            local: false,
            encrypted: false,
            seed: false,
            pieces: 3,
            downloaded: 1,
            uploaded: 2,
            down_rate: 3,
            up_rate: 4,
            choking_us: false,
            choked: false,
        };
        let page = drawn(&report, &[peer]);
        assert_eq!(page.matches("<script").count(), 1, "{page}");
        assert_eq!(page.matches("</main>").count(), 1);
        assert!(!page.contains('\r'));
        assert!(page.contains("198.51.100.x") && !page.contains("198.51.100.77"));
    }

    #[test]
    fn networks() {
        assert_eq!(network("[2001:db8:1:2::3]:5"), "2001:db8:1::x");
        assert_eq!(network("[::ffff:192.0.2.1]:5"), "192.0.2.x");
        assert_eq!(network("what"), "");
    }
}
