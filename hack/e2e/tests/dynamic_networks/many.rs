//! Many Pods whose annotation changes at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use e2e::{Action, BUSYBOX_IMAGE, NETWORK_STATUS, NETWORKS, Node, eventually};
use serde_json::{Value, json};

use crate::{agent, leased, lock};

/// How many there are unless `NETDEVICE_PODS` says another number, at most 240. More than that take minutes to start.
const PODS: usize = 60;
const LIMIT: Duration = Duration::from_secs(300);

fn pods(node: &Node) -> Vec<Value> {
    node.get(&["pods", "--selector=many=yes"])["items"].as_array().cloned().unwrap_or_default()
}

/// The first address of `x0` in each Pod's status, by the Pod's name.
fn in_status(node: &Node) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of_pod = |pod: Value| {
        let status: Value = serde_json::from_str(pod["metadata"]["annotations"][NETWORK_STATUS].as_str()?).ok()?;
        let entries = status.as_array()?;
        let entry = entries.iter().find(|entry| entry["interface"] == "x0")?;
        Some((text(&pod["metadata"]["name"]), text(&entry["ips"][0])))
    };
    pods(node).into_iter().filter_map(of_pod).collect()
}

/// The addresses of `x0` in each Pod, by the Pod's name, as the kernel has them.
fn in_pods(node: &Node) -> BTreeMap<String, Vec<String>> {
    let results = node.cni_results("many").into_values();
    let look = |result: Value| {
        let name = result["networking.k8s.io/netdevice"]["pod"]["name"].as_str().unwrap_or_default().to_owned();
        let namespace = format!("--net={}", result["netns"].as_str().unwrap_or_default());
        let shown = node.enter(&["nsenter", &namespace, "ip", "-j", "address", "show", "dev", "x0"], "").json();
        (name, e2e::addresses_of(&shown[0]))
    };
    results.map(look).collect()
}

/// Waits, and returns how long it took, as a line.
fn wait(what: &str, mut is_done: impl FnMut() -> Result<(), String>) -> String {
    let began = Instant::now();
    let mut last = String::new();
    let done = eventually(LIMIT, || is_done().map_err(|seen| last = seen).ok());
    assert!(done.is_some(), "waited in vain: {what}: {last}");
    format!("{what}: {:.1} s", began.elapsed().as_secs_f32())
}

#[test]
fn pods_that_are_edited_at_once_get_one_interface_each() {
    let count =
        std::env::var("NETDEVICE_PODS").map_or(PODS, |count| count.parse().expect("NETDEVICE_PODS is a number"));
    let node = lock();
    // 110 is the kubelet's default
    node.write(
        "/etc/kubernetes/kubelet.d/many.conf",
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 250\n",
    );
    node.kubelet(Action::Restart);
    let agent = agent(&node, &[]);
    node.define_network("many", &leased("many", "10.68.0.0/16"));
    let pod = |number: usize| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("many-{number}"), "labels": {"many": "yes"}},
            "spec": {"terminationGracePeriodSeconds": 0, "enableServiceLinks": false, "containers": [
                {"name": "c", "image": BUSYBOX_IMAGE, "command": ["sleep", "1000000"]}]}})
    };
    let list: Vec<Value> = (0..count).map(pod).collect();
    node.apply(&json!({"apiVersion": "v1", "kind": "List", "items": list}).to_string());
    let took = wait(&format!("{count} Pods run"), || {
        let running = pods(&node).iter().filter(|pod| pod["status"]["phase"] == "Running").count();
        if running == count { Ok(()) } else { Err(format!("{running} run")) }
    });
    eprintln!("{took}");

    let annotate = |elements: &Value| {
        let change = format!("{NETWORKS}={elements}");
        node.kubectl(&["annotate", "--overwrite", "pods", "--selector=many=yes", &change]).text();
    };
    annotate(&json!([{"name": "many", "interface": "x0"}]));
    let took = wait("each has its interface, by its status", || {
        let have = in_status(&node).len();
        if have == count { Ok(()) } else { Err(format!("{have} have it\n{}", agent.output())) }
    });
    eprintln!("{took}");
    let (status, kernel) = (in_status(&node), in_pods(&node));
    let as_in_kernel: BTreeMap<String, Vec<String>> =
        status.iter().map(|(name, ip)| (name.clone(), vec![format!("{ip}/16")])).collect();
    assert_eq!(kernel, as_in_kernel);
    let addresses: BTreeSet<&String> = status.values().collect();
    let leases = node.cni_leases("many");
    assert_eq!(addresses.len(), count, "each has an address of its own");
    assert_eq!(leases.keys().collect::<BTreeSet<_>>(), addresses);

    annotate(&json!([]));
    let took = wait("no one has it, by its status", || {
        let have = in_status(&node).len();
        if have == 0 { Ok(()) } else { Err(format!("{have} have it\n{}", agent.output())) }
    });
    eprintln!("{took}");
    assert!(node.cni_leases("many").is_empty() && node.cni_results("many").is_empty(), "{}", agent.output());

    node.delete(&["pods", "--selector=many=yes", "--timeout=300s"]);
    std::fs::remove_file(node.path("/etc/kubernetes/kubelet.d/many.conf")).expect("it was written");
    node.kubelet(Action::Restart);
    drop(agent);
}
