//! `kill -9` of the agent while a plugin works.

use e2e::{Node, wait_for};
use serde_json::json;

use crate::{agent, leased, lock};

const NETWORK: &str = "killed";
/// A plugin that stops where the file `pause` says, before or after the work of the real one, until the file is gone.
const PAUSING: &str = "#!/bin/sh
input=$(cat)
pause() {
  [ \"$(cat /run/rig/pause 2>/dev/null)\" = \"$1 $CNI_COMMAND\" ] || return 0
  : > /run/rig/paused
  while [ -e /run/rig/pause ]; do sleep 0.05; done
}
pause before
output=$(printf '%s' \"$input\" | /opt/cni/bin/macvlan)
status=$?
pause after
printf '%s' \"$output\"
exit $status
";

fn pause(node: &Node, at: &str) {
    node.sh("rm -f /run/rig/paused");
    node.write("/run/rig/pause", at);
}

fn wait_until_paused(node: &Node) {
    wait_for("the plugin pauses", || node.path("/run/rig/paused").exists(), |is_paused| *is_paused);
}

/// Interfaces of the Pod, leases, results of the cache.
type Seen = (Vec<String>, usize, usize);

#[test]
fn an_agent_that_is_killed_while_a_plugin_works_leaves_nothing_half_done() {
    let node = lock();
    node.write("/run/rig/plugins/pausing", PAUSING);
    node.sh("chmod +x /run/rig/plugins/pausing; rm -f /run/rig/pause");
    let mut network = leased(NETWORK, "10.66.1.0/24");
    network["type"] = "pausing".into();
    node.define_network(NETWORK, &network);
    let pod = node.networked_pod(NETWORK, "");
    let see = || -> Seen { (pod.interfaces(), node.cni_leases(NETWORK).len(), node.cni_results(NETWORK).len()) };
    let one: Seen = (vec!["x0".into()], 1, 1);
    let none: Seen = (vec![], 0, 0);
    let element = json!({"name": NETWORK, "interface": "x0"});

    for at in ["before", "after"] {
        let first = agent(&node, &[]);
        pause(&node, &format!("{at} ADD"));
        pod.request(&json!([element]));
        wait_until_paused(&node);
        first.kill();
        // there may be an interface and a lease now, and no status
        assert!(pod.plugged().is_empty());
        node.sh("rm /run/rig/pause");
        let second = agent(&node, &[]);
        pod.wait_for_status(&[("default/killed", "x0")]);
        assert_eq!(see(), one, "killed {at} ADD\n{}", second.output());
        let ip = pod.status_of("x0")["ips"][0].as_str().unwrap_or_default().to_owned();
        assert_eq!(pod.network().addresses("x0"), [format!("{ip}/24")]);
        assert!(node.cni_leases(NETWORK).contains_key(&ip), "{:?}", node.cni_leases(NETWORK));

        // the same while it unplugs
        pause(&node, &format!("{at} DEL"));
        pod.request(&json!([]));
        wait_until_paused(&node);
        second.kill();
        node.sh("rm /run/rig/pause");
        let third = agent(&node, &[]);
        pod.wait_for_status(&[]);
        assert_eq!(see(), none, "killed {at} DEL\n{}", third.output());
        third.kill();
    }

    // the request is withdrawn while there is no agent
    let first = agent(&node, &[]);
    pause(&node, "after ADD");
    pod.request(&json!([element]));
    wait_until_paused(&node);
    first.kill();
    assert_eq!(see(), one, "the plugin had done its work");
    node.sh("rm /run/rig/pause");
    pod.request(&json!([]));
    let second = agent(&node, &[]);
    wait_for("nothing is left", || (see(), second.output()), |(seen, _)| *seen == none);
    assert!(pod.plugged().is_empty());

    // the Pod ends while there is no agent
    pause(&node, "after ADD");
    pod.request(&json!([element]));
    wait_until_paused(&node);
    second.kill();
    node.sh("rm /run/rig/pause");
    pod.delete();
    let third = agent(&node, &[]);
    let left = || (node.cni_leases(NETWORK).len(), node.cni_results(NETWORK).len());
    wait_for("nothing is left", || (left(), third.output()), |(left, _)| *left == (0, 0));
    drop(third);
}
