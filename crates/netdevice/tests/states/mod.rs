//! Any state of a link and any record, for property tests.
#![allow(dead_code)] // each test program uses a part

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netdevice::{
    Attachment, DeviceId, HardwareAddress, InterfaceName, KernelString, LinkState, Owner, Phase, SandboxConfiguration,
    SandboxInterfaceName,
    acquisition::{ChildKind, Created, HomePlace, Moved},
    configuration::{IpPrefix, SandboxNeighbour, SandboxRoute, SandboxRule, Vrf},
    owner::{Pod, Request},
    record::{Process, SandboxPlace, Viewpoint},
    state::{Address, Attribute, BpfProgram, Neighbour, Route, route_attribute},
};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
};

pub(crate) fn any_name() -> impl Strategy<Value = InterfaceName> {
    vec(any::<u8>(), 1..=15).prop_filter_map("a legal name", |bytes| InterfaceName::new(&bytes).ok())
}

fn any_address() -> impl Strategy<Value = Address> {
    let local = prop_oneof![
        any::<[u8; 4]>().prop_map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes))),
        any::<[u8; 15]>().prop_map(|bytes| {
            let mut address = [0x20; 16];
            address[1..].copy_from_slice(&bytes);
            IpAddr::V6(Ipv6Addr::from(address))
        }),
    ];
    let times = option::of((1..1000u32, 1000..9000u32));
    (local, 0..=32u8, any::<bool>(), option::of(1..99u32), times).prop_map(
        |(local, prefix_len, flag, metric, lifetimes)| Address {
            local,
            prefix_len,
            peer: None,
            broadcast: None,
            scope: 0,
            flags: if flag { 0x200 } else { 0x80 },
            label: None,
            metric,
            protocol: None,
            lifetimes,
        },
    )
}

fn any_route() -> impl Strategy<Value = Route> {
    let gateway = option::of(any::<[u8; 4]>());
    (any::<[u8; 4]>(), 1..=32u8, gateway, 1..300u32, 1..99u32).prop_map(|(to, dst_len, gateway, table, metric)| {
        let mut attributes = vec![
            Attribute { kind: route_attribute::DST, value: to.to_vec() },
            Attribute { kind: route_attribute::PRIORITY, value: metric.to_ne_bytes().to_vec() },
        ];
        attributes.extend(gateway.map(|value| Attribute { kind: route_attribute::GATEWAY, value: value.to_vec() }));
        Route { family: 2, dst_len, src_len: 0, tos: 0, table, protocol: 4, scope: 0, kind: 1, flags: 0, attributes }
    })
}

fn any_neighbour() -> impl Strategy<Value = Neighbour> {
    let what = prop_oneof![Just((2, 0)), Just((2, 8)), Just((7, 2))];
    (any::<[u8; 4]>(), any::<[u8; 6]>(), what).prop_map(|(to, mac, (family, flags))| Neighbour {
        family,
        state: 0x80,
        flags,
        attributes: vec![Attribute { kind: 1, value: to.to_vec() }, Attribute { kind: 2, value: mac.to_vec() }],
    })
}

fn any_text() -> impl Strategy<Value = KernelString> {
    vec(1..=255u8, 1..20).prop_map(|bytes| KernelString::new(&bytes))
}

/// Settings in whole seconds, where seconds are written.
fn any_conf(length: usize) -> impl Strategy<Value = Vec<i32>> {
    vec((-1..5i32).prop_map(|value| if value > 0 { value * 1000 } else { value }), length..=length)
}

