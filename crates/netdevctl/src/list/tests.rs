//! The formats of `ls` for the node of the fixture.

use crate::{
    arguments::Format,
    fixture,
    node::Node,
    output::Output,
    row::{Row, Scope, add_reserved, add_waiting, rows},
};

fn listed(node: &Node, scope: Scope) -> Vec<Row> {
    rows(node.projector.view(), &node.unreadable, scope, |_| false).into_values().collect()
}

#[test]
fn devices_are_listed_in_each_form() {
    let rows = listed(&fixture::node(Some(fixture::POOLS)), Scope::Devices);
    for (name, format) in
        [("table", Format::Table), ("wide", Format::Wide), ("json", Format::Json), ("yaml", Format::Yaml)]
    {
        insta::assert_snapshot!(name, Output::new(format).all(&rows).unwrap());
    }
}

#[test]
fn all_interfaces_are_listed_with_the_reason() {
    let rows = listed(&fixture::node(Some(fixture::POOLS)), Scope::All);
    insta::assert_snapshot!("all", Output::new(Format::Wide).all(&rows).unwrap());
}

#[test]
fn a_device_whose_sandbox_is_gone_is_an_orphan() {
    let node = fixture::node(None);
    let rows = rows(node.projector.view(), &[], Scope::Devices, |_| true);
    assert_eq!(rows["ens1f0v3"].state.to_string(), "orphaned");
}

#[test]
fn yaml_and_json_have_the_same_content() {
    let rows = listed(&fixture::node(Some(fixture::POOLS)), Scope::All);
    let yaml = Output::new(Format::Yaml).all(&rows).unwrap();
    let json = Output::new(Format::Json).all(&rows).unwrap();
    let of_yaml: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(of_yaml, serde_json::from_str::<serde_json::Value>(&json).unwrap());
}

#[test]
fn rows_that_follow_are_lines_or_documents() {
    let rows = [Row::gone("eth1"), Row::gone("eth2")];
    let more = |format| {
        let mut output = Output::new(format);
        output.first(&[]).unwrap();
        output.more(&rows).unwrap()
    };
    assert_eq!(
        more(Format::Json),
        "{\"device\":\"eth1\",\"state\":\"gone\"}\n{\"device\":\"eth2\",\"state\":\"gone\"}\n"
    );
    assert_eq!(more(Format::Yaml), "---\ndevice: eth1\nstate: gone\n---\ndevice: eth2\nstate: gone\n");
    assert_eq!(more(Format::Table).lines().count(), 2);
}

#[test]
fn a_device_under_another_name_is_listed_although_no_pool_selects_it() {
    let node = fixture::node(Some(fixture::POOLS));
    let mut rows = rows(node.projector.view(), &[], Scope::Devices, |_| false);
    let waiting =
        [("other0", "eth7"), ("nd99", "eth6")].map(|(now, name)| (now.parse().unwrap(), name.parse().unwrap()));
    add_waiting(&mut rows, node.projector.view(), &waiting.into());
    assert_eq!(rows["other0"].state.to_string(), "renamed");
    assert!(rows["other0"].reason.as_ref().unwrap().contains("its own name is eth7"));
    assert!(!rows.contains_key("nd99"), "it is not on the host: a pod has it");
}

#[test]
fn a_reserved_device_is_listed_with_its_owner_until_it_is_attached() {
    let node = fixture::node(Some(fixture::POOLS));
    let mut rows = rows(node.projector.view(), &[], Scope::Devices, |_| false);
    let reservations = fixture::reservations(&["eth1", "eth2", "other0", "ens1f0v3", "nowhere"]);
    add_reserved(&mut rows, node.projector.view(), &reservations);
    let rows: Vec<Row> = rows.into_values().filter(|row| row.device != "x:eth:c3:a9").collect();
    for (name, format) in [("reserved", Format::Wide), ("reserved_yaml", Format::Yaml)] {
        insta::assert_snapshot!(name, Output::new(format).all(&rows).unwrap());
    }
}
