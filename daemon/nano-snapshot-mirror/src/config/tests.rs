//! Tests of configurations as users write them, and of the messages about mistakes.

use std::path::PathBuf;
use std::time::Duration;

use super::load::{Loaded, Sources};
use super::section::KeyType as _;
use super::*;
use figment::value::Value;

const KEY: &str = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";

/// Sources with a file of this content, these variables and these flags.
struct Case {
    _dir: tempfile::TempDir,
    sources: Sources,
    file: String,
}

impl Case {
    fn new(file: &str, variables: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let name = path.display().to_string();
        let sources = Sources {
            file: Some(path),
            default_file: false,
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            flags: flags
                .iter()
                .map(|(path, value)| UnscopedValue {
                    path,
                    value: Value::from(*value),
                    place: format!("flag of {path}"),
                })
                .collect(),
        };
        Self {
            _dir: dir,
            sources,
            file: name,
        }
    }

    #[track_caller]
    fn loaded(&self) -> Loaded {
        match self.sources.load() {
            Ok(loaded) => loaded,
            Err(mistakes) => panic!("{:?}", mistakes.lines().collect::<Vec<_>>()),
        }
    }

    /// Returns the mistakes, with `FILE` in place of the name of the file.
    #[track_caller]
    fn mistakes(&self) -> Vec<String> {
        let mistakes = self.sources.load().map(|loaded| loaded.config).unwrap_err();
        mistakes
            .lines()
            .map(|line| line.replace(&self.file, "FILE"))
            .collect()
    }
}

#[test]
fn without_anything_it_is_the_default() {
    let config = Case::new("", &[], &[]).loaded().config;
    assert_eq!(config, Config::default());
    assert_eq!(config.poll_interval.get(), Duration::from_secs(600));
    assert_eq!(config.peer.listen.value, ["[::]:6881".parse().unwrap()]);
    assert_eq!(config.peer.listen.origin, Origin::Default);
    let (name, stream) = config.stream.iter().next().unwrap();
    assert_eq!((name, stream.salt.as_bytes()), ("daily", &b"daily"[..]));
    assert_eq!(
        stream.authorities[0].to_string(),
        "cdbc9284015e84c225f0e67b891606505a60cf1218b127ac1c1edb6444567e6b"
    );
}

#[test]
fn what_is_closer_to_the_command_wins() {
    let file = "poll-interval = '1m'\n[dht]\nport = 1\n[peer]\nlisten = ['127.0.0.1:1']\n";
    let ours = ("NANO_SNAPSHOT_MIRROR_POLL_INTERVAL", "3m");
    let theirs = ("POLL_INTERVAL", "120");
    let flag = ("poll-interval", "4m");
    for (variables, flags, minutes) in [
        (&[][..], &[][..], 1),
        (&[theirs][..], &[][..], 2),
        (&[theirs, ours][..], &[][..], 3),
        (&[ours, theirs][..], &[flag][..], 4),
    ] {
        let config = Case::new(file, variables, flags).loaded().config;
        assert_eq!(
            config.poll_interval.get(),
            Duration::from_secs(60 * minutes)
        );
        // Values that no source overrides remain.
        assert_eq!(config.dht.port.value, 1);
        assert_eq!(config.dht.port.origin, Origin::Configured);
    }
    let config = Case::new(file, &[], &[("dht.port", "2")]).loaded().config;
    assert_eq!(config.dht.port.origin, Origin::Flag);
    assert_eq!(config.peer.listen.origin, Origin::Configured);
}

#[test]
fn a_file_with_everything_is_read() {
    let file = format!(
        "data-dir = '/srv/x'\nseed-peers = ['a.example:1', '[::1]:2']\npoll-interval = 90\n\
         [stream.mine]\nauthorities = ['{KEY}']\nthreshold = 1\nsalt = 'weekly'\n\
         [peer]\nlisten = ['127.0.0.1:5', '[::1]:5']\n\
         [dht]\nport = 0\nbootstrap = ['b.example:3']\n[log]\nlevel = 'debug'\n"
    );
    let config = Case::new(&file, &[], &[]).loaded().config;
    assert_eq!(config.data_dir, Some(PathBuf::from("/srv/x")));
    assert_eq!(config.seed_peers.len(), 2);
    assert_eq!(config.poll_interval.get(), Duration::from_secs(90));
    let streams: Vec<_> = config.stream.iter().collect();
    let [("mine", stream)] = streams[..] else {
        panic!("{streams:?}")
    };
    assert_eq!(stream.salt.as_bytes(), b"weekly");
    assert_eq!(config.peer.listen.value.len(), 2);
    assert_eq!(config.dht.bootstrap[0].to_string(), "b.example:3");
    assert_eq!(config.log.level, LogLevel::Debug);
}

