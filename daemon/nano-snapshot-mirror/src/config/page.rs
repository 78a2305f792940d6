//! The description of all keys in Markdown, for `docs/configuration.md` and `config --keys`.

use std::fmt::Write as _;

use super::Config;
use super::section::{Change, Key};

/// All sections and keys, in Markdown.
pub(crate) fn keys() -> String {
    let table = Config::table();
    let mut text = String::new();
    for (section, about) in &table.sections {
        let own = |key: &&Key| key.path.rsplit_once('.').map_or("", |(at, _)| at) == section;
        let keys: Vec<&Key> = table.keys.iter().filter(own).collect();
        if keys.is_empty() {
            continue;
        }
        // Writing to a String cannot fail.
        let _ = match section.as_str() {
            "" => writeln!(text, "### At the top\n"),
            section => writeln!(text, "### `[{section}]`\n"),
        };
        let _ = writeln!(text, "{}\n", about.replace('\n', " "));
        for key in keys {
            let name = key.path.rsplit('.').next().unwrap_or_default();
            let default = match &key.default {
                Some(default) => format!("`{default}`"),
                None => "not set".to_owned(),
            };
            let _ = writeln!(text, "**`{name}`** – {}  ", key.about.replace('\n', " "));
            let _ = writeln!(
                text,
                "Write {}. Default: {default}. {}\n",
                key.form,
                changes(key.change)
            );
        }
    }
    text
}

fn changes(change: Change) -> &'static str {
    match change {
        Change::Live => "Changes take effect with a reload.",
        Change::Restart => "Changes need a restart.",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::section::ANY_NAME;
    use crate::config::sources::{DEFAULT_FILE, PREFIX};

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");

    const BEGIN: &str = "<!-- keys: begin -->\n\n";

    const END: &str = "<!-- keys: end -->\n";

    /// Returns the page with its generated part replaced.
    fn renewed(page: &str) -> String {
        let (before, rest) = page.split_once(BEGIN).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        format!("{before}{BEGIN}{}{END}{after}", keys())
    }

    #[test]
    fn the_configuration_page_is_up_to_date() {
        let page = fs::read_to_string(PAGE).unwrap();
        let renewed = renewed(&page);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(PAGE, renewed).unwrap();
            return;
        }
        assert!(
            page == renewed,
            "run UPDATE=1 cargo test -p nano-snapshot-mirror configuration_page"
        );
        assert!(page.contains(DEFAULT_FILE) && page.contains(PREFIX));
    }

    #[test]
    fn every_key_is_explained_and_has_a_plain_name() {
        for key in Config::table().keys {
            assert!(key.about.len() > 10, "{} is not explained", key.path);
            let path = key.path.replace(ANY_NAME, "name");
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            assert!(path.chars().all(plain), "{path}");
        }
    }
}
