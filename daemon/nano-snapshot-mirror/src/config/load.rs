//! Reads sources into a [`Config`], or lists all mistakes in them.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use figment::{Figment, Provider as _};
use snapshot_pointer::Salt;
use snapshot_store::StreamName;

use super::section::{ANY_NAME, Part as _, Table};
use super::sources::{self, DEFAULT_FILE, Layer, UnscopedValue, Variables};
use super::values::as_toml;
use super::{Config, DEFAULT_STREAM, contradictions, is_stream_name};

/// The sources of a configuration, which are read again at a reload.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// The file that the user named.
    pub(crate) file: Option<PathBuf>,
    /// Whether to read the default file if the user named none.
    pub(crate) default_file: bool,
    pub(crate) variables: Variables,
    pub(crate) flags: Vec<UnscopedValue>,
}

/// A configuration, with the source of each value.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// The file that was read; `None` without one.
    pub(crate) file: Option<PathBuf>,
    /// Messages for the user that are no mistakes.
    pub(crate) notices: Vec<String>,
    merged: Merged,
}

impl Loaded {
    /// Returns the source of the value of a key: file with line, variable, flag or `default`.
    pub(crate) fn place(&self, path: &str) -> String {
        self.merged.place(path)
    }
}

/// All mistakes in the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistakes(Vec<Mistake>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mistake {
    /// The source: file with line, variable or flag.
    place: String,
    /// The path of the key; empty without one.
    path: String,
    /// What is wrong and what to write instead.
    what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl Mistakes {
    /// Returns one line for each mistake.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(Mistake::to_string)
    }
}

impl Sources {
    /// Returns the sources of this process: the file, its environment and its flags.
    pub(crate) fn of_process(file: Option<PathBuf>, flags: Vec<UnscopedValue>) -> Self {
        Self {
            file,
            default_file: true,
            variables: std::env::vars_os().collect(),
            flags,
        }
    }

    /// Returns sources that consist of flags alone.
    pub(crate) fn only(flags: Vec<UnscopedValue>) -> Self {
        Self {
            flags,
            ..Self::default()
        }
    }

    /// Reads all sources.
    ///
    /// # Errors
    ///
    /// All mistakes of all sources, including values that a later source overrides.
    pub(crate) fn load(&self) -> Result<Loaded, Mistakes> {
        let named = self.file.as_deref();
        let named = named.or_else(|| sources::file_of_variable(&self.variables));
        let default = self.default_file.then_some(Path::new(DEFAULT_FILE));
        let path = named.or(default);
        let file = path.map_or_else(Layer::default, |path| sources::file(path, named.is_some()));
        let path = path.filter(|path| path.exists()).map(Path::to_owned);
        let credential = sources::credential(&self.variables);
        let own = sources::own_variables(&self.variables);
        let swarm = sources::variables_of_the_swarm(&self.variables);
        let notices = notice(&swarm).into_iter().collect();

        let named: BTreeSet<&String> = [&file, &credential, &own]
            .into_iter()
            .flat_map(|layer| layer.names_in("stream"))
            .collect();
        let stream = match named.len() {
            0 => Ok(name_of_stream(swarm.iter().chain(&self.flags))),
            1 => Ok(named.into_iter().cloned().collect()),
            _ => Err(named.into_iter().cloned().collect::<Vec<_>>()),
        };
        let swarm = settle("environment", &swarm, &stream);
        let flags = settle("flags", &self.flags, &stream);

        // Each layer overrides those before it.
        let place_of_data = sources::place_of_data(&self.variables);
        let layers = [place_of_data, file, credential, swarm, own, flags];
        let table = Config::table();
        let mut mistakes = Vec::new();
        for layer in &layers {
            for (place, what) in &layer.broken {
                mistakes.push(Mistake {
                    place: place.clone(),
                    path: String::new(),
                    what: what.clone(),
                });
            }
            check(&layer.said, "", layer, &table, &mut mistakes);
        }
        let order: Vec<String> = layers
            .iter()
            .flat_map(|layer| &layer.streams)
            .cloned()
            .collect();
        let merged = Merged::of(layers);
        let mut config = Config::read(&merged.said);
        config.stream.arrange(&order);
        config.note_flags(|path| self.flags.iter().any(|flag| flag.path == path));
        for (path, what) in contradictions(&config) {
            let section = path.rsplit_once('.').map_or("", |(section, _)| section);
            // A key with a mistake reads as its default. A contradiction with that default may not be one.
            if !mistakes.iter().any(|one| one.path.starts_with(section)) {
                let place = merged.place(&path);
                let what = format!("{path}: {what}");
                mistakes.push(Mistake { place, path, what });
            }
        }
        if mistakes.is_empty() {
            Ok(Loaded {
                file: path,
                config,
                notices,
                merged,
            })
        } else {
            Err(Mistakes(mistakes))
        }
    }
}

/// The values of all sources, merged.
#[derive(Debug, Clone)]
struct Merged {
    figment: Figment,
    said: Dict,
}

impl Merged {
    fn of(layers: impl IntoIterator<Item = Layer>) -> Self {
        let figment = layers.into_iter().fold(Figment::new(), Figment::merge);
        // The data of a layer is always valid.
        let mut said = figment.data().unwrap_or_default();
        let said = said.remove(figment.profile()).unwrap_or_default();
        Self { figment, said }
    }

