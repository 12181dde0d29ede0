//! `kubectl apply -f install-dra.yaml` in place of install.yaml, and back.

use e2e::{ClaimPod, ClaimSpec, Level, wait_for_object};
use serde_json::{Value, json};

use crate::{count, in_pod_of, lock, on_node, rolled_out, text};

#[test]
fn devices_by_claim_with_the_installed_agent_and_its_own_rights() {
    let node = lock();
    let before = on_node(&node);
    node.apply(&text("install-dra.yaml"));
    rolled_out(&node);
    // the token of its Pod names the node: the policies and the API server let it write
    node.wait_until_sliced("dummy0");
    wait_for_object(
        "it is no resource any more",
        || count(&node).1,
        |allocatable| allocatable.is_empty() || allocatable == "0",
    );
    let fields = json!({"name": "net1", "addresses": ["10.79.0.1/24"]});
    node.apply(&ClaimSpec::device("dummy0").configure(fields).template("installed"));
    for level in [Level::Container, Level::Pod] {
        node.apply(&ClaimPod::of_template("claimed", "installed", level).manifest());
        node.wait_long_until_ready("claimed");
        assert!(in_pod_of(&node, "claimed", "net1").contains("10.79.0.1/24"));
        let claim = node.claim_of("claimed", "nic");
        node.wait_for_condition(&claim, "True", "");
        // a rolling update of the agent: the Pod keeps its device, the next instance unprepares the claim
        node.kubectl(&["rollout", "restart", "--namespace=kube-system", "daemonset/netdevice-agent"]).text();
        rolled_out(&node);
        assert!(in_pod_of(&node, "claimed", "net1").contains("10.79.0.1/24"));
        node.delete(&["pod/claimed"]);
        wait_for_object("the device returns as it was", || on_node(&node), |now| *now == before);
    }
    node.delete(&["resourceclaimtemplate/installed"]);
    // as shipped again, for the other tests
    node.apply(&text("install.yaml"));
    rolled_out(&node);
    wait_for_object("the Node counts the device", || count(&node), |count| *count == ("1".into(), "1".into()));
    wait_for_object("no slice is left", || json!(node.slices()), |slices: &Value| *slices == json!([]));
}
