//! `config` and `check-config`.

use std::fmt::Write as _;

use super::load::Loaded;
use super::section::{Part as _, Shown};

/// Formats the configuration in effect as a file, with the source of each value. Secrets in URLs are hidden.
pub(crate) fn effective(loaded: &Loaded) -> String {
    let mut shown = Vec::new();
    loaded.config.show("", &mut shown);
    let mut text = String::new();
    let mut section = "";
    for Shown { path, public, .. } in &shown {
        let (at, name) = path.rsplit_once('.').unwrap_or(("", path));
        // Writing to a String cannot fail.
        if at != section {
            let _ = writeln!(text, "\n[{at}]");
            section = at;
        }
        let _ = match public {
            Some(value) => {
                let said = format!("{name} = {value}");
                writeln!(text, "{said:<40} # {}", loaded.place(path))
            }
            None => writeln!(text, "{:<40} # not set", format!("# {name}")),
        };
    }
    text
}
