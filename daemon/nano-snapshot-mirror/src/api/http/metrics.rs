//! Metrics in Prometheus' text format, version 0.0.4.
//!
//! Metrics with the prefix `nano_snapshot_` have the names, labels and meanings of those of nano-snapshot-swarm, so that its dashboard works
//! unchanged. They describe the first stream. Metrics with the prefix `nano_snapshot_mirror_` are specific to this program.

use std::fmt::{Display, Write as _};

use port_mapping::MappingProtocol;

use crate::observe::report::{
    Reachable, Report, ServicePhase, TorrentReport, TorrentState, VoteState,
};

/// The value of the label `service` for a mirror.
const SERVICE: &str = "mirror";

/// Formats the report as metrics.
pub(super) fn render(report: &Report) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    theirs(report, &mut page);
    ours(report, &mut page);
    page.0
}

fn theirs(report: &Report, page: &mut Page) {
    let stream = report.streams.first();
    let current = stream.and_then(|stream| stream.current.as_deref());
    let active = stream.and_then(|stream| stream.active.as_deref());
    // One generation at a time, as in nano-snapshot-swarm: the active one, or else the current one.
    let generation = active.or(current).and_then(|id| report.torrent(id));
    let transfer = &report.transfer;
    page.counter(
        "nano_snapshot_bytes_uploaded_total",
        "BitTorrent payload bytes uploaded since this process started.",
    )
    .value(&[], transfer.uploaded);
    page.counter(
        "nano_snapshot_bytes_downloaded_total",
        "BitTorrent payload bytes downloaded since this process started.",
    )
    .value(&[], transfer.downloaded);
    let mut size = page.gauge(
        "nano_snapshot_size_bytes",
        "Size of the active snapshot in bytes.",
    );
    if let Some(torrent) = generation {
        size.value(&[("service", SERVICE)], torrent.bytes_total);
    }
    let seq = stream.and_then(|stream| stream.seq);
    let mut sequence = page.gauge(
        "nano_snapshot_dht_sequence",
        "DHT mutable-item sequence of the accepted pointer.",
    );
    if let Some(seq) = seq {
        sequence.value(&[("service", SERVICE)], seq);
    }
    let mut info = page.gauge(
        "nano_snapshot_generation_info",
        "The active snapshot generation.",
    );
    if let Some(torrent) = generation {
        let seq = seq.unwrap_or_default().to_string();
        let labels = [
            ("service", SERVICE),
            ("info_hash", &*torrent.snapshot),
            ("sequence", &*seq),
            (
                "original_filename",
                torrent.original_filename.as_deref().unwrap_or_default(),
            ),
        ];
        info.value(&labels, 1);
    }
    let seeds: usize = report.torrents.iter().map(|torrent| torrent.seeds).sum();
    let connections = report.connections();
    let mut peers = page.gauge(
        "nano_snapshot_swarm_peers",
        "Connected peers by BitTorrent role.",
    );
    peers.value(&[("role", "leecher")], connections.saturating_sub(seeds));
    peers.value(&[("role", "seeder")], seeds);
    page.gauge(
        "nano_snapshot_swarm_connections",
        "Connected BitTorrent peers and seeds.",
    )
    .value(&[], connections);
    page.gauge(
        "nano_snapshot_swarm_dht_nodes",
        "DHT nodes known to the local node.",
    )
    .value(&[], report.dht.nodes);
    page.gauge(
        "nano_snapshot_ready",
        "Whether the mirror is ready (1) or not (0).",
    )
    .value(&[], u8::from(report.ready));
    page.gauge("nano_snapshot_state", "Current service state.")
        .value(&[("service", SERVICE), ("state", their_state(report))], 1);
}

/// Returns the name of the state that nano-snapshot-swarm uses.
fn their_state(report: &Report) -> &'static str {
    match report.phase {
        ServicePhase::Starting => "starting",
        ServicePhase::Discovering => "discovering",
        ServicePhase::Metadata => "metadata",
        ServicePhase::Fetching => "downloading",
        ServicePhase::Verifying => "checking",
        ServicePhase::Seeding => "seeding",
        ServicePhase::Idle => "idle",
        ServicePhase::Stopping => "stopped",
    }
}

