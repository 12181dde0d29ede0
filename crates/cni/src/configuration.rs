//! Network configurations: a list of plugins, or one plugin, which is a list of one.

use serde_json::{Map, Value, json};

use crate::{
    name::{NameError, NetworkName},
    version::{Version, VersionError},
};

/// Most plugins of a list.
const MAX_PLUGINS: usize = 64;

/// A network: the plugins that make an attachment to it, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    pub(crate) name: NetworkName,
    /// Candidates, the newest first; never empty.
    pub(crate) versions: Vec<Version>,
    pub(crate) is_check_disabled: bool,
    pub(crate) is_gc_disabled: bool,
    pub(crate) plugins: Vec<Plugin>,
    /// The list as JSON, for the cache.
    pub(crate) text: Vec<u8>,
}

/// One plugin of a list: its object, with all keys that are not ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    pub(crate) kind: String,
    pub(crate) object: Map<String, Value>,
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigurationError {
    /// Not JSON.
    #[error("invalid JSON: {0}")]
    Json(String),
    /// JSON, and not an object.
    #[error("must be a JSON object")]
    NotAnObject,
    /// A key that must be there.
    #[error("missing {0:?}")]
    Missing(&'static str),
    /// A key with a value of another kind.
    #[error("{0:?} must be {1}")]
    Kind(&'static str, &'static str),
    /// The name.
    #[error("\"name\": {0}")]
    Name(#[from] NameError),
    /// The version, or one of the versions.
    #[error("\"cniVersion\": {0}")]
    Version(#[from] VersionError),
    /// An element of `plugins`.
    #[error("plugins[{0}]: {1}")]
    Plugin(usize, Box<ConfigurationError>),
    /// A type that is a path.
    #[error("\"type\" must be the file name of a plugin: {0:?}")]
    Type(String),
    /// No plugins at all.
    #[error("\"plugins\" is empty")]
    NoPlugins,
    /// Too many.
    #[error("{0} plugins: the limit is {MAX_PLUGINS}")]
    TooMany(usize),
}

/// What a list says of its plugins that are in files of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PluginFiles {
    /// Those in the directory with the network's name follow.
    Follow,
    /// `loadOnlyInlinedPlugins`.
    No,
}

impl NetworkList {
    /// Reads a list, or one plugin as a list of one.
    ///
    /// # Errors
    ///
    /// When it is not a valid configuration.
    pub fn from_json(text: &[u8]) -> Result<Self, ConfigurationError> {
        let (list, _) = Self::read(text)?;
        list.completed(Vec::new())
    }

    /// Reads a list whose plugins may be in files of their own: it may have none yet.
    pub(crate) fn read(text: &[u8]) -> Result<(Self, PluginFiles), ConfigurationError> {
        let value = serde_json::from_slice(text).map_err(|error| ConfigurationError::Json(error.to_string()))?;
        let Value::Object(object) = value else { return Err(ConfigurationError::NotAnObject) };
        if !object.contains_key("plugins") && object.contains_key("type") {
            return Ok((Self::of_plugin(object)?, PluginFiles::No));
        }
        let name = name(&object)?;
        let versions = versions(&object)?;
        let files = if truth(&object, "loadOnlyInlinedPlugins")? { PluginFiles::No } else { PluginFiles::Follow };
        let plugins = match object.get("plugins") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(plugins)) => plugins.iter().enumerate().map(plugin_of).collect::<Result<_, _>>()?,
            Some(_) => return Err(ConfigurationError::Kind("plugins", "a list")),
        };
        let (is_check_disabled, is_gc_disabled) = (truth(&object, "disableCheck")?, truth(&object, "disableGC")?);
        let list = Self { name, versions, is_check_disabled, is_gc_disabled, plugins, text: text.to_vec() };
        Ok((list, files))
    }

    /// The list with further plugins, if it has any then.
    pub(crate) fn completed(mut self, further: Vec<Plugin>) -> Result<Self, ConfigurationError> {
        if !further.is_empty() {
            self.plugins.extend(further);
            self.text = self.to_json();
        }
        match self.plugins.len() {
            0 => Err(ConfigurationError::NoPlugins),
            count if count > MAX_PLUGINS => Err(ConfigurationError::TooMany(count)),
            _ => Ok(self),
        }
    }

    fn of_plugin(object: Map<String, Value>) -> Result<Self, ConfigurationError> {
        let (name, versions) = (name(&object)?, versions(&object)?);
        let plugins = vec![Plugin::new(object)?];
        let (is_check_disabled, is_gc_disabled) = (false, false);
        let mut list = Self { name, versions, is_check_disabled, is_gc_disabled, plugins, text: Vec::new() };
        list.text = list.to_json();
        Ok(list)
    }

    fn to_json(&self) -> Vec<u8> {
        let plugins: Vec<&Map<String, Value>> = self.plugins.iter().map(|plugin| &plugin.object).collect();
        let mut list = json!({"name": self.name.as_str(), "cniVersion": self.versions[0], "plugins": plugins});
        if self.versions.len() > 1 {
            list["cniVersions"] = json!(self.versions);
        }
        for (key, is_set) in [("disableCheck", self.is_check_disabled), ("disableGC", self.is_gc_disabled)] {
            if is_set {
                list[key] = true.into();
            }
        }
        list.to_string().into_bytes()
    }

    /// The network's name.
    pub fn name(&self) -> &NetworkName {
        &self.name
    }

    /// The configuration as text, a list.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The plugins, in the order of ADD.
    pub fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// The versions of the specification that it may be used in, the newest first.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }
}

