//! Reads a mapping field by field: no unknown fields, and errors that name the place.
//!
//! No error repeats a value. Of an unknown field's name the beginning is shown, if it is printable.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use serde_json::{Map, Value};

/// The text that a mapping is in. It decides how its fields are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// The annotation of a Pod: `new_name`.
    Annotation,
    /// The parameters of a claim: `camelCase`, as in Kubernetes.
    Claim,
}

/// The name of a field in each text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    /// In the annotation.
    pub(crate) annotation: &'static str,
    /// In a claim.
    pub(crate) claim: &'static str,
}

impl Key {
    /// A field with one name.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { annotation: name, claim: name }
    }

    /// A field with two names.
    pub(crate) const fn two(annotation: &'static str, claim: &'static str) -> Self {
        Self { annotation, claim }
    }

    /// Its name in a text.
    pub(crate) fn name(self, spelling: Spelling) -> &'static str {
        match spelling {
            Spelling::Annotation => self.annotation,
            Spelling::Claim => self.claim,
        }
    }
}

/// Why a field is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Where: `routes[1].via`, counted from 0. Empty for the whole mapping.
    pub path: String,
    /// The rule that is broken.
    pub rule: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => out.write_str(&self.rule),
            path => write!(out, "{path}: {}", self.rule),
        }
    }
}

impl std::error::Error for FieldError {}

impl FieldError {
    /// The same for an element of the field.
    pub(crate) fn inside(mut self, at: usize) -> Self {
        self.path.push_str(&format!("[{at}]"));
        self
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Field<'a> {
    value: &'a Value,
    path: String,
    spelling: Spelling,
}

impl<'a> Field<'a> {
    /// The whole text.
    pub(crate) fn whole(value: &'a Value, spelling: Spelling) -> Self {
        Self { value, path: String::new(), spelling }
    }

    pub(crate) fn refuse(&self, rule: impl Into<String>) -> FieldError {
        FieldError { path: self.path.clone(), rule: rule.into() }
    }

    /// The text, read by `read`, which returns the rule that it breaks.
    pub(crate) fn text<T>(&self, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, FieldError> {
        let rule = || self.refuse("must be a string: quote a value that looks like a number");
        let text = self.value.as_str().ok_or_else(rule)?;
        read(text).map_err(|rule| self.refuse(rule))
    }

    /// A whole number, or the text of one, as settings are written elsewhere.
    pub(crate) fn number_or_text(&self, range: RangeInclusive<u32>) -> Result<u32, FieldError> {
        let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match self.value.as_str().filter(is_number).and_then(|text| text.parse::<u32>().ok()) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => self.number(range),
        }
    }

    /// A whole number.
    pub(crate) fn number(&self, range: RangeInclusive<u32>) -> Result<u32, FieldError> {
        let number = self.value.as_u64().and_then(|number| u32::try_from(number).ok());
        let rule = || self.refuse(format!("must be a number from {} to {}", range.start(), range.end()));
        number.filter(|number| range.contains(number)).ok_or_else(rule)
    }

    /// `true` or `false`.
    pub(crate) fn truth(&self) -> Result<bool, FieldError> {
        self.value.as_bool().ok_or_else(|| self.refuse("must be true or false"))
    }

    /// The elements of a list, each read by `read`.
    pub(crate) fn list<T>(
        &self,
        mut read: impl FnMut(Field<'a>, &[T]) -> Result<T, FieldError>,
    ) -> Result<Vec<T>, FieldError> {
        let list = self.value.as_array().ok_or_else(|| self.refuse("must be a list"))?;
        let mut all = Vec::with_capacity(list.len());
        for (at, value) in list.iter().enumerate() {
            let element = Field { value, path: format!("{}[{at}]", self.path), spelling: self.spelling };
            all.push(read(element, &all)?);
        }
        Ok(all)
    }

    /// A mapping from any names, each with what `read` makes of the value; not those that are `null`.
    pub(crate) fn entries<K: Ord, V>(
        &self,
        mut read: impl FnMut(&str, Field<'a>) -> Result<(K, V), FieldError>,
    ) -> Result<BTreeMap<K, V>, FieldError> {
        let rule = || self.refuse("not a mapping: write names and values");
        let values = self.value.as_object().ok_or_else(rule)?;
        let mut all = BTreeMap::new();
        for (name, value) in values.iter().filter(|(_, value)| !value.is_null()) {
            let path = joined(&self.path, name);
            all.extend([read(name, Field { value, path, spelling: self.spelling })?]);
        }
        Ok(all)
    }

    /// A mapping with no other fields than these.
    pub(crate) fn mapping(&self, known: &[Key]) -> Result<Fields<'a>, FieldError> {
        let rule = || self.refuse("not a mapping: write fields and values, as in name: eth1");
        let values = self.value.as_object().ok_or_else(rule)?;
        match values.keys().find(|field| !known.iter().any(|key| key.name(self.spelling) == field.as_str())) {
            Some(field) => Err(self.refuse(unknown(field, known, self.spelling))),
            None => Ok(Fields { values, path: self.path.clone(), spelling: self.spelling }),
        }
    }
}

/// A mapping whose fields are known.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    values: &'a Map<String, Value>,
    path: String,
    spelling: Spelling,
}

impl<'a> Fields<'a> {
    /// A field; none if it is missing or `null`.
    pub(crate) fn get(&self, key: Key) -> Option<Field<'a>> {
        let value = self.values.get(key.name(self.spelling)).filter(|value| !value.is_null())?;
        Some(Field { value, path: self.path_of(key), spelling: self.spelling })
    }