#[test]
fn variables_say_lists_and_numbers_as_text() {
    let variables = [
        ("NANO_SNAPSHOT_MIRROR_PEER__LISTEN", "[::1]:5"),
        ("NANO_SNAPSHOT_MIRROR_DHT__PORT", "7"),
        (
            "NANO_SNAPSHOT_MIRROR_DHT__BOOTSTRAP",
            "a.example:1, b.example:2",
        ),
        (
            "NANO_SNAPSHOT_MIRROR_SEED_PEERS",
            "['c.example:1', \"d.example:2\"]",
        ),
        ("NANO_SNAPSHOT_MIRROR_STREAM__DAILY__AUTHORITIES", KEY),
        ("NANO_SNAPSHOT_MIRROR_LOG__LEVEL", ""),
        ("NANO_SNAPSHOT_MIRRORS", "not ours"),
    ];
    let config = Case::new("", &variables, &[]).loaded().config;
    assert_eq!(config.peer.listen.value, ["[::1]:5".parse().unwrap()]);
    assert_eq!(config.dht.port.value, 7);
    assert_eq!(config.dht.bootstrap.len(), 2);
    assert_eq!(config.seed_peers[1].to_string(), "d.example:2");
    let (_, stream) = config.stream.iter().next().unwrap();
    assert_eq!(stream.authorities[0].to_string(), KEY);
    assert_eq!(config.log.level, LogLevel::Info);
}

#[test]
fn variables_that_name_a_service_are_not_settings() {
    // What Kubernetes and `docker --link` set for a service `nano-snapshot-mirror`, for
    // `nano-snapshot-mirror-peers`, and for one that is called `metrics`.
    let variables = [
        ("NANO_SNAPSHOT_MIRROR_SERVICE_HOST", "10.0.0.1"),
        ("NANO_SNAPSHOT_MIRROR_SERVICE_PORT", "9109"),
        ("NANO_SNAPSHOT_MIRROR_SERVICE_PORT_HTTP", "9109"),
        ("NANO_SNAPSHOT_MIRROR_PORT", "tcp://10.0.0.1:9109"),
        ("NANO_SNAPSHOT_MIRROR_PORT_9109_TCP", "tcp://10.0.0.1:9109"),
        ("NANO_SNAPSHOT_MIRROR_PORT_9109_TCP_PROTO", "tcp"),
        ("NANO_SNAPSHOT_MIRROR_PORT_9109_TCP_PORT", "9109"),
        ("NANO_SNAPSHOT_MIRROR_PORT_9109_TCP_ADDR", "10.0.0.1"),
        ("NANO_SNAPSHOT_MIRROR_PEERS_SERVICE_HOST", "10.0.0.2"),
        ("NANO_SNAPSHOT_MIRROR_PEERS_SERVICE_PORT", "6882"),
        ("NANO_SNAPSHOT_MIRROR_PEERS_PORT", "udp://10.0.0.2:6882"),
        ("NANO_SNAPSHOT_MIRROR_PEERS_PORT_6882_UDP_ADDR", "10.0.0.2"),
        ("METRICS_PORT", "tcp://10.0.0.3:80"),
    ];
    let loaded = Case::new("", &variables, &[]).loaded();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);

    // Settings with similar names are still read, and mistakes in them are reported.
    let config = Case::new("", &[("NANO_SNAPSHOT_MIRROR_DHT__PORT", "7")], &[]).loaded();
    assert_eq!(config.config.dht.port.value, 7);
    for mistaken in [
        ("NANO_SNAPSHOT_MIRROR_DHT__PORT", "tcp://10.0.0.1:9109"),
        ("NANO_SNAPSHOT_MIRROR_PORT", "9109"),
        ("NANO_SNAPSHOT_MIRROR_SERVICES", "x"),
        ("NANO_SNAPSHOT_MIRROR_PORT_TCP", "x"),
    ] {
        let mistakes = Case::new("", &[mistaken], &[]).mistakes();
        assert_eq!(mistakes.len(), 1, "{mistaken:?}");
    }
}

