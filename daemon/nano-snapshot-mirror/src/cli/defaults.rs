//! Adds the defaults of configuration keys to the help texts of their flags.

use clap::{Arg, Command};

use crate::config::{Config, Key};

/// The flags of configuration keys, with the paths of the keys.
const KEYS: [(&str, &str); 13] = [
    ("authority", "stream.NAME.authorities"),
    ("threshold", "stream.NAME.threshold"),
    ("salt", "stream.NAME.salt"),
    ("data-dir", "data-dir"),
    ("poll-interval", "poll-interval"),
    ("listen", "peer.listen"),
    ("control", "control.socket"),
    ("http", "http.listen"),
    ("dht-port", "dht.port"),
    ("verify-level", "verify.level"),
    ("store-version", "verify.store-versions"),
    ("log-level", "log.level"),
    ("log-format", "log.format"),
];

/// Returns the command with the defaults added to its help texts and those of its sub-commands.
pub(super) fn described(command: Command) -> Command {
    let table = Config::table();
    let describe = |arg: Arg| {
        let flag = KEYS.iter().find(|(flag, _)| arg.get_long() == Some(flag));
        let default = flag.and_then(|(_, path)| default(table.find(path)?));
        let (Some(default), Some(help)) = (default, arg.get_help()) else {
            return arg;
        };
        let help = help.to_string();
        // Flags without a configuration key have their default in their own help text.
        if help.contains("[default:") || !arg.get_default_values().is_empty() {
            return arg;
        }
        arg.help(format!("{help} [default: {default}]"))
    };
    command.mut_args(describe).mut_subcommands(described)
}

/// Returns the default of a key in words from its description, or else the value.
fn default(key: &Key) -> Option<String> {
    // Descriptions are wrapped, also after "By default".
    let about = key.about.replace('\n', " ");
    if let Some((_, words)) = about.split_once("By default ") {
        return Some(sentence(words).replace('`', ""));
    }
    let value = key.default.as_deref()?.replace('"', "");
    // A list of one value.
    let value = value
        .strip_prefix('[')
        .and_then(|value| value.strip_suffix(']'))
        .unwrap_or(&value);
    (!value.is_empty()).then(|| value.to_owned())
}

/// Returns the first sentence of a text without its final dot. A dot in a name is followed by a letter.
fn sentence(text: &str) -> &str {
    let end = text.find(". ");
    let end = end.or_else(|| text.strip_suffix('.').map(str::len));
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    fn help(flag: &str) -> String {
        let command = described(Cli::command());
        let arg = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(flag));
        arg.unwrap().get_help().unwrap().to_string()
    }

    #[test]
    fn help_texts_have_the_defaults_of_the_configuration() {
        for (flag, default) in [
            ("poll-interval", "[default: 10m]"),
            ("threshold", "[default: 1]"),
            ("listen", "[default: [::]:6881]"),
            ("http", "[default: 127.0.0.1:9109]"),
            ("dht-port", "[default: 6882]"),
            ("log-level", "[default: info]"),
            ("authority", "[default: the key of the public stream]"),
        ] {
            let help = help(flag);
            assert!(help.ends_with(default), "--{flag}: {help}");
        }
        for (flag, part) in [
            ("data-dir", "$XDG_DATA_HOME/nano-snapshot-mirror"),
            ("control", "control.sock in $RUNTIME_DIRECTORY"),
            ("store-version", "[default: all"),
        ] {
            let help = help(flag);
            assert!(help.contains(part), "--{flag}: {help}");
        }
    }

    #[test]
    fn every_flag_of_a_key_is_a_flag_of_a_key_that_exists() {
        let (command, table) = (Cli::command(), Config::table());
        for (flag, path) in KEYS {
            assert!(table.find(path).is_some(), "{path}");
            let mut flags = command.get_arguments();
            assert!(flags.any(|arg| arg.get_long() == Some(flag)), "--{flag}");
        }
    }
}
