//! Writes a value as JSON, and reads one without repeated keys.

use std::io;

use serde::Serialize;
#[cfg(feature = "selection")]
use serde_json::{Map, Value};

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

/// Reads a value in which no object has a key twice.
///
/// # Errors
///
/// When it is not JSON, or has such an object.
#[cfg(feature = "selection")]
pub(crate) fn unique(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text).map(|Unique(value)| value)
}

#[cfg(feature = "selection")]
struct Unique(Value);

#[cfg(feature = "selection")]
impl<'de> serde::Deserialize<'de> for Unique {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(UniqueVisitor).map(Self)
    }
}

#[cfg(feature = "selection")]
struct UniqueVisitor;

#[cfg(feature = "selection")]
impl<'de> serde::de::Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((key, Unique(value))) = object.next_entry::<String, Unique>()? {
            if values.insert(key, value).is_some() {
                return Err(serde::de::Error::custom("the object has a key twice"));
            }
        }
        Ok(values.into())
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