#[test]
fn host_names_are_configured_without_ports() {
    let hosts = |text| Case::new("", &[("NANO_SNAPSHOT_MIRROR_HTTP__HOSTS", text)], &[]);
    let config = hosts("mirror, Status.Example.org.").loaded().config;
    let shown: Vec<_> = config.http.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["mirror", "status.example.org"]);
    let [mistake] = &hosts("mirror:9109").mistakes()[..] else {
        panic!("not one mistake")
    };
    assert!(mistake.contains("without a scheme, a port"), "{mistake}");
}

#[test]
fn an_environment_of_the_swarm_is_understood_and_noticed() {
    let variables = [
        ("PRODUCER_SIGNING_PUBKEY", KEY),
        ("AUTHORITY_PUBKEY", &"cd".repeat(32)),
        ("DATA_DIR", "/data"),
        ("DHT_SALT", "weekly"),
        ("POLL_INTERVAL", "60"),
        ("SEED_PEERS", "a.example:6881,203.0.113.5:6881"),
        ("LOG_LEVEL", "WARNING"),
    ];
    let loaded = Case::new("", &variables, &[]).loaded();
    let config = loaded.config;
    assert_eq!(config.data_dir, Some(PathBuf::from("/data")));
    assert_eq!(config.poll_interval.get(), Duration::from_secs(60));
    assert_eq!(config.seed_peers[1].to_string(), "203.0.113.5:6881");
    assert_eq!(config.log.level, LogLevel::Warn);
    let streams: Vec<_> = config.stream.iter().collect();
    let [("weekly", stream)] = streams[..] else {
        panic!("{streams:?}")
    };
    assert_eq!(stream.salt.as_bytes(), b"weekly");
    assert_eq!(stream.authorities.len(), 1);
    assert_eq!(stream.authorities[0].to_string(), KEY);
    let [notice] = &loaded.notices[..] else {
        panic!("{:?}", loaded.notices)
    };
    for (name, _) in variables {
        assert!(notice.contains(name), "{notice}");
    }
    // Compose files pass on unset variables as empty ones.
    let empty = variables.map(|(name, _)| (name, ""));
    let loaded = Case::new("", &empty, &[]).loaded();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.notices.is_empty());
}

#[test]
fn metrics_are_where_the_swarm_has_them() {
    let listen = |variables: &[(&str, &str)]| {
        let config = Case::new("", variables, &[]).loaded().config;
        config.http.listen.show().unwrap()
    };
    let default = "\"127.0.0.1:9109\"";
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[("METRICS_ENABLED", "true")], default),
        (&[("METRICS_PORT", "9200")], "\"127.0.0.1:9200\""),
        (&[("METRICS_BIND", "0.0.0.0")], "\"0.0.0.0:9109\""),
        (&[("METRICS_BIND", "::")], "\"[::]:9109\""),
        (
            &[("METRICS_ENABLED", "False"), ("METRICS_PORT", "9200")],
            "\"off\"",
        ),
    ];
    for (variables, expected) in cases {
        assert_eq!(listen(variables), expected, "{variables:?}");
    }
    let [mistake] = &Case::new("", &[("METRICS_PORT", "x")], &[]).mistakes()[..] else {
        panic!("not one mistake")
    };
    assert!(
        mistake.starts_with("variable METRICS_PORT: http.listen = \"127.0.0.1:x\": "),
        "{mistake}"
    );
}

#[test]
fn data_is_where_the_service_manager_or_the_user_wants_it() {
    let place = |variables: &[(&str, &str)]| Case::new("", variables, &[]).loaded().config.data_dir;
    let home = ("HOME", "/home/anna");
    let of_home = "/home/anna/.local/share/nano-snapshot-mirror";
    let cases: [(&[(&str, &str)], &str); 6] = [
        (
            &[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), home],
            "/var/lib/a/",
        ),
        (
            &[("XDG_DATA_HOME", "/data"), home],
            "/data/nano-snapshot-mirror",
        ),
        (&[("XDG_DATA_HOME", "data"), home], of_home),
        (&[("STATE_DIRECTORY", ""), home], of_home),
        (
            &[("DATA_DIR", "/data"), ("STATE_DIRECTORY", "/state")],
            "/data",
        ),
        (&[("NANO_SNAPSHOT_MIRROR_DATA_DIR", "/ours"), home], "/ours"),
    ];
    for (variables, expected) in cases {
        assert_eq!(place(variables), Some(expected.into()), "{variables:?}");
    }
    assert_eq!(place(&[]), None);
}

