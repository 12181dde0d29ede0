//! The admission policy of install-dra.yaml knows the fields that the parameters of a claim may have, and no others.

use std::collections::{BTreeMap, BTreeSet};

use netdevice::claims::parameters::{API_VERSION, KIND, parse};
use serde_json::{Map, Value, json};

const INSTALL: &str = include_str!("../../../install-dra.yaml");
/// It names each field once, as `Key::new("mtu")` or `Key::two("new_name", "name")`.
const READER: &str = include_str!("../src/configuration/read.rs");

/// The policy's lists: of the whole configuration under the empty name, and of each field that has fields.
fn of_the_policy() -> BTreeMap<String, BTreeSet<String>> {
    let expression = INSTALL.split_once("- name: fields\n    expression: >-\n").expect("the policy has it").1;
    let expression = expression.split_once("\n  - name: ").expect("other variables follow").0;
    serde_json::from_str(expression).expect("a map of lists in CEL is one in JSON")
}

/// Every name that a field can have anywhere.
fn all_names() -> BTreeSet<String> {
    let keys = READER.split("Key::").skip(1).filter_map(|after| after.split_once(')'));
    let last = |(inside, _): (&str, _)| inside.split('"').nth_back(1).map(str::to_owned);
    keys.filter_map(last).chain(["apiVersion".to_owned(), "kind".to_owned()]).collect()
}

/// Whether the parser knows a field, whatever it thinks of its value.
fn knows(fields: Value) -> bool {
    let mut whole = Map::from_iter([("apiVersion".to_owned(), json!(API_VERSION)), ("kind".to_owned(), json!(KIND))]);
    for (name, value) in fields.as_object().cloned().unwrap_or_default() {
        whole.entry(name).or_insert(value);
    }
    let text = Value::Object(whole).to_string();
    !parse(text.as_bytes()).is_err_and(|error| error.to_string().contains("unknown field"))
}

fn of_the_parser() -> BTreeMap<String, BTreeSet<String>> {
    let names = all_names();
    let known = |within: &dyn Fn(&str) -> Value| names.iter().filter(|name| knows(within(name))).cloned().collect();
    let top: BTreeSet<String> = known(&|name| json!({name: []}));
    let mut lists = BTreeMap::new();
    for outer in &top {
        let list = |name: &str| json!({outer.as_str(): [{name: []}]});
        let mapping = |name: &str| json!({outer.as_str(): {name: []}});
        for within in [&list as &dyn Fn(&str) -> Value, &mapping] {
            if !knows(within("no-such-field")) {
                lists.insert(outer.clone(), known(within));
            }
        }
    }
    lists.insert(String::new(), top);
    lists
}

#[test]
fn the_admission_policy_has_the_fields_that_are_read() {
    assert_eq!(of_the_policy(), of_the_parser(), "left: install-dra.yaml, right: the parser");
}
