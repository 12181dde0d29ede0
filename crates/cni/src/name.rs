//! Ids of containers and names of networks.

use std::{fmt, str::FromStr};

/// Longest name: with the other two parts of a cache file's name it must fit into a file name.
const MAX_NAME: usize = 128;

/// A name that breaks the rule of the specification (section 2): a letter or digit, then letters, digits, `_`, `.`, `-`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No characters.
    #[error("empty {0}")]
    Empty(&'static str),
    /// Another character.
    #[error(
        "invalid {0} {1:?}: it must begin with a letter or a digit and have only letters, digits, '_', '.' and '-'"
    )]
    Character(&'static str, String),
    /// Too many.
    #[error("{0} has {1} characters: the limit is {MAX_NAME}")]
    TooLong(&'static str, usize),
}

fn check(what: &'static str, text: &str) -> Result<String, NameError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric();
    let is_allowed = |byte: u8| is_plain(byte) || matches!(byte, b'_' | b'.' | b'-');
    match text.as_bytes() {
        [] => Err(NameError::Empty(what)),
        [first, rest @ ..] if is_plain(*first) && rest.iter().all(|byte| is_allowed(*byte)) => {
            if text.len() > MAX_NAME { Err(NameError::TooLong(what, text.len())) } else { Ok(text.into()) }
        }
        _ => Err(NameError::Character(what, text.chars().take(MAX_NAME).collect())),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check($what, text).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }
    };
}

name!(
    /// `CNI_CONTAINERID`: for Kubernetes the id of the Pod's sandbox.
    ContainerId,
    "container id"
);
name!(
    /// The name of a network, unique on the node.
    NetworkName,
    "network name"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_specification() {
        for good in ["a", "0", "a-b_c.d", "3f2a", &"x".repeat(MAX_NAME)] {
            assert_eq!(good.parse::<NetworkName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".", "..", "_", "a/b", "a b", "a\n", "é", &"x".repeat(MAX_NAME + 1)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
        assert_eq!("".parse::<NetworkName>().unwrap_err().to_string(), "empty network name");
    }
}