impl Plugin {
    /// Checks the object of a plugin.
    pub(crate) fn new(object: Map<String, Value>) -> Result<Self, ConfigurationError> {
        let kind = match object.get("type") {
            None => return Err(ConfigurationError::Missing("type")),
            Some(Value::String(kind)) => kind.clone(),
            Some(_) => return Err(ConfigurationError::Kind("type", "a string")),
        };
        if kind.is_empty() || kind == "." || kind == ".." || kind.contains(['/', '\0']) {
            return Err(ConfigurationError::Type(kind));
        }
        match object.get("capabilities") {
            None | Some(Value::Null) => {}
            Some(Value::Object(capabilities)) if capabilities.values().all(Value::is_boolean) => {}
            Some(_) => return Err(ConfigurationError::Kind("capabilities", "an object of booleans")),
        }
        Ok(Self { kind, object })
    }

    /// Its type: the name of its file.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its configuration.
    pub fn object(&self) -> &Map<String, Value> {
        &self.object
    }

    /// Whether it takes a capability argument.
    pub fn takes(&self, capability: &str) -> bool {
        self.object.get("capabilities").and_then(|all| all.get(capability)) == Some(&Value::Bool(true))
    }
}

fn plugin_of((index, value): (usize, &Value)) -> Result<Plugin, ConfigurationError> {
    let Value::Object(object) = value else {
        return Err(ConfigurationError::Plugin(index, Box::new(ConfigurationError::NotAnObject)));
    };
    Plugin::new(object.clone()).map_err(|error| ConfigurationError::Plugin(index, Box::new(error)))
}

fn name(object: &Map<String, Value>) -> Result<NetworkName, ConfigurationError> {
    match object.get("name") {
        None | Some(Value::Null) => Err(ConfigurationError::Missing("name")),
        Some(Value::String(name)) => Ok(name.parse()?),
        Some(_) => Err(ConfigurationError::Kind("name", "a string")),
    }
}

/// `cniVersion` and the members of `cniVersions`, without those that are newer than what is spoken here.
fn versions(object: &Map<String, Value>) -> Result<Vec<Version>, ConfigurationError> {
    let mut named = Vec::new();
    match object.get("cniVersions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for version in list {
                let version = version.as_str().ok_or(ConfigurationError::Kind("cniVersions", "a list of strings"))?;
                named.push(version.parse());
            }
        }
        Some(_) => return Err(ConfigurationError::Kind("cniVersions", "a list of strings")),
    }
    match object.get("cniVersion") {
        None | Some(Value::Null) if !named.is_empty() => {}
        None | Some(Value::Null) => named.push(Ok(Version::V0_1_0)),
        Some(Value::String(version)) if version.is_empty() && !named.is_empty() => {}
        Some(Value::String(version)) => named.push(Version::or_oldest(Some(version))),
        Some(_) => return Err(ConfigurationError::Kind("cniVersion", "a string")),
    }
    if let Some(form) = named.iter().find_map(|version| version.as_ref().err().filter(|error| is_form(error))) {
        return Err(form.clone().into());
    }
    let mut spoken: Vec<Version> = named.iter().filter_map(|version| version.clone().ok()).collect();
    spoken.sort_unstable_by(|one, other| other.cmp(one));
    spoken.dedup();
    match (spoken.is_empty(), named.into_iter().find_map(Result::err)) {
        (true, Some(unknown)) => Err(unknown.into()),
        _ => Ok(spoken),
    }
}