    /// What `read` makes of a field, if it is there.
    pub(crate) fn read<T>(
        &self,
        key: Key,
        read: impl FnOnce(Field<'a>) -> Result<T, FieldError>,
    ) -> Result<Option<T>, FieldError> {
        self.get(key).map(read).transpose()
    }

    /// What `read` makes of a field that must be there.
    pub(crate) fn required<T>(
        &self,
        key: Key,
        read: impl FnOnce(Field<'a>) -> Result<T, FieldError>,
    ) -> Result<T, FieldError> {
        self.get(key).ok_or_else(|| self.refuse(key, "missing")).and_then(read)
    }

    pub(crate) fn refuse(&self, key: Key, rule: impl Into<String>) -> FieldError {
        FieldError { path: self.path_of(key), rule: rule.into() }
    }

    fn path_of(&self, key: Key) -> String {
        joined(&self.path, key.name(self.spelling))
    }
}

/// The path of a field in the mapping at `path`. Of a name the beginning is shown, if it is printable.
pub(crate) fn joined(path: &str, name: &str) -> String {
    let name = shown(name);
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

/// Maximum number of characters of an unknown field that are shown.
const MAX_SHOWN: usize = 24;

fn shown(name: &str) -> String {
    let printable = |letter: &char| letter.is_ascii_graphic() && !matches!(letter, '"' | '\\');
    name.chars().filter(printable).take(MAX_SHOWN).collect()
}

/// What is said of an unknown field.
fn unknown(field: &str, known: &[Key], spelling: Spelling) -> String {
    let shown = shown(field);
    let names = known.iter().flat_map(|key| [(key.annotation, *key), (key.claim, *key)]);
    match nearest(field, names) {
        Some(key) => format!("unknown field \"{shown}\": did you mean {}?", key.name(spelling)),
        None => {
            let names: Vec<&str> = known.iter().map(|key| key.name(spelling)).collect();
            format!("unknown field \"{shown}\": the fields are {}", names.join(", "))
        }
    }
}

/// The name that was probably meant, of all those that there are.
pub(crate) fn nearest<T, N: AsRef<str>>(field: &str, known: impl IntoIterator<Item = (N, T)>) -> Option<T> {
    let plain = |name: &str| name.chars().filter(|letter| *letter != '_').flat_map(char::to_lowercase).collect();
    let wrong: Vec<char> = plain(field);
    let distances = known.into_iter().map(|(name, key)| (distance(&wrong, &plain(name.as_ref())), key));
    let (distance, key) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= wrong.len().min(9).div_ceil(2)).then_some(key)
}

/// How many letters are to be added, removed or replaced to make one word of another (Levenshtein); more than enough if it is
/// much longer.
fn distance(wrong: &[char], right: &[char]) -> usize {
    if wrong.len() > 2 * right.len() {
        return wrong.len();
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, wrong) in wrong.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, right) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(wrong != right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Key; 4] = [Key::two("new_name", "name"), Key::new("mtu"), Key::new("routes"), Key::new("addresses")];

    #[test]
    fn an_unknown_field_names_the_nearest_known_one() {
        let table = [
            ("mtuu", "did you mean mtu?", "did you mean mtu?"),
            ("MTU", "did you mean mtu?", "did you mean mtu?"),
            ("newName", "did you mean new_name?", "did you mean name?"),
            ("adresses", "did you mean addresses?", "did you mean addresses?"),
            ("route", "did you mean routes?", "did you mean routes?"),
            ("x", "the fields are new_name, mtu, routes, addresses", "the fields are name, mtu, routes, addresses"),
            ("", "the fields are new_name", "the fields are name"),
            ("vlan", "the fields are new_name", "the fields are name"),
        ];
        for (field, annotation, claim) in table {
            for (spelling, words) in [(Spelling::Annotation, annotation), (Spelling::Claim, claim)] {
                let text = unknown(field, &KNOWN, spelling);
                assert!(text.contains(words), "{field}: {text}");
            }
        }
        assert!(unknown(&"é".repeat(10_000), &KNOWN, Spelling::Claim).len() < 200);
    }

    #[test]
    fn the_distance_of_two_words_is_the_number_of_changes() {
        let of = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        for (a, b, expected) in [("kitten", "sitting", 3), ("mtu", "mtu", 0), ("", "abc", 3), ("ab", "ba", 2)] {
            assert_eq!(of(a, b), expected, "{a} {b}");
        }
    }
}
