//! Many additions at a time.

use std::collections::BTreeSet;
use std::thread;

use e2e::Node;
use serde_json::json;

use crate::{host_local, lock};

fn bridge(node: &Node, network: &str, subnet: &str) -> String {
    let list = json!({"cniVersion": "1.0.0", "name": network, "type": "bridge", "bridge": network, "ipam": host_local(subnet)});
    node.cni_spec(&format!("{network}.json"), &list)
}

#[test]
fn eight_programs_add_to_one_pod_and_twenty_to_as_many_pods() {
    let node = &*lock();
    let pod = &node.running_pod("crowd");
    let spec = &bridge(node, "crowd", "10.36.1.0/24");
    let names: Vec<String> = (0..8).map(|number| format!("n{number}")).collect();
    thread::scope(|scope| {
        names.iter().for_each(|name| {
            scope.spawn(move || assert_eq!(pod.plug("add", name, spec).text().lines().next(), Some("{")));
        });
    });
    assert!(names.iter().all(|name| pod.addresses(name).len() == 1), "{:?}", pod.interfaces());
    assert_eq!((node.cni_leases("crowd").len(), node.cni_results("crowd").len()), (8, 8));
    thread::scope(|scope| {
        names.iter().for_each(|name| {
            scope.spawn(move || assert!(pod.if_inject(&["del", "-interface", name]).success()));
        });
    });
    assert_eq!(pod.interfaces(), ["lo", "eth0"]);
    assert!(node.cni_leases("crowd").is_empty() && node.cni_results("crowd").is_empty());

    let names: Vec<String> = (0..20).map(|number| format!("many{number}")).collect();
    let pods: Vec<_> = thread::scope(|scope| {
        let started: Vec<_> = names.iter().map(|name| scope.spawn(move || node.running_pod(name))).collect();
        started.into_iter().map(|pod| pod.join().expect("the Pod runs")).collect()
    });
    thread::scope(|scope| {
        pods.iter().for_each(|pod| {
            scope.spawn(move || assert!(pod.plug("add", "net1", spec).success()));
        });
    });
    let expected: BTreeSet<_> = pods.iter().map(|pod| (pod.id().to_owned(), "net1".to_owned())).collect();
    let leases = node.cni_leases("crowd");
    assert_eq!((leases.len(), leases.into_values().collect::<BTreeSet<_>>()), (20, expected));
    assert_eq!(node.cni_results("crowd").len(), 20);
    let addresses: BTreeSet<String> = pods.iter().flat_map(|pod| pod.addresses("net1")).collect();
    assert_eq!(addresses.len(), 20);
    // all Pods end at once
    node.remove_all_pods();
    let collected = node.if_inject(&["gc"]);
    assert!(collected.success(), "{collected}");
    assert!(node.cni_leases("crowd").is_empty() && node.cni_results("crowd").is_empty(), "{collected}");
    node.sh("ip link delete crowd");
}
