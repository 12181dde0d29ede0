//! Whether what is published of a device differs.
//!
//! Both sides are read as a stream: a slice as a tree of values would need ten times its text.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use super::SliceDevice;

/// The member that is not part of it: the API server sets when a taint was added.
const IGNORED: &str = "timeAdded";

/// A value that differs if what is published of a device differs. It is read from the device in the form of the API; the order of
/// an object's members makes no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub(super) u64);

/// The fingerprint of an object, of those of its members.
#[derive(Debug, Default)]
pub struct Members {
    sum: u64,
    count: u64,
}

impl Fingerprint {
    /// That of a device in the form of the API.
    pub fn of(device: &Value) -> Self {
        // every value can be read
        Self::deserialize(device).unwrap_or(Self(0))
    }

    /// That of a device as it is written.
    pub fn of_published(device: &SliceDevice) -> Self {
        let text = serde_json::to_vec(device).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or(Self(0))
    }

    fn hash(value: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Members {
    /// One more member.
    pub fn add(&mut self, key: &str, Fingerprint(value): Fingerprint) {
        if key != IGNORED {
            self.sum = self.sum.wrapping_add(Fingerprint::hash((key, value)).0);
            self.count += 1;
        }
    }

    /// That of the object.
    pub fn fingerprint(self) -> Fingerprint {
        Fingerprint::hash(("{", self.sum, self.count))
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Fingerprint;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Fingerprint, E> {
        Ok(Fingerprint::hash("null"))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Fingerprint, E> {
        Ok(Fingerprint::hash(("b", value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Fingerprint, E> {
        Ok(Fingerprint::hash(("i", i128::from(value))))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Fingerprint, E> {
        Ok(Fingerprint::hash(("i", i128::from(value))))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Fingerprint, E> {
        Ok(Fingerprint::hash(("f", value.to_bits())))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Fingerprint, E> {
        Ok(Fingerprint::hash(("s", text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Fingerprint, A::Error> {
        let mut hasher = DefaultHasher::new();
        "[".hash(&mut hasher);
        while let Some(Fingerprint(value)) = values.next_element()? {
            value.hash(&mut hasher);
        }
        Ok(Fingerprint(hasher.finish()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Fingerprint, A::Error> {
        let mut members = Members::default();
        while let Some((key, value)) = values.next_entry::<String, Fingerprint>()? {
            members.add(&key, value);
        }
        Ok(members.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn when_a_taint_was_added_and_the_order_of_members_make_no_difference() {
        let device = |time: &str| json!({"name": "a", "taints": [{"key": "k", "timeAdded": time}]});
        assert_eq!(Fingerprint::of(&device("1")), Fingerprint::of(&device("2")));
        assert_ne!(Fingerprint::of(&device("1")), Fingerprint::of(&json!({"name": "a", "taints": []})));
        let read = |text: &str| serde_json::from_str::<Fingerprint>(text).unwrap();
        assert_eq!(read(r#"{"a": 1, "b": [true, null]}"#), read(r#"{"b": [true, null], "a": 1}"#));
        assert_eq!(read(r#"{"a": 1, "b": [true, null]}"#), Fingerprint::of(&json!({"a": 1, "b": [true, null]})));
    }

    #[test]
    fn different_values_have_different_fingerprints() {
        let values = [
            json!(null),
            json!(false),
            json!(0),
            json!(-1),
            json!(0.5),
            json!(""),
            json!("0"),
            json!([]),
            json!([[]]),
            json!([0, 1]),
            json!([1, 0]),
            json!({}),
            json!({"a": {}}),
            json!({"a": 0, "b": 1}),
            json!({"a": 1, "b": 0}),
        ];
        for (at, one) in values.iter().enumerate() {
            assert!(values[..at].iter().all(|other| Fingerprint::of(other) != Fingerprint::of(one)), "{one}");
        }
    }
}
