//! Writes a value as JSON, and reads one without repeated keys.

use std::io;

use serde::Serialize;
#[cfg(feature = "selection")]
use serde::de::{MapAccess, SeqAccess, Visitor};
#[cfg(feature = "selection")]
use serde_json::{Map, Value};

#[cfg(feature = "selection")]
use crate::configuration::fields::joined;

/// The text of a value, in a buffer of at first `usual` bytes.
///
/// # Errors
///
/// When a map of the value has keys that are not strings.
pub fn to_text(value: &impl Serialize, usual: usize) -> serde_json::Result<Vec<u8>> {
    let mut text = Text(Vec::with_capacity(usual));
    serde_json::to_writer(&mut text, value)?;
    Ok(text.0)
}

/// Most of a text is written in pieces of a few bytes. A call of `memcpy` for each takes 15 to 40 ns in musl, which was a
/// tenth of the hook's own time.
struct Text(Vec<u8>);

/// Longest piece that is copied byte by byte.
const SHORT: usize = 16;

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() <= SHORT {
            bytes.iter().for_each(|byte| self.0.push(*byte));
        } else {
            self.0.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a text is not a value without repeated keys.
#[cfg(feature = "selection")]
#[derive(Debug)]
pub(crate) enum UniqueError {
    /// It is not JSON.
    Json(serde_json::Error),
    /// The place of a key that an object has twice: `routes[1].via`.
    Twice(String),
}

/// Reads a value in which no object has a key twice.
///
/// # Errors
///
/// When it is not JSON, or has such an object.
#[cfg(feature = "selection")]
pub(crate) fn unique(text: &str) -> Result<Value, UniqueError> {
    let read: AsWritten = serde_json::from_str(text).map_err(UniqueError::Json)?;
    read.into_unique(String::new()).map_err(UniqueError::Twice)
}

/// A value that is written again as it was read: also an object that has a key twice.
#[cfg(feature = "selection")]
#[derive(Debug)]
pub(crate) enum AsWritten {
    List(Vec<AsWritten>),
    Object(Vec<(String, AsWritten)>),
    /// Neither.
    Leaf(Value),
}

#[cfg(feature = "selection")]
impl AsWritten {
    /// The value, or the place of the first key that is there twice. `path` is its own.
    fn into_unique(self, path: String) -> Result<Value, String> {
        Ok(match self {
            Self::Leaf(value) => value,
            Self::List(list) => {
                let element = |(at, value): (usize, Self)| value.into_unique(format!("{path}[{at}]"));
                Value::Array(list.into_iter().enumerate().map(element).collect::<Result<_, _>>()?)
            }
            Self::Object(members) => {
                let mut unique = Map::new();
                for (key, value) in members {
                    let place = joined(&path, &key);
                    if unique.contains_key(&key) {
                        return Err(place);
                    }
                    unique.insert(key, value.into_unique(place)?);
                }
                unique.into()
            }
        })
    }
}

#[cfg(feature = "selection")]
impl Serialize for AsWritten {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::List(list) => to.collect_seq(list),
            Self::Object(members) => to.collect_map(members.iter().map(|(key, value)| (key, value))),
            Self::Leaf(value) => value.serialize(to),
        }
    }
}

#[cfg(feature = "selection")]
impl<'de> serde::Deserialize<'de> for AsWritten {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AsWrittenVisitor)
    }
}

#[cfg(feature = "selection")]
struct AsWrittenVisitor;

#[cfg(feature = "selection")]
impl<'de> Visitor<'de> for AsWrittenVisitor {
    type Value = AsWritten;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<AsWritten, E> {
        Ok(AsWritten::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<AsWritten, E> {
        Ok(AsWritten::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<AsWritten, E> {
        Ok(AsWritten::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<AsWritten, E> {
        Ok(AsWritten::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<AsWritten, E> {
        Ok(AsWritten::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<AsWritten, E> {
        Ok(AsWritten::Leaf(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<AsWritten, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(AsWritten::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<AsWritten, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = object.next_entry()? {
            members.push(member);
        }
        Ok(AsWritten::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_is_that_of_serde_json(strings: Vec<String>, numbers: Vec<i64>, room in 0..100usize) {
            let value = (strings, numbers);
            prop_assert_eq!(super::to_text(&value, room).unwrap(), serde_json::to_vec(&value).unwrap());
        }
    }
}
