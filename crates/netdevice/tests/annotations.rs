//! Annotations: tables of what is read and what is refused, and any text at all.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)] // all of it is a test

mod states;

use std::{collections::BTreeMap, fmt::Write};

use netdevice::{
    Acquisition, DeviceRequest, HardwareAddress, InterfaceName, Pools, SandboxConfiguration, SandboxInterfaceName,
    Wanted,
    annotation::{KEYS, MAX_ANNOTATION, PoolNameError, parse, select},
    configuration::{IpPrefix, SandboxRoute},
};
use proptest::prelude::*;

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

fn wanted(device: &str, configuration: SandboxConfiguration) -> DeviceRequest {
    DeviceRequest { device: Wanted::Name(name(device)), acquisition: Acquisition::Move, configuration }
}

fn inside(text: &str) -> Option<SandboxInterfaceName> {
    Some(SandboxInterfaceName::try_from(name(text)).unwrap())
}

#[track_caller]
fn refusal(text: &str) -> String {
    let error = match parse(text) {
        Ok(devices) => panic!("{text}: {devices:?}"),
        Err(error) => error.to_string(),
    };
    assert!(error.len() < 1000 && !error.contains('\n'), "{error}");
    error
}

#[test]
fn the_form_of_the_network_device_injector_is_read() {
    let devices = parse(
        "- name: enp2s2f0\n  new_name: eth1\n  address: 192.168.2.2\n  prefix: 24\n  mtu: 1500\n- name: enp2s2f1\n",
    );
    let first = SandboxConfiguration {
        name: inside("eth1"),
        addresses: vec!["192.168.2.2/24".parse().unwrap()],
        mtu: Some(1500),
        ..SandboxConfiguration::default()
    };
    assert_eq!(devices.unwrap(), [wanted("enp2s2f0", first), wanted("enp2s2f1", SandboxConfiguration::default())]);
}

#[test]
fn our_own_fields_are_read() {
    let devices = parse(
        "[{pool: fast, inherit: true, mac: '02:00:00:00:00:0A', addresses: [10.0.0.2/24, '2001:db8::2/64'],
           routes: [{to: 10.1.0.0/16, via: 10.0.0.1}, {to: '2001:db8:1::/48', metric: 7}, {to: 10.2.0.1}]}]",
    );
    let route = |to: &str, via: Option<&str>, metric| SandboxRoute {
        to: to.parse().unwrap(),
        via: via.map(|via| via.parse().unwrap()),
        metric,
        table: None,
        source: None,
        scope: None,
        onlink: false,
    };
    let configuration = SandboxConfiguration {
        name: None,
        addresses: vec!["10.0.0.2/24".parse().unwrap(), "2001:db8::2/64".parse().unwrap()],
        routes: vec![
            route("10.1.0.0/16", Some("10.0.0.1"), None),
            route("2001:db8:1::/48", None, Some(7)),
            route("10.2.0.1/32", None, None),
        ],
        mtu: None,
        mac: HardwareAddress::new(&[2, 0, 0, 0, 0, 10]),
        inherit: true,
        ..SandboxConfiguration::default()
    };
    let device = Wanted::Pool("fast".parse().unwrap());
    assert_eq!(devices.unwrap(), [DeviceRequest { device, acquisition: Acquisition::Move, configuration }]);
}

#[test]
fn an_address_without_a_prefix_is_the_address_alone() {
    for (text, prefix) in [("address: 10.0.0.2", "10.0.0.2/32"), ("address: '2001:db8::2'", "2001:db8::2/128")] {
        let devices = parse(&format!("- name: a\n  {text}")).unwrap();
        assert_eq!(devices[0].configuration.addresses, [prefix.parse::<IpPrefix>().unwrap()]);
    }
}

