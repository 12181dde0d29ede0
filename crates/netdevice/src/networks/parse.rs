//! Reads the annotation, in both of its forms.

use serde_json::{Map, Value};

use super::{MAX_ANNOTATION, MAX_ELEMENTS, NetworkSelection, NetworksError, element};
use crate::name::InterfaceName;

/// Reads an annotation: a JSON list of objects if the text has one of `[`, `{` and `"`, otherwise a list of
/// `[namespace/]name[@interface]`, separated by commas. White space alone is an empty list.
///
/// Keys that are not known are ignored, as Multus does.
///
/// # Errors
///
/// The first rule that the text breaks.
pub fn parse(text: &str, pod_namespace: &str) -> Result<Vec<NetworkSelection>, NetworksError> {
    if text.len() > MAX_ANNOTATION {
        return Err(NetworksError::TooLong(text.len()));
    }
    let elements = if text.contains(['[', '{', '"']) { objects(text)? } else { items(text)? };
    if elements.len() > MAX_ELEMENTS {
        return Err(NetworksError::TooMany(elements.len()));
    }
    let numbered = (1..).zip(&elements);
    let selections: Vec<_> =
        numbered.map(|(position, keys)| element::read(position, keys, pod_namespace)).collect::<Result<_, _>>()?;
    check_together(&selections)?;
    Ok(selections)
}

fn objects(text: &str) -> Result<Vec<Map<String, Value>>, NetworksError> {
    let invalid = |error: serde_json::Error| NetworksError::Json { line: error.line(), column: error.column() };
    let Value::Array(list) = serde_json::from_str(text).map_err(invalid)? else {
        return Err(NetworksError::NotAList);
    };
    let object = |(element, value)| match value {
        Value::Object(keys) => Ok(keys),
        _ => Err(NetworksError::NotAnObject { element }),
    };
    (1..).zip(list).map(object).collect()
}

/// The items of a comma list as the objects that mean the same.
fn items(text: &str) -> Result<Vec<Map<String, Value>>, NetworksError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    (1..).zip(text.split(',')).map(|(element, item)| self::item(element, item.trim())).collect()
}

fn item(element: usize, item: &str) -> Result<Map<String, Value>, NetworksError> {
    let (network, interface) = match item.split_once('@') {
        Some((network, interface)) => (network.trim(), Some(interface.trim())),
        None => (item, None),
    };
    let (namespace, name) = match network.split_once('/') {
        Some((namespace, name)) => (Some(namespace.trim()), name.trim()),
        None => (None, network),
    };
    if name.contains('/') || interface.is_some_and(|interface| interface.contains('@')) {
        return Err(NetworksError::Item { element });
    }
    // Multus requires a label here, but takes any name in JSON.
    if name.contains('.') {
        return Err(NetworksError::Key { element, key: "name", problem: element::LABEL });
    }
    let pairs = [("namespace", namespace), ("name", Some(name)), ("interface", interface)];
    Ok(pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect())
}

/// The rules for several elements.
fn check_together(selections: &[NetworkSelection]) -> Result<(), NetworksError> {
    let numbered = || (1..).zip(selections);
    let mut names: Vec<(&InterfaceName, usize)> =
        numbered().filter_map(|(position, selection)| Some((selection.interface.as_ref()?, position))).collect();
    names.sort();
    if let Some(pair) = names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(NetworksError::SameInterface { first: pair[0].1, second: pair[1].1 });
    }
    let mut routes = numbered().filter(|(_, selection)| selection.default_route.is_some());
    match (routes.next(), routes.next()) {
        (Some((first, _)), Some((second, _))) => Err(NetworksError::SeveralDefaultRoutes { first, second }),
        _ => Ok(()),
    }
}
