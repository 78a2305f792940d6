//! Formats the report for a terminal, and as one line for the service manager.

use std::fmt::Write as _;

use bittorrent_protocol::Printable;

use super::{PortMapping, Report, StreamReport, TorrentReport, TorrentState, VoteState};
use crate::progress::percent;
use crate::text::{Bytes, Time};

/// The number of leading digits of a hash to show.
const SHORT: usize = 12;

impl Report {
    /// Formats one line: phase, progress, peers, sequence numbers and problems.
    pub(crate) fn line(&self) -> String {
        let mut line = self.phase.name().to_owned();
        // Writing to a String cannot fail.
        if let Some(percent) = self.percent() {
            let _ = write!(line, " {percent} %");
        }
        let (transfer, peers) = (&self.transfer, self.connections());
        let _ = write!(
            line,
            ", {} peers, {}/s down, {}/s up",
            peers,
            Bytes(transfer.down_rate),
            Bytes(transfer.up_rate)
        );
        for stream in &self.streams {
            if let Some(seq) = stream.seq {
                let _ = write!(line, ", {} seq {seq}", stream.name);
            }
        }
        if self.month.paused {
            line.push_str(", uploads paused to the end of the month");
        }
        for problem in &self.problems {
            let _ = write!(line, "; {}", problem.code);
        }
        line
    }

    /// Returns the number of connections of all torrents.
    pub(crate) fn connections(&self) -> usize {
        self.torrents.iter().map(|torrent| torrent.peers).sum()
    }

    /// Formats the report in several lines.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        let state = if self.ready {
            "ready"
        } else if self.problems.is_empty() {
            "not ready yet"
        } else {
            "degraded"
        };
        let up = Time(std::time::Duration::from_secs(
            self.now.saturating_sub(self.started),
        ));
        let _ = writeln!(
            text,
            "{state}: {} (version {}, up {up})",
            self.phase.name(),
            self.version
        );
        for reason in self.reasons() {
            let _ = writeln!(text, "  ! {}", Printable(reason));
        }
        for work in self.work.iter().filter(|work| work.total > 0) {
            let _ = writeln!(text, "{}: {} %", work.name, percent(work.done, work.total));
        }
        for stream in &self.streams {
            stream.write(self.now, &mut text);
        }
        for torrent in &self.torrents {
            torrent.write(&mut text);
        }
        let transfer = &self.transfer;
        let _ = writeln!(
            text,
            "transfer: {} down ({}/s), {} up ({}/s), {} reused, {} wasted",
            Bytes(transfer.downloaded),
            Bytes(transfer.down_rate),
            Bytes(transfer.uploaded),
            Bytes(transfer.up_rate),
            Bytes(transfer.reused),
            Bytes(transfer.wasted),
        );
        if let Some(limit) = self.month.limit {
            let month = &self.month;
            let (given, limit) = (Bytes(month.uploaded), Bytes(limit));
            let _ = writeln!(
                text,
                "month {}: uploaded {given} of {limit}{}",
                month.month,
                if month.paused {
                    "; uploads are paused until next month (limits.monthly-upload)"
                } else {
                    ""
                }
            );
        }
        let peers = &self.peers;
        let _ = writeln!(
            text,
            "peers: {} ({} seeds, {} incoming, {} banned); reachable: {}, {}",
            peers.connections,
            peers.seeds,
            peers.incoming,
            peers.banned,
            peers.reachable.name(),
            peers.reachable_because
        );
        if let Some(mapping) = &self.port_mapping {
            let _ = writeln!(text, "port mapping: {}", Printable(mapping.text(self.now)));
        }
        let _ = writeln!(
            text,
            "DHT: {}",
            if self.dht.running {
                format!("{} nodes", self.dht.nodes)
            } else {
                "not running".to_owned()
            }
        );
        let _ = write!(
            text,
            "disk: {} free of {} at {}",
            Bytes(self.disk.free),
            Bytes(self.disk.total),
            self.data_dir
        );
        if self.disk.next_update > 0 {
            let _ = write!(
                text,
                "; the next update takes up to {}",
                Bytes(self.disk.next_update)
            );
        }
        text
    }
}

impl PortMapping {
    /// Describes the mapping, or why there is none.
    pub(crate) fn text(&self, now: u64) -> String {
        let (Some(protocol), Some(router), Some(port)) = (&self.protocol, &self.router, self.port)
        else {
            let failure = self.failure.as_deref();
            return failure.unwrap_or("waiting for the router").to_owned();
        };
        let mut text = format!("port {port} on router {router}");
        if let Some(address) = &self.address {
            let _ = write!(text, " ({address})");
        }
        let _ = write!(text, " is forwarded here by {protocol}, ");
        let _ = match self.ends {
            Some(ends) => write!(text, "expires in {} unless renewed", ago(ends, now)),
            None => write!(text, "does not expire"),
        };
        text
    }
}