fn ours(report: &Report, page: &mut Page) {
    page.gauge("nano_snapshot_mirror_build_info", "The running program.")
        .value(&[("version", &report.version)], 1);
    page.gauge(
        "nano_snapshot_mirror_start_time_seconds",
        "When the process started, in seconds since 1970.",
    )
    .value(&[], report.started);
    let mut phase = page.gauge(
        "nano_snapshot_mirror_phase",
        "1 for the current phase of the mirror, 0 for all others.",
    );
    for one in ServicePhase::ALL {
        phase.value(&[("phase", one.name())], u8::from(one == report.phase));
    }
    let mut problems = page.gauge(
        "nano_snapshot_mirror_problems",
        "Number of present problems by code.",
    );
    let mut codes: Vec<&str> = report
        .problems
        .iter()
        .map(|problem| problem.code.name())
        .collect();
    codes.sort_unstable();
    for same in codes.chunk_by(|a, b| a == b) {
        if let Some(code) = same.first() {
            problems.value(&[("code", code)], same.len());
        }
    }
    streams(report, page);
    torrents(report, page);
    let transfer = &report.transfer;
    let mut sources = page.counter(
        "nano_snapshot_mirror_content_bytes_total",
        "Content bytes since this process started by source: received from peers, or reused from stored snapshots.",
    );
    sources.value(&[("source", "peers")], transfer.downloaded);
    sources.value(&[("source", "held")], transfer.reused);
    page.counter(
        "nano_snapshot_mirror_wasted_bytes_total",
        "Payload bytes received and wasted since this process started.",
    )
    .value(&[], transfer.wasted);
    page.counter(
        "nano_snapshot_mirror_hash_bytes_total",
        "Bytes of hashes received since this process started.",
    )
    .value(&[], transfer.hash_bytes);
    let peers = &report.peers;
    let mut connections = page.gauge(
        "nano_snapshot_mirror_connections",
        "Connections by direction and by info-hash version.",
    );
    let outgoing = peers.connections.saturating_sub(peers.incoming);
    connections.value(&[("kind", "incoming")], peers.incoming);
    connections.value(&[("kind", "outgoing")], outgoing);
    connections.value(&[("kind", "v1")], peers.v1);
    connections.value(
        &[("kind", "v2")],
        peers.connections.saturating_sub(peers.v1),
    );
    connections.value(&[("kind", "local")], peers.local);
    let mut by_encryption = page.gauge(
        "nano_snapshot_mirror_connections_by_encryption",
        "Connections by encryption: none, of the handshake only, or of the whole connection.",
    );
    let hidden = peers.encrypted.saturating_add(peers.encrypted_handshake);
    for (encryption, count) in [
        ("none", peers.connections.saturating_sub(hidden)),
        ("handshake", peers.encrypted_handshake),
        ("rc4", peers.encrypted),
    ] {
        by_encryption.value(&[("encryption", encryption)], count);
    }
    let mut reachable = page.gauge(
        "nano_snapshot_mirror_reachable",
        "Whether peers outside this network can connect: 1 for the present finding, 0 for the others.",
    );
    for one in Reachable::ALL {
        reachable.value(&[("known", one.name())], u8::from(one == peers.reachable));
    }
    let mut mapped = page.gauge(
        "nano_snapshot_mirror_port_mapped",
        "1 for the protocol of the port mapping on the router, 0 for the others; no series if port mapping is \
         off.",
    );
    if let Some(mapping) = &report.port_mapping {
        for one in MappingProtocol::ALL {
            let name = one.name();
            let here = mapping.protocol.as_deref() == Some(name);
            mapped.value(&[("protocol", name)], u8::from(here));
        }
    }
    let month = &report.month;
    page.gauge(
        "nano_snapshot_mirror_month_uploaded_bytes",
        "Content uploaded in this calendar month (UTC), over all runs.",
    )
    .value(&[], month.uploaded);
    let mut limit = page.gauge(
        "nano_snapshot_mirror_month_upload_limit_bytes",
        "Upload limit of a calendar month; no series without a limit.",
    );
    if let Some(bytes) = month.limit {
        limit.value(&[], bytes);
    }
    page.gauge(
        "nano_snapshot_mirror_uploads_paused",
        "Whether uploads are paused until the end of the month (1) or not (0).",
    )
    .value(&[], u8::from(month.paused));
    page.gauge(
        "nano_snapshot_mirror_banned",
        "Addresses banned for sending invalid data.",
    )
    .value(&[], peers.banned);
    page.gauge(
        "nano_snapshot_mirror_dht_running",
        "Whether the DHT node answers.",
    )
    .value(&[], u8::from(report.dht.running));
    page.gauge(
        "nano_snapshot_mirror_disk_free_bytes",
        "Free space on the file system of the data directory.",
    )
    .value(&[], report.disk.free);
    page.gauge(
        "nano_snapshot_mirror_disk_size_bytes",
        "Size of the file system of the data directory.",
    )
    .value(&[], report.disk.total);
    page.gauge(
        "nano_snapshot_mirror_next_update_bytes",
        "Upper bound of the disk space that the next update needs.",
    )
    .value(&[], report.disk.next_update);
}

