//! Sources of the configuration: a file, the environment, and flags. Each becomes a [`Layer`], which has the place of every value for messages.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;

/// The prefix of the variables of this program.
pub(crate) const PREFIX: &str = "NANO_SNAPSHOT_MIRROR_";

/// The default configuration file.
pub(crate) const DEFAULT_FILE: &str = "/etc/nano-snapshot-mirror/config.toml";

/// The values of one source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    /// The name of the source, for values whose place is unknown.
    pub(crate) name: String,
    pub(crate) said: Dict,
    /// The place of each value, by its path.
    pub(crate) places: BTreeMap<String, String>,
    /// The streams of a file, in the order of the file.
    pub(crate) streams: Vec<String>,
    /// Errors of the source itself, such as syntax errors: place and message.
    pub(crate) broken: Vec<(String, String)>,
}

impl Layer {
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Returns the place of the value at a path.
    pub(crate) fn place(&self, path: &str) -> &str {
        self.places.get(path).unwrap_or(&self.name)
    }

    /// Sets the value at a path.
    pub(crate) fn put(&mut self, path: &str, value: Value, place: String) {
        self.places.insert(path.to_owned(), place);
        let mut segments: Vec<&str> = path.split('.').collect();
        let Some(last) = segments.pop() else { return };
        let mut dict = &mut self.said;
        for segment in segments {
            let entry = dict
                .entry(segment.to_owned())
                .or_insert_with(|| Value::from(Dict::new()));
            // A value in the place of a section is replaced by the section. Only variables can set both; then the shorter one is reported
            // as unknown.
            if entry.as_dict().is_none() {
                *entry = Value::from(Dict::new());
            }
            let Value::Dict(_, inner) = entry else { return };
            dict = inner;
        }
        dict.insert(last.to_owned(), value);
    }

    /// Returns the names of the sections in a table of sections.
    pub(crate) fn names_in(&self, table: &str) -> impl Iterator<Item = &String> {
        let sections = self.said.get(table).and_then(Value::as_dict);
        sections.into_iter().flat_map(BTreeMap::keys)
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let layer = self.clone();
        Metadata::named(self.name.clone())
            .interpolater(move |_, path| layer.place(&path.join(".")).to_owned())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.said.clone()))
    }
}

/// Reads a file. A file that the user did not name may be missing.
pub(crate) fn file(path: &Path, named: bool) -> Layer {
    let mut layer = Layer::named(&format!("file {}", path.display()));
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, &path.display().to_string(), &mut layer),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !named => {}
        Err(error) => {
            let what = format!("cannot read the file: {error}");
            layer.broken.push((path.display().to_string(), what));
        }
    }
    layer
}

/// Reads as much of a TOML document as can be read.
fn parse(text: &str, name: &str, layer: &mut Layer) {
    let place = |span: &Range<usize>| {
        let before = text.as_bytes().iter().take(span.start);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        format!("{name}:{line}")
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = error.span().map_or(name.to_owned(), |span| place(&span));
        layer.broken.push((place, error.message().to_owned()));
    }
    if let Some(DeValue::Table(streams)) = table.get_ref().get("stream").map(Spanned::get_ref) {
        let mut names: Vec<_> = streams.keys().collect();
        names.sort_by_key(|name| name.span().start);
        layer.streams = names
            .iter()
            .map(|name| name.get_ref().to_string())
            .collect();
    }
    layer.said = dict(table.get_ref(), "", &place, &mut layer.places);
}

fn dict(
    table: &DeTable<'_>,
    at: &str,
    place: &impl Fn(&Range<usize>) -> String,
    places: &mut BTreeMap<String, String>,
) -> Dict {
    let entry = |(key, found): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        let path = if at.is_empty() {
            name.to_string()
        } else {
            format!("{at}.{name}")
        };
        places.insert(path.clone(), place(&key.span()));
        let value = match found.get_ref() {
            DeValue::Table(table) => Value::from(dict(table, &path, place, places)),
            other => value(other),
        };
        (name.to_string(), value)
    };
    table.iter().map(entry).collect()
}