#[test]
fn flags_for_a_stream_are_for_the_only_one() {
    let flags = [("stream.NAME.salt", "weekly")];
    let of = |file: &str| {
        let config = Case::new(file, &[], &flags).loaded().config;
        let mut streams = config.stream.iter();
        let (name, stream) = streams.next().unwrap();
        assert!(streams.next().is_none() && stream.salt.as_bytes() == b"weekly");
        name.to_owned()
    };
    assert_eq!(of(""), "weekly");
    assert_eq!(of("[stream.mine]"), "mine");
    let odd = Case::new("", &[], &[("stream.NAME.salt", "../x")]).loaded();
    let names: Vec<_> = odd.config.stream.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["salt-2e2e2f78"]);

    let several = Case::new("[stream.a]\n[stream.b]\n", &[], &flags).mistakes();
    assert_eq!(
        several,
        [
            "flag of stream.NAME.salt: there are several streams; set one of these instead: stream.a.salt, stream.b.salt"
        ]
    );
}

#[test]
fn every_mistake_of_every_source_is_named_in_one_pass() {
    let file = "\
poll-interval = '0s'
seed-peers = [
  'a.example:1',
  'b.example',
]
pol-interval = '1m'
peer = 5
dht.port = 'x'

[dth]
port = 1

[stream.'a b']
[stream.daily]
threshold = 17
salt = 1979-05-27
";
    let variables = [
        ("NANO_SNAPSHOT_MIRROR_PEER__LISTN", "x"),
        ("NANO_SNAPSHOT_MIRROR_LOG__LEVEL", "loud"),
        ("POLL_INTERVAL", "soon"),
    ];
    let flags = [("dht.port", "65536"), ("stream.NAME.authorities", "abc")];
    let case = Case::new(file, &variables, &flags);
    let interval = "a duration from 1s to 7d, such as 90s, 10m, 2h or 1d";
    let port = "write a port from 0 to 65535, where 0 takes any free one";
    let mut expected = [
        format!("FILE:1: poll-interval = \"0s\": write {interval}"),
        "FILE:2: seed-peers = [\"a.example:1\", \"b.example\"]: write HOST:PORT, for example \
         seed.example.org:6881 or [2001:db8::1]:6881"
            .to_owned(),
        "FILE:6: pol-interval: there is no such key; did you mean poll-interval?".to_owned(),
        "FILE:7: peer = 5: this is a section; write [peer], and its keys below it".to_owned(),
        format!("FILE:8: dht.port = \"x\": {port}"),
        "FILE:10: dth: there is no such key; did you mean dht?".to_owned(),
        "FILE:13: stream.a b: a stream's name has 1 to 200 letters, digits, `-` and `_`, for it \
         becomes a file name"
            .to_owned(),
        "FILE:15: stream.daily.threshold = 17: write a whole number from 1 to 16".to_owned(),
        "variable NANO_SNAPSHOT_MIRROR_PEER__LISTN: peer.listn: there is no such key; did you \
         mean peer.listen?"
            .to_owned(),
        "variable NANO_SNAPSHOT_MIRROR_LOG__LEVEL: log.level = \"loud\": write error, warn, info, \
         debug or trace"
            .to_owned(),
        "variable POLL_INTERVAL: poll-interval = \"soon\": write a number and a unit: 90s, 10m, \
         2h or 1d"
            .to_owned(),
        format!("flag of dht.port: dht.port = \"65536\": {port}"),
        "flag of stream.NAME.authorities: there are several streams; set one of these instead: \
         stream.a b.authorities, stream.daily.authorities"
            .to_owned(),
    ];
    let mut mistakes = case.mistakes();
    mistakes.sort();
    expected.sort();
    assert_eq!(mistakes, expected);
}

#[test]
fn what_is_no_toml_is_named_with_its_lines_beside_other_mistakes() {
    let case = Case::new(
        "poll-interval = \nseed-peers = []\n[log]\nlevel = 5\n",
        &[],
        &[],
    );
    let mistakes = case.mistakes();
    assert!(mistakes[0].starts_with("FILE:1: "), "{mistakes:?}");
    assert_eq!(
        mistakes[1..],
        ["FILE:4: log.level = 5: write error, warn, info, debug or trace"]
    );
}

