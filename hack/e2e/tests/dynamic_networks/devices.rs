//! Devices of the node by a network of type `host-device`, and the default route of a Pod.

use e2e::wait_for;
use serde_json::json;

use crate::{agent, as_requested, lock};

const CONFIG: &str = "/run/rig/pools.yaml";

#[test]
fn a_device_of_the_node_is_plugged_by_the_rules_of_its_pool_and_returns() {
    let node = lock();
    let device = node.add_device("hostdev0");
    node.write(
        CONFIG,
        "pools:
- {resource: example.com/free, select: {names: ['^hostdev0$']}, annotations: true}
- {resource: example.com/closed, select: {names: ['^hostdev1$']}}
",
    );
    let closed = node.add_device("hostdev1");
    let agent = agent(&node, &["-config", CONFIG]);
    for name in ["hostdev0", "hostdev1", "dnmaster0"] {
        node.define_network(name, &json!({"cniVersion": "1.0.0", "name": name, "type": "host-device", "device": name}));
    }
    let pod = node.networked_pod("with-device", "");
    let element = |ip: &str| json!([{"name": "hostdev0", "interface": "fast0", "ips": [ip]}]);
    pod.request(&element("10.65.1.1/24"));
    pod.wait_for_status(&[("default/hostdev0", "fast0")]);
    assert_eq!(pod.network().addresses("fast0"), ["10.65.1.1/24"], "{}", agent.output());
    assert_eq!(pod.status_of("fast0")["networking.k8s.io/netdevice"]["device"], "hostdev0");
    assert!(!device.is_on_node());
    pod.request(&element("10.65.1.2/24"));
    wait_for("it has the other address", || pod.network().addresses("fast0"), |seen| *seen == ["10.65.1.2/24"]);

    // what no pool opens to annotations, and what is not selected, is not taken
    pod.request(&json!([{"name": "hostdev1", "interface": "x1"}, {"name": "dnmaster0", "interface": "x2"}]));
    pod.wait_for_event("FailedAddingInterface", "x1");
    pod.wait_for_event("FailedAddingInterface", "x2");
    device.wait_until_home();
    assert!(closed.is_on_node() && node.has_link("dnmaster0"));

    // it is given addresses and a hardware address, and nothing else: what is ignored would be a promise that is not kept
    for (key, value) in [
        ("bandwidth", json!({"ingressRate": 1000, "ingressBurst": 1000})),
        ("portMappings", json!([{"hostPort": 18083, "containerPort": 80}])),
        ("default-route", json!(["10.65.1.254"])),
    ] {
        let mut request = element("10.65.1.1/24");
        request[0][key] = value;
        pod.request(&request);
        pod.wait_for_event(
            "FailedAddingInterface",
            &format!("{key:?} cannot be requested of network default/hostdev0"),
        );
        assert!(device.is_on_node(), "{}", agent.output());
    }

    // a device is returned at the Pod's end
    pod.request(&element("10.65.1.1/24"));
    pod.wait_for_status(&[("default/hostdev0", "fast0")]);
    pod.delete();
    device.wait_until_home();
    drop(agent);
}

#[test]
fn an_element_takes_the_default_route_and_gives_it_back() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("routed", &as_requested("routed"));
    let pod = node.networked_pod("routed", "");
    let defaults = || node.exec("routed", &["sh", "-c", "ip route | grep ^default"]).stdout;
    let before = defaults();
    assert!(before.contains("eth0"), "{before}");
    pod.request(
        &json!([{"name": "routed", "interface": "x0", "ips": ["10.66.1.2/24"], "default-route": ["10.66.1.1"]}]),
    );
    pod.wait_for_status(&[("default/routed", "x0")]);
    wait_for("x0 has the default route", defaults, |seen| seen.trim() == "default via 10.66.1.1 dev x0");
    pod.request_text("");
    pod.wait_for_interfaces(&[]);
    wait_for("eth0 has it again", defaults, |seen| *seen == before);
    pod.delete();
    drop(agent);
}