fn value(found: &DeValue<'_>) -> Value {
    match found {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(value) => Value::from(*value),
        DeValue::Integer(number) => {
            match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::from(number),
                // The number is too large for any key. As text, messages show it as it was written.
                Err(_) => Value::from(number.to_string()),
            }
        }
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) => Value::from(number),
            Err(_) => Value::from(number.to_string()),
        },
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Array(values) => {
            let values: Vec<Value> = values.iter().map(|one| value(one.get_ref())).collect();
            Value::from(values)
        }
        DeValue::Table(table) => Value::from(dict(
            table,
            "",
            &|_: &Range<usize>| String::new(),
            &mut BTreeMap::new(),
        )),
    }
}

/// Parses a variable: as TOML if it is a list or a table in brackets, else as text.
pub(super) fn of_variable(text: &str) -> Value {
    let bracketed = text.trim_start().starts_with(['[', '{']);
    match DeValue::parse(text.trim()) {
        Ok(found) if bracketed => value(found.get_ref()),
        _ => Value::from(text),
    }
}

/// The environment, or a substitute in tests.
pub(crate) type Variables = Vec<(OsString, OsString)>;

fn lookup<'a>(variables: &'a Variables, name: &str) -> Option<&'a OsStr> {
    let found = variables.iter().find(|(variable, _)| variable == name)?;
    (!found.1.is_empty()).then_some(&found.1)
}

/// Returns a layer with the default data directory, from `$STATE_DIRECTORY`, `$XDG_DATA_HOME` or `$HOME`.
pub(crate) fn place_of_data(variables: &Variables) -> Layer {
    let mut layer = Layer::named("environment");
    let first = |name| {
        let first = std::env::split_paths(lookup(variables, name)?).next()?;
        first.is_absolute().then_some(first)
    };
    let application = "nano-snapshot-mirror";
    let found = [
        ("STATE_DIRECTORY", ""),
        ("XDG_DATA_HOME", application),
        ("HOME", ".local/share/nano-snapshot-mirror"),
    ]
    .into_iter()
    .find_map(|(variable, below)| Some((variable, first(variable)?.join(below))));
    if let Some((variable, path)) = found {
        let path = path.to_string_lossy().into_owned();
        layer.put(
            "data-dir",
            Value::from(path),
            format!("variable {variable}"),
        );
    }
    layer
}

/// Reads the variables of this program: `NANO_SNAPSHOT_MIRROR_PEER__LISTEN` is `peer.listen`. Empty variables are ignored, because compose files
/// pass on unset variables as empty ones.
///
/// A Kubernetes Service or a linked Docker container whose name begins with `nano-snapshot-mirror` sets variables with the same prefix. They are
/// not settings and are skipped.
pub(crate) fn own_variables(variables: &Variables) -> Layer {
    let mut layer = Layer::named("environment");
    let table = Config::table();
    for (variable, text) in variables {
        let Some(name) = variable.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        if text.is_empty() || name == "CONFIG" {
            continue;
        }
        let place = format!("variable {PREFIX}{name}");
        let Some(text) = text.to_str() else {
            layer.broken.push((place, "is not UTF-8".to_owned()));
            continue;
        };
        let path = name
            .to_ascii_lowercase()
            .replace("__", ".")
            .replace('_', "-");
        if table.find(&path).is_none() && is_service_variable(name, text) {
            continue;
        }
        layer.put(&path, of_variable(text), place);
    }
    layer
}

/// Returns whether Kubernetes or `docker --link` derived the variable from the name of a service. `name` is the part after [`PREFIX`]; the name of
/// the service may be longer than the prefix.
/// (Kubernetes, "Environment variables" of Services; Docker, "Legacy container links".)
fn is_service_variable(name: &str, text: &str) -> bool {
    let after = |word: &str| {
        let at = name.rfind(word)?;
        let begins = at == 0 || name[..at].ends_with('_');
        begins.then(|| &name[at + word.len()..])
    };
    if after("SERVICE_HOST") == Some("") {
        return true;
    }
    if after("SERVICE_PORT").is_some_and(|rest| rest.is_empty() || rest.starts_with('_')) {
        return true;
    }
    if (name == "PORT" || name.ends_with("_PORT")) && is_service_url(text) {
        return true;
    }
    // PORT_9109_TCP and PORT_9109_TCP_ADDR, _PORT, _PROTO.
    let words: Vec<&str> = name.split('_').collect();
    let words = match words[..] {
        [ref before @ .., "ADDR" | "PORT" | "PROTO"] => before,
        ref all => all,
    };
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    matches!(words, [.., "PORT", port, "TCP" | "UDP" | "SCTP"] if is_number(port))
}

