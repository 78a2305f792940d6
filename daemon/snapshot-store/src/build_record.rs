//! `produced/STREAM.making.json`: how far a snapshot under construction is, so that the next run resumes it.

use std::path::{Path, PathBuf};

use file_kit::json_file;
use serde::{Deserialize, Serialize};

/// How far a snapshot under construction is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The copy has this many durable bytes, of the ledger in this state.
    Copying {
        /// Bytes.
        durable: u64,
        /// The state of the ledger, as text.
        state: String,
    },
    /// The copy is whole and durable.
    Copied,
    /// The copy is being changed in place. An interruption leaves neither the copy nor the content to publish.
    Changing,
    /// The content to publish is whole and durable.
    Changed,
}

/// A snapshot under construction. `T` is what the producer records about how it is made, as more keys of the same JSON
/// object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BuildRecord<T> {
    /// The directory in `incoming/`.
    pub build: String,
    /// The copy, relative to that directory.
    pub copy: PathBuf,
    /// When the copy was begun, in seconds since 1970.
    pub begun: u64,
    /// How far it is. What the stage claims is on disk.
    pub stage: Stage,
    /// What the producer records.
    #[serde(flatten)]
    pub making: T,
}

/// What is needed of a record to keep its directory.
#[derive(Deserialize)]
struct Build {
    build: String,
}

impl BuildRecord<()> {
    /// Returns the directory that a record names, whatever the producer recorded.
    pub(crate) fn build_in(path: &Path) -> Option<String> {
        let found: Option<Build> = json_file::read_or_default(path);
        found.map(|found| found.build)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Recipe {
        version: u32,
    }

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Making {
        recipe: Recipe,
    }

    #[test]
    fn a_record_has_the_keys_of_earlier_versions() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("daily.making.json");
        let text = r#"{"build":"0123456789abcdef","copy":"copy/data.ldb","recipe":{"version":1},
            "begun":1800000000,"stage":{"copying":{"durable":7,"state":"s"}},"origin":null}"#;
        std::fs::write(&path, text).unwrap();
        let found: Option<BuildRecord<Making>> = json_file::read_or_default(&path);
        let expected = BuildRecord {
            build: "0123456789abcdef".to_owned(),
            copy: "copy/data.ldb".into(),
            begun: 1_800_000_000,
            stage: Stage::Copying {
                durable: 7,
                state: "s".to_owned(),
            },
            making: Making {
                recipe: Recipe { version: 1 },
            },
        };
        assert_eq!(found.as_ref(), Some(&expected));
        json_file::write(&path, &expected).unwrap();
        let found: Option<BuildRecord<Making>> = json_file::read_or_default(&path);
        assert_eq!(found.as_ref(), Some(&expected));
        assert_eq!(BuildRecord::build_in(&path), Some(expected.build));
    }
}
