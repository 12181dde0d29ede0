//! Configurations as they are written: any of those that are accepted by themselves.

use proptest::{collection::vec, option, prelude::*};
use serde_json::{Map, Value, json};

/// A field's names in the annotation and in a claim, and its values.
type Written = (&'static str, &'static str, Option<Value>);

/// Fields with valid values, each of which may be missing.
pub(crate) fn any_fields() -> impl Strategy<Value = Vec<Written>> {
    let address = prop_oneof!["10\\.0\\.0\\.[1-9]/24", "2001:db8::[1-9]/64"];
    let addresses = vec(address, 0..4).prop_map(|mut list: Vec<String>| {
        list.sort();
        list.dedup();
        json!(list)
    });
    let route = ("10\\.[1-9]\\.0\\.0/16", option::of("10\\.0\\.0\\.[1-9]"), option::of(any::<u32>()));
    let routes = vec(route, 0..4).prop_map(|mut list| {
        list.sort();
        list.dedup_by(|a, b| a.0 == b.0);
        let one = |(to, via, metric)| json!({"to": to, "via": via, "metric": metric});
        Value::from(list.into_iter().map(one).collect::<Vec<Value>>())
    });
    let text = |pattern: &'static str| pattern.prop_map(Value::from);
    let number = |range: std::ops::RangeInclusive<u32>| range.prop_map(Value::from).boxed();
    let rule = ("10\\.0\\.[1-9]\\.0/24", option::of(1..32766u32), 256..1000u32);
    let rules = vec(rule, 0..3).prop_map(|mut list| {
        list.sort();
        list.dedup();
        list.into_iter()
            .map(|(from, priority, table)| json!({"from": from, "priority": priority, "table": table}))
            .collect()
    });
    let neighbours = option::of("10\\.0\\.0\\.[1-9]").prop_map(|address| match address {
        Some(address) => json!([{"address": address, "mac": "02:00:00:00:00:01"}]),
        None => json!([]),
    });
    let vrf = (256..1000u32).prop_map(|table| json!({"name": "blue", "table": table}));
    let sysctls = (0..=2u32, option::of(0..=1u32)).prop_map(|(announce, ra)| {
        json!({"net.ipv4.conf.arp_announce": announce, "net.ipv6.conf.accept_ra": ra, "net.ipv4.neigh.gc_stale_time": 60})
    });
    let ethtool = (any::<bool>(), option::of(any::<bool>()))
        .prop_map(|(tso, flag)| json!({"features": {"tso": tso}, "private_flags": {"link-down-on-close": flag}}));
    let list: Vec<(&str, &str, BoxedStrategy<Value>)> = vec![
        ("rules", "rules", rules.boxed()),
        ("neighbours", "neighbours", neighbours.boxed()),
        ("vrf", "vrf", vrf.boxed()),
        ("sysctls", "sysctls", sysctls.boxed()),
        ("tx_queue_length", "txQueueLength", number(0..=10_000)),
        ("gso_max_size", "gsoMaxSize", number(4096..=65536)),
        ("gro_max_size", "groMaxSize", number(1..=65536)),
        ("gso_ipv4_max_size", "gsoIPv4MaxSize", number(4096..=65536)),
        ("gro_ipv4_max_size", "groIPv4MaxSize", number(1..=65536)),
        ("ethtool", "ethtool", ethtool.boxed()),
        ("new_name", "name", text("net[0-9]{1,3}").boxed()),
        ("addresses", "addresses", addresses.boxed()),
        ("routes", "routes", routes.boxed()),
        ("mtu", "mtu", (68..=65535u32).prop_map(Value::from).boxed()),
        ("mac", "mac", text("02:00:00:00:0[0-9]:[0-9a-f]{2}").boxed()),
        ("inherit", "inherit", any::<bool>().prop_map(Value::from).boxed()),
    ];
    let fields = list
        .into_iter()
        .map(|(annotation, claim, value)| option::of(value).prop_map(move |value| (annotation, claim, value)).boxed());
    fields.collect::<Vec<_>>()
}

fn object(fields: &[Written], name: impl Fn(&Written) -> &'static str) -> Value {
    let there = fields.iter().filter_map(|field| Some((name(field).to_owned(), field.2.clone()?)));
    there.collect::<Map<_, _>>().into()
}

/// The fields as a claim has them.
pub(crate) fn camel_case(fields: &[Written]) -> Value {
    let text = object(fields, |field| field.1).to_string();
    serde_json::from_str(&text.replace("private_flags", "privateFlags")).unwrap()
}

/// The fields as the annotation has them.
pub(crate) fn snake_case(fields: &[Written]) -> Value {
    object(fields, |field| field.0)
}
