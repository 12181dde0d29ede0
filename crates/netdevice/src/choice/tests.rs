//! Which device a Pod gets, and why it gets none.

use std::sync::Arc;

use super::*;
use crate::{
    SandboxConfiguration, Snapshot,
    acquisition::{Created, MacvlanMode},
    annotation::parse,
    fixture,
    link::flags,
    pool::Pools,
    projection::Projector,
    record::Ledger,
    snapshot::{DefaultRoute, Family},
};

const POOLS: &str = "pools:
- {resource: example.com/fast, select: {names: [^fast]}, annotations: true}
- {resource: example.com/team, select: {names: [^team]}, annotations: {namespaces: [a]}}
- {resource: example.com/kubelet, select: {names: [^kubelet]}}
- {resource: example.com/node, select: {names: [^node]}, annotations: true, allowUplinkParent: true}
- {resource: example.com/carrier, select: {names: [^carrier]}, health: carrier, annotations: true}
- {resource: example.com/parents, select: {names: [^parent]}, annotations: true, children: {kind: vlan, id: 100, count: 3}}
- {resource: example.com/ipvlans, select: {names: [^ip]}, annotations: true, children: {kind: ipvlan, count: 1}}
";

const MACVLAN: ChildKind = ChildKind::Macvlan { mode: MacvlanMode::Bridge };

fn pod(namespace: &str, name: &str) -> Pod {
    Pod { namespace: namespace.into(), name: name.into(), uid: format!("uid-{name}") }
}

fn owner(pod: &Pod, sandbox: &str) -> Owner {
    Owner::Sandbox { id: sandbox.into(), pod: Some(pod.clone()), by: Request::Annotation }
}

fn record(name: &str, resource: &str, owner: Owner) -> (DeviceId, Arc<Attachment>) {
    let record = Attachment {
        resource: Some(resource.parse().unwrap()),
        configuration: owner.outlives_containers().then(SandboxConfiguration::default),
        owner,
        ..fixture::record(name)
    };
    (record.device.clone(), Arc::new(record))
}

/// Links that are up, or down where the name ends in `-down`; the pools; what Pods have.
fn view(links: &[&str], records: Vec<(DeviceId, Arc<Attachment>)>) -> View {
    let mut snapshot = Snapshot::default();
    for (index, name) in (1..).zip(links) {
        let flags = if name.ends_with("-down") { 0 } else { flags::UP };
        snapshot.insert_link(Arc::new(Link { flags, ..fixture::link(index, name) }));
        if name.ends_with("-uplink") {
            snapshot.insert_default_route(DefaultRoute { family: Family::V4, table: 254, metric: 0, link: index });
        }
    }
    let mut projector = Projector::new();
    projector.set_pools(Arc::new(Pools::from_yaml(POOLS).unwrap()));
    projector.set_ledger(Arc::new(records.into_iter().collect::<Ledger>()));
    projector.set_snapshot(snapshot);
    projector.view().clone()
}

fn ask(view: &View, namespace: &str, annotation: &str) -> Result<Vec<String>, String> {
    ask_by(Request::Annotation, view, namespace, annotation)
}

fn ask_by(by: Request, view: &View, namespace: &str, annotation: &str) -> Result<Vec<String>, String> {
    let choices = choices_by(by, view, namespace, annotation)?;
    Ok(choices.iter().map(|choice| choice.device.to_string()).collect())
}

fn choices_by(by: Request, view: &View, namespace: &str, annotation: &str) -> Result<Vec<Choice>, String> {
    let pod = pod(namespace, "me");
    let owner = Owner::Sandbox { id: "new".into(), pod: Some(pod.clone()), by };
    let allocated = Allocated::from([("fast-given".parse().unwrap(), "b/other".into())]);
    let requests = parse(annotation).unwrap();
    let demand = Demand {
        owner: &owner,
        pod: &pod,
        requests: &requests,
        allocated: &allocated,
        reserved: &["fast-reserved", "node2:1"].map(|id| (id.parse().unwrap(), Owner::Kubelet)).into(),
        busy: &BTreeSet::from(["fast-busy".parse().unwrap()]),
        ledger: &view.ledger,
    };
    choose(view, &demand).map_err(|error| error.to_string())
}