impl StreamReport {
    fn write(&self, now: u64, text: &mut String) {
        let _ = write!(text, "stream {}: ", self.name);
        let _ = match (&self.desired, self.seq, self.since) {
            (Some(desired), Some(seq), Some(since)) => write!(
                text,
                "{} seq {seq}, named {} ago",
                short(desired),
                ago(now, since)
            ),
            _ => write!(text, "no pointer yet"),
        };
        let _ = match &self.current {
            Some(current) if self.desired.as_ref() == Some(current) => write!(text, ", current"),
            Some(current) => write!(text, "; current is {}", short(current)),
            None => write!(text, "; no current snapshot"),
        };
        let _ = match self.answered {
            Some(answered) => writeln!(text, "; DHT answered {} ago", ago(now, answered)),
            None => writeln!(text, "; the DHT has not answered yet"),
        };
        for authority in &self.authorities {
            let state = authority.state;
            // A single authority that agrees is not listed: the line of the stream shows its vote.
            let plain = state == VoteState::Agrees
                && self.authorities.len() == 1
                && authority.refused.is_empty()
                && authority.failure.is_none();
            if plain {
                continue;
            }
            let _ = write!(text, "  {}: {}", short(&authority.authority), state.name());
            if let Some(seq) = authority.seq {
                let _ = write!(text, ", seq {seq}");
            }
            if let Some(failure) = &authority.failure {
                let _ = write!(text, ", {}", Printable(failure));
            }
            text.push('\n');
            for refused in &authority.refused {
                let (times, at) = (refused.times, ago(now, refused.at));
                let _ = writeln!(
                    text,
                    "    refused {} ({times} times, last {at} ago)",
                    Printable(&refused.text)
                );
            }
        }
    }
}

impl TorrentReport {
    fn write(&self, text: &mut String) {
        let _ = write!(text, "{}: {}", short(&self.snapshot), self.state.name());
        if let Some(name) = &self.name {
            let _ = write!(text, " {}", Printable(name));
        }
        if self.bytes_total > 0 {
            let _ = write!(text, ", {}", Bytes(self.bytes_total));
        }
        if self.state == TorrentState::Fetching {
            let done = percent(self.bytes_verified, self.bytes_total);
            let _ = write!(
                text,
                ", {done} %, {} reused, {} fetched, {} to fetch",
                Bytes(self.bytes_reused),
                Bytes(self.bytes_fetched),
                Bytes(self.bytes_to_fetch)
            );
            if let Some(left) = self.seconds_left {
                let left = Time(std::time::Duration::from_secs(left));
                let _ = write!(text, ", {left} left");
            }
        }
        let _ = writeln!(
            text,
            ", {} peers, {} uploaded",
            self.peers,
            Bytes(self.uploaded)
        );
    }
}

fn short(hash: &str) -> &str {
    hash.get(..SHORT).unwrap_or(hash)
}

fn ago(now: u64, then: u64) -> Time {
    Time(std::time::Duration::from_secs(now.saturating_sub(then)))
}

#[cfg(test)]
mod tests {
    use super::PortMapping;
    use crate::observe::report::testing::{NEW, OLD, report};

    #[test]
    fn one_line_for_the_service_manager() {
        assert_eq!(
            report().line(),
            "fetching 25 %, 6 peers, 200 B/s down, 100 B/s up, daily seq 7, \
             uploads paused to the end of the month; dht-silent"
        );
    }

    #[test]
    fn everything_for_a_person() {
        let text = report().to_text();
        for part in [
            "degraded: fetching",
            "! dht-silent: no DHT node has answered",
            "Downloading: 25 %",
            &format!("stream daily: {} seq 7", &NEW[..12]),
            &format!("current is {}", &OLD[..12]),
            "dddddddddddd: silent, no DHT node could be reached",
            "refused seq 3 is below 7, which was seen before (2 times",
            "25 %, 500 B reused, 500 B fetched, 0 B to fetch, 30.0 s left",
            "42 nodes",
            "month 2026-11: uploaded 9.77 KiB of 9.77 KiB; uploads are paused",
            "reachable: yes, a peer outside this network is connected",
            "5.00 GiB free of 10.0 GiB",
            "port mapping: port 6881 on router 192.0.2.1 (203.0.113.9) is forwarded here by upnp, expires in 1 h 0 min",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
    }

    #[test]
    fn a_port_of_the_router_is_there_or_it_is_said_why_not() {
        let mut report = report();
        let mapping = report.port_mapping.as_mut().unwrap();
        mapping.ends = None;
        assert!(mapping.text(1000).ends_with("by upnp, does not expire"));
        report.port_mapping = Some(PortMapping {
            failure: Some("no router".to_owned()),
            ..PortMapping::default()
        });
        assert!(report.to_text().contains("port mapping: no router\n"));
        report.port_mapping = Some(PortMapping::default());
        assert!(report.to_text().contains("port mapping: waiting for the"));
        report.port_mapping = None;
        assert!(!report.to_text().contains("port mapping"));
    }

    #[test]
    fn nothing_strangers_write_moves_the_cursor() {
        let mut report = report();
        report.torrents[0].name = Some("\x1b[2J\nforged".to_owned());
        let bad = "\x1b[2J\nforged".to_owned();
        report.streams[0].authorities[0].failure = Some(bad.clone());
        report.port_mapping.as_mut().unwrap().router = Some(bad);
        let text = report.to_text();
        assert!(
            !text.contains('\x1b') && !text.contains("\nforged"),
            "{text}"
        );
    }
}