fn is_form(error: &VersionError) -> bool {
    matches!(error, VersionError::Form(_))
}

/// A boolean, or one as text, as the specification has it for `disableCheck` and the others.
fn truth(object: &Map<String, Value>, key: &'static str) -> Result<bool, ConfigurationError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(ConfigurationError::Kind(key, "true or false")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<NetworkList, ConfigurationError> {
        NetworkList::from_json(text.as_bytes())
    }

    #[test]
    fn a_list_keeps_what_it_does_not_know() {
        let text = r#"{"cniVersion":"1.0.0","name":"n","disableCheck":"True","plugins":[{"type":"ptp","x":{"y":[1]}},{"type":"tuning"}]}"#;
        let list = read(text).unwrap();
        assert_eq!((list.name.as_str(), list.versions()), ("n", &[Version::V1_0_0][..]));
        assert_eq!(list.plugins().iter().map(Plugin::kind).collect::<Vec<_>>(), ["ptp", "tuning"]);
        assert_eq!(list.plugins[0].object["x"], json!({"y": [1]}));
        assert!(list.is_check_disabled && !list.is_gc_disabled);
        assert_eq!(list.text, text.as_bytes());
    }

    #[test]
    fn one_plugin_is_a_list_of_one_and_stays_so_in_the_cache() {
        let list = read(r#"{"name":"n","type":"ptp","ipam":{}}"#).unwrap();
        assert_eq!(list.versions(), [Version::V0_1_0]);
        let again = NetworkList::from_json(&list.text).unwrap();
        assert_eq!(again, list);
        assert_eq!(again.plugins[0].object["ipam"], json!({}));
    }

    #[test]
    fn the_newest_version_that_is_spoken_here_comes_first() {
        let of = |versions: &str| read(&format!(r#"{{"name":"n",{versions}"plugins":[{{"type":"p"}}]}}"#));
        let newest = |versions: &str| of(versions).unwrap().versions()[0];
        assert_eq!(newest(""), Version::V0_1_0);
        assert_eq!(newest(r#""cniVersion":"","#), Version::V0_1_0);
        assert_eq!(newest(r#""cniVersion":"0.4.0","cniVersions":["0.3.1","1.0.0","9.9.9"],"#), Version::V1_0_0);
        assert_eq!(newest(r#""cniVersions":["0.3.1"],"#), Version::V0_3_1);
        assert_eq!(newest(r#""cniVersion":"2.0.0","cniVersions":["0.3.1"],"#), Version::V0_3_1);
        assert_eq!(
            of(r#""cniVersion":"2.0.0","#).unwrap_err().to_string(),
            r#""cniVersion": CNI version 2.0.0 is not supported: supported are 0.1.0 to 1.1.0"#
        );
        assert!(of(r#""cniVersion":"1.0.0","cniVersions":["one"],"#).is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("", "invalid JSON: EOF while parsing a value at line 1 column 0"),
            ("[]", "must be a JSON object"),
            ("{}", r#"missing "name""#),
            (r#"{"name":1,"type":"ptp"}"#, r#""name" must be a string"#),
            (r#"{"name":"","type":"ptp"}"#, r#""name": empty network name"#),
            (r#"{"name":"n"}"#, r#""plugins" is empty"#),
            (r#"{"name":"n","plugins":{}}"#, r#""plugins" must be a list"#),
            (r#"{"name":"n","plugins":[{"type":"a"},{}]}"#, r#"plugins[1]: missing "type""#),
            (r#"{"name":"n","plugins":["ptp"]}"#, "plugins[0]: must be a JSON object"),
            (r#"{"name":"n","type":"../ptp"}"#, r#""type" must be the file name of a plugin: "../ptp""#),
            (r#"{"name":"n","type":""}"#, r#""type" must be the file name of a plugin: """#),
            (r#"{"name":"n","type":"p","capabilities":["mac"]}"#, r#""capabilities" must be an object of booleans"#),
            (r#"{"name":"n","disableGC":1,"plugins":[{"type":"p"}]}"#, r#""disableGC" must be true or false"#),
            (r#"{"name":"n","cniVersion":1,"type":"p"}"#, r#""cniVersion" must be a string"#),
        ];
        for (text, expected) in table {
            assert_eq!(read(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,a-z0-9 ]{0,200}") {
            let _ = NetworkList::from_json(&bytes);
            let _ = NetworkList::from_json(text.as_bytes());
        }
    }
}