#[test]
fn json_is_read_too() {
    let devices = parse(r#"[{"name": "eth1", "mtu": 9000}, {"name": "eth2", "new_name": null}]"#).unwrap();
    let mtu = SandboxConfiguration { mtu: Some(9000), ..SandboxConfiguration::default() };
    assert_eq!(devices, [wanted("eth1", mtu), wanted("eth2", SandboxConfiguration::default())]);
}

#[test]
fn no_text_null_and_an_empty_list_ask_for_nothing() {
    for text in ["", " \n", "null", "~", "[]", "# later", "---\n", "---\n[]\n"] {
        assert_eq!(parse(text).unwrap(), [], "{text:?}");
    }
}

#[test]
fn what_is_wrong_is_named_by_its_place() {
    let table = [
        ("- name: [", "invalid YAML at line 1"),
        ("- name: a\n\t- b", "invalid YAML at line 1"),
        ("- name: a\n  name: b", "invalid YAML at line 2"),
        ("- name: a\n---\n- name: b", "invalid YAML"),
        ("eth1", "not a list"),
        ("name: eth1", "not a list"),
        ("7", "not a list"),
        ("- eth1", "device 1 of the list: not a mapping"),
        ("- name: a\n-", "device 2 of the list: not a mapping"),
        ("- {}", "device 1 of the list: name or pool is missing"),
        ("- new_name: eth1", "device 1 of the list: name or pool is missing"),
        ("- name: a\n- name:", "device 2 of the list: name or pool is missing"),
        ("- {name: a, pool: b}", "device 1 of the list: name and pool are both set"),
        ("- {name: a, newname: b}", "device 1 of the list: unknown field \"newname\""),
        ("- {Name: a}", "device 1 of the list: unknown field \"Name\""),
        ("- name: 7", "device 1 of the list: name: must be a string"),
        ("- {name: a, new_name: [b]}", "device 1 of the list: new_name: must be a string"),
        ("- {name: a, mtu: big}", "mtu: must be a number from 68 to 65535"),
        ("- {name: a, mtu: '1500'}", "mtu: must be a number from 68 to 65535"),
        ("- {name: a, mtu: 1500.5}", "mtu: must be a number"),
        ("- {name: a, mtu: 0}", "mtu: must be a number from 68"),
        ("- {name: a, mtu: 67}", "mtu: must be a number from 68"),
        ("- {name: a, mtu: -1}", "mtu: must be a number from 68"),
        ("- {name: a, mtu: 65536}", "mtu: must be a number from 68"),
        ("- {name: a, mtu: 99999999999999999999}", "mtu: must be a number from 68"),
        ("- {name: a, mtu: 1279, address: '2001:db8::1'}", "mtu: must be at least 1280 with an IPv6 address"),
        ("- {name: a, address: 10}", "address: must be a string"),
        ("- {name: a, address: 10.0.0}", "address: must be an IPv4 or IPv6 address"),
        ("- {name: a, address: 10.0.0.1/24}", "address: must be an IPv4 or IPv6 address"),
        ("- {name: a, address: 0.0.0.0}", "address: an interface cannot have"),
        ("- {name: a, address: 224.0.0.1}", "address: an interface cannot have"),
        ("- {name: a, address: 127.0.0.1}", "address: an interface cannot have"),
        ("- {name: a, address: 255.255.255.255}", "address: an interface cannot have"),
        ("- {name: a, address: '::1'}", "address: an interface cannot have"),
        ("- {name: a, address: 'ff02::1'}", "address: an interface cannot have"),
        ("- {name: a, prefix: 24}", "prefix: set without address"),
        ("- {name: a, address: 10.0.0.1, prefix: 0}", "prefix: must be a number from 1"),
        ("- {name: a, address: 10.0.0.1, prefix: 33}", "prefix: must be a number from 1 to 32"),
        ("- {name: a, address: '2001:db8::1', prefix: 129}", "prefix: must be a number from 1 to 128"),
        ("- {name: a, address: 10.0.0.1, prefix: 256}", "prefix: must be a number"),
        ("- {name: a, addresses: 10.0.0.1/24}", "addresses: must be a list"),
        ("- {name: a, addresses: [7]}", "addresses[0]: must be a string"),
        ("- {name: a, addresses: [10.0.0.1/33]}", "addresses[0]: the prefix length must be between 0 and 32"),
        ("- {name: a, addresses: [10.0.0.1/+8]}", "addresses[0]: the prefix length must be between 0 and 32"),
        ("- {name: a, addresses: [10.0.0.1/0]}", "addresses[0]: the prefix length must not be 0"),
        ("- {name: a, addresses: [10.0.0.1/]}", "addresses[0]: the prefix length must be between 0 and 32"),
        ("- {name: a, address: 10.0.0.1, addresses: [10.0.0.1/8]}", "addresses[0]: the same address is listed twice"),
        ("- {name: a, routes: {}}", "routes: must be a list"),
        ("- {name: a, routes: [10.0.0.0/8]}", "routes[0]: not a mapping"),
        ("- {name: a, routes: [{via: 10.0.0.1}]}", "routes[0].to: missing"),
        ("- {name: a, routes: [{to: 10.0.0.0/8, dev: b}]}", "routes[0]: unknown field \"dev\""),
        ("- {name: a, routes: [{to: 0.0.0.0/0}]}", "routes[0].to: a default route is not allowed"),
        ("- {name: a, routes: [{to: '::/0'}]}", "routes[0].to: a default route is not allowed"),
        ("- {name: a, routes: [{to: default}]}", "routes[0].to: must be an IPv4 or IPv6 address"),
        ("- {name: a, routes: [{to: 10.0.0.1/8}]}", "routes[0].to: must be a network"),
        ("- {name: a, routes: [{to: 224.0.0.0/4}]}", "routes[0].to: must be a network"),
        (
            "- {name: a, routes: [{to: 10.0.0.0/8, via: '2001:db8::1'}]}",
            "routes[0].via: the gateway and the destination",
        ),
        ("- {name: a, routes: [{to: 10.0.0.0/8, via: 0.0.0.0}]}", "routes[0].via: a gateway cannot"),
        ("- {name: a, routes: [{to: 10.0.0.0/8, metric: -1}]}", "routes[0].metric: must be a number"),
        ("- {name: a, routes: [{to: 10.0.0.0/8}, {to: 10.0.0.0/8}]}", "routes[1].to: the same route is listed twice"),
        ("- {name: a, mac: '02:00:00:00:00'}", "mac: must be six pairs"),
        ("- {name: a, mac: '00:00:00:00:00:00'}", "mac: the all-zeros"),
        ("- {name: a, mac: '01:00:00:00:00:01'}", "mac: a multicast address"),
        ("- {name: a, inherit: 1}", "inherit: must be true or false"),
        ("- {pool: ''}", "pool: invalid pool name"),
        ("- {pool: 'a b'}", "pool: invalid pool name"),
        ("- {name: a, mtu: 1500, mtu: 1400}", "invalid YAML at line 1, column 24"),
        ("- name: a\n- name: a", "device 2 of the list: requested twice: it is also device 1"),
        (
            "- {name: a, create: {kind: vlan, id: 7}, new_name: x}\n- {name: a}",
            "device 2 of the list: device 1 of the list is the same interface: either move it or create devices on it",
        ),
        ("- {name: a, create: {kind: vlan}}", "device 1 of the list: create.id: missing"),
        (
            "- {name: a, new_name: x}\n- {name: b, new_name: x}".trim(),
            "device 2 of the list: device 1 of the list has the same name",
        ),
        (
            "- name: a\n- {name: b, new_name: a}",
            "device 2 of the list: device 1 of the list has the same name in the pod",
        ),
        (
            "- {name: b, new_name: a}\n- name: a",
            "device 2 of the list: device 1 of the list has the same name in the pod",
        ),
        (
            "- {pool: b, new_name: a}\n- {name: a}",
            "device 2 of the list: device 1 of the list has the same name in the pod",
        ),
    ];
    for (text, words) in table {
        let error = refusal(text);
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn names_that_the_kernel_or_we_refuse_are_refused_in_both_places() {
    let table = [
        ("''", "empty name"),
        ("'1234567890123456'", "too long: 16 bytes, the limit is 15"),
        ("a/b", "byte 0x2f"),
        ("'a:b'", "byte 0x3a"),
        ("'a b'", "byte 0x20"),
        ("\"a\\tb\"", "byte 0x09"),
        ("\"a\\0b\"", "byte 0x00"),
        ("x%d", "% as a template"),
        ("all", "this name is not allowed"),
        ("default", "this name is not allowed"),
        ("lo", "it is the loopback interface"),
        (".", "dots only"),
        ("..", "dots only"),
    ];
    for (name, words) in table {
        for text in [format!("- name: {name}"), format!("- name: a\n  new_name: {name}")] {
            let error = refusal(&text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}

#[test]
fn two_devices_may_swap_names_and_come_from_one_pool() {
    assert!(parse("- {name: a, new_name: b}\n- {name: b, new_name: a}").is_ok());
    assert!(parse("- pool: fast\n- pool: fast").is_ok());
    let create = |id| format!("- {{name: a, create: {{kind: vlan, id: {id}}}, new_name: x{id}}}\n");
    assert_eq!(parse(&[create(7), create(8)].concat()).unwrap().len(), 2);
}

#[test]
fn what_is_too_much_is_refused() {
    assert!(refusal(&" ".repeat(MAX_ANNOTATION + 1)).contains("the limit is 65536"));
    let devices = |count: usize| (0..count).map(|at| format!("- name: d{at}\n")).collect::<String>();
    assert_eq!(parse(&devices(64)).unwrap().len(), 64);
    assert!(refusal(&devices(65)).contains("too many devices: 65, the limit is 64"));
    let long = format!("- name: a # {}\n", "x".repeat(10_000));
    assert_eq!(parse(&long).unwrap().len(), 1);
    assert!(refusal(&"[".repeat(10_000)).len() < 100);
    assert!(refusal(&"- ".repeat(10_000)).contains("too deeply nested"));
    // a few lines that would become thousands of millions of values
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for pair in ('a'..='k').collect::<Vec<_>>().windows(2) {
        writeln!(bomb, "{1}: &{1} [*{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}]", pair[0], pair[1]).unwrap();
    }
    assert!(refusal(&bomb).contains("too many values"), "{}", refusal(&bomb));
}

/// One kilobyte that took an agent of 64 MiB down: ten million scalars of 400 bytes.
#[test]
fn aliases_are_counted_by_what_they_unfold_to() {
    let mut bomb = format!("- &a0 {{{}: {}}}\n", "k".repeat(400), "v".repeat(400));
    for at in 1..8 {
        let aliases = vec![format!("*a{}", at - 1); 10].join(",");
        writeln!(bomb, "- &a{at} [{aliases}]").unwrap();
    }
    assert!(refusal(&bomb).contains("too many values or too deeply nested at line"), "{}", refusal(&bomb));
    // what all devices of a list have in common may be written once
    let common = (1..64).map(|at| format!("- {{<<: *all, name: d{at}}}\n")).collect::<String>();
    let devices = parse(&format!("- &all {{name: d0, mtu: 1400, inherit: true}}\n{common}"));
    assert_eq!(devices.unwrap().iter().filter(|device| device.configuration.mtu == Some(1400)).count(), 64);
}

#[test]
fn an_unknown_field_is_shown_in_part_and_nothing_else_is() {
    let secret = "hunter2-hunter2-hunter2-hunter2-hunter2";
    let error = refusal(&format!("- name: a\n  '{secret}': b"));
    assert!(error.contains("hunter2-hunter2-hunter2-") && !error.contains(secret), "{error}");
    for text in
        [format!("- {secret}"), format!("- name: {secret}"), format!("- name: a\n  mac: {secret}"), secret.into()]
    {
        assert!(!refusal(&text).contains("hunter2"), "{text}");
    }
}

#[test]
fn the_order_of_annotations_is_fixed_and_the_others_are_told() {
    let all: BTreeMap<&str, &str> = KEYS.into_iter().map(|key| (key, key)).collect();
    let order: Vec<_> = KEYS.into_iter().enumerate().collect();
    for (at, key) in order {
        let some: BTreeMap<_, _> = all.iter().filter(|(there, _)| KEYS[at..].contains(there)).collect();
        let selected = select(|key| some.get(&key).map(|value| **value)).unwrap();
        assert_eq!((selected.key, selected.value, selected.others), (key, key, KEYS[at + 1..].to_vec()));
    }
    assert_eq!(select(|_| None), None);
}

#[test]
fn a_pool_is_named_in_whole_or_by_its_last_part() {
    let pools = Pools::from_yaml(
        "pools:\n- {resource: a.com/fast, select: {names: [a]}}\n- {resource: b.com/slow, select: {names: [b]}}\n\
         - {resource: c.com/slow, select: {names: [c]}}",
    )
    .unwrap();
    let find = |name: &str| {
        let found = name.parse::<netdevice::PoolName>().unwrap().find(&pools).map(|pool| pool.resource.to_string());
        found.map_err(|error| matches!(error, PoolNameError::Ambiguous(_)))
    };
    assert_eq!(find("fast"), Ok("a.com/fast".into()));
    assert_eq!(find("c.com/slow"), Ok("c.com/slow".into()));
    assert_eq!(find("slow"), Err(true));
    assert_eq!(find("a.com"), Err(false));
}

/// The text of an annotation that asks for these devices.
fn print(devices: &[DeviceRequest]) -> String {
    let mut text = String::new();
    for DeviceRequest { device, configuration, .. } in devices {
        let (field, value) = match device {
            Wanted::Name(name) => ("name", name.to_string()),
            Wanted::Pool(pool) => ("pool", pool.to_string()),
        };
        let quoted = |value: &str| serde_json::Value::from(value).to_string();
        writeln!(text, "- {field}: {}", quoted(&value)).unwrap();
        if let Some(name) = &configuration.name {
            writeln!(text, "  new_name: {}", quoted(&name.to_string())).unwrap();
        }
        let addresses: Vec<_> = configuration.addresses.iter().map(|address| quoted(&address.to_string())).collect();
        writeln!(text, "  addresses: [{}]", addresses.join(", ")).unwrap();
        for (at, route) in configuration.routes.iter().enumerate() {
            let head = if at == 0 { "  routes:\n" } else { "" };
            writeln!(text, "{head}  - to: {}", quoted(&route.to.to_string())).unwrap();
            route.via.iter().for_each(|via| writeln!(text, "    via: {}", quoted(&via.to_string())).unwrap());
            route.metric.iter().for_each(|metric| writeln!(text, "    metric: {metric}").unwrap());
        }
        configuration.mtu.iter().for_each(|mtu| writeln!(text, "  mtu: {mtu}").unwrap());
        configuration.mac.iter().for_each(|mac| writeln!(text, "  mac: '{mac}'").unwrap());
        writeln!(text, "  inherit: {}", configuration.inherit).unwrap();
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused_in_few_words_of_our_own(text in "\\PC*|(- )?[a-z\\[\\]{}:,'\"&*!|>#@%\n ._/0-9-]{0,200}") {
        if let Err(error) = parse(&text) {
            let error = error.to_string();
            prop_assert!(error.len() < 1000 && !error.contains('\n'));
            let shows = text.as_bytes().windows(30).any(|part| error.as_bytes().windows(30).any(|shown| shown == part));
            prop_assert!(!shows, "{error:?} repeats the annotation");
        }
    }

    #[test]
    fn any_field_and_value_is_read_or_refused_in_few_words_of_our_own(field in "name|new_name|address|prefix|addresses|mtu|mac|routes|inherit|pool|[a-z_\"\\\\]{1,60}", value in "\\PC{0,80}") {
        let quoted = serde_json::Value::from(value.clone()).to_string();
        for text in [format!("- name: a\n  {}: {quoted}", serde_json::Value::from(field)), format!("- name: {quoted}")] {
            if let Err(error) = parse(&text) {
                let error = error.to_string();
                prop_assert!(error.len() < 1000 && !error.contains('\n'));
                let shows = |text: &str| text.as_bytes().windows(30).any(|part| error.as_bytes().windows(30).any(|shown| shown == part));
                prop_assert!(!shows(&text) && !shows(&value), "{error:?} repeats the annotation");
            }
        }
    }

    #[test]
    fn a_configuration_that_can_be_asked_for_is_read_as_it_is_printed(mut configuration in states::any_configuration()) {
        let is_text = |name: &SandboxInterfaceName| name.as_interface_name().to_str().is_some_and(|name| !name.contains(char::is_control));
        configuration.name = configuration.name.filter(is_text);
        configuration.mac = HardwareAddress::new(&[2, 0, 0, 0, 0, 1]).filter(|_| configuration.mac.is_some());
        configuration.addresses = vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()];
        configuration.routes.truncate(1);
        configuration.routes.iter_mut().for_each(|route| (route.to, route.via) = (IpPrefix::host(route.to.address()), None));
        configuration.routes.retain(|route| !route.to.address().is_multicast());
        configuration.mtu = configuration.mtu.filter(|mtu| *mtu >= 1280);
        // what the text of this test has
        let SandboxConfiguration { name, addresses, mut routes, mtu, mac, inherit, .. } = configuration;
        routes.iter_mut().for_each(|route| {
            (route.table, route.source, route.scope, route.onlink) = (None, None, None, false);
        });
        routes.retain(|route| !route.to.is_everything());
        let configuration = SandboxConfiguration { name, addresses, routes, mtu, mac, inherit, ..SandboxConfiguration::default() };
        let devices = [wanted("dev0", configuration)];
        prop_assert_eq!(parse(&print(&devices)).unwrap(), devices);
    }
}
