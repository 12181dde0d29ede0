//! `netdevctl check-node` on a real node, with what the ways need there, and without one of it.

use e2e::{Action, Kind, Node, SharedNode};
use serde_json::Value;

static NODE: SharedNode = SharedNode::new("check-node", Kind::Standalone);

/// The ways that are ready, and the checks that are not.
fn check(node: &Node) -> (Vec<String>, Vec<String>) {
    let program = e2e::program("netdevctl");
    let output = node.run([&*program.to_string_lossy(), "check-node", "-output", "json"]);
    let sections: Vec<Value> =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ways = sections.iter().filter(|section| section["ready"] == "yes" && section.get("way").is_some());
    let ways: Vec<String> = ways.map(|section| text(&section["way"])).collect();
    let rows = sections.iter().filter_map(|section| section["checks"].as_array()).flatten();
    let failed = rows.filter(|row| row["ready"] != "yes" && row.get("optional").is_none());
    assert_eq!(output.success(), ways.len() == 3, "{output:?}");
    (ways, failed.map(|row| text(&row["check"])).collect())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_node_is_ready_for_the_ways_whose_programs_run() {
    let node = NODE.lock();
    assert_eq!(check(&node), (words(&["command"]), words(&["hook", "agent", "injector"])), "without an agent");

    let agent = node.agent(&["-interfaces", "^none$"]);
    agent.wait_until_registered();
    assert_eq!(check(&node), (words(&["extended-resource", "command"]), words(&["injector"])));
    drop(agent);

    let agent = node.agent(&["-interfaces", "^none$", "-nri"]);
    agent.wait_until_registered();
    agent.wait_until_connected();
    assert_eq!(check(&node), (words(&["extended-resource", "annotation", "command"]), Vec::new()));

    node.kubelet(Action::Stop);
    assert_eq!(check(&node), (words(&["annotation", "command"]), words(&["kubelet's device plugins"])));
    node.kubelet(Action::Start);

    node.containerd(Action::Stop);
    assert_eq!(check(&node), (Vec::new(), words(&["container runtime", "CDI", "NRI"])));
    node.containerd(Action::Start);
}