    /// Returns the source of the value in effect.
    fn place(&self, path: &str) -> String {
        let value = self.figment.find_value(path).ok();
        let metadata = value.and_then(|value| self.figment.get_metadata(value.tag()));
        let segments: Vec<&str> = path.split('.').collect();
        metadata.map_or_else(
            || "default".to_owned(),
            |metadata| metadata.interpolate(self.figment.profile(), &segments),
        )
    }
}

/// Returns the notice that variables of nano-snapshot-swarm are in use.
fn notice(swarm: &[UnscopedValue]) -> Option<String> {
    let taken: Vec<String> = swarm
        .iter()
        .map(|loose| format!("{} as {}", loose.place, loose.path))
        .collect();
    (!taken.is_empty()).then(|| {
        format!(
            "using variables of nano-snapshot-swarm: {}",
            taken.join(", ")
        )
    })
}

/// Returns the name of a stream without a section, derived from its salt.
fn name_of_stream<'a>(loose: impl Iterator<Item = &'a UnscopedValue>) -> String {
    let salt = loose
        .filter(|loose| loose.path == "stream.NAME.salt")
        .filter_map(|loose| loose.value.as_str()?.parse::<Salt>().ok())
        .last();
    match salt {
        Some(salt) => StreamName::of_salt(salt.as_bytes()).as_str().to_owned(),
        None => DEFAULT_STREAM.to_owned(),
    }
}

/// Assigns values without a stream to the only stream. With several streams such values are mistakes.
fn settle(name: &str, loose: &[UnscopedValue], stream: &Result<String, Vec<String>>) -> Layer {
    let mut layer = Layer::named(name);
    for UnscopedValue { path, value, place } in loose {
        match stream {
            Ok(stream) => {
                let path = path.replace(ANY_NAME, stream);
                layer.put(&path, value.clone(), place.clone());
            }
            Err(_) if !path.contains(ANY_NAME) => layer.put(path, value.clone(), place.clone()),
            Err(streams) => {
                let paths: Vec<String> = streams
                    .iter()
                    .map(|stream| path.replace(ANY_NAME, stream))
                    .collect();
                let what = format!(
                    "there are several streams; set one of these instead: {}",
                    paths.join(", ")
                );
                layer.broken.push((place.clone(), what));
            }
        }
    }
    layer
}

/// Checks each key of one source.
fn check(said: &Dict, at: &str, layer: &Layer, table: &Table, mistakes: &mut Vec<Mistake>) {
    for (name, value) in said {
        let path = match at {
            "" => name.clone(),
            at => format!("{at}.{name}"),
        };
        let what = if at == "stream" && !is_stream_name(name) {
            format!(
                "stream.{name}: a stream's name has 1 to 200 letters, digits, `-` and `_`, for it \
                 becomes a file name"
            )
        } else if let Some(key) = table.find(&path) {
            match (key.check)(value) {
                Ok(()) => continue,
                Err(error) if key.secret => format!("{path}: {error}"),
                Err(error) => format!("{path} = {}: {error}", as_toml(value)),
            }
        } else if table.has_section(&path) {
            match value {
                Value::Dict(_, inner) => {
                    check(inner, &path, layer, table, mistakes);
                    continue;
                }
                value => {
                    // The value may have been meant for a key of the section, so it may be secret.
                    let said = match table.has_secret_below(&path) {
                        true => String::new(),
                        false => format!(" = {}", as_toml(value)),
                    };
                    format!(
                        "{path}{said}: this is a section; write [{path}], and its keys below it"
                    )
                }
            }
        } else {
            unknown(&path, table)
        };
        let place = layer.place(&path).to_owned();
        // A line with a syntax error is reported once. What could be read of it is ignored.
        if !layer.broken.iter().any(|(broken, _)| *broken == place) {
            mistakes.push(Mistake { place, path, what });
        }
    }
}

/// The least similarity of two paths for one to be suggested for the other.
const ALIKE: f64 = 0.6;

/// Returns the known path with its [`ANY_NAME`] segments replaced by those of `path`.
fn with_names_of(path: &str, known: &str) -> String {
    let mut names = path.split('.');
    let segment = |segment| match (segment, names.next()) {
        (ANY_NAME, Some(name)) => name,
        (segment, _) => segment,
    };
    known.split('.').map(segment).collect::<Vec<_>>().join(".")
}

fn unknown(path: &str, table: &Table) -> String {
    let last = |path: &str| path.rsplit('.').next().map(str::to_owned);
    let sections = table.sections.iter().map(|(path, _)| path);
    let near = table
        .keys
        .iter()
        .map(|key| &key.path)
        .chain(sections)
        .filter(|known| !known.ends_with(ANY_NAME))
        .map(|known| {
            let known = with_names_of(path, known);
            let alike = if last(&known) == last(path) {
                1.0
            } else {
                strsim::normalized_damerau_levenshtein(&known, path)
            };
            (alike, known)
        })
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match near {
        Some((_, known)) => format!("{path}: there is no such key; did you mean {known}?"),
        None => {
            format!("{path}: there is no such key; all of them are in docs/configuration.md")
        }
    }
}
