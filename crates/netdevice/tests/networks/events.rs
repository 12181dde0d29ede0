//! The texts of Events.

use netdevice::networks::{EventVerb, REJECTED_HOST_NETWORK, event_text, rejected_host_network};

use super::parsed;

fn text(verb: EventVerb, annotation: &str) -> String {
    event_text(verb, "default", "p0", "hot0", "rec-a", parsed(annotation).first())
}

/// The texts that a real controller wrote, and what Go prints for other values.
#[test]
fn texts_and_reasons_are_those_of_the_original() {
    let attributes =
        r#"[{"name":"rec-a","ips":["10.52.0.10/24","::1/64"],"mac":"02:00:00:00:00:10","cni-args":{"k":"v"}}]"#;
    let values = r#"[{"name":"a","cni-args":{"b":[1,2.5,1000000,123456789,99999,123456,0.0001,0.00001,-0.0,12345678.5,1e21],"a":{"z":null,"y":true},"e":{},"s":"x y"}}]"#;
    let cases = [
        (EventVerb::Added, "", "added interface hot0 to network: rec-a"),
        (EventVerb::Added, "a", "added interface hot0 to network: rec-a"),
        (
            EventVerb::Added,
            attributes,
            "added interface hot0 to network: rec-a(ips: [10.52.0.10/24 ::1/64], mac: 02:00:00:00:00:10, cni-args: &map[k:v])",
        ),
        (
            EventVerb::FailedAdding,
            r#"[{"name":"a","mac":"02:00:00:00:00:10"}]"#,
            "failed adding interface hot0 to network: rec-a(ips: [], mac: 02:00:00:00:00:10, cni-args: <nil>)",
        ),
        (
            EventVerb::Added,
            r#"[{"name":"a","cni-args":{}}]"#,
            "added interface hot0 to network: rec-a(ips: [], mac: , cni-args: &map[])",
        ),
        (
            EventVerb::Added,
            values,
            "added interface hot0 to network: rec-a(ips: [], mac: , cni-args: &map[a:map[y:true z:<nil>] b:[1 2.5 1e+06 \
             1.23456789e+08 99999 123456 0.0001 1e-05 -0 1.23456785e+07 1e+21] e:map[] s:x y])",
        ),
        (EventVerb::Removed, attributes, "removed interface hot0 from network: rec-a"),
        (EventVerb::FailedRemoving, attributes, "failed removing interface hot0 from network: rec-a"),
    ];
    for (verb, annotation, expected) in cases {
        assert_eq!(text(verb, annotation), format!("pod [default/p0]: {expected}"));
    }
    assert_eq!(
        rejected_host_network("default", "p0"),
        "pod [default/p0]: will not add interface to host networked pod"
    );
    let reasons = [EventVerb::Added, EventVerb::FailedAdding, EventVerb::Removed, EventVerb::FailedRemoving]
        .map(|verb| (verb.reason(), verb.is_warning()));
    assert_eq!(
        reasons,
        [
            ("AddedInterface", false),
            ("FailedAddingInterface", true),
            ("RemovedInterface", false),
            ("FailedRemovingInterface", true)
        ]
    );
    assert_eq!(REJECTED_HOST_NETWORK, "InterfaceAddRejected");
}

#[test]
fn a_text_that_the_api_server_would_refuse_is_cut_off() {
    for letters in ["é", "xé"] {
        let value = letters.repeat(2000);
        let text = text(EventVerb::Added, &format!(r#"[{{"name":"a","cni-args":{{"k":"{value}"}}}}]"#));
        assert!(text.len() <= 1024 && text.len() > 1018 && text.ends_with("..."), "{}", text.len());
    }
}

#[test]
fn the_text_for_a_device_has_the_device_or_the_error() {
    let pod = netdevice::Pod { namespace: "default".into(), name: "web".into(), uid: "u".into() };
    let text = |verb, about: &str| netdevice::networks::device_event_text(verb, &pod, "fast0", about);
    assert_eq!(text(EventVerb::Added, "device eth1"), "pod [default/web]: added interface fast0: device eth1");
    let failed = text(EventVerb::FailedAdding, "device eth1: no pool of this node selects it");
    assert_eq!(
        failed,
        "pod [default/web]: failed adding interface fast0: device eth1: no pool of this node selects it"
    );
    assert_eq!(text(EventVerb::Removed, &"x".repeat(2000)).len(), 1024);
}