fn streams(report: &Report, page: &mut Page) {
    let mut age = page.gauge(
        "nano_snapshot_mirror_pointer_age_seconds",
        "Time since enough authorities were first seen to name the desired snapshot.",
    );
    for stream in &report.streams {
        if let Some(since) = stream.since {
            age.value(
                &[("stream", &stream.name)],
                report.now.saturating_sub(since),
            );
        }
    }
    let mut answer = page.gauge(
        "nano_snapshot_mirror_dht_answer_age_seconds",
        "Time since a look-up of the pointer was last answered.",
    );
    for stream in &report.streams {
        if let Some(answered) = stream.answered {
            answer.value(
                &[("stream", &stream.name)],
                report.now.saturating_sub(answered),
            );
        }
    }
    let mut current = page.gauge(
        "nano_snapshot_mirror_current",
        "Whether the desired snapshot is the current one (1) or not (0).",
    );
    for stream in &report.streams {
        let is = stream.desired.is_some() && stream.desired == stream.current;
        current.value(&[("stream", &stream.name)], u8::from(is));
    }
    let mut sequence = page.gauge(
        "nano_snapshot_mirror_authority_sequence",
        "Sequence number of the accepted pointer of each authority.",
    );
    for stream in &report.streams {
        for authority in &stream.authorities {
            if let Some(seq) = authority.seq {
                let labels = [
                    ("stream", &*stream.name),
                    ("authority", &*authority.authority),
                ];
                sequence.value(&labels, seq);
            }
        }
    }
    let mut states = page.gauge(
        "nano_snapshot_mirror_authorities",
        "Authorities of a stream by state of their vote.",
    );
    for stream in &report.streams {
        for state in [
            VoteState::Agrees,
            VoteState::Differs,
            VoteState::Silent,
            VoteState::Contested,
        ] {
            let standing = stream.authorities.iter().filter(|one| one.state == state);
            let labels = [("stream", &*stream.name), ("state", state.name())];
            states.value(&labels, standing.count());
        }
    }
    let mut refusals = page.counter(
        "nano_snapshot_mirror_refused_items_total",
        "Signed items that were found and not accepted since this process started.",
    );
    for (reason, count) in &report.refusals {
        refusals.value(&[("reason", reason)], count);
    }
}

/// Writes metrics of torrents by state. With info-hashes as labels every snapshot would add new series.
fn torrents(report: &Report, page: &mut Page) {
    let of = |state| {
        report
            .torrents
            .iter()
            .filter(move |torrent: &&TorrentReport| torrent.state == state)
    };
    let states = [
        TorrentState::Metadata,
        TorrentState::Fetching,
        TorrentState::Seeding,
        TorrentState::Stopped,
    ];
    let mut count = page.gauge(
        "nano_snapshot_mirror_torrents",
        "Snapshots in the session by state.",
    );
    for state in states {
        count.value(&[("state", state.name())], of(state).count());
    }
    let mut bytes = page.gauge(
        "nano_snapshot_mirror_fetch_bytes",
        "Bytes of the snapshot that is being downloaded: total and verified.",
    );
    let fetching = || of(TorrentState::Fetching);
    let total: u64 = fetching().map(|torrent| torrent.bytes_total).sum();
    let verified: u64 = fetching().map(|torrent| torrent.bytes_verified).sum();
    bytes.value(&[("part", "total")], total);
    bytes.value(&[("part", "verified")], verified);
}

/// A page of metrics.
struct Page(String);

impl Page {
    fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "counter")
    }

    fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "gauge")
    }

    fn family(&mut self, name: &'static str, help: &str, kind: &str) -> Family<'_> {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { page: self, name }
    }
}

