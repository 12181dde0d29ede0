//! One call of a plugin: what it reads from standard input and from its environment. Nothing runs here.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value, json};

use crate::{
    capability::CapabilityArguments,
    configuration::{NetworkList, Plugin},
    result::Addition,
    target::Target,
    version::Version,
};

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the command of its name")]
pub enum Verb {
    Add,
    Check,
    Del,
    Status,
    Gc,
    Version,
}

impl Verb {
    /// As the plugin reads it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// The object that a plugin reads: its own, with the keys that the runtime sets. `capabilities` is for the runtime alone
/// (specification, section 3.1), and is left out.
pub(crate) fn input(
    list: &NetworkList,
    plugin: &Plugin,
    version: Version,
    previous: Option<&Addition>,
    capabilities: &CapabilityArguments,
) -> Map<String, Value> {
    let mut object = plugin.object.clone();
    object.remove("capabilities");
    // what a list has at its own level, if one plugin was written as a list
    object.remove("cniVersions");
    object.insert("name".into(), list.name().as_str().into());
    object.insert("cniVersion".into(), version.as_str().into());
    object.remove("prevResult");
    if let Some(previous) = previous {
        object.insert("prevResult".into(), json!(previous.in_version(version)));
    }
    let taken: CapabilityArguments = capabilities
        .iter()
        .filter(|(capability, _)| plugin.takes(capability))
        .map(|(capability, value)| (capability.clone(), value.clone()))
        .collect();
    if !taken.is_empty() {
        object.insert("runtimeConfig".into(), taken.into());
    }
    object
}

/// The variables that a plugin reads. As libcni does it, all are set, and are empty where they say nothing.
pub(crate) fn environment(verb: Verb, target: Option<&Target>, path: &str) -> BTreeMap<&'static str, String> {
    let of = |read: fn(&Target) -> String| target.map(read).unwrap_or_default();
    BTreeMap::from([
        ("CNI_COMMAND", verb.as_str().to_owned()),
        ("CNI_CONTAINERID", of(|target| target.container.to_string())),
        ("CNI_NETNS", of(|target| target.namespace.clone())),
        ("CNI_IFNAME", of(|target| target.interface.to_string())),
        ("CNI_ARGS", of(arguments)),
        ("CNI_PATH", path.to_owned()),
    ])
}

fn arguments(target: &Target) -> String {
    target.arguments.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> NetworkList {
        let text = br#"{"name":"n","cniVersion":"0.4.0","plugins":[{"type":"p","name":"other","capabilities":{"mac":true,"ips":false},"prevResult":{},"x":1}]}"#;
        NetworkList::from_json(text).unwrap()
    }

    #[test]
    fn a_plugin_reads_its_object_and_what_the_runtime_sets() {
        let list = list();
        let capabilities =
            Map::from_iter([("mac".to_owned(), json!("02:00:00:00:00:01")), ("ips".to_owned(), json!([]))]);
        let first = input(&list, &list.plugins[0], Version::V0_4_0, None, &capabilities);
        let expected = json!({"type": "p", "name": "n", "cniVersion": "0.4.0", "x": 1, "runtimeConfig": {"mac": "02:00:00:00:00:01"}});
        assert_eq!(Value::Object(first), expected);
        let next = input(&list, &list.plugins[0], Version::V0_4_0, Some(&Addition::default()), &Map::new());
        let expected = json!({"type": "p", "name": "n", "cniVersion": "0.4.0", "x": 1, "prevResult": {"cniVersion": "0.4.0", "dns": {}}});
        assert_eq!(Value::Object(next), expected);
    }

    #[test]
    fn all_variables_are_set() {
        let mut target = Target::new("s1".parse().unwrap(), "net1".parse().unwrap(), "/run/netns/a");
        target.arguments = vec![("IgnoreUnknown".into(), "1".into()), ("K".into(), "v".into())];
        let variables = environment(Verb::Add, Some(&target), "/a:/b");
        let text = variables.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
        assert_eq!(
            text,
            "CNI_ARGS=IgnoreUnknown=1;K=v CNI_COMMAND=ADD CNI_CONTAINERID=s1 CNI_IFNAME=net1 CNI_NETNS=/run/netns/a CNI_PATH=/a:/b"
        );
        assert_eq!(environment(Verb::Status, None, "")["CNI_IFNAME"], "");
    }
}
