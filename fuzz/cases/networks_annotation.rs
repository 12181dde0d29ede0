//! The networks annotation of a Pod: read or refused with a short line that does not repeat it. What is read requests the same
//! when it is written and read again, and is planned once: then there is nothing left to do. The same bytes as the status
//! annotation, a CNI result and the configuration of a network.

use std::collections::BTreeSet;

use netdevice::networks::{
    EventVerb, MAX_ELEMENTS, Present, configuration_text, entries_of_result, event_text, merge_status, parse, plan,
    read_status, write_status,
};

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    annotation(text);
    status(text);
    configuration(text);
}

fn annotation(text: &str) {
    let wanted = match parse(text, "default") {
        Ok(wanted) => wanted,
        Err(error) => {
            let line = error.to_string();
            assert!(line.len() < 200 && line.lines().count() == 1, "{line}");
            return;
        }
    };
    assert!(wanted.len() <= MAX_ELEMENTS);
    for element in &wanted {
        let again = parse(&format!("[{}]", element.to_request()), "other").expect("it is read again");
        assert_eq!(again[0].to_request(), element.to_request());
        assert_eq!(again[0].capabilities(), element.capabilities());
        assert!(element.arguments().iter().all(|(_, value)| !value.contains([';', '='])));
        assert!(event_text(EventVerb::Added, "default", "pod", "net1", &element.name, Some(element)).len() <= 1024);
    }

    let taken = BTreeSet::new();
    let first = plan(&wanted, &[], &taken);
    assert_eq!((first.keep.len(), first.add.len()), (0, wanted.len()));
    let present: Vec<Present> = first
        .add
        .iter()
        .map(|(index, interface)| Present {
            network: wanted[*index].network(),
            interface: interface.clone(),
            request: Some(wanted[*index].to_request()),
        })
        .collect();
    let second = plan(&wanted, &present, &taken);
    assert!(second.remove.is_empty() && second.add.is_empty(), "{second:?}");
}

fn status(text: &str) {
    let entries = read_status(text);
    assert_eq!(read_status(&write_status(&entries)), entries);
    assert_eq!(merge_status(&entries, &[], &[]), entries);
    for result in &entries {
        assert!(!entries_of_result("ns/a", "net1", result).is_empty());
    }
}

fn configuration(text: &str) {
    let Ok(Some(whole)) = configuration_text("nad", text) else { return };
    let keys: serde_json::Value = serde_json::from_str(&whole).expect("an object");
    assert!(keys.get("name").is_some_and(|name| !name.is_null() && name != ""), "{whole}");
}