/// One metric.
struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Family<'_> {
    fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let text = &mut self.page.0;
        text.push_str(self.name);
        for (number, (label, content)) in labels.iter().enumerate() {
            text.push(if number == 0 { '{' } else { ',' });
            text.push_str(label);
            text.push_str("=\"");
            for character in content.chars() {
                match character {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    other => text.push(other),
                }
            }
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::report::testing::report;

    /// Returns the name and labels of every series.
    fn series(text: &str) -> Vec<&str> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| Some(line.rsplit_once(' ')?.0))
            .collect()
    }

    /// The queries of the seven panels of nano-snapshot-swarm's dashboard
    /// (`observability/nano-snapshot-swarm-dashboard.json`, version 8), word for word.
    const PANELS: [(&str, &[&str]); 7] = [
        ("Producer ready", &["nano_snapshot_ready"]),
        ("DHT sequence", &["nano_snapshot_dht_sequence"]),
        ("Snapshot size", &["nano_snapshot_size_bytes"]),
        ("DHT nodes", &["nano_snapshot_swarm_dht_nodes"]),
        (
            "BitTorrent transfer rate",
            &[
                "rate(nano_snapshot_bytes_uploaded_total[5m])",
                "rate(nano_snapshot_bytes_downloaded_total[5m])",
            ],
        ),
        (
            "Current swarm health",
            &[
                "nano_snapshot_swarm_peers{role=\"leecher\"}",
                "nano_snapshot_swarm_peers{role=\"seeder\"}",
                "nano_snapshot_swarm_connections",
            ],
        ),
        (
            "Active snapshot generation",
            &["nano_snapshot_generation_info"],
        ),
    ];

    /// Returns how many series a query selects.
    fn selected(query: &str, text: &str) -> usize {
        let rate = query.strip_prefix("rate(");
        let selector = rate.map_or(query, |inner| inner.strip_suffix("[5m])").unwrap());
        let (name, labels) = selector.split_once('{').unwrap_or((selector, ""));
        let labels = labels.trim_end_matches('}');
        if rate.is_some() {
            assert!(text.contains(&format!("# TYPE {name} counter")), "{name}");
        }
        let has = |one: &&&str| {
            let (found, with) = one.split_once('{').unwrap_or((one, ""));
            found == name && with.contains(labels)
        };
        series(text).iter().filter(has).count()
    }

    #[test]
    fn the_swarms_dashboard_finds_its_series() {
        let text = render(&report());
        for (panel, queries) in PANELS {
            for query in queries {
                // Each query draws one number or one line.
                assert_eq!(selected(query, &text), 1, "{panel}: {query} in {text}");
            }
        }
        // No panel uses this metric, but alerts may.
        assert!(selected("nano_snapshot_state", &text) > 0, "{text}");
        assert_eq!(selected("nano_snapshot_swarm_peers{role=\"x\"}", &text), 0);
        let series = series(&text);
        let info = series
            .iter()
            .find(|name| name.starts_with("nano_snapshot_generation_info{"))
            .unwrap();
        for label in [
            "service=",
            "info_hash=",
            "sequence=\"7\"",
            "original_filename=\"Nano_64\"",
        ] {
            assert!(info.contains(label), "{info}");
        }
    }

    #[test]
    fn every_series_is_there_once_and_described() {
        let text = render(&report());
        let mut names = series(&text);
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        for name in names {
            let family = name.split('{').next().unwrap();
            assert!(text.contains(&format!("# TYPE {family} ")), "{family}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit_once(' ').unwrap().1;
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn one_protocol_made_the_port_mapping() {
        let mut report = report();
        let mapped = |report: &Report| {
            let text = render(report);
            let lines = text.lines();
            let mapped = lines.filter(|line| line.starts_with("nano_snapshot_mirror_port_mapped{"));
            mapped.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            mapped(&report),
            [
                "nano_snapshot_mirror_port_mapped{protocol=\"pcp\"} 0",
                "nano_snapshot_mirror_port_mapped{protocol=\"nat-pmp\"} 0",
                "nano_snapshot_mirror_port_mapped{protocol=\"upnp\"} 1",
            ]
        );
        report.port_mapping = None;
        assert_eq!(mapped(&report), [""; 0]);
    }

    #[test]
    fn dashboard_and_alerts_ask_for_what_there_is() {
        let text = render(&report());
        for page in [
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../docs/grafana-dashboard.json"
            )),
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../docs/operating.md"
            )),
        ] {
            let mut names = 0;
            for (at, _) in page.match_indices("nano_snapshot_") {
                let name = page[at..].split(|c: char| !c.is_ascii_lowercase() && c != '_');
                let name = name.into_iter().next().unwrap();
                assert!(text.contains(&format!("# TYPE {name} ")), "no {name}");
                names += 1;
            }
            assert!(names > 3);
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut page = Page(String::new());
        page.gauge("x", "y").value(&[("a", "\"\\\n")], 1);
        assert!(page.0.ends_with("x{a=\"\\\"\\\\\\n\"} 1\n"), "{}", page.0);
    }
}
