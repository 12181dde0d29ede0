//! Parameters of claims: tables of what is read and what is refused, any bytes at all, and the same as in the annotation.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)] // all of it is a test

mod written;

use netdevice::{
    Acquisition, SandboxConfiguration,
    acquisition::{ChildKind, IpvlanMode, MacvlanMode, VlanId},
    annotation,
    claims::parameters::{API_VERSION, DeviceConfiguration, KIND, MAX_PARAMETERS, parse},
    configuration::{field_names, setting_names},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use written::{any_fields, camel_case, snake_case};

/// The parameters with these fields.
fn parameters(mut fields: Value) -> Vec<u8> {
    fields["apiVersion"] = API_VERSION.into();
    fields["kind"] = KIND.into();
    fields.to_string().into_bytes()
}

fn read(fields: Value) -> DeviceConfiguration {
    parse(&parameters(fields)).unwrap()
}

#[track_caller]
fn refusal(fields: Value) -> String {
    let result = parse(&parameters(fields.clone())).and_then(DeviceConfiguration::resolve);
    let error = result.map_or_else(|error| error.to_string(), |read| panic!("{fields}: {read:?}"));
    assert!(error.len() < 1000 && !error.contains('\n'), "{error}");
    error
}

#[test]
fn an_empty_configuration_moves_the_device_as_it_is() {
    let (acquisition, configuration) = read(json!({})).resolve().unwrap();
    assert_eq!((acquisition, configuration), (Acquisition::Move, SandboxConfiguration::default()));
}

#[test]
fn what_is_created_is_read() {
    let table = [
        (json!({"kind": "macvlan"}), ChildKind::Macvlan { mode: MacvlanMode::Bridge }),
        (json!({"kind": "macvlan", "mode": "vepa"}), ChildKind::Macvlan { mode: MacvlanMode::Vepa }),
        (json!({"kind": "ipvlan"}), ChildKind::Ipvlan { mode: IpvlanMode::L2 }),
        (json!({"kind": "ipvlan", "mode": "l3s"}), ChildKind::Ipvlan { mode: IpvlanMode::L3s }),
        (json!({"kind": "vlan", "id": 7}), ChildKind::Vlan { id: VlanId::try_from(7).unwrap() }),
    ];
    for (create, kind) in table {
        assert_eq!(read(json!({"create": create})).resolve().unwrap().0, Acquisition::Create(kind));
    }
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    let route = |fields: Value| json!({"routes": [{"to": "10.1.0.0/16"}, fields]});
    let table = [
        (json!({"mtuu": 1500}), "unknown field \"mtuu\": did you mean mtu?"),
        (json!({"new_name": "net1"}), "unknown field \"new_name\": did you mean name?"),
        (json!({"address": "10.0.0.1"}), "unknown field \"address\": did you mean addresses?"),
        (json!({"pool": "fast"}), "unknown field \"pool\": the fields are apiVersion, kind, name,"),
        (json!({"name": "eth0/1"}), "name: the byte 0x2f is not allowed in an interface name"),
        (json!({"name": "1234567890123456"}), "name: too long: 16 bytes, the limit is 15"),
        (json!({"mtu": "1500"}), "mtu: must be a number from 68 to 65535"),
        (json!({"mtu": 1279, "addresses": ["2001:db8::1/64"]}), "mtu: must be at least 1280 with an IPv6 address"),
        (json!({"addresses": ["10.0.0.1/24", "10.0.0.1"]}), "addresses[1]: the same address is listed twice"),
        (json!({"addresses": ["10.0.0.1/24", 7]}), "addresses[1]: must be a string"),
        (json!({"mac": "01:00:00:00:00:01"}), "mac: a multicast address is not allowed"),
        (route(json!({"to": "10.2.0.0/16", "via": "::1"})), "routes[1].via: the gateway and the destination"),
        (route(json!({"to": "10.2.0.0/16", "vai": "10.0.0.1"})), "routes[1]: unknown field \"vai\": did you mean via?"),
        (route(json!({"to": "10.1.0.0/16"})), "routes[1].to: the same route is listed twice"),
        (route(json!(null)), "routes[1]: not a mapping"),
        (route(json!({"to": "0.0.0.0/0"})), "routes[1].to: a default route is not allowed"),
        (route(json!({"to": "0.0.0.0/0", "table": 254})), "routes[1].to: a default route is not allowed"),
        (
            route(json!({"to": "10.2.0.0/16", "table": 255})),
            "routes[1].table: the tables 253 (default) and 255 (local)",
        ),
        (route(json!({"to": "10.2.0.0/16", "scope": "host"})), "routes[1].scope: must be link or global"),
        (route(json!({"to": "2001:db8::/32", "scope": "link"})), "routes[1].scope: an IPv6 route has no scope"),
        (
            route(json!({"to": "10.2.0.0/16", "via": "10.0.0.1", "scope": "link"})),
            "routes[1].scope: a route with a gateway has the scope global",
        ),
        (route(json!({"to": "10.2.0.0/16", "onlink": true})), "routes[1].onlink: only a route with a gateway has it"),
        (route(json!({"to": "10.2.0.0/16", "source": "::1"})), "routes[1].source: the source and the destination"),
        (
            route(json!({"to": "10.2.0.0/16", "source": "10.0.0.2"})),
            "routes[1]: its source must be one of the addresses",
        ),
        (json!({"rules": [{"table": 100}]}), "rules[0].from: missing: set from or to, or both"),
        (json!({"rules": [{"from": "10.0.0.0/8"}]}), "rules[0].table: missing"),
        (json!({"rules": [{"from": "0.0.0.0/0", "table": 7}]}), "rules[0].from: must not match every address"),
        (json!({"rules": [{"from": "10.0.0.1/8", "table": 7}]}), "rules[0].from: must be a network"),
        (
            json!({"rules": [{"from": "10.0.0.0/8", "to": "2001:db8::/32", "table": 7}]}),
            "rules[0].to: from and to must be of one address family",
        ),
        (
            json!({"rules": [{"from": "10.0.0.0/8", "table": 7, "priority": 32766}]}),
            "rules[0].priority: must be a number from 1 to 32765",
        ),
        (
            json!({"rules": [{"from": "10.0.0.0/8", "table": 7}, {"table": 7, "from": "10.0.0.0/8"}]}),
            "rules[1]: the same rule is listed twice",
        ),
        (json!({"neighbors": []}), "unknown field \"neighbors\": did you mean neighbours?"),
        (json!({"neighbours": [{"address": "10.0.0.9"}]}), "neighbours[0].mac: missing"),
        (
            json!({"neighbours": [{"address": "224.0.0.1", "mac": "02:00:00:00:00:01"}]}),
            "neighbours[0].address: an interface cannot have this address",
        ),
        (json!({"vrf": {"name": "blue"}}), "vrf.table: missing"),
        (json!({"vrf": {"name": "blue", "table": 254}}), "vrf.table: a VRF has a table of its own"),
        (json!({"vrf": {"name": "a", "table": 7}, "name": "a"}), "vrf: its name must not be the name of the device"),
        (
            json!({"sysctls": {"net.ipv4.conf.arp_ignor": 1}}),
            "sysctls.net.ipv4.conf.arp_ignor: not a setting that a pod may request: did you mean net.ipv4.conf.arp_ignore?",
        ),
        (json!({"sysctls": {"net.ipv4.conf.route_localnet": 1}}), "sysctls.net.ipv4.conf.route_loca: not a setting"),
        (json!({"sysctls": {"kernel.panic": 1}}), "sysctls.kernel.panic: not a setting that a pod may request"),
        (
            json!({"sysctls": {"net.ipv4.conf.arp_ignore": 9}}),
            "sysctls.net.ipv4.conf.arp_ignore: must be a number from 0 to 8",
        ),
        (json!({"sysctls": {"net.ipv4.conf.arp_ignore": "x"}}), "sysctls.net.ipv4.conf.arp_ignore: must be a number"),
        (
            json!({"sysctls": {"net.ipv6.conf.disable_ipv6": 1}, "addresses": ["2001:db8::1/64"]}),
            "sysctls: disable_ipv6 is set, and there is an IPv6 address",
        ),
        (json!({"txQueueLength": -1}), "txQueueLength: must be a number from 0"),
        (json!({"tx_queue_length": 1}), "unknown field \"tx_queue_length\": did you mean txQueueLength?"),
        (json!({"gsoMaxSize": 4095}), "gsoMaxSize: must be a number from 4096"),
        (json!({"gsoIPv4MaxSize": 1}), "gsoIPv4MaxSize: must be a number from 4096"),
        (json!({"groMaxSize": 0}), "groMaxSize: must be a number from 1"),
        (json!({"ethtool": {"feature": {}}}), "ethtool: unknown field \"feature\": did you mean features?"),
        (json!({"ethtool": {"features": {"tso": "off"}}}), "ethtool.features.tso: must be true or false"),
        (json!({"ethtool": {"privateFlags": {"": true}}}), "ethtool.privateFlags.: invalid name"),
        (json!({"create": "macvlan"}), "create: not a mapping"),
        (json!({"create": {}}), "create.kind: missing"),
        (json!({"create": {"kind": "veth"}}), "create.kind: must be macvlan, ipvlan or vlan"),
        (json!({"create": {"kind": "macvlan", "mode": "l2"}}), "create.mode: must be private, vepa or bridge"),
        (json!({"create": {"kind": "macvlan", "id": 7}}), "create.id: a macvlan has none"),
        (json!({"create": {"kind": "ipvlan", "mode": "bridge"}}), "create.mode: must be l2, l3 or l3s"),
        (json!({"create": {"kind": "vlan"}}), "create.id: missing"),
        (json!({"create": {"kind": "vlan", "id": 0}}), "create.id: must be a number from 1 to 4094"),
        (json!({"create": {"kind": "vlan", "id": 4095}}), "create.id: must be a number from 1 to 4094"),
        (json!({"create": {"kind": "vlan", "id": 7, "mode": "l2"}}), "create.mode: a vlan has none"),
        (
            json!({"create": {"kind": "ipvlan"}, "mac": "02:00:00:00:00:01"}),
            "mac: an ipvlan has the hardware address of its parent",
        ),
    ];
    for (fields, words) in table {
        let error = refusal(fields.clone());
        assert!(error.starts_with(words), "{fields}: {error}");
    }
}

#[test]
fn the_object_is_checked_before_its_fields() {
    let table = [
        ("", "invalid JSON at line 1, column 0"),
        ("{", "invalid JSON at line 1, column 1"),
        ("{} {}", "invalid JSON at line 1"),
        ("mtu: 7", "invalid JSON at line 1"),
        ("[]", "not a mapping"),
        ("null", "not a mapping"),
        ("{}", "apiVersion: must be netdevice.networking.k8s.io/v1alpha1"),
        (r#"{"kind": "DeviceConfiguration", "mtuu": 1}"#, "apiVersion: must be"),
        (r#"{"apiVersion": "netdevice.networking.k8s.io/v1"}"#, "apiVersion: must be"),
        (r#"{"apiVersion": "netdevice.networking.k8s.io/v1alpha1", "kind": "Device"}"#, "kind: must be"),
        (r#"{"apiVersion": "netdevice.networking.k8s.io/v1alpha1", "apiVersion": 7}"#, "apiVersion: set twice"),
    ];
    for (text, words) in table {
        let error = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(words), "{text}: {error}");
    }
    let long = [b" ".repeat(MAX_PARAMETERS), parameters(json!({}))].concat();
    assert_eq!(parse(&long).unwrap_err().to_string(), format!("too long: {} bytes, the limit is 10240", long.len()));
    assert!(parse(&"[".repeat(MAX_PARAMETERS).into_bytes()).unwrap_err().to_string().starts_with("invalid JSON"));
}

#[test]
fn bytes_that_are_not_utf_8_are_no_error_of_their_own() {
    let text = [&br#"{"apiVersion": "netdevice.networking.k8s.io/v1alpha1", "kind": "DeviceConfiguration", ""#[..]];
    let text = [text[0], b"\xff\xfe", br#"": 1}"#].concat();
    assert!(parse(&text).unwrap_err().to_string().starts_with("unknown field \"\""));
}

#[test]
fn false_and_null_are_values_and_no_values() {
    let class = read(json!({"inherit": true, "mtu": 9000, "addresses": ["10.0.0.1/24", "10.0.0.2/24"], "name": "a"}));
    let claim = read(json!({"inherit": false, "mtu": null, "addresses": [], "routes": []}));
    let (_, merged) = class.merged(claim).resolve().unwrap();
    assert_eq!((merged.inherit, merged.mtu), (false, Some(9000)));
    assert_eq!((merged.addresses, merged.routes), (vec![], vec![]));
    assert_eq!(merged.name.unwrap().to_string(), "a");
}

#[test]
fn of_settings_features_and_flags_each_is_a_field() {
    let class = read(json!({"sysctls": {"net.ipv4.conf.arp_ignore": 1, "net.ipv4.conf.rp_filter": 0},
        "ethtool": {"features": {"tso": false, "gro": false}}, "gsoMaxSize": 5000}));
    let claim = read(
        json!({"sysctls": {"net.ipv4.conf.arp_ignore": 0}, "ethtool": {"features": {"gro": true}}, "groMaxSize": 7}),
    );
    let (_, merged) = class.merged(claim).resolve().unwrap();
    let expected = [("ipv4/conf/arp_ignore", "0"), ("ipv4/conf/rp_filter", "0")];
    assert!(merged.sysctls.iter().map(|(key, value)| (key.as_str(), value.as_str())).eq(expected));
    assert!(
        merged.features.iter().map(|(key, value)| (key.as_str(), value.as_str())).eq([("gro", "on"), ("tso", "off")])
    );
    assert_eq!(merged.offload_sizes, [(41, 5000), (58, 7)].into());
}

#[test]
fn a_key_that_is_there_twice_is_an_error_with_its_path() {
    let of = |fields: &str| {
        let text = format!("{{\"apiVersion\": \"{API_VERSION}\", \"kind\": \"{KIND}\", {fields}}}");
        parse(text.as_bytes()).map_err(|error| error.to_string())
    };
    for (fields, path) in [
        (r#""mtu": 1500, "mtu": 1500"#, "mtu"),
        (r#""kind": "DeviceConfiguration""#, "kind"),
        (r#""create": {"kind": "vlan", "id": 7, "id": 8}"#, "create.id"),
        (r#""routes": [{"to": "10.0.0.0/8"}, {"via": "10.0.0.1", "to": "a", "to": null}]"#, "routes[1].to"),
        (r#""ethtool": {"features": {"tso": true, "gso": true, "tso": false}}"#, "ethtool.features.tso"),
        (r#""name": "a", "\u006eame": "b""#, "name"),
    ] {
        assert_eq!(of(fields), Err(format!("{path}: set twice: remove one")));
    }
    assert!(of(r#""mtu": 1500, "mac": null"#).is_ok());
    // also where nothing is known of the field
    let error = of(&format!(r#""x": {{"{0}": 1, "{0}": 2}}"#, "k\\u0001".repeat(500))).unwrap_err();
    assert!(error.starts_with("x.kkk") && error.len() < 100, "{error}");
}

/// The names in a table of the documentation, without its head: of each row those of the first two cells.
fn rows(after: &str) -> Vec<[String; 2]> {
    let text = include_str!("../../../docs/configuration.md");
    let (_, table) = text.split_once(after).expect(after);
    let rows =
        table.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    let cell = |cell: Option<&str>| cell.unwrap_or_default().trim().trim_matches('`').to_owned();
    rows.map(|row| {
        let mut cells = row.split('|').skip(1);
        [cell(cells.next()), cell(cells.next())]
    })
    .collect()
}

#[test]
fn the_documentation_has_each_field_with_both_names() {
    let documented: Vec<[String; 2]> = rows("## Fields");
    let expected: Vec<[String; 2]> = field_names().map(|(annotation, claim)| [annotation, claim]).collect();
    assert_eq!(documented, expected);
}

#[test]
fn the_documentation_has_each_setting_with_its_values() {
    let expected = setting_names().map(|(name, least, most)| {
        let most = if most == i32::MAX { "2147483647".to_owned() } else { most.to_string() };
        [name, format!("{least} to {most}")]
    });
    assert_eq!(rows("## Settings of the interface"), expected.collect::<Vec<_>>());
}

#[test]
fn what_class_and_claim_say_together_is_checked() {
    let class = read(json!({"mtu": 1000}));
    let claim = read(json!({"addresses": ["2001:db8::1/64"]}));
    assert!(class.clone().resolve().is_ok() && claim.clone().resolve().is_ok());
    let error = class.merged(claim).resolve().unwrap_err().to_string();
    assert_eq!(error, "mtu: must be at least 1280 with an IPv6 address");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused_in_one_short_line(bytes: Vec<u8>, field in "\\PC{0,60}", value in any_value()) {
        for text in [bytes, parameters(json!({field: value}))] {
            if let Err(error) = parse(&text).and_then(DeviceConfiguration::resolve) {
                let error = error.to_string();
                prop_assert!(error.len() < 1000 && error.lines().count() == 1, "{error}");
            }
        }
    }

    #[test]
    fn merging_is_associative_and_an_empty_configuration_changes_nothing(
        a in any_fields(), b in any_fields(), c in any_fields()
    ) {
        let [a, b, c] = [a, b, c].map(|fields| read(camel_case(&fields)));
        let left = a.clone().merged(b.clone()).merged(c.clone());
        prop_assert_eq!(&a.clone().merged(b.merged(c)), &left);
        prop_assert_eq!(&left.clone().merged(DeviceConfiguration::default()), &left);
        prop_assert_eq!(&DeviceConfiguration::default().merged(left.clone()), &left);
        prop_assert_eq!(&a.clone().merged(a.clone()), &a);
    }

    #[test]
    fn the_annotation_says_the_same(fields in any_fields()) {
        let claim = read(camel_case(&fields)).resolve();
        let annotation = annotation::configuration(&snake_case(&fields));
        match (claim, annotation) {
            (Ok((_, claim)), Ok(annotation)) => prop_assert_eq!(claim, annotation),
            (Err(claim), Err(annotation)) => prop_assert_eq!(claim.to_string(), annotation.to_string()),
            (claim, annotation) => prop_assert!(false, "{:?} {:?}", claim, annotation),
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{1,8}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}
