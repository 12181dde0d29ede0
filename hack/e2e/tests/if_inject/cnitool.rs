//! `if-inject` beside cnitool, which is libcni's own: the same results, the same cache, and each one deletes what the other
//! one added.

use std::collections::BTreeSet;

use e2e::{Node, Output, RunningPod};
use serde_json::{Value, json};

use crate::{host_local, lock};

const DIRECTORY: &str = "/run/rig/net.d";
const MARKER: &str = "networking.k8s.io/netdevice";

struct Both<'n> {
    node: &'n Node,
    pod: &'n RunningPod<'n>,
    network: String,
    spec: String,
    /// The container id that cnitool computes from the namespace's path.
    container: String,
}

impl<'n> Both<'n> {
    fn new(node: &'n Node, pod: &'n RunningPod<'n>, network: &str, list: &Value) -> Both<'n> {
        let spec = format!("{DIRECTORY}/{network}.conflist");
        node.write(&spec, &list.to_string());
        let digest = node.sh(&format!("printf %s {} | sha512sum | cut -c1-20", pod.namespace()));
        let (network, container) = (network.to_owned(), format!("cnitool-{}", digest.text()));
        Both { node, pod, network, spec, container }
    }

    fn cnitool(&self, command: &str) -> Output {
        let environment = [&format!("NETCONFPATH={DIRECTORY}"), "CNI_PATH=/opt/cni/bin", "CNI_IFNAME=c0"];
        let environment = [&environment[..], &["CNI_ARGS=IgnoreUnknown=1"]].concat();
        let words = ["/opt/cni/bin/cnitool", command, &self.network, self.pod.namespace()];
        self.node.run([&["env"], &environment[..], &words].concat())
    }

    fn ours(&self, command: &str) -> Output {
        let flags = ["-interface", "c0", "-containerid", &self.container];
        let spec: &[&str] = if command == "del" { &[] } else { &["-spec", &self.spec] };
        self.pod.if_inject(&[&[command], &flags[..], spec].concat())
    }

    /// The one result in the cache, with the name of its file.
    #[track_caller]
    fn cached(&self) -> (String, Value) {
        let mut results: Vec<_> = self.node.cni_results(&self.network).into_iter().collect();
        assert_eq!(results.len(), 1, "{results:#?}");
        results.remove(0)
    }

    #[track_caller]
    fn assert_gone(&self) {
        assert_eq!(self.pod.interface("c0"), None);
        assert!(self.node.cni_results(&self.network).is_empty() && self.node.cni_leases(&self.network).is_empty());
    }
}

/// A result without what differs from one ADD to the next.
fn normal(value: &Value) -> Value {
    let is_mac = |text: &str| text.len() == 17 && text.split(':').count() == 6;
    match value {
        Value::String(text) if is_mac(text) => "a hardware address".into(),
        Value::String(text) if text.starts_with("veth") => "a veth".into(),
        Value::String(text) if text.starts_with("10.") && text.contains('/') => "an address".into(),
        Value::Array(values) => values.iter().map(normal).collect(),
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), normal(value))).collect(),
        other => other.clone(),
    }
}

fn keys(entry: &Value) -> BTreeSet<&str> {
    entry.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

fn succeeded(done: &Output) {
    assert!(done.success(), "{done}");
}

#[test]
fn results_and_cache_are_those_of_libcni_and_each_program_deletes_what_the_other_added() {
    let node = lock();
    let pod = node.running_pod("libcni");
    let ptp = json!({"type": "ptp", "ipam": host_local("10.33.1.0/24")});
    let bridge = json!({"type": "bridge", "bridge": "cnitool0", "ipam": host_local("10.33.2.0/24")});
    for (name, version, plugins) in [
        ("tool-a", "0.3.1", json!([ptp])),
        ("tool-b", "0.4.0", json!([bridge, {"type": "tuning", "mtu": 1400}])),
        ("tool-c", "1.0.0", json!([ptp, {"type": "tuning", "mtu": 1400}])),
        ("tool-d", "1.1.0", json!([bridge])),
    ] {
        let both = Both::new(&node, &pod, name, &json!({"cniVersion": version, "name": name, "plugins": plugins}));
        let has_check = version != "0.3.1";
        // ours first
        let our_result = both.ours("add").json();
        let (our_file, our_entry) = both.cached();
        if has_check {
            succeeded(&both.cnitool("check"));
        }
        succeeded(&both.cnitool("del"));
        both.assert_gone();
        // cnitool's first
        let tools_result = both.cnitool("add").json();
        let (tools_file, tools_entry) = both.cached();
        if has_check {
            succeeded(&both.ours("check"));
        }
        succeeded(&both.ours("del"));
        both.assert_gone();

        assert_eq!(normal(&our_result), normal(&tools_result), "{name}");
        assert_eq!(our_file, tools_file);
        let mut our_keys = keys(&our_entry);
        assert!(our_keys.remove(MARKER), "{our_entry:#}");
        assert_eq!(our_keys, keys(&tools_entry), "{our_entry:#}{tools_entry:#}");
        for key in ["kind", "containerId", "ifName", "networkName"] {
            assert_eq!(our_entry[key], tools_entry[key], "{name}");
        }
        assert_eq!(normal(&our_entry["result"]), normal(&tools_entry["result"]), "{name}");
    }
    node.sh("ip link delete cnitool0");
}
