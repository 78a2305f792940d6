//! Descriptions of keys, from which parsing, defaults and documentation are derived.
//!
//! [`section!`] makes a struct, its defaults and a [`Part`] of a section's description. The [`Part`] lists its keys, reads and formats them, and
//! takes over changes.

use figment::value::{Dict, Value};

/// A type that the value of a key can have.
pub(crate) trait KeyType: Clone + Sized + 'static {
    /// Whether parts of a value may be secret. Messages about such a value do not contain it.
    const SECRET: bool = false;

    /// Describes the accepted values: the documentation has this text, and messages have it after "write".
    fn form() -> String;

    /// Parses the value of a file, a variable or a flag. Variables and flags have text, files also numbers and lists.
    ///
    /// # Errors
    ///
    /// A message that says what is wrong and what to write instead.
    fn parse(value: &Value) -> Result<Self, String>;

    /// Formats the value as in a file; `None` for a value that is not set.
    fn show(&self) -> Option<String>;

    /// Formats the value for logs and messages, without parts that may be secret.
    fn show_publicly(&self) -> Option<String> {
        self.show()
    }
}

/// When a change of a key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// When the service is asked to reload.
    Live,
    /// At the next start.
    Restart,
}

/// The description of a key.
pub(crate) struct Key {
    /// The path of the key, such as `peer.listen`. The segment [`ANY_NAME`] stands for a name that the user chooses.
    pub(crate) path: String,
    /// The accepted values, see [`KeyType::form`].
    pub(crate) form: String,
    /// The default as TOML; `None` when it is not set by default.
    pub(crate) default: Option<String>,
    /// The description.
    pub(crate) about: String,
    /// When a change takes effect.
    pub(crate) change: Change,
    /// Whether parts of a value may be a secret.
    pub(crate) secret: bool,
    /// Checks a value; see [`KeyType::parse`] for the error.
    pub(crate) check: fn(&Value) -> Result<(), String>,
}

/// The placeholder in paths for a name that the user chooses. Keys have no capital letters.
pub(crate) const ANY_NAME: &str = "NAME";

/// All sections and keys, in the order in which they are documented.
#[derive(Default)]
pub(crate) struct Table {
    /// Path and description of each section.
    pub(crate) sections: Vec<(String, String)>,
    /// All keys.
    pub(crate) keys: Vec<Key>,
}

impl Table {
    pub(crate) fn section(&mut self, path: &str, about: &str) {
        self.sections.push((path.to_owned(), trimmed(about)));
    }

    pub(crate) fn key<T: KeyType>(
        &mut self,
        path: String,
        about: &str,
        change: Change,
        default: &T,
    ) {
        self.keys.push(Key {
            path,
            form: T::form(),
            default: default.show(),
            about: trimmed(about),
            change,
            secret: T::SECRET,
            check: |value| T::parse(value).map(drop),
        });
    }

    /// Returns the key at a path.
    pub(crate) fn find(&self, path: &str) -> Option<&Key> {
        self.keys.iter().find(|key| matches(&key.path, path))
    }

    /// Returns whether there is a section at a path.
    pub(crate) fn has_section(&self, path: &str) -> bool {
        self.sections
            .iter()
            .any(|(section, _)| matches(section, path))
    }

    /// Returns whether a key in the section at a path may be a secret.
    pub(crate) fn has_secret_below(&self, path: &str) -> bool {
        let below = |key: &str| {
            key.strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        self.keys.iter().any(|key| key.secret && below(&key.path))
    }
}

/// Returns whether a path matches a pattern with [`ANY_NAME`] in it.
fn matches(pattern: &str, path: &str) -> bool {
    let mut path = path.split('.');
    let all = pattern.split('.').all(|segment| {
        path.next()
            .is_some_and(|name| segment == ANY_NAME || segment == name)
    });
    all && path.next().is_none()
}

/// Removes the space with which every line of a doc comment begins.
fn trimmed(about: &str) -> String {
    let lines: Vec<&str> = about.lines().map(str::trim).collect();
    lines.join("\n").trim().to_owned()
}

/// A value in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The path of the key.
    pub(crate) path: String,
    /// The value as TOML; `None` when it is not set.
    pub(crate) value: Option<String>,
    /// The value as TOML without parts that may be secret.
    pub(crate) public: Option<String>,
}

/// A section, or a table of sections.
pub(crate) trait Part: Default {
    /// Adds the keys of this section to the table. `at` is the path of the section.
    fn describe(at: &str, table: &mut Table);

    /// Reads the merged values of all sources. An invalid value reads as its default; the check of its source has already reported it.
    fn read(said: &Dict) -> Self;