/// Returns whether a value is the address of a service, such as `tcp://10.0.0.1:9109`.
fn is_service_url(text: &str) -> bool {
    ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
}

/// Returns the configuration file that the environment names.
pub(crate) fn file_of_variable(variables: &Variables) -> Option<&Path> {
    lookup(variables, "NANO_SNAPSHOT_MIRROR_CONFIG").map(Path::new)
}

/// The name of the credential with further settings.
const CREDENTIAL: &str = "config.toml";

/// Reads the settings that the service manager passes as a credential, which only this service can read. Without one the layer is empty.
///
/// Credentials: systemd.exec(5), `LoadCredential=`.
pub(crate) fn credential(variables: &Variables) -> Layer {
    lookup(variables, "CREDENTIALS_DIRECTORY")
        .map(|directory| file(&Path::new(directory).join(CREDENTIAL), false))
        .unwrap_or_default()
}

/// Variables of nano-snapshot-swarm, and their keys. If two variables set one key, the later one in this list wins, as in nano-snapshot-swarm.
const OF_THE_SWARM: [(&str, &str); 7] = [
    ("DATA_DIR", "data-dir"),
    ("POLL_INTERVAL", "poll-interval"),
    ("SEED_PEERS", "seed-peers"),
    ("LOG_LEVEL", "log.level"),
    ("DHT_SALT", "stream.NAME.salt"),
    ("AUTHORITY_PUBKEY", "stream.NAME.authorities"),
    ("PRODUCER_SIGNING_PUBKEY", "stream.NAME.authorities"),
];

/// A value for a key whose stream is not known yet.
#[derive(Debug, Clone)]
pub(crate) struct UnscopedValue {
    /// The path of the key, which may contain [`super::section::ANY_NAME`].
    pub(crate) path: &'static str,
    pub(crate) value: Value,
    pub(crate) place: String,
}

/// Reads the variables of nano-snapshot-swarm.
pub(crate) fn variables_of_the_swarm(variables: &Variables) -> Vec<UnscopedValue> {
    let said = |(variable, path): (&str, &'static str)| {
        let text = lookup(variables, variable)?;
        Some(UnscopedValue {
            path,
            value: Value::from(text.to_string_lossy().into_owned()),
            place: format!("variable {variable}"),
        })
    };
    let unscoped = OF_THE_SWARM.into_iter().filter_map(said);
    unscoped.chain(metrics_of_the_swarm(variables)).collect()
}

/// Reads the metrics address of nano-snapshot-swarm, which up to three variables set.
fn metrics_of_the_swarm(variables: &Variables) -> Option<UnscopedValue> {
    let names = ["METRICS_ENABLED", "METRICS_BIND", "METRICS_PORT"];
    // A Kubernetes Service called `metrics` sets METRICS_PORT=tcp://… for everyone in its namespace.
    let said = |name| {
        let text = lookup(variables, name)?.to_string_lossy();
        (!is_service_url(&text)).then_some(text)
    };
    let [enabled, bind, port] = names.map(said);
    let is_off = |text: &str| ["false", "0", "no", "off"].contains(&text);
    let listen = match enabled.map(|text| text.to_ascii_lowercase()) {
        Some(enabled) if is_off(&enabled) => "off".to_owned(),
        _ if bind.is_none() && port.is_none() => return None,
        _ => {
            let bind = bind.as_deref().unwrap_or("127.0.0.1");
            let port = port.as_deref().unwrap_or("9109");
            match bind.contains(':') {
                true => format!("[{bind}]:{port}"),
                false => format!("{bind}:{port}"),
            }
        }
    };
    let said = names.into_iter().filter(|name| said(name).is_some());
    Some(UnscopedValue {
        path: "http.listen",
        value: Value::from(listen),
        place: format!("variable {}", said.collect::<Vec<_>>().join(", ")),
    })
}
