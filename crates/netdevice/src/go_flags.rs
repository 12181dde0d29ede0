//! Flags as Go programs write them: one dash before a long name, `-interfaces dummy` or `-interfaces=dummy`.
//!
//! The programs that ours replace are written in Go, and their command lines work unchanged. Arguments are rewritten once,
//! before they are parsed, to the form that the parser knows: `--interfaces=dummy`.

use std::ffi::{OsStr, OsString};

/// A flag with a name of two letters or more, without its dashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag<'a> {
    /// It has a value: the next argument, whatever it begins with, or the text after `=`.
    Valued(&'a str),
    /// It has no value.
    Switch(&'a str),
}

/// Rewrites the flags among the arguments that begin with one dash or two. Other arguments, and all after `--`, do not
/// change.
pub fn rewrite(arguments: impl IntoIterator<Item = OsString>, flags: &[Flag<'_>]) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let mut rewritten = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            rewritten.push(argument);
            break;
        }
        let Some((flag, given)) = find(&argument, flags) else {
            rewritten.push(argument);
            continue;
        };
        rewritten.push(match (flag, given) {
            (Flag::Valued(name), None) => match arguments.next() {
                Some(value) => joined(name, &value),
                None => joined_to_nothing(name),
            },
            (Flag::Valued(name) | Flag::Switch(name), Some(value)) => joined(name, &value),
            (Flag::Switch(name), None) => joined_to_nothing(name),
        });
    }
    rewritten.extend(arguments);
    rewritten
}

/// The flag of an argument, and its value if it has one after `=`.
fn find<'a>(argument: &OsStr, flags: &[Flag<'a>]) -> Option<(Flag<'a>, Option<OsString>)> {
    let bytes = argument.as_encoded_bytes().strip_prefix(b"-")?;
    let bytes = bytes.strip_prefix(b"-").unwrap_or(bytes);
    flags.iter().find_map(|flag| {
        let (Flag::Valued(name) | Flag::Switch(name)) = flag;
        match bytes.strip_prefix(name.as_bytes())? {
            [] => Some((*flag, None)),
            [b'=', ..] => Some((*flag, Some(after_the_sign(argument)))),
            _ => None,
        }
    })
}

/// The text after the first `=`.
fn after_the_sign(argument: &OsStr) -> OsString {
    use std::os::unix::ffi::OsStrExt;
    let bytes = argument.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=').map_or(bytes.len(), |at| at + 1);
    OsStr::from_bytes(&bytes[at..]).to_owned()
}

fn joined(name: &str, value: &OsStr) -> OsString {
    let mut joined = joined_to_nothing(name);
    joined.push("=");
    joined.push(value);
    joined
}

fn joined_to_nothing(name: &str) -> OsString {
    OsString::from(format!("--{name}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLAGS: [Flag<'_>; 4] =
        [Flag::Valued("interfaces"), Flag::Valued("config"), Flag::Switch("watch"), Flag::Valued("configs")];

    fn rewritten(arguments: &str) -> String {
        let arguments = arguments.split_whitespace().map(OsString::from);
        rewrite(arguments, &FLAGS).into_iter().map(|it| it.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn long_flags_are_taken_with_one_dash_or_with_two() {
        let table = [
            ("-interfaces dummy -v 4", "--interfaces=dummy -v 4"),
            ("-interfaces=dummy", "--interfaces=dummy"),
            ("--interfaces dummy", "--interfaces=dummy"),
            ("--interfaces=a=b", "--interfaces=a=b"),
            ("ls -o json -watch x", "ls -o json --watch x"),
            ("-watch=false", "--watch=false"),
            ("-configs x -config y", "--configs=x --config=y"),
            ("-interfaces -config", "--interfaces=-config"),
            ("-interfaces", "--interfaces"),
            ("-interface x -in -i", "-interface x -in -i"),
            ("explain -- -config x", "explain -- -config x"),
            ("- --- ---config", "- --- ---config"),
            ("", ""),
        ];
        for (given, expected) in table {
            assert_eq!(rewritten(given), expected, "{given}");
        }
    }

    proptest! {
        #[test]
        fn what_was_rewritten_stays_as_it_is(arguments in prop::collection::vec("[-=a-z]{0,12}|-?-interfaces|--", 0..8)) {
            let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
            let once = rewrite(arguments, &FLAGS);
            prop_assert_eq!(rewrite(once.clone(), &FLAGS), once);
        }
    }
}