#[test]
fn a_private_flag_needs_the_pool_unless_an_administrator_requests_it() {
    let view = view(&["fast0"], vec![]);
    for device in ["name: fast0", "pool: fast", "name: fast0, create: {kind: macvlan}"] {
        let annotation = format!("[{{{device}, ethtool: {{private_flags: {{vf-true-promisc-support: true}}}}}}]");
        let error = ask(&view, "default", &annotation).unwrap_err();
        assert!(error.contains("example.com/fast does not allow pods to set the private flag"), "{error}");
        ask_by(Request::Command, &view, "default", &annotation).unwrap();
        let annotation = format!("[{{{device}, ethtool: {{features: {{loopback: true}}}}}}]");
        ask(&view, "default", &annotation).unwrap_err();
        ask(&view, "default", &annotation.replace("loopback", "tso")).unwrap();
    }
}

#[test]
fn the_administrators_selection_decides() {
    let links =
        ["fast-uplink", "fast0", "fast-given", "fast-reserved", "team0", "kubelet0", "other0", "lo", "fast-down"];
    let view = view(&links, vec![record("fast1", "example.com/fast", owner(&pod("b", "you"), "abc"))]);
    let table = [
        ("default", "[{name: fast0}]", Ok(vec!["fast0"])),
        ("default", "[{name: fast-down}]", Ok(vec!["fast-down"])),
        ("a", "[{name: team0}, {name: fast0}]", Ok(vec!["team0", "fast0"])),
        (
            "default",
            "[{name: team0}]",
            Err("device team0: pool example.com/team is not available to annotations in namespace default: \
                 choose another device"),
        ),
        (
            "a",
            "[{name: kubelet0}]",
            Err("device kubelet0: pool example.com/kubelet is not available to annotations: request the resource \
                 or choose another device"),
        ),
        ("a", "[{name: other0}]", Err("device other0: no pool of this node selects it: choose another device")),
        (
            "a",
            "[{name: fast-given}]",
            Err("device fast-given: the kubelet gave it to pod b/other: delete that pod or \
                 choose another device"),
        ),
        (
            "a",
            "[{name: fast-reserved}]",
            Err(
                "device fast-reserved: it is reserved for a pod that the kubelet has not started yet: delete that pod or \
                 choose another device",
            ),
        ),
        (
            "a",
            "[{name: fast1}]",
            Err("device fast1: it is held by pod b/you (sandbox abc): delete that pod or choose \
                 another device"),
        ),
        ("a", "[{name: none0}]", Err("device none0: the node has no such interface: choose another device")),
        ("a", "[{pool: slow}]", Err("pool: this node has no pool slow")),
        (
            "a",
            "[{pool: kubelet}]",
            Err("pool example.com/kubelet is not available to annotations: request the resource or choose another \
                 pool"),
        ),
    ];
    for (namespace, annotation, expected) in table {
        let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(ask(&view, namespace, annotation), expected.map_err(str::to_owned), "{annotation}");
    }
    let refused = ask(&view, "a", "[{name: fast-uplink}]").unwrap_err();
    assert!(refused.contains("it is never handed out because"), "{refused}");
}

#[test]
fn any_device_of_a_pool_is_a_healthy_one_that_nobody_has_and_no_request_names() {
    let view = view(&["fast-busy", "fast-down", "fast-given", "fast-reserved", "fast1", "fast2"], Vec::new());
    let ask = |annotation| ask(&view, "a", annotation);
    assert_eq!(ask("[{pool: fast}]").unwrap(), ["fast1"]);
    assert_eq!(ask("[{pool: example.com/fast}, {name: fast1}]").unwrap(), ["fast2", "fast1"]);
    assert_eq!(ask("[{pool: fast}, {pool: fast}, {pool: fast}]").unwrap(), ["fast1", "fast2", "fast-down"]);
    assert_eq!(
        ask("[{pool: fast}, {pool: fast}, {pool: fast}, {pool: fast}]").unwrap_err(),
        "no device of pool example.com/fast is free: delete a pod that has one or choose another pool"
    );
}

#[test]
fn an_interface_on_which_a_device_is_reserved_is_not_any_device_of_a_pool() {
    let view = view(&["node2", "node3"], Vec::new());
    assert_eq!(ask(&view, "a", "[{pool: node}]").unwrap(), ["node3"]);
    assert!(ask(&view, "a", "[{pool: node}, {pool: node}]").unwrap_err().starts_with("no device of pool"));
}

#[test]
fn a_link_without_carrier_is_not_any_device_of_a_pool_that_wants_one() {
    let view = view(&["carrier0"], Vec::new());
    assert!(ask(&view, "a", "[{pool: carrier}]").unwrap_err().starts_with("no device of pool"));
}

