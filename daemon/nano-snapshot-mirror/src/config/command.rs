//! The command of the hooks.

use figment::value::Value;

use super::section::KeyType;
use super::values::{quoted, write};

/// The replacement for hidden arguments.
const HIDDEN: &str = "…(hidden)";

/// A program and its arguments. Arguments may contain a secret: a token, a password, a URL with one. Only the program is shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct HookCommand(Vec<String>);

impl HookCommand {
    /// Returns the program and its arguments; empty without a command.
    pub(crate) fn words(&self) -> &[String] {
        &self.0
    }
}

/// Formats the command without its arguments, since logs may contain it.
impl std::fmt::Debug for HookCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show_publicly().unwrap_or_default())
    }
}

impl KeyType for HookCommand {
    const SECRET: bool = true;

    fn form() -> String {
        "a list, each a text".to_owned()
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let word = |value: &Value| match value.as_str() {
            Some(text) if !text.contains('\0') => Ok(text.to_owned()),
            _ => Err(write::<Self>()),
        };
        match value {
            Value::Array(_, values) => values.iter().map(word).collect(),
            Value::String(_, text) => text
                .split(|c: char| c == ',' || c.is_whitespace())
                .filter(|part| !part.is_empty())
                .map(|part| word(&Value::from(part)))
                .collect(),
            _ => Err(write::<Self>()),
        }
        .map(Self)
    }

    fn show(&self) -> Option<String> {
        Some(list(self.0.iter().map(String::as_str)))
    }

    fn show_publicly(&self) -> Option<String> {
        let program = self.0.iter().take(1).map(String::as_str);
        // One word for all arguments, so that their number is hidden as well.
        let arguments = (self.0.len() > 1).then_some(HIDDEN);
        Some(list(program.chain(arguments)))
    }
}

fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.map(quoted).collect();
    format!("[{}]", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_and_not_shown() {
        for (said, words, public) in [
            (Value::from(vec!["/p"]), &["/p"][..], "[\"/p\"]"),
            (
                Value::from(vec!["/p", "a b", "TOKEN"]),
                &["/p", "a b", "TOKEN"],
                "[\"/p\", \"…(hidden)\"]",
            ),
            (
                Value::from("/p,TOKEN"),
                &["/p", "TOKEN"],
                "[\"/p\", \"…(hidden)\"]",
            ),
            (Value::from(""), &[], "[]"),
        ] {
            let parsed = HookCommand::parse(&said).unwrap();
            assert_eq!(parsed.words(), words);
            assert_eq!(parsed.show_publicly().unwrap(), public);
            assert_eq!(format!("{parsed:?}"), public);
        }
        for wrong in [Value::from(1), Value::from(vec!["a\0b"])] {
            assert!(HookCommand::parse(&wrong).is_err());
        }
    }
}