    /// Adds the values of this section to `into`.
    fn show(&self, at: &str, into: &mut Vec<Shown>);

    /// Takes over the values of keys that may change in a running service.
    fn adopt(&mut self, new: &Self);
}

/// Returns the path of the field `name` under `at`.
pub(crate) fn path_of(at: &str, name: &str) -> String {
    let name = kebab(name);
    if at.is_empty() {
        name
    } else {
        format!("{at}.{name}")
    }
}

/// Converts the name of a field to that of a key.
pub(crate) fn kebab(field: &str) -> String {
    field.replace('_', "-")
}

/// Reads one key.
pub(crate) fn read_key<T: KeyType>(said: &Dict, field: &str, default: T) -> T {
    match said.get(&kebab(field)).map(T::parse) {
        Some(Ok(value)) => value,
        _ => default,
    }
}

/// Reads one section.
pub(crate) fn read_part<T: Part>(said: &Dict, field: &str) -> T {
    match said.get(&kebab(field)) {
        Some(Value::Dict(_, said)) => T::read(said),
        _ => T::default(),
    }
}

/// Defines a section by its description; see [`crate::config`].
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $Name:ident {
            $( $(#[doc = $doc:literal])* $kind:ident $field:ident: $Type:ty $(= $default:expr)?; )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct $Name {
            $( $(#[doc = $doc])* pub(crate) $field: $Type, )+
        }

        impl Default for $Name {
            fn default() -> Self {
                Self { $( $field: section!(@default $($default)?), )+ }
            }
        }

        impl $crate::config::section::Part for $Name {
            fn describe(at: &str, table: &mut $crate::config::section::Table) {
                let defaults = Self::default();
                table.section(at, concat!($($about, "\n"),+));
                $(
                    let path = $crate::config::section::path_of(at, stringify!($field));
                    let about = concat!($($doc, "\n"),*);
                    section!(@describe $kind $Type, path, about, &defaults.$field, table);
                )+
            }

            fn read(said: &figment::value::Dict) -> Self {
                let defaults = Self::default();
                Self { $( $field: section!(@read $kind said, stringify!($field), defaults.$field), )+ }
            }

            fn show(&self, at: &str, into: &mut Vec<$crate::config::section::Shown>) {
                $(
                    let path = $crate::config::section::path_of(at, stringify!($field));
                    section!(@show $kind &self.$field, path, into);
                )+
            }

            fn adopt(&mut self, new: &Self) {
                $( section!(@adopt $kind self.$field, new.$field); )+
            }
        }
    };

    (@default) => { Default::default() };
    (@default $default:expr) => { $default };

    (@describe section $Type:ty, $path:ident, $about:ident, $default:expr, $table:ident) => {
        // The description belongs to the type of the section.
        let (_, _) = ($about, $default);
        <$Type as $crate::config::section::Part>::describe(&$path, $table);
    };
    (@describe $change:ident $Type:ty, $path:ident, $about:ident, $default:expr, $table:ident) => {
        $table.key::<$Type>($path, $about, section!(@change $change), $default);
    };
    (@change restart) => { $crate::config::section::Change::Restart };
    (@change live) => { $crate::config::section::Change::Live };

    (@read section $said:ident, $name:expr, $default:expr) => {
        $crate::config::section::read_part($said, $name)
    };
    (@read $change:ident $said:ident, $name:expr, $default:expr) => {
        $crate::config::section::read_key($said, $name, $default)
    };

    (@adopt section $old:expr, $new:expr) => {
        $crate::config::section::Part::adopt(&mut $old, &$new);
    };
    (@adopt live $old:expr, $new:expr) => { $old = $new.clone(); };
    (@adopt restart $old:expr, $new:expr) => {
        // The old value remains until the next start.
        let (_, _) = (&$old, &$new);
    };

    (@show section $value:expr, $path:ident, $into:ident) => {
        $crate::config::section::Part::show($value, &$path, $into);
    };
    (@show $change:ident $value:expr, $path:ident, $into:ident) => {
        $into.push($crate::config::section::Shown {
            value: $crate::config::section::KeyType::show($value),
            public: $crate::config::section::KeyType::show_publicly($value),
            path: $path,
        });
    };
}
pub(crate) use section;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_matched_by_its_place() {
        for (pattern, path, expected) in [
            ("peer.listen", "peer.listen", true),
            ("peer.listen", "peer", false),
            ("peer", "peer.listen", false),
            ("stream.NAME.salt", "stream.daily.salt", true),
            ("stream.NAME.salt", "stream.daily", false),
            ("stream.NAME", "stream.daily", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }
}