#[test]
fn keys_that_contradict_each_other_are_named() {
    let cases = [
        (
            "[stream.x]\nthreshold = 2\n".to_owned(),
            "FILE:2: stream.x.threshold: threshold 2 must be between 1 and the number of \
             authorities, 1"
                .to_owned(),
        ),
        (
            format!("[stream.x]\n\nauthorities = ['{KEY}', '{KEY}']\n"),
            format!("FILE:3: stream.x.authorities: authority {KEY} is named twice"),
        ),
        (
            "[stream.x]\nauthorities = []\n".to_owned(),
            "FILE:2: stream.x.authorities: a stream needs at least one authority".to_owned(),
        ),
    ];
    for (file, expected) in cases {
        assert_eq!(Case::new(&file, &[], &[]).mistakes(), [expected]);
    }
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let mut case = Case::new("", &[], &[]);
    case.sources.file = Some("/nowhere/x.toml".into());
    let [mistake] = &case.mistakes()[..] else {
        panic!("not one mistake")
    };
    assert!(mistake.starts_with("/nowhere/x.toml: cannot read the file: "));
    case.sources.file = None;
    case.sources.variables = vec![(
        "NANO_SNAPSHOT_MIRROR_CONFIG".into(),
        "/elsewhere/x.toml".into(),
    )];
    assert!(case.mistakes()[0].starts_with("/elsewhere/x.toml: "));
}

#[test]
fn a_credential_of_the_service_overrides_the_file_and_yields_to_variables() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let file = "poll-interval = '1m'\n[dht]\nport = 1\n[trackers]\nurls = ['udp://a:1']\n";
    let variables = [
        ("CREDENTIALS_DIRECTORY", path),
        ("NANO_SNAPSHOT_MIRROR_DHT__PORT", "3"),
    ];
    let case = Case::new(file, &variables, &[]);
    assert_eq!(case.loaded().config.trackers.urls.len(), 1);
    let secret = "[dht]\nport = 2\n[trackers]\nurls = ['udp://b:1', 'udp://c:1']\n";
    std::fs::write(directory.path().join("config.toml"), secret).unwrap();
    let loaded = case.loaded();
    assert_eq!(loaded.config.trackers.urls.len(), 2);
    assert_eq!(loaded.config.dht.port.value, 3);
    assert_eq!(loaded.config.poll_interval.get(), Duration::from_secs(60));
    let place = format!("{path}/config.toml:4");
    assert_eq!(loaded.place("trackers.urls"), place);
    std::fs::write(directory.path().join("config.toml"), "unknown = 1\n").unwrap();
    assert!(case.mistakes()[0].starts_with(path));
}

#[test]
fn a_reload_takes_over_what_may_change_and_names_the_rest() {
    let case = Case::new("poll-interval = '1m'\n[dht]\nport = 1\n", &[], &[]);
    let live = Live::new(case.sources.clone(), &case.loaded());
    let mut watching = live.subscribe();
    let rewrite = |text: &str| std::fs::write(&case.file, text).unwrap();

    rewrite("poll-interval = '2m'\nseed-peers = ['a.example:1']\n[dht]\nport = 2\n");
    let reloaded = live.reload().unwrap();
    assert_eq!(reloaded.changed, ["poll-interval", "seed-peers"]);
    assert_eq!(reloaded.at_restart, ["dht.port"]);
    assert!(watching.has_changed().unwrap());
    let config = watching.borrow_and_update().clone();
    assert_eq!(config.poll_interval.get(), Duration::from_secs(120));
    assert_eq!(config.dht.port.value, 1);

    // The key still waits for the restart.
    assert_eq!(live.reload().unwrap().at_restart, ["dht.port"]);
    rewrite("poll-interval = '3m'\n[dht]\nport = 'x'\n");
    assert!(live.reload().is_err());
    assert_eq!(
        live.config().poll_interval.get(),
        Duration::from_secs(120),
        "a file with mistakes has no effect"
    );
    rewrite("");
    assert_eq!(
        live.reload().unwrap().changed,
        ["poll-interval", "seed-peers"]
    );
    assert_eq!(live.config().poll_interval, Config::default().poll_interval);
}

#[test]
fn what_is_shown_is_read_again_as_the_same() {
    let mut said = String::new();
    let mut shown = Vec::new();
    Config::default().show("", &mut shown);
    for Shown { path, value, .. } in shown {
        if let Some(value) = value {
            said.push_str(&format!("{path} = {value}\n"));
        }
    }
    let mut config = Case::new(&said, &[], &[]).loaded().config;
    config.peer.listen.origin = Origin::Default;
    config.dht.port.origin = Origin::Default;
    config.http.listen.origin = Origin::Default;
    assert_eq!(config, Config::default());
}
