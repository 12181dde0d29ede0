//! What an element requests of the plugins: capabilities, and arguments.

use e2e::{Node, wait_for};
use serde_json::{Value, json};

use crate::{MASTER, agent, lock};

/// A list of ptp and another plugin.
fn ptp_with(name: &str, subnet: &str, plugin: &Value) -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]});
    json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "ptp", "ipam": ipam}, plugin]})
}

/// Rates of the node's token bucket filters in bytes per second, sorted.
fn rates(node: &Node) -> Vec<u64> {
    let qdiscs = node.run(["tc", "-j", "qdisc"]).json();
    let all = qdiscs.as_array().into_iter().flatten().filter(|qdisc| qdisc["kind"] == "tbf");
    let mut rates: Vec<u64> = all.filter_map(|qdisc| qdisc["options"]["rate"].as_u64()).collect();
    rates.sort_unstable();
    rates
}

#[test]
fn bandwidth_is_limited_by_the_plugin_that_takes_it() {
    let node = lock();
    let agent = agent(&node, &[]);
    let plugin = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
    node.define_network("limited", &ptp_with("limited", "10.67.1.0/24", &plugin));
    let pod = node.networked_pod("limited", "");
    let before = rates(&node);
    let element = |bandwidth: Value| json!([{"name": "limited", "interface": "x0", "bandwidth": bandwidth}]);
    let both =
        json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 4_000_000, "egressBurst": 800_000});
    pod.request(&element(both));
    pod.wait_for_status(&[("default/limited", "x0")]);
    assert_eq!(before, [] as [u64; 0]);
    assert_eq!(rates(&node), [500_000, 1_000_000], "{}", agent.output());
    // another rate is another request
    pod.request(&element(json!({"ingressRate": 16_000_000, "ingressBurst": 800_000})));
    wait_for("the other limit", || (rates(&node), pod.events()), |(rates, _)| *rates == [2_000_000]);
    wait_for("one lease", || node.cni_leases("limited").len(), |count| *count == 1);
    pod.request(&json!([{"name": "limited", "interface": "x0"}]));
    wait_for("no limit", || (rates(&node), pod.interfaces()), |(rates, names)| rates.is_empty() && *names == ["x0"]);
    pod.request(&element(json!({"egressRate": 16_000_000, "egressBurst": 800_000})));
    wait_for("the limit of the other direction", || rates(&node), |rates| *rates == [2_000_000]);
    pod.request(&json!([]));
    pod.wait_for_status(&[]);
    pod.wait_for_interfaces(&[]);
    assert_eq!((rates(&node), node.cni_leases("limited").len()), (vec![], 0), "{}", agent.output());
    pod.delete();
    drop(agent);
}

#[test]
#[ignore = "it needs iptables with DNAT: hack/test runs it where that is there"]
fn port_mappings_lead_to_the_pod_by_the_plugin_portmap() {
    let node = lock();
    let agent = agent(&node, &[]);
    let plugin = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    node.define_network("mapped", &ptp_with("mapped", "10.67.2.0/24", &plugin));
    let pod = node.networked_pod("mapped", "");
    pod.request(&json!([{"name": "mapped", "interface": "x0",
        "portMappings": [{"hostPort": 18080, "containerPort": 8080, "protocol": "tcp"}]}]));
    pod.wait_for_status(&[("default/mapped", "x0")]);
    let network = pod.network();
    let namespace = format!("--net={}", network.namespace());
    let server = node.spawn(["nsenter", &namespace, "busybox", "nc", "-ll", "-p", "8080", "-e", "echo", "of the pod"]);
    let ask = || node.run(["timeout", "2", "busybox", "nc", "10.212.0.2", "18080"]).stdout;
    wait_for("the node's port leads to the pod", || (ask(), agent.output()), |(text, _)| text == "of the pod\n");
    pod.request(&json!([]));
    pod.wait_for_status(&[]);
    assert_eq!(ask(), "", "{}", agent.output());
    let rules = node.run(["iptables-save", "-t", "nat"]);
    assert!(!rules.stdout.contains("18080"), "{rules}");
    drop(server);
    pod.delete();
    drop(agent);
}

#[test]
fn what_no_plugin_takes_is_an_error_and_nothing_is_plugged() {
    let node = lock();
    let agent = agent(&node, &[]);
    let plain = |name: &str| ptp_with(name, "10.67.3.0/24", &json!({"type": "tuning"}));
    node.define_network("plain", &plain("plain"));
    let pod = node.networked_pod("not-taken", "");
    let port = json!([{"hostPort": 18081, "containerPort": 80, "protocol": "tcp"}]);
    for (key, value, capability) in [
        ("portMappings", port, "portMappings"),
        ("bandwidth", json!({"ingressRate": 1000, "ingressBurst": 1000}), "bandwidth"),
        ("infiniband-guid", json!("02:00:00:00:00:00:00:01"), "infinibandGUID"),
        ("deviceID", json!("0000:01:00.1"), "deviceID"),
        ("ips", json!(["10.67.3.9/24"]), "ips"),
        ("mac", json!("02:00:00:00:67:03"), "mac"),
    ] {
        let mut element = json!({"name": "plain", "interface": "x0"});
        element[key] = value;
        pod.request(&json!([element]));
        pod.wait_for_event(
            "FailedAddingInterface",
            &format!("no plugin of network plain has the capability \"{capability}\""),
        );
        assert!(pod.interfaces().is_empty(), "{capability}: {}", agent.output());
    }
    assert!(node.cni_leases("plain").is_empty() && node.cni_results("plain").is_empty());
    // the definition is corrected
    let mut corrected = plain("plain");
    corrected["plugins"][1]["capabilities"] = json!({"mac": true});
    node.define_network("plain", &corrected);
    pod.wait_for_status(&[("default/plain", "x0")]);
    assert_eq!(pod.status_of("x0")["mac"], "02:00:00:00:67:03", "{}", agent.output());
    pod.delete();
    drop(agent);
}