#[test]
fn what_a_pod_has_already_it_keeps() {
    let mine = |name, sandbox| record(name, "example.com/fast", owner(&pod("a", "me"), sandbox));
    let view = view(&["fast1"], vec![mine("fast2", "new"), mine("fast3", "old")]);
    let ask = |annotation| ask(&view, "a", annotation);
    assert_eq!(ask("[{name: fast3}]").unwrap(), ["fast3"]);
    assert_eq!(ask("[{pool: fast}]").unwrap(), ["fast2"]);
    assert_eq!(ask("[{pool: fast}, {name: fast2}]").unwrap(), ["fast3", "fast2"]);
    assert_eq!(ask("[{pool: fast, mtu: 1400}]").unwrap(), ["fast1"]);
    assert!(!view.devices().values().any(|device| device.id.to_string() != "fast1" && device.is_healthy()));
}

#[test]
fn a_device_that_is_created_gets_the_lowest_free_number_and_its_parent_stays() {
    let you = owner(&pod("b", "you"), "abc");
    let child = |name: &str, owner: &Owner| {
        let created = Created { parent: "fast1".parse().unwrap(), parent_index: 2, kind: MACVLAN };
        let (_, record) = record("fast0", "example.com/fast", owner.clone());
        let record = Attachment { device: name.parse().unwrap(), acquired: created.into(), ..(*record).clone() };
        (record.device.clone(), Arc::new(record))
    };
    let records = vec![
        child("fast1:1", &you),
        child("fast1:3", &owner(&pod("a", "me"), "new")),
        record("fast3", "example.com/fast", you.clone()),
    ];
    let view = view(&["fast-uplink", "fast1", "fast2", "fast-down", "kubelet0", "other0", "node-uplink"], records);
    let create = |wanted: &str| format!("{{{wanted}, create: {{kind: macvlan}}, new_name: net{}}}", wanted.len());
    let ask = |annotation: &str| ask(&view, "a", annotation);
    // it has fast1:3 by a request without a name
    assert_eq!(ask("[{name: fast1, create: {kind: macvlan}}]").unwrap(), ["fast1:3"]);
    assert_eq!(ask("[{name: fast1, create: {kind: macvlan, mode: vepa}}]").unwrap(), ["fast1:2"]);
    assert_eq!(ask(&format!("[{}, {}]", create("name: fast2"), create("pool: fast"))).unwrap(), ["fast2:1", "fast2:2"]);
    assert_eq!(ask(&format!("[{}]", create("pool: fast"))).unwrap(), ["fast2:1"], "it has the fewest");
    // a parent is not any device of the pool
    assert_eq!(ask("[{pool: fast}]").unwrap(), ["fast2"]);
    let refusals = [
        ("name: fast3", "device fast3: it is held by pod b/you"),
        ("name: none0", "device none0: the node has no such interface"),
        ("name: other0", "device other0: no pool of this node selects it"),
        ("name: kubelet0", "device kubelet0: pool example.com/kubelet is not available to annotations"),
        ("name: fast-uplink", "device fast-uplink: no device is created on it because the node's IPv4 default route"),
        ("pool: kubelet", "pool example.com/kubelet is not available to annotations"),
    ];
    for (wanted, words) in refusals {
        let refused = ask(&format!("[{}]", create(wanted))).unwrap_err();
        assert!(refused.starts_with(words), "{refused}");
    }
    // the node's own link, where the pool says so
    assert_eq!(ask(&format!("[{}]", create("name: node-uplink"))).unwrap(), ["node-uplink:1"]);
    for (wanted, uplinks) in [("node-uplink", UplinkParents::Allowed), ("fast1", UplinkParents::Refused)] {
        let annotation = format!("[{{name: {wanted}, create: {{kind: macvlan}}}}]");
        let choices = choices_by(Request::Annotation, &view, "a", &annotation).unwrap();
        assert_eq!(choices[0].uplink_parents, uplinks, "{wanted}: what the pool says goes along");
    }
    assert!(ask("[{name: node-uplink}]").unwrap_err().contains("it is never handed out because"));
}

