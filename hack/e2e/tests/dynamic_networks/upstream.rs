//! The cases of the end-to-end tests of multus-dynamic-networks-controller, by the letters of its table, without Multus.

use serde_json::json;

use crate::{agent, as_requested, layer2, lock};

const MAC: &str = "02:03:04:05:06:07";

#[test]
fn a_to_c_a_pod_with_a_named_element_gets_another_interface_loses_one_and_exchanges_one() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("tenant", &layer2());
    let network = "default/tenant";
    let element = |interface: &str| json!({"name": "tenant", "namespace": "default", "interface": interface});
    let pod = node.networked_pod("tiny-winy-pod", &json!([element("net1")]).to_string());
    pod.wait_for_status(&[(network, "net1")]);
    // a: the MAC is refused where no plugin can set it, so the element has none here
    pod.request(&json!([element("net1"), element("ens58")]));
    pod.wait_for_status(&[(network, "net1"), (network, "ens58")]);
    pod.wait_for_interfaces(&["ens58", "net1"]);
    // b
    pod.request(&json!([element("net1")]));
    pod.wait_for_status(&[(network, "net1")]);
    pod.request(&json!([]));
    pod.wait_for_status(&[]);
    pod.wait_for_interfaces(&[]);
    // c
    pod.request(&json!([element("net1")]));
    pod.wait_for_status(&[(network, "net1")]);
    pod.request(&json!([element("eth321")]));
    pod.wait_for_status(&[(network, "eth321")]);
    pod.wait_for_interfaces(&["eth321"]);
    pod.delete();
    drop(agent);
}

#[test]
fn d_and_e_an_interface_with_addresses_and_mac_is_plugged_and_unplugged() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("tenant-l2", &layer2());
    node.define_network("tenant-ipam", &as_requested("tenant-ipam"));
    let first = json!({"name": "tenant-l2", "interface": "net1"});
    let pod = node.networked_pod("ipam-pod", &json!([first]).to_string());
    pod.wait_for_status(&[("default/tenant-l2", "net1")]);
    let plugged = json!({"name": "tenant-ipam", "interface": "ens58", "ips": ["10.10.10.111/24"], "mac": MAC});
    pod.request(&json!([first, plugged]));
    pod.wait_for_status(&[("default/tenant-l2", "net1"), ("default/tenant-ipam", "ens58")]);
    let status = pod.status_of("ens58");
    assert_eq!((&status["ips"], &status["mac"]), (&json!(["10.10.10.111"]), &json!(MAC)), "{}", agent.output());
    assert_eq!(pod.network().addresses("ens58"), ["10.10.10.111/24"]);
    pod.request(&json!([first]));
    pod.wait_for_status(&[("default/tenant-l2", "net1")]);
    pod.wait_for_interfaces(&["net1"]);
    pod.delete();
    drop(agent);
}

#[test]
fn f_a_pod_with_the_default_network_only_gets_an_interface_with_a_mac() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("tenant-mac", &as_requested("tenant-mac"));
    let pod = node.networked_pod("plain-pod", "");
    let element = json!({"name": "tenant-mac", "interface": "ens58", "ips": ["10.10.11.1/24"], "mac": MAC});
    pod.request(&json!([element]));
    pod.wait_for_status(&[("default/tenant-mac", "ens58")]);
    assert_eq!(pod.network().interface("ens58").unwrap_or_default()["address"], MAC, "{}", agent.output());
    pod.delete();
    drop(agent);
}

#[test]
fn g_elements_without_names_of_interfaces_are_plugged_and_keep_theirs_when_one_is_named() {
    let node = lock();
    let agent = agent(&node, &[]);
    node.define_network("nameless", &layer2());
    let network = "default/nameless";
    let pod = node.networked_pod("nameless-pod", &json!([{"name": "nameless"}]).to_string());
    pod.wait_for_status(&[(network, "net1")]);
    let mac = pod.status_of("net1")["mac"].clone();
    // where the original ignores the second one, it is plugged
    pod.request(&json!([{"name": "nameless"}, {"name": "nameless", "interface": "ens58"}]));
    pod.wait_for_status(&[(network, "net1"), (network, "ens58")]);
    pod.request(&json!([{"name": "nameless", "interface": "net1"}, {"name": "nameless", "interface": "ens58"}]));
    pod.request(&json!([{"name": "nameless", "interface": "net1"}, {"name": "nameless", "interface": "ens59"}]));
    pod.wait_for_status(&[(network, "net1"), (network, "ens59")]);
    assert_eq!(pod.status_of("net1")["mac"], mac, "it was plugged again\n{}", agent.output());
    pod.delete();
    drop(agent);
}