/// Any state that the kernel could tell, of a link that is up.
pub(crate) fn any_state() -> impl Strategy<Value = LinkState> {
    let own = (any_name(), 1..99u32, any::<[u8; 6]>(), option::of(any_text()), vec(any_text(), 0..4), 68..9000u32);
    let on_it = (vec(any_address(), 0..5), vec(any_route(), 0..5), vec(any_neighbour(), 0..3));
    let flags = prop::bits::u32::masked(0x80 | 0x100 | 0x200 | 0x1000);
    (own, on_it, flags, any_conf(33), any_conf(60), 0..5000u32, option::of(1..9u32)).prop_map(
        |(
            (name, index, mac, alias, mut altnames, mtu),
            (mut addresses, routes, neighbours),
            flags,
            ipv4_conf,
            ipv6_conf,
            txqlen,
            master,
        )| {
            altnames.sort_by_key(|name| name.as_bytes().to_vec());
            altnames.dedup();
            // the kernel tells IPv4 addresses first
            addresses.sort_by_key(|address| address.local.is_ipv6());
            LinkState {
                name,
                index,
                kind: Some("dummy".into()),
                flags: flags | 1,
                mac: HardwareAddress::new(&mac),
                permanent_mac: None,
                parent_device: None,
                alias,
                altnames,
                mtu,
                txqlen,
                group: txqlen % 7,
                offload_sizes: [(41, txqlen % 3), (58, mtu)].into(),
                macvlan_mode: Some(txqlen % 5),
                attributes: [17, 39, 26].map(|kind| Attribute { kind, value: vec![mac[1] % 2] }).into(),
                info_data: vec![Attribute { kind: 5, value: vec![mac[2] % 3] }],
                master,
                master_name: None,
                parent: None,
                link_netnsid: None,
                netns_immutable: None,
                addresses,
                routes_from: routes.first().cloned().filter(|_| flags & 1 != 0).into_iter().collect(),
                routes_unseen: mtu % 2 == 0,
                routes,
                neighbours,
                ipv4_conf,
                ipv6_conf,
                addr_gen_mode: Some(0),
                sysctls: [("ipv4/neigh/gc_stale_time".to_owned(), mtu.to_string())].into(),
                ethtool: vec![Attribute { kind: 0x3a, value: mac.to_vec() }],
                files: Some([("queues/rx-0/rps_cpus".to_owned(), "1".to_owned())].into()),
                qdisc: Some("tbf".to_owned()),
                objects: vec![Attribute { kind: 36, value: mac.to_vec() }],
                hardware: None,
                xdp: false,
                xdp_programs: [(6, txqlen)].into(),
                programs: (flags & 2 != 0).then(|| vec![BpfProgram { attach_type: 46, program: mtu, link: txqlen }]),
                sysfs_inode: Some(u64::from(mtu)),
                promiscuity: 0,
                read_at: 7,
            }
        },
    )
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    any_address().prop_map(|address| address.local)
}

fn any_prefix() -> impl Strategy<Value = IpPrefix> {
    (any_ip(), 0..=128u8).prop_map(|(address, len)| IpPrefix::new(address, len).unwrap_or(IpPrefix::host(address)))
}

fn any_sandbox_name() -> impl Strategy<Value = SandboxInterfaceName> {
    any_name().prop_filter_map("a name for a sandbox", |name| SandboxInterfaceName::try_from(name).ok())
}