#[test]
fn what_a_pod_gives_back_to_have_it_otherwise_is_checked_first() {
    let owner = || Owner::Sandbox { id: "new".into(), pod: Some(pod("a", "me")), by: Request::attach() };
    let records = vec![
        record("fast0", "example.com/fast", owner()),
        record("fast1", "example.com/fast", owner()),
        record("team0", "example.com/team", owner()),
        record("kubelet0", "example.com/kubelet", owner()),
        record("gone0", "example.com/gone", owner()),
    ];
    let view = view(&["fast1"], records.clone());
    let check = |namespace: &str, at: usize| check_again(&view, namespace, &records[at].1);
    assert_eq!(check("b", 0), Ok(()));
    assert_eq!(check("a", 2), Ok(()));
    assert!(matches!(check("b", 2), Err(ChoiceError::OtherNamespace(..))));
    assert!(matches!(check("a", 1), Err(ChoiceError::NameTaken(_))));
    assert!(matches!(check("a", 3), Err(ChoiceError::NotForAnnotations(..))));
    assert!(matches!(check("a", 4), Err(ChoiceError::NotSelected(_))));
}

#[test]
fn a_command_gets_what_no_annotation_may_have_but_not_what_the_pod_has_in_another_way() {
    let by_command = |name, sandbox: &str| {
        let owner = Owner::Sandbox { id: sandbox.into(), pod: Some(pod("b", "me")), by: Request::Command };
        record(name, "example.com/fast", owner)
    };
    let by_annotation = record("fast2", "example.com/fast", owner(&pod("b", "me"), "new"));
    let records = vec![by_command("fast0", "new"), by_command("fast1", "old"), by_annotation];
    let view = view(&["kubelet0", "team0", "fast-given"], records);
    let command = |name: &str| ask_by(Request::Command, &view, "b", &format!("[{{name: {name}}}]"));
    for name in ["kubelet0", "fast0", "fast1"] {
        assert_eq!(command(name).unwrap(), [name]);
    }
    let refused = "pool example.com/team is not available to annotations in namespace b";
    assert!(command("team0").unwrap_err().contains(refused));
    assert!(command("fast-given").unwrap_err().contains("the kubelet gave it to pod b/other"));
    let held = "it is held by pod b/me (sandbox new)";
    assert!(command("fast2").unwrap_err().contains(held));
    assert!(ask(&view, "b", "[{name: fast0}]").unwrap_err().contains(held));
    // nor is it one for the kubelet
    let is_healthy = |name: &str| view.devices()[&name.parse::<DeviceId>().unwrap()].is_healthy();
    assert!(!is_healthy("fast0") && !is_healthy("fast2"));
}

#[test]
fn a_pool_of_children_gives_what_it_creates_whether_or_not_it_is_requested() {
    let child = |name: &str, id: u16| {
        let kind = ChildKind::Vlan { id: id.try_into().unwrap() };
        let created = Created { parent: "parent0".parse().unwrap(), parent_index: 1, kind };
        let (_, record) = record("fast9", "example.com/parents", owner(&pod("default", "you"), "abc"));
        let record = Attachment { device: name.parse().unwrap(), acquired: created.into(), ..(*record).clone() };
        (record.device.clone(), Arc::new(record))
    };
    let view = view(&["parent0", "parent1", "parent2-down", "ip0"], vec![child("parent0:1", 100)]);
    let ask = |annotation: &str| ask(&view, "default", annotation).map(|devices| devices.join(" "));
    let refused = |annotation: &str| ask(annotation).unwrap_err();
    // the parent that has the fewest
    assert_eq!(ask("[{pool: parents}]").unwrap(), "parent1:1");
    assert_eq!(ask("[{name: parent0}]").unwrap(), "parent0:2");
    assert_eq!(ask("[{name: parent0, create: {kind: vlan, id: 102}}]").unwrap(), "parent0:3");
    assert_eq!(ask("[{pool: parents, create: {kind: vlan, id: 101}}]").unwrap(), "parent1:2");
    assert_eq!(ask("[{pool: ipvlans}]").unwrap(), "ip0:1");
    let other = "pool example.com/parents offers vlan/100 devices, and macvlan/bridge is requested: remove `create` or \
                 choose another pool";
    assert_eq!(refused("[{name: parent0, create: {kind: macvlan}}]"), other);
    assert!(refused("[{name: parent0, create: {kind: vlan, id: 103}}]").contains("and vlan/103 is requested"));
    // it is another Pod's
    let taken = refused("[{name: parent0, create: {kind: vlan, id: 100}}]");
    assert_eq!(taken, "device parent0: all devices that can be created on it are in use: choose another device");
    let two = "[{pool: ipvlans, new_name: a}, {pool: ipvlans, new_name: b}]";
    assert_eq!(
        refused(two),
        "no device of pool example.com/ipvlans is free: delete a pod that has one or choose another pool"
    );
    let mac = refused("[{pool: ipvlans, mac: '02:00:00:00:00:01'}]");
    assert_eq!(mac, "device ip0: mac: an ipvlan has the hardware address of its parent");
}
