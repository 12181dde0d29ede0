//! `kill -9` of `if-inject` at any moment: what is there afterwards is what was wanted, after `gc` or the same command again.

use e2e::{Node, RunningPod, wait_for};
use serde_json::json;

use crate::{host_local, lock};

const ROUNDS: u32 = 30;
/// A plugin that takes its time before and after the real one.
const SLOW: &str = "#!/bin/sh
[ \"$CNI_COMMAND\" != VERSION ] || exec /opt/cni/bin/ptp
sleep 0.02
/opt/cni/bin/ptp
status=$?
sleep 0.02
exit $status
";

/// What there is of the attachment.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    interface: bool,
    leases: usize,
    results: usize,
    /// Ends of veth pairs on the node.
    peers: usize,
}

const NOTHING: Seen = Seen { interface: false, leases: 0, results: 0, peers: 0 };
const ALL: Seen = Seen { interface: true, leases: 1, results: 1, peers: 1 };

fn peers(node: &Node) -> usize {
    node.enter(&["ip", "-o", "link", "show", "type", "veth"], "").stdout.lines().count()
}

fn see(node: &Node, pod: &RunningPod<'_>, others: usize) -> Seen {
    Seen {
        interface: pod.interface("net1").is_some(),
        leases: node.cni_leases("killed").len(),
        results: node.cni_results("killed").len(),
        peers: peers(node) - others,
    }
}

/// Runs the command and kills it that many milliseconds later. Its plugins end with it, or some time after it.
fn killed(node: &Node, pod: &RunningPod<'_>, command: &[&str], milliseconds: u32) -> bool {
    let after = format!("0.{milliseconds:03}");
    let words = ["timeout", "--signal=KILL", &after, e2e::IF_INJECT];
    let done = node.enter(&[&words, command, &["-pod", pod.name()]].concat(), "");
    let is_running = || node.enter(&["pgrep", "-f", "/opt/cni/bin/|/run/rig/slow/"], "").success();
    wait_for("no plugin runs", is_running, |is_running| !is_running);
    !done.success()
}

#[test]
fn a_killed_add_or_del_is_undone_or_completed() {
    let node = lock();
    let pod = node.running_pod("killed");
    let others = peers(&node);
    node.write("/run/rig/slow/slow", SLOW);
    node.sh("chmod +x /run/rig/slow/slow");
    let list = json!({"cniVersion": "1.0.0", "name": "killed", "type": "slow", "ipam": host_local("10.37.1.0/24")});
    let spec = node.cni_spec("killed.json", &list);
    let path = ["-cni-path", "/run/rig/slow:/opt/cni/bin"];
    let add = [&["add", "-spec", &spec][..], &path].concat();
    let del = [&["del"][..], &path].concat();
    let gc = || assert!(node.if_inject(&[&["gc"][..], &path].concat()).success());
    let mut kills = 0;
    for round in 0..ROUNDS {
        // spread over what a command takes
        let after = 5 + (round * 67) % 160;
        let context = || format!("round {round}, killed after {after} ms: {}", pod.if_inject(&["list"]).stdout);
        if round % 2 == 0 {
            kills += u32::from(killed(&node, &pod, &add, after));
            if round % 4 == 0 {
                gc();
                let seen = see(&node, &pod, others);
                assert!(seen == NOTHING || seen == ALL, "{seen:?}: {}", context());
            }
            // refused if it was complete
            pod.if_inject(&add);
            assert_eq!(see(&node, &pod, others), ALL, "{}", context());
            assert!(pod.if_inject(&del).success(), "{}", context());
        } else {
            assert!(pod.if_inject(&add).success(), "{}", context());
            kills += u32::from(killed(&node, &pod, &del, after));
            if round % 4 == 1 {
                gc();
                let seen = see(&node, &pod, others);
                assert!(seen == NOTHING || seen == ALL, "{seen:?}: {}", context());
            }
            assert!(pod.if_inject(&del).success(), "{}", context());
        }
        assert_eq!(see(&node, &pod, others), NOTHING, "{}", context());
    }
    eprintln!("{kills} of {ROUNDS} commands were killed before they ended");
    assert!(kills > 0);
}