/// Any configuration that the types allow, also one that no annotation can ask for.
pub(crate) fn any_configuration() -> impl Strategy<Value = SandboxConfiguration> {
    let table = || option::of(256..u32::MAX);
    let route =
        (any_prefix(), option::of(any_ip()), option::of(any::<u32>()), table(), option::of(any_ip()), any::<bool>());
    let route = route.prop_map(|(to, via, metric, table, source, onlink)| SandboxRoute {
        to,
        via,
        metric,
        table,
        source,
        scope: onlink.then_some(0),
        onlink,
    });
    let rule = (1..32766u32, option::of(any_prefix()), option::of(any_prefix()), any::<u32>());
    let rule = rule.prop_map(|(priority, from, to, table)| SandboxRule { priority, from, to, table });
    let neighbour = (any_ip(), any::<[u8; 6]>()).prop_filter_map("6 bytes", |(address, mac)| {
        Some(SandboxNeighbour { address, mac: HardwareAddress::new(&mac)? })
    });
    let neighbours = vec(neighbour, 0..3).prop_map(|mut all| {
        all.dedup_by_key(|neighbour| neighbour.address);
        all.truncate(1);
        all
    });
    let vrf = (any_sandbox_name(), any::<u32>()).prop_map(|(name, table)| Vrf { name, table });
    let sizes = btree_map(prop_oneof![Just(41u16), Just(58), Just(63), Just(64)], any::<u32>(), 0..4);
    let switches = || btree_map("[ -~]{1,31}", prop_oneof![Just("on".to_owned()), Just("off".into())], 0..3);
    let more = (vec(rule, 0..3), neighbours, option::of(vrf), option::of(any::<u32>()), sizes, switches(), switches());
    let mac = any::<[u8; 6]>().prop_filter_map("6 bytes", |bytes| HardwareAddress::new(&bytes));
    (
        option::of(any_sandbox_name()),
        vec(any_prefix(), 0..4),
        vec(route, 0..4),
        option::of(68..65536u32),
        option::of(mac),
        any::<bool>(),
        more,
    )
        .prop_map(|(name, addresses, routes, mtu, mac, inherit, more)| {
            let (rules, neighbours, vrf, tx_queue_length, offload_sizes, features, private_flags) = more;
            SandboxConfiguration {
                name,
                addresses,
                routes,
                mtu,
                mac,
                inherit,
                rules,
                neighbours,
                vrf,
                sysctls: BTreeMap::new(),
                tx_queue_length,
                offload_sizes,
                features,
                private_flags,
            }
        })
}

pub(crate) fn any_owner() -> impl Strategy<Value = Owner> {
    let request = prop_oneof![
        Just(Request::Annotation),
        Just(Request::Command),
        any::<bool>().prop_map(|named| Request::Networks {
            network: "default/net".into(),
            interface: if named { "net1" } else { "" }.into(),
        }),
    ];
    let word = || "\\PC{1,20}";
    (0..3u8, word(), option::of(word()), option::of(word()), request).prop_map(|(kind, id, sandbox, pod, by)| {
        let pod = pod.map(|uid| Pod { namespace: id.clone(), name: id.clone(), uid });
        match kind {
            0 => Owner::Container { id, sandbox, pod },
            1 => Owner::Sandbox { id, pod, by },
            _ => Owner::Claim { uid: id.clone(), namespace: id.clone(), name: id.clone(), request: id, sandbox, pod },
        }
    })
}

pub(crate) fn any_record() -> impl Strategy<Value = Attachment> {
    let phase = prop_oneof![Just(Phase::Attaching), Just(Phase::Attached), Just(Phase::Detaching)];
    let asked = (any_owner(), option::of(any_configuration()));
    (any_state(), any_name(), phase, any::<u64>(), "\\PC{1,20}", any::<(bool, bool)>(), asked).prop_map(
        |(host, inside, phase, cookie, word, (is_given, is_created), (owner, configuration))| Attachment {
            device: DeviceId::from(&host.name),
            resource: is_given.then(Default::default),
            phase,
            owner,
            process: is_given.then_some(Process { pid: 7, start_time: cookie }),
            sandbox: SandboxPlace {
                cookie,
                inode: cookie / 2,
                nsid: is_given.then_some(3),
                seen_from: Viewpoint { pid_namespace: cookie, mount_namespace: 2 },
                paths: vec![word],
                name: inside.clone(),
                ifindex: host.index,
            },
            configuration,
            acquired: if is_created {
                let kind = ChildKind::Vlan { id: 7.try_into().unwrap() };
                Created { parent: inside, parent_index: 3, kind }.into()
            } else {
                let home = (phase == Phase::Detaching).then_some(HomePlace { name: inside, ifindex: 3 });
                Moved { host, home }.into()
            },
            quarantined: (phase == Phase::Detaching && is_given).then(|| "a reason".into()),
            since: 1,
        },
    )
}
