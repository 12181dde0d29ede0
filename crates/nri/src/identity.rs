//! A plugin's name and index, in the form that every runtime takes.

use std::fmt::{self, Display};

use crate::error::Error;

/// Name of a plugin: not empty, of ASCII letters, digits, `_`, `.`, `+` and `-` (checked by runtimes since NRI 0.12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginName(String);

/// Index of a plugin: two digits. Plugins are called in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginIndex(String);

impl TryFrom<&str> for PluginName {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self, Error> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_legal) {
            return Err(Error::InvalidName(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<&str> for PluginIndex {
    type Error = Error;

    fn try_from(index: &str) -> Result<Self, Error> {
        if index.len() != 2 || !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::InvalidIndex(index.to_owned()));
        }
        Ok(Self(index.to_owned()))
    }
}

impl Display for PluginName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Display for PluginIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_two_digits() {
        for index in ["00", "10", "99"] {
            assert_eq!(PluginIndex::try_from(index).unwrap().to_string(), index);
        }
        for index in ["", "1", "100", "1a", "-1", "+1", " 1", "１０"] {
            assert!(matches!(PluginIndex::try_from(index), Err(Error::InvalidIndex(text)) if text == index));
        }
    }

    #[test]
    fn a_name_has_letters_digits_and_four_marks() {
        for name in ["netdevice", "a", "A.b_c+d-9"] {
            assert_eq!(PluginName::try_from(name).unwrap().to_string(), name);
        }
        for name in ["", "a b", "a/b", "é", "a\n"] {
            assert!(matches!(PluginName::try_from(name), Err(Error::InvalidName(text)) if text == name));
        }
    }
}
