//! The annotation: every rule of its elements.

use serde_json::{Value, json};

use super::{parsed, refused};

/// Namespace, name and interface of each element.
fn read(text: &str) -> Vec<String> {
    let show = |element: netdevice::networks::NetworkSelection| match &element.interface {
        Some(interface) => format!("{}@{interface}", element.network()),
        None => element.network(),
    };
    parsed(text).into_iter().map(show).collect()
}

/// What one element with these further keys requests, without its name and namespace.
fn request(keys: &str) -> Value {
    let elements = parsed(&format!(r#"[{{"name": "a", {keys}}}]"#));
    let mut request = elements[0].to_request();
    let object = request.as_object_mut().expect("an object");
    assert_eq!(object.remove("name"), Some("a".into()));
    assert_eq!(object.remove("namespace"), Some("default".into()));
    request
}

#[test]
fn both_forms_are_read() {
    let forms: [(&str, &[&str]); 12] = [
        ("", &[]),
        (" \n\t", &[]),
        ("[]", &[]),
        ("a", &["default/a"]),
        ("a,b", &["default/a", "default/b"]),
        (" ns/a@net_1 , b ", &["ns/a@net_1", "default/b"]),
        ("ns / a @ x0", &["ns/a@x0"]),
        ("/a@", &["default/a"]),
        (r#"[{"name":"a"},{"name":"a"}]"#, &["default/a", "default/a"]),
        (r#"[{"name":"a.b","namespace":"ns","interface":"Net_1"}]"#, &["ns/a.b@Net_1"]),
        (r#"[{"name":"a","namespace":"","interface":""}]"#, &["default/a"]),
        (r#"[{"name":"a","namespace":null,"interface":null,"ips":null}]"#, &["default/a"]),
    ];
    for (text, elements) in forms {
        assert_eq!(read(text), elements, "{text}");
    }
}

#[test]
fn the_old_key_of_an_interface_is_read_where_the_new_one_is_not_set() {
    assert_eq!(read(r#"[{"name":"a","interfaceRequest":"x0"}]"#), ["default/a@x0"]);
    assert_eq!(read(r#"[{"name":"a","interface":"","interfaceRequest":"x0"}]"#), ["default/a@x0"]);
    assert_eq!(read(r#"[{"name":"a","interface":"x1","interfaceRequest":"x0"}]"#), ["default/a@x1"]);
}

#[test]
fn unknown_keys_are_ignored() {
    assert_eq!(request(r#""some": 1, "example.com/key": {"a": []}"#), json!({}));
}

#[test]
fn every_key_is_requested_in_one_form() {
    let requests = [
        (r#""ips": ["10.1.0.2/24", "2001:DB8::0:1"]"#, json!({"ips": ["10.1.0.2/24", "2001:db8::1"]})),
        (r#""mac": "02-00-00-00-00-0A""#, json!({"mac": "02:00:00:00:00:0a"})),
        (r#""infiniband-guid": "0011.2233.4455.66FF""#, json!({"infiniband-guid": "00:11:22:33:44:55:66:ff"})),
        (
            r#""bandwidth": {"ingressRate": 1000, "ingressBurst": 10, "egressRate": 0, "other": 1}"#,
            json!({"bandwidth": {"ingressRate": 1000, "ingressBurst": 10}}),
        ),
        (r#""bandwidth": {"egressRate": 1}"#, json!({"bandwidth": {"egressRate": 1}})),
        (r#""bandwidth": {}"#, json!({})),
        (
            r#""portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "UDP", "hostIP": "0::0"}]"#,
            json!({"portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "udp", "hostIP": "::"}]}),
        ),
        (
            r#""portMappings": [{"hostPort": 1, "containerPort": 65535, "hostIP": ""}]"#,
            json!({"portMappings": [{"hostPort": 1, "containerPort": 65535, "protocol": "tcp"}]}),
        ),
        (r#""portMappings": []"#, json!({})),
        (r#""default-route": ["10.1.0.1", "FE80::1"]"#, json!({"default-route": ["10.1.0.1", "fe80::1"]})),
        (r#""default-route": []"#, json!({"default-route": []})),
        (r#""cni-args": {"k": [1, {"a": null}]}"#, json!({"cni-args": {"k": [1, {"a": null}]}})),
        (r#""cni-args": {}"#, json!({})),
        (r#""ipam-claim-reference": "vm-a.claim""#, json!({"ipam-claim-reference": "vm-a.claim"})),
        (r#""deviceID": "0000:03:02.3""#, json!({"deviceID": "0000:03:02.3"})),
        (r#""interface": "x0""#, json!({})),
    ];
    for (keys, expected) in requests {
        assert_eq!(request(keys), expected, "{keys}");
    }
}

#[test]
fn elements_that_request_the_same_have_equal_requests() {
    let one = r#""mac": "02:00:00:00:00:0a", "cni-args": {"a": 1, "b": {"c": 2, "d": 3}}"#;
    let other = r#""interface": "x0", "cni-args": {"b": {"d": 3, "c": 2}, "a": 1}, "mac": "0200.0000.000A""#;
    assert_eq!(request(one), request(other));
}

#[test]
fn capabilities_and_arguments_are_those_that_are_set() {
    let all = r#"[{"name":"a","ips":["10.1.0.2/24","::1/128"],"mac":"02:00:00:00:00:01","infiniband-guid":"00:00:00:00:00:00:00:01",
        "bandwidth":{"ingressRate":1},"portMappings":[{"hostPort":1,"containerPort":2}],"default-route":["10.1.0.1"],
        "cni-args":{"k":"v"},"deviceID":"0000:03:02.3"}]"#;
    let all = &parsed(all)[0];
    let capabilities = json!({
        "ips": ["10.1.0.2/24", "::1/128"],
        "mac": "02:00:00:00:00:01",
        "infinibandGUID": "00:00:00:00:00:00:00:01",
        "bandwidth": {"ingressRate": 1},
        "portMappings": [{"hostPort": 1, "containerPort": 2, "protocol": "tcp"}],
        "deviceID": "0000:03:02.3",
    });
    assert_eq!(Value::Object(all.capabilities()), capabilities);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(all.arguments(), [pair("IP", "10.1.0.2/24,::1/128"), pair("MAC", "02:00:00:00:00:01")]);

    let none = &parsed("a")[0];
    assert_eq!((none.capabilities().len(), none.arguments()), (0, Vec::new()));
}

#[test]
fn each_key_that_is_not_valid_is_refused_with_its_position_and_name() {
    let label = "must be a DNS label: lower case letters, digits and \"-\"";
    let subdomain = "must be a DNS subdomain: lower case letters, digits, \"-\" and \".\"";
    let ips = "ips must be IP addresses with or without a prefix length: 10.1.0.2/24";
    let mac = "mac must be a hardware address: 02:00:00:00:00:01";
    let ports = "portMappings must have a hostPort and a containerPort between 1 and 65535";
    let protocol = "portMappings must have the protocol tcp, udp or sctp";
    let numbers = "bandwidth must have whole numbers that are not negative";
    let burst = "bandwidth must have a rate for each burst";
    let routes = "default-route must be a list of IP addresses";
    let cases = [
        (r#""name": 1"#, "name must be a string".to_owned()),
        (r#""name": """#, "name is required".to_owned()),
        (r#""name": "A""#, format!("name {subdomain}")),
        (r#""name": "a..b""#, format!("name {subdomain}")),
        (r#""name": "-a""#, format!("name {subdomain}")),
        (r#""namespace": "a.b""#, format!("namespace {label}")),
        (r#""namespace": "a/b""#, format!("namespace {label}")),
        (r#""namespace": {}"#, "namespace must be a string".to_owned()),
        (r#""interface": 1"#, "interface must be a string".to_owned()),
        (r#""interface": "1234567890123456""#, "interface must have at most 15 bytes".to_owned()),
        (
            r#""interface": "a b""#,
            "interface name \"a b\" contains the byte 0x20, which the kernel does not allow".to_owned(),
        ),
        (
            r#""interface": "a/b""#,
            "interface name \"a/b\" contains the byte 0x2f, which the kernel does not allow".to_owned(),
        ),
        (
            r#""interface": "lo""#,
            "interface name \"lo\" is not allowed in a sandbox: it is the loopback interface".to_owned(),
        ),
        (
            r#""interface": "x%d""#,
            "interface name \"x%d\" is not allowed in a sandbox: the kernel reads % as a template".to_owned(),
        ),
        (r#""ips": "10.1.0.2""#, "ips must be a list".to_owned()),
        (r#""ips": []"#, "ips must have at least one address".to_owned()),
        (r#""ips": ["10.1.0.300"]"#, ips.to_owned()),
        (r#""ips": ["10.1.0.2/33"]"#, ips.to_owned()),
        (r#""ips": [1]"#, ips.to_owned()),
        (r#""mac": "02:00:00:00:00""#, mac.to_owned()),
        (r#""mac": "02:00:00:00:00:0g""#, mac.to_owned()),
        (r#""mac": 2"#, "mac must be a string".to_owned()),
        (
            r#""infiniband-guid": "02:00:00:00:00:01""#,
            "infiniband-guid must be 8 bytes: 02:00:00:00:00:00:00:01".to_owned(),
        ),
        (r#""bandwidth": []"#, "bandwidth must be an object".to_owned()),
        (r#""bandwidth": {"ingressRate": -1}"#, numbers.to_owned()),
        (r#""bandwidth": {"egressRate": 1.5}"#, numbers.to_owned()),
        (r#""bandwidth": {"egressRate": "1"}"#, numbers.to_owned()),
        (r#""bandwidth": {"egressRate": 9223372036854775808}"#, numbers.to_owned()),
        (r#""bandwidth": {"ingressBurst": 1}"#, burst.to_owned()),
        (r#""bandwidth": {"ingressRate": 1, "egressBurst": 1}"#, burst.to_owned()),
        (r#""portMappings": {}"#, "portMappings must be a list".to_owned()),
        (r#""portMappings": [1]"#, "portMappings must be a list of objects".to_owned()),
        (r#""portMappings": [{"hostPort": 80}]"#, ports.to_owned()),
        (r#""portMappings": [{"hostPort": 0, "containerPort": 1}]"#, ports.to_owned()),
        (r#""portMappings": [{"hostPort": 1, "containerPort": 65536}]"#, ports.to_owned()),
        (r#""portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]"#, protocol.to_owned()),
        (r#""portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": 6}]"#, protocol.to_owned()),
        (
            r#""portMappings": [{"hostPort": 1, "containerPort": 1, "hostIP": "host"}]"#,
            "portMappings must have an IP address as hostIP".to_owned(),
        ),
        (r#""default-route": "10.1.0.1""#, "default-route must be a list".to_owned()),
        (r#""default-route": ["10.1.0.1/24"]"#, routes.to_owned()),
        (r#""default-route": [null]"#, routes.to_owned()),
        (
            r#""default-route": ["10.1.0.1", "10.1.0.2"]"#,
            "default-route must have at most one gateway of each family".to_owned(),
        ),
        (r#""default-route": ["::1", "::2"]"#, "default-route must have at most one gateway of each family".to_owned()),
        (r#""cni-args": []"#, "cni-args must be an object".to_owned()),
        (r#""ipam-claim-reference": "A""#, format!("ipam-claim-reference {subdomain}")),
        (
            r#""ipam-claim-reference": "claim", "ips": ["10.1.0.2"]"#,
            "ipam-claim-reference cannot be used together with ips".to_owned(),
        ),
        (r#""deviceID": 3"#, "deviceID must be a string".to_owned()),
    ];
    for (keys, problem) in cases {
        let text = format!(r#"[{{"name": "a"}}, {{"name": "b", {keys}}}]"#);
        assert_eq!(refused(&text), format!("element 2: {problem}"), "{keys}");
    }
}

#[test]
fn texts_that_are_neither_form_are_refused() {
    let cases = [
        ("[", "the annotation is invalid JSON at line 1, column 1"),
        ("[{\"name\":\n}]", "the annotation is invalid JSON at line 2, column 1"),
        ("{}", "the annotation must be a JSON list of objects"),
        ("\"a\"", "the annotation must be a JSON list of objects"),
        ("[\"a\"]", "element 1 must be an object"),
        ("[{\"name\":\"a\"},null]", "element 2 must be an object"),
        ("a,", "element 2: name is required"),
        (",", "element 1: name is required"),
        ("@x0", "element 1: name is required"),
        ("a,b/c/d", "element 2 must be [namespace/]name[@interface]"),
        ("a@b@c", "element 1 must be [namespace/]name[@interface]"),
        ("a.b", "element 1: name must be a DNS label: lower case letters, digits and \"-\""),
        ("a b", "element 1: name must be a DNS subdomain: lower case letters, digits, \"-\" and \".\""),
    ];
    for (text, message) in cases {
        assert_eq!(refused(text), message, "{text}");
    }
}

#[test]
fn two_elements_cannot_have_the_same_interface_or_both_a_default_route() {
    assert_eq!(refused("a@x0,b,c@x0"), "elements 1 and 3 have the same interface");
    assert_eq!(
        refused(r#"[{"name":"a"},{"name":"a","interface":"x"},{"name":"b","interfaceRequest":"x"}]"#),
        "elements 2 and 3 have the same interface"
    );
    let routes = r#"[{"name":"a","default-route":["10.1.0.1"]},{"name":"b"},{"name":"c","default-route":[]}]"#;
    assert_eq!(refused(routes), "elements 1 and 3 have default-route: only one element can have it");
}

#[test]
fn the_limits_are_those_of_the_module() {
    let elements = |count: usize| vec!["a"; count].join(",");
    assert_eq!(parsed(&elements(32)).len(), 32);
    assert_eq!(refused(&elements(33)), "the annotation has 33 elements: the limit is 32");
    let objects = format!("[{}]", vec![r#"{"name":"a"}"#; 33].join(","));
    assert_eq!(refused(&objects), "the annotation has 33 elements: the limit is 32");
    let spaces = |count: usize| " ".repeat(count);
    assert_eq!(parsed(&spaces(64 << 10)), []);
    assert_eq!(refused(&spaces((64 << 10) + 1)), "the annotation has 65537 bytes: the limit is 65536");
}

#[test]
fn no_error_repeats_a_long_text() {
    let long = "x".repeat(60_000);
    let texts = [
        format!("a@{long}"),
        format!("a/{long}/b"),
        format!("{long}.{long}"),
        format!("[{long}"),
        format!(r#"[{{"name":"{long}"}}]"#),
        format!(r#"[{{"name":"a","interface":"{long}"}}]"#),
        format!(r#"[{{"name":"a","mac":"{long}"}}]"#),
        format!(r#"[{{"name":"a","deviceID":"{long}"}}]"#),
        format!(r#"[{{"name":"a","ips":["{long}"]}}]"#),
        format!(r#"[{{"name":"a","{long}":[}}]"#),
    ];
    for text in texts {
        assert!(refused(&text).len() < 150, "{}", refused(&text));
    }
}