/// Keeps what it is given, and is macvlan.
const RECORDING: &str = "#!/bin/sh
input=$(cat)
if [ $CNI_COMMAND != VERSION ]; then
  printf '%s' \"$input\" > /run/rig/given.$CNI_COMMAND.json
  env | grep ^CNI_ > /run/rig/given.$CNI_COMMAND.env
fi
printf '%s' \"$input\" | /opt/cni/bin/macvlan
";

#[test]
fn plugins_are_given_what_the_element_requests() {
    let node = lock();
    node.write("/run/rig/plugins/recording", RECORDING);
    node.sh("chmod +x /run/rig/plugins/recording");
    let agent = agent(&node, &[]);
    let taken = ["ips", "mac", "bandwidth", "portMappings", "infinibandGUID", "deviceID"];
    let taken: serde_json::Map<String, Value> = taken.into_iter().map(|key| (key.to_owned(), true.into())).collect();
    let plugin = json!({"type": "recording", "master": MASTER, "mode": "bridge", "capabilities": taken,
        "ipam": {"type": "static"}, "args": {"cni": {"kept": 1, "changed": 1}}});
    node.define_network("recorded", &json!({"cniVersion": "1.0.0", "name": "recorded", "plugins": [plugin]}));
    let pod = node.networked_pod("recorded", "");
    let port = json!({"hostPort": 18082, "containerPort": 80, "protocol": "tcp"});
    let element = json!({"name": "recorded", "interface": "x0", "ips": ["10.67.4.1/24"], "mac": "02:00:00:00:67:04",
        "bandwidth": {"egressRate": 1000, "egressBurst": 2000}, "portMappings": [port],
        "infiniband-guid": "02:00:00:00:00:00:00:02",
        "cni-args": {"changed": 2, "new": {"deep": [1, "two"]}}});
    pod.request(&json!([element]));
    pod.wait_for_status(&[("default/recorded", "x0")]);
    let read = |file: &str| {
        let path = node.path(&format!("/run/rig/given.{file}"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}\n{}", path.display(), agent.output()))
    };
    let given = |verb: &str| -> Value { serde_json::from_str(&read(&format!("{verb}.json"))).expect("it is JSON") };
    let runtime = json!({"ips": ["10.67.4.1/24"], "mac": "02:00:00:00:67:04",
        "bandwidth": {"egressRate": 1000, "egressBurst": 2000}, "portMappings": [port],
        "infinibandGUID": "02:00:00:00:00:00:00:02"});
    let arguments = json!({"kept": 1, "changed": 2, "new": {"deep": [1, "two"]}});
    let added = given("ADD");
    assert_eq!((&added["runtimeConfig"], &added["args"]["cni"]), (&runtime, &arguments));
    let variables = read("ADD.env");
    let uid = node.get(&["pod", pod.name()])["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let sandbox = node.cni_results("recorded").into_values().next().unwrap_or_default()["containerId"].clone();
    let sandbox = sandbox.as_str().unwrap_or_default();
    for line in [
        "CNI_IFNAME=x0\n".to_owned(),
        format!("CNI_CONTAINERID={sandbox}\n"),
        format!(
            "K8S_POD_NAMESPACE=default;K8S_POD_NAME=recorded;K8S_POD_INFRA_CONTAINER_ID={sandbox};K8S_POD_UID={uid}"
        ),
        ";IP=10.67.4.1/24;MAC=02:00:00:00:67:04".to_owned(),
        "CNI_PATH=/run/rig/plugins:/opt/cni/bin\n".to_owned(),
    ] {
        assert!(variables.contains(&line), "{line}\n{variables}");
    }
    pod.request(&json!([]));
    pod.wait_for_status(&[]);
    // it is undone with what it was made with
    let deleted = given("DEL");
    assert_eq!((&deleted["runtimeConfig"], &deleted["args"]["cni"]), (&runtime, &arguments));
    assert_eq!(deleted["prevResult"]["ips"][0]["address"], "10.67.4.1/24");
    // a device of the node is given to no plugin
    pod.request(&json!([{"name": "recorded", "interface": "x0", "deviceID": "0000:01:00.2"}]));
    pod.wait_for_event("FailedAddingInterface", "plugin recording would take 0000:01:00.2 away from the node");
    assert!(pod.interfaces().is_empty(), "{}", agent.output());
    pod.delete();
    drop(agent);
}
