//! Devices of the node that the annotation `netdevice.networking.k8s.io/attach` of a running Pod lists.

use e2e::{Agent, Node, wait_for};
use serde_json::{Value, json};

use crate::{agent, lock, multus};

const CONFIG: &str = "/run/rig/attach-pools.yaml";
const POOLS: &str = "pools:
- {resource: example.com/open, select: {names: ['^open[0-9]$']}, annotations: true}
- {resource: example.com/closed, select: {names: ['^closed0$']}}
- {resource: example.com/team, select: {names: ['^team0$']}, annotations: {namespaces: [team]}}
";

fn agent_with_pools<'n>(node: &'n Node, args: &[&str]) -> Agent<'n> {
    node.write(CONFIG, POOLS);
    agent(node, &[&["-config", CONFIG], args].concat())
}

fn entry(device: &str) -> String {
    format!("netdevice.networking.k8s.io/{device}")
}

#[test]
fn a_listed_device_is_attached_changed_and_returned_as_it_was() {
    let node = lock();
    let (one, two) = (node.add_rich_device("open0"), node.add_device("open1"));
    let agent = agent_with_pools(&node, &[]);
    let pod = node.networked_pod("lists", "");
    pod.attach("[{name: open0, new_name: fast0, addresses: [10.67.1.1/24], mtu: 1300}]");
    pod.wait_for_status(&[(&entry("open0"), "fast0")]);
    let seen = pod.network().interface("fast0").unwrap_or_default();
    assert_eq!((&seen["mtu"], pod.network().addresses("fast0")), (&json!(1300), vec!["10.67.1.1/24".to_owned()]));
    let status = pod.status_of("fast0");
    assert_eq!(
        (&status["ips"], &status["networking.k8s.io/netdevice"]["device"]),
        (&json!(["10.67.1.1"]), &json!("open0"))
    );
    pod.wait_for_event("AddedInterface", "pod [default/lists]: added interface fast0: device open0");
    let listed =
        node.run([e2e::program("netdevctl").to_str().unwrap_or_default(), "ls", "-config", CONFIG, "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
    let of = |name: &str| listed.as_array().into_iter().flatten().find(|it| it["device"] == name).cloned();
    assert_eq!(
        of("open0").map(|it| (it["by"].clone(), it["nameInside"].clone())),
        Some((json!("attach"), json!("fast0")))
    );

    // another configuration, and another device of the pool
    pod.attach("[{name: open0, new_name: fast0, addresses: [10.67.1.2/24]}, {pool: open, addresses: [10.67.2.1/24]}]");
    pod.wait_for_status(&[(&entry("open0"), "fast0"), (&entry("open1"), "open1")]);
    assert_eq!(pod.network().addresses("fast0"), ["10.67.1.2/24"], "{}", agent.output());
    pod.wait_for_event("AddedInterface", "added interface open1: device open1");

    // what cannot be read changes nothing, and a configuration that the kernel refuses leaves the device as it was
    pod.attach("[{name: open0, colour: red}]");
    pod.wait_for_event(
        "InvalidNetworksAnnotation",
        "netdevice.networking.k8s.io/attach is not used: device 1 of the list: unknown field \"colour\"",
    );
    pod.attach("[{name: open0, new_name: fast0, routes: [{to: 198.51.100.0/24, via: 203.0.113.1}]}, {name: open1, addresses: [10.67.2.1/24]}]");
    pod.wait_for_event("FailedAddingInterface", "failed adding interface fast0: device open0");
    wait_for("it is as before", || pod.network().addresses("fast0"), |seen| *seen == ["10.67.1.2/24"]);
    pod.wait_for_status(&[(&entry("open0"), "fast0"), (&entry("open1"), "open1")]);

    pod.attach("[{name: open1, addresses: [10.67.2.1/24]}]");
    one.wait_until_free();
    pod.wait_for_status(&[(&entry("open1"), "open1")]);
    pod.wait_for_event("RemovedInterface", "removed interface fast0: device open0");
    pod.attach("");
    two.wait_until_free();
    pod.wait_for_status(&[]);
    // a device that is created on one that stays
    pod.attach("[{name: open0, create: {kind: macvlan}, new_name: m0, addresses: [10.67.5.1/24]}]");
    pod.wait_for_status(&[(&entry("open0:1"), "m0")]);
    assert_eq!(pod.network().addresses("m0"), ["10.67.5.1/24"]);
    assert!(one.is_on_node());
    pod.attach("[{name: open0}]");
    pod.wait_for_status(&[(&entry("open0"), "open0")]);
    pod.wait_for_interfaces(&["open0"]);
    pod.delete();
    one.wait_until_free();
    drop(agent);
}

#[test]
fn what_cannot_be_had_is_refused_in_an_event_and_harms_nothing_else() {
    let node = lock();
    let devices = ["open0", "open1", "closed0", "team0"].map(|name| node.add_device(name));
    let agent = agent_with_pools(&node, &[]);
    let (first, second) = (node.networked_pod("has", ""), node.networked_pod("refused", ""));
    first.attach("[{name: open0}]");
    first.wait_for_status(&[(&entry("open0"), "open0")]);
    second.attach(
        "[{name: open0}, {name: closed0}, {name: team0}, {name: dnmaster0}, {name: eth0, new_name: up0}, {name: open1}]",
    );
    second.wait_for_status(&[(&entry("open1"), "open1")]);
    for (name, error) in [
        ("open0", "it is held by pod default/has"),
        ("closed0", "pool example.com/closed is not available to annotations"),
        ("team0", "pool example.com/team is not available to annotations in namespace default"),
        ("dnmaster0", "no pool of this node selects it"),
        ("up0", "device eth0: it is never handed out because"),
    ] {
        second.wait_for_event("FailedAddingInterface", &format!("failed adding interface {name}: device"));
        second.wait_for_event("FailedAddingInterface", error);
    }
    assert!(["closed0", "team0", "dnmaster0", "eth0"].iter().all(|name| node.has_link(name)), "{}", agent.output());

    // a device that is needed for the place of another one is checked before that one is returned
    second.attach("[{name: open0, new_name: open1}]");
    second.wait_for_event(
        "FailedAddingInterface",
        "failed adding interface open1: device open0: it is held by pod default/has",
    );
    assert_eq!(second.interfaces(), ["open1"]);
    // it is had as soon as it is free
    first.attach("[]");
    second.wait_for_status(&[(&entry("open0"), "open1")]);
    devices[1].wait_until_free();

    let host_network = json!({"hostNetwork": true});
    let host = node.begin_networked_pod("attach-host", "", &host_network);
    node.wait_until_ready(host.name());
    host.attach("[{name: open1}]");
    host.wait_for_event("InterfaceAddRejected", "will not add interface to host networked pod");
    assert!(devices[1].is_on_node());
    for pod in [first, second, host] {
        pod.delete();
    }
    devices.iter().for_each(e2e::Device::wait_until_free);
    drop(agent);
}

#[test]
fn an_agent_that_was_down_catches_up_and_a_new_sandbox_gets_its_devices() {
    let node = lock();
    let (one, two) = (node.add_device("open0"), node.add_device("open1"));
    let first = agent_with_pools(&node, &[]);
    let (edited, deleted) = (node.networked_pod("edited", ""), node.networked_pod("deleted", ""));
    edited.attach("[{name: open0, new_name: x0, addresses: [10.67.3.1/24]}]");
    deleted.attach("[{name: open1}]");
    edited.wait_for_status(&[(&entry("open0"), "x0")]);
    deleted.wait_for_status(&[(&entry("open1"), "open1")]);

    let sandbox = || {
        let pods = node.crictl(&["pods", "--name=^edited$", "--state=ready", "--output=json"]).json();
        pods["items"][0]["id"].as_str().unwrap_or_default().to_owned()
    };
    let before = sandbox();
    node.sh(&format!("kill -KILL $(crictl inspectp --output go-template --template '{{{{.info.pid}}}}' {before})"));
    wait_for("a new sandbox", sandbox, |now| !now.is_empty() && *now != before);
    wait_for("it has the device", || (edited.interfaces(), first.output()), |(names, _)| *names == ["x0"]);
    assert_eq!(edited.network().addresses("x0"), ["10.67.3.1/24"]);

    first.kill();
    edited.attach("");
    deleted.delete();
    assert!(!one.is_on_node());
    let second = agent_with_pools(&node, &[]);
    one.wait_until_free();
    two.wait_until_free();
    edited.wait_for_status(&[]);
    edited.attach("[{name: open0}]");
    edited.wait_for_status(&[(&entry("open0"), "open0")]);
    second.kill();
    let third = agent_with_pools(&node, &[]);
    edited.attach("[{name: open0}, {name: open1}]");
    edited.wait_for_status(&[(&entry("open0"), "open0"), (&entry("open1"), "open1")]);
    edited.delete();
    one.wait_until_free();
    two.wait_until_free();
    drop(third);
}

#[test]
fn with_nri_a_listed_device_is_there_before_the_first_container() {
    let node = lock();
    let device = node.add_device("open0");
    let agent = agent_with_pools(&node, &["-nri"]);
    agent.wait_until_connected();
    let pod = node.begin_listing_pod("early-device", "[{name: open0, new_name: x0}]");
    node.wait_until_ready(pod.name());
    // the container lists its interfaces first
    node.wait_for_logs(&[pod.name()], &["x0@"]);
    pod.wait_for_status(&[(&entry("open0"), "x0")]);
    pod.delete();
    device.wait_until_free();

    let refused = node.begin_listing_pod("early-refused", "[{name: closed0}]");
    let described = || node.kubectl(&["describe", "pod", refused.name()]).stdout;
    wait_for("the reason is shown", described, |text| text.contains("device closed0: the node has no such interface"));
    assert_ne!(node.get(&["pod", refused.name()])["status"]["phase"], "Running", "{}", agent.output());
    refused.delete();
    drop(agent);
}

#[test]
fn multus_is_never_asked_for_a_listed_device() {
    let node = lock();
    let device = node.add_device("open0");
    let multus = multus::multus(&node);
    let agent = agent_with_pools(&node, &[multus::FLAG]);
    let pod = node.networked_pod("beside-multus", "");
    pod.attach("[{name: open0, addresses: [10.67.4.1/24]}]");
    pod.wait_for_status(&[(&entry("open0"), "open0")]);
    assert_eq!(pod.network().addresses("open0"), ["10.67.4.1/24"], "{}", agent.output());
    pod.attach("");
    pod.wait_for_status(&[]);
    device.wait_until_free();
    assert_eq!(multus::requests(&multus), []);
    pod.delete();
    drop(agent);
}
