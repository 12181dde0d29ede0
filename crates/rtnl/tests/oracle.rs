//! Our encoders and parsers beside those of `netlink-packet-route`: what one writes, the other reads.

#![allow(clippy::unwrap_used)] // tests, in functions of their own

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netdevice::{
    HardwareAddress, InterfaceName, KernelString,
    acquisition::{ChildKind, IpvlanMode, MacvlanMode},
    link::flags as link_flags,
    snapshot::{DefaultRoute, Family},
    state::{self, Address, Attribute, Route, route_attribute},
};
use netlink_packet_core::{Emitable, NetlinkHeader, NetlinkMessage, NetlinkPayload, Parseable};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Oracle,
    address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo},
    link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVlan,
        InfoVxlan, IpVlanMode, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, LinkXdp, MacVlanMode,
        Prop, XdpAttached,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteProtocol, RouteScope, RouteType,
    },
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use proptest::{collection::vec, option, prelude::*};
use rtnl::{
    Batch, address, link,
    message::{flags, kind},
    messages, neighbour, route, rule,
};

/// What the oracle reads in a batch: header and message of each request.
fn read(batch: Batch) -> Vec<(NetlinkHeader, Oracle)> {
    let bytes = batch.into_bytes(0);
    let mut rest = &bytes[..];
    let mut read = Vec::new();
    while !rest.is_empty() {
        let message = NetlinkMessage::<Oracle>::deserialize(rest).unwrap();
        rest = &rest[message.header.length as usize..];
        let NetlinkPayload::InnerMessage(inner) = message.payload else { panic!("{:?}", message.payload) };
        read.push((message.header, inner));
    }
    read
}

/// The one request of a batch, after a look at its kind, flags and number.
fn read_one(batch: Batch, kind: u16, message_flags: u16) -> Oracle {
    let mut read = read(batch);
    let (header, message) = read.pop().unwrap();
    assert!(read.is_empty());
    assert_eq!((header.message_type, header.flags), (kind, message_flags | flags::REQUEST));
    assert_eq!(header.sequence_number, 1);
    message
}

/// The bytes that the oracle makes of a message, and of nothing else.
fn write(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

#[test]
fn requests_of_a_batch_are_numbered_in_their_order() {
    let mut batch = Batch::new();
    link::get_by_index(&mut batch, 1);
    link::get_by_name(&mut batch, b"odd");
    link::get_by_index(&mut batch, 3);
    let bytes = batch.into_bytes(u32::MAX);
    let numbers: Vec<u32> = messages(&bytes).map(|message| message.unwrap().sequence).collect();
    assert_eq!(numbers, [0, 1, 2]);
}

#[test]
fn links_are_asked_for() {
    let without_counters = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    let mut all = Batch::new();
    link::dump(&mut all);
    let Oracle::GetLink(asked) = read_one(all, kind::GETLINK, flags::DUMP) else { panic!() };
    assert_eq!((asked.header.index, asked.attributes), (0, vec![without_counters.clone()]));

    let mut named = Batch::new();
    link::get_by_name(&mut named, "eth0".as_bytes());
    let Oracle::GetLink(asked) = read_one(named, kind::GETLINK, 0) else { panic!() };
    assert_eq!(asked.attributes, [LinkAttribute::IfName("eth0".into()), without_counters.clone()]);

    let mut one = Batch::new();
    link::get_by_index(&mut one, 7);
    let Oracle::GetLink(asked) = read_one(one, kind::GETLINK, 0) else { panic!() };
    assert_eq!((asked.header.index, asked.attributes), (7, vec![without_counters]));
}

#[test]
fn links_are_changed() {
    let mut batch = Batch::new();
    link::set(&mut batch, 7, link_flags::UP, link_flags::UP | link_flags::NOARP)
        .u32(link::attribute::MTU, 9000)
        .string(link::attribute::IFNAME, b"eth1")
        .string(link::attribute::IFALIAS, b"")
        .u32(link::attribute::NET_NS_FD, 5);
    let Oracle::SetLink(set) = read_one(batch, kind::SETLINK, flags::ACK) else { panic!() };
    assert_eq!((set.header.index, set.header.flags), (7, LinkFlags::Up));
    assert_eq!(set.header.change_mask, LinkFlags::Up | LinkFlags::Noarp);
    let expected = [
        LinkAttribute::Mtu(9000),
        LinkAttribute::IfName("eth1".into()),
        LinkAttribute::IfAlias(String::new()),
        LinkAttribute::NetNsFd(5),
    ];
    assert_eq!(set.attributes, expected);
}

#[test]
fn alternative_names_are_added_and_removed() {
    let expected = [LinkAttribute::PropList(vec![Prop::AltIfName("a-name".into())])];
    let (mut added, mut removed) = (Batch::new(), Batch::new());
    link::add_altname(&mut added, 7, b"a-name");
    link::remove_altname(&mut removed, 7, b"a-name");
    let create = flags::ACK | flags::CREATE | flags::EXCL | flags::APPEND;
    for (batch, kind, how) in [(added, kind::NEWLINKPROP, create), (removed, kind::DELLINKPROP, flags::ACK)] {
        let bytes = batch.into_bytes(0);
        let message = messages(&bytes).next().unwrap().unwrap();
        assert_eq!((message.kind, message.flags), (kind, how | flags::REQUEST));
        // the oracle knows the message's shape, not its kind
        let read = LinkMessage::parse(message.payload).unwrap();
        assert_eq!((read.header.index, &read.attributes[..]), (7, &expected[..]));
    }
}

#[test]
fn links_are_created_on_others() {
    let macvlan = |mode, data| {
        let data = InfoData::MacVlan(vec![InfoMacVlan::Mode(data)]);
        (ChildKind::Macvlan { mode }, InfoKind::MacVlan, data)
    };
    let ipvlan =
        |mode, data| (ChildKind::Ipvlan { mode }, InfoKind::IpVlan, InfoData::IpVlan(vec![InfoIpVlan::Mode(data)]));
    let cases = [
        macvlan(MacvlanMode::Private, MacVlanMode::Private),
        macvlan(MacvlanMode::Vepa, MacVlanMode::Vepa),
        macvlan(MacvlanMode::Bridge, MacVlanMode::Bridge),
        ipvlan(IpvlanMode::L2, IpVlanMode::L2),
        ipvlan(IpvlanMode::L3, IpVlanMode::L3),
        ipvlan(IpvlanMode::L3s, IpVlanMode::L3S),
        (ChildKind::Vlan { id: 7.try_into().unwrap() }, InfoKind::Vlan, InfoData::Vlan(vec![InfoVlan::Id(7)])),
    ];
    for (child, kind, data) in cases {
        let mut batch = Batch::new();
        link::create(&mut batch, 1 << 30, 2, child).u32(link::attribute::NET_NS_FD, 5);
        let created = read_one(batch, kind::NEWLINK, flags::ACK | flags::CREATE | flags::EXCL);
        let Oracle::NewLink(created) = created else { panic!("{created:?}") };
        let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]);
        assert_eq!(created.header.index, 1 << 30);
        assert_eq!(created.attributes, [LinkAttribute::Link(2), info, LinkAttribute::NetNsFd(5)]);
    }
}

#[test]
fn the_mode_of_a_macvlan_is_changed_and_read() {
    let mut batch = Batch::new();
    link::set_macvlan_mode(&mut batch, 7, "macvlan", 4);
    let Oracle::NewLink(mut message) = read_one(batch, kind::NEWLINK, flags::ACK) else { panic!() };
    let expected = [
        LinkInfo::Kind(InfoKind::MacVlan),
        LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)])),
    ];
    assert_eq!((message.header.index, &message.attributes[..]), (7, &[LinkAttribute::LinkInfo(expected.into())][..]));
    message.attributes.push(LinkAttribute::IfName("mv0".into()));
    assert_eq!(link::parse(&write(&message)).unwrap().to_state().unwrap().macvlan_mode, Some(4));
}

#[test]
fn a_link_is_deleted_by_its_index() {
    let mut batch = Batch::new();
    link::delete(&mut batch, 7);
    let Oracle::DelLink(read) = read_one(batch, kind::DELLINK, flags::ACK) else { panic!() };
    assert_eq!((read.header.index, read.attributes), (7, vec![]));
}

#[test]
fn lists_of_addresses_routes_neighbours_and_rules_are_asked_for() {
    let mut batch = Batch::new();
    address::dump(&mut batch, 7);
    let Oracle::GetAddress(asked) = read_one(batch, kind::GETADDR, flags::DUMP) else { panic!() };
    assert_eq!((asked.header.index, asked.attributes), (7, vec![]));

    let mut batch = Batch::new();
    route::dump(&mut batch, route::IPV6, 7);
    let Oracle::GetRoute(asked) = read_one(batch, kind::GETROUTE, flags::DUMP) else { panic!() };
    assert_eq!(asked.header.address_family, AddressFamily::Inet6);
    assert_eq!(asked.attributes, [RouteAttribute::Oif(7)]);

    let mut batch = Batch::new();
    neighbour::dump(&mut batch, 7, neighbour::List::Neighbours);
    let Oracle::GetNeighbour(asked) = read_one(batch, kind::GETNEIGH, flags::DUMP) else { panic!() };
    assert_eq!(asked.attributes, [NeighbourAttribute::IfIndex(7)]);

    let mut batch = Batch::new();
    rule::dump(&mut batch, route::IPV4);
    let Oracle::GetRule(asked) = read_one(batch, kind::GETRULE, flags::DUMP) else { panic!() };
    assert_eq!((asked.header.family, asked.attributes), (AddressFamily::Inet, vec![]));
}

#[test]
fn a_links_message_is_read() {
    let mut message = LinkMessage::default();
    message.header.index = 7;
    message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    let mut conf = AfSpecInet::DevConf(Default::default());
    if let AfSpecInet::DevConf(conf) = &mut conf {
        conf.forwarding = 1;
        conf.proxy_arp = 2;
    }
    message.attributes = vec![
        LinkAttribute::IfName("eth0.7".into()),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
        LinkAttribute::PermAddress(vec![2, 0, 0, 0, 0, 2]),
        LinkAttribute::Mtu(1400),
        LinkAttribute::TxQueueLen(500),
        LinkAttribute::GsoMaxSize(30_000),
        LinkAttribute::GsoMaxSegs(60),
        LinkAttribute::Group(3),
        LinkAttribute::Controller(9),
        LinkAttribute::Link(2),
        LinkAttribute::IfAlias("rack 7".into()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan)]),
        LinkAttribute::PropList(vec![Prop::AltIfName("one".into()), Prop::AltIfName("two".into())]),
        LinkAttribute::AfSpecUnspec(vec![
            AfSpecUnspec::Inet(vec![conf]),
            AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::StablePrivacy)]),
        ]),
        LinkAttribute::Xdp(vec![LinkXdp::Attached(XdpAttached::SocketBuffer)]),
    ];
    let bytes = write(&message);
    let read = link::parse(&bytes).unwrap();
    assert_eq!((read.index, read.family), (7, 0));
    assert!(!read.is_partial());
    let found = read.to_link().unwrap();
    assert!(found.is_up() && found.has_carrier() && !found.is_loopback());
    assert_eq!((found.name.to_str(), found.mtu), (Some("eth0.7"), 1400));
    assert_eq!((found.master, found.parent, found.link_netnsid), (Some(9), Some(2), None));
    assert_eq!(found.mac, HardwareAddress::new(&[2, 0, 0, 0, 0, 1]));
    assert_eq!(found.alias, Some(KernelString::new(b"rack 7")));
    assert_eq!(found.kind.as_deref(), Some("vlan"));
    assert_eq!(*found.altnames, [KernelString::new(b"one"), KernelString::new(b"two")]);
    let state = read.to_state().unwrap();
    assert!(state.xdp);
    assert_eq!((state.txqlen, state.group, state.addr_gen_mode), (500, 3, Some(2)));
    assert_eq!(state.permanent_mac, HardwareAddress::new(&[2, 0, 0, 0, 0, 2]));
    assert_eq!(&state.ipv4_conf[..3], [1, 0, 2]);
    assert_eq!(state.offload_sizes, [(40, 60), (41, 30_000)].into());
    assert_eq!(state.macvlan_mode, None);
}

#[test]
fn a_link_below_in_another_namespace_is_no_parent() {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName("a".into()), LinkAttribute::Link(2), LinkAttribute::LinkNetNsId(0)];
    let bytes = write(&message);
    let found = link::parse(&bytes).unwrap();
    assert_eq!(found.to_link().unwrap().parent, None);
    assert_eq!(found.to_link().unwrap().link_netnsid, Some(0));
    assert_eq!(found.to_state().unwrap().parent, Some(2));
}

#[test]
fn what_a_vxlan_is_built_on_is_told_among_its_own_data() {
    let vxlan = |attributes: Vec<LinkAttribute>| {
        let data = LinkInfo::Data(InfoData::Vxlan(vec![InfoVxlan::Id(7), InfoVxlan::Link(3)]));
        let mut message = LinkMessage::default();
        message.header.index = 8;
        message.attributes = vec![LinkAttribute::IfName("vx0".into())];
        message.attributes.extend(attributes);
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), data]));
        let bytes = write(&message);
        let read = link::parse(&bytes).unwrap();
        (read.to_link().unwrap().parent, read.to_state().unwrap().parent)
    };
    assert_eq!(vxlan(Vec::new()), (Some(3), Some(3)));
    // moved: `LINK` is its own index, and the link below is one of the namespace that it was made in
    assert_eq!(vxlan(vec![LinkAttribute::Link(8), LinkAttribute::LinkNetNsId(0)]).0, None);
}

#[test]
fn links_that_the_kernel_does_not_move_are_told() {
    let told = |hardware_type: u16, attributes: &[(u16, &[u8])]| {
        let mut bytes = vec![0; 16];
        bytes[2..4].copy_from_slice(&hardware_type.to_ne_bytes());
        bytes[4] = 7;
        for (kind, value) in [(3, &b"x0\0\0"[..])].iter().chain(attributes) {
            bytes.extend((4 + value.len() as u16).to_ne_bytes().into_iter().chain(kind.to_ne_bytes()));
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let read = link::parse(&bytes).unwrap();
        let link = read.to_link().unwrap();
        assert_eq!(read.to_state().unwrap().netns_immutable, link.netns_immutable);
        link.netns_immutable
    };
    let (immutable, switch_id, port_name) = (67, 36, 38);
    let is_switch = (switch_id, &b"\x01\x02"[..]);
    assert_eq!(told(1, &[]), None, "before Linux 6.15 the kernel says nothing");
    assert_eq!(told(1, &[(immutable, &[0])]), Some(false));
    assert_eq!(told(1, &[(immutable, &[1])]), Some(true));
    for port in ["pf0vf1", "pf0", "c1pf0vf0", "pf1sf88"] {
        assert_eq!(told(1, &[is_switch, (port_name, port.as_bytes())]), Some(true), "representor {port}");
        assert_eq!(told(1, &[is_switch, (immutable, &[0]), (port_name, port.as_bytes())]), Some(false));
        assert_eq!(told(1, &[(port_name, port.as_bytes())]), None);
    }
    assert_eq!(told(1, &[is_switch, (port_name, b"p0\0")]), None, "a socket of the card");
    assert_eq!(told(779, &[]), Some(true), "pimreg");
}

#[test]
fn a_rule_leads_to_a_table_of_one_byte_or_of_four() {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.table = 100;
    message.header.action = RuleAction::ToTable;
    assert_eq!(rule::reached_table(&write(&message)), Some((Family::V6, 100)));
    message.attributes = vec![RuleAttribute::Priority(5), RuleAttribute::Table(70_000)];
    assert_eq!(rule::reached_table(&write(&message)), Some((Family::V6, 70_000)));
    message.header.action = RuleAction::Unreachable;
    assert_eq!(rule::reached_table(&write(&message)), None);
}

#[test]
fn default_routes_are_found_with_each_next_hop() {
    let hop = |link, gateway: [u8; 4]| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = link;
        hop.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway.into()))];
        hop
    };
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.kind = RouteType::Unicast;
    message.header.table = 254;
    let hops = vec![hop(3, [10, 0, 0, 1]), hop(2, [10, 0, 1, 1]), hop(3, [10, 0, 0, 2])];
    message.attributes = vec![RouteAttribute::Priority(5), RouteAttribute::MultiPath(hops)];
    let found = |link, table| DefaultRoute { family: Family::V4, table, metric: 5, link };
    assert_eq!(route::default_routes(&write(&message)), [found(2, 254), found(3, 254)]);
    message.attributes.push(RouteAttribute::Table(70_000));
    assert_eq!(route::default_routes(&write(&message)), [found(2, 70_000), found(3, 70_000)]);
    assert_eq!(route::default_route_by_object(&write(&message)), None);
    message.attributes.push(RouteAttribute::NhId(9));
    let by_object = route::default_route_by_object(&write(&message)).unwrap();
    assert_eq!((by_object.object, by_object.through(2)), (9, found(2, 70_000)));
    let everywhere = |message: &RouteMessage| route::family_of_default(&write(message));
    assert_eq!(everywhere(&message), Some(Family::V4));
    for not_unicast in [RouteType::BlackHole, RouteType::Unreachable, RouteType::Throw] {
        message.header.kind = not_unicast;
        assert_eq!((route::default_routes(&write(&message)), everywhere(&message)), (vec![], Some(Family::V4)));
    }
    message.header.kind = RouteType::Unicast;
    message.header.flags = RouteFlags::Cloned;
    assert_eq!((route::default_routes(&write(&message)), everywhere(&message)), (vec![], None));
    message.header.flags = RouteFlags::empty();
    message.header.destination_prefix_length = 1;
    assert_eq!((route::default_routes(&write(&message)), everywhere(&message)), (vec![], None));
}

fn any_ip(is_ipv4: bool) -> BoxedStrategy<IpAddr> {
    if is_ipv4 {
        any::<Ipv4Addr>().prop_map(IpAddr::V4).boxed()
    } else {
        any::<Ipv6Addr>().prop_map(IpAddr::V6).boxed()
    }
}

prop_compose! {
    fn any_address()(is_ipv4 in any::<bool>())(
        local in any_ip(is_ipv4),
        peer in option::of(any_ip(is_ipv4)),
        broadcast in option::of(any::<Ipv4Addr>()).prop_filter("IPv4 only", move |it| is_ipv4 || it.is_none()),
        label in option::of("[a-z]{1,15}").prop_filter("IPv4 only", move |it| is_ipv4 || it.is_none()),
        prefix_len in 0u8..=32,
        scope in any::<u8>(),
        flags in 0u32..0x1000,
        metric in option::of(any::<u32>()),
        protocol in option::of(any::<u8>()),
        lifetimes in option::of((any::<u32>(), 0..u32::MAX)),
    ) -> Address {
        Address {
            local, prefix_len, scope, flags, metric, protocol, lifetimes,
            peer: peer.filter(|peer| *peer != local),
            broadcast: broadcast.map(IpAddr::V4),
            label: label.map(|label| KernelString::new(label.as_bytes())),
        }
    }
}

prop_compose! {
    fn any_route()(is_ipv4 in any::<bool>())(
        destination in option::of(any_ip(is_ipv4)),
        gateway in option::of(any_ip(is_ipv4)),
        metric in option::of(any::<u32>()),
        is_ipv4 in Just(is_ipv4),
        table in any::<u32>(),
        tos in any::<u8>(),
        protocol in any::<u8>(),
        scope in any::<u8>(),
        flags in any::<u32>(),
        link in any::<u32>(),
    ) -> Route {
        let address = |kind, address: Option<IpAddr>| address.map(|address| Attribute { kind, value: match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }});
        let number = |kind, number: Option<u32>| {
            number.map(|number| Attribute { kind, value: number.to_ne_bytes().to_vec() })
        };
        let attributes = [
            address(route_attribute::DST, destination),
            address(route_attribute::GATEWAY, gateway),
            number(route_attribute::PRIORITY, metric),
            number(route_attribute::OIF, Some(link)),
        ];
        Route {
            family: if is_ipv4 { route::IPV4 } else { route::IPV6 },
            dst_len: if destination.is_some() { 24 } else { 0 },
            src_len: 0, tos, table, protocol, scope, kind: state::ROUTE_UNICAST, flags,
            attributes: attributes.into_iter().flatten().collect(),
        }
    }
}

/// Attributes of the oracle in an order of their own, so that ours need none.
fn sorted<T: std::fmt::Debug>(attributes: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut sorted: Vec<String> = attributes.into_iter().map(|attribute| format!("{attribute:?}")).collect();
    sorted.sort();
    sorted
}

fn as_oracle(address: &Address) -> Vec<AddressAttribute> {
    let broadcast = match address.broadcast {
        Some(IpAddr::V4(broadcast)) => Some(AddressAttribute::Broadcast(broadcast)),
        _ => None,
    };
    let times = |(ifa_preferred, ifa_valid)| {
        let mut times = CacheInfo::default();
        (times.ifa_preferred, times.ifa_valid) = (ifa_preferred, ifa_valid);
        AddressAttribute::CacheInfo(times)
    };
    let attributes = [
        Some(AddressAttribute::Local(address.local)),
        Some(AddressAttribute::Address(address.peer.unwrap_or(address.local))),
        Some(AddressAttribute::Flags(AddressFlags::from_bits_retain(address.flags))),
        broadcast,
        address.label.as_ref().map(|label| AddressAttribute::Label(label.to_string())),
        address.metric.map(AddressAttribute::RoutePriority),
        address.protocol.map(|protocol| AddressAttribute::Protocol(protocol.into())),
        address.lifetimes.map(times),
    ];
    attributes.into_iter().flatten().collect()
}

proptest! {
    #[test]
    fn addresses_are_added_and_removed(given in any_address(), index in any::<u32>(), replace in any::<bool>()) {
        let (existing, how) = match replace {
            true => (address::Existing::Replace, flags::REPLACE),
            false => (address::Existing::Keep, flags::EXCL),
        };
        let mut batch = Batch::new();
        address::add(&mut batch, index, &given, given.flags, existing);
        let message = read_one(batch, kind::NEWADDR, flags::ACK | flags::CREATE | how);
        let Oracle::NewAddress(added) = message else { panic!("{message:?}") };
        prop_assert_eq!(added.header.index, index);
        prop_assert_eq!(added.header.prefix_len, given.prefix_len);
        prop_assert_eq!(u8::from(added.header.scope), given.scope);
        prop_assert_eq!(added.header.family == AddressFamily::Inet, given.local.is_ipv4());
        prop_assert_eq!(sorted(&added.attributes), sorted(as_oracle(&given)));

        let mut batch = Batch::new();
        address::remove(&mut batch, index, &given);
        let message = read_one(batch, kind::DELADDR, flags::ACK);
        let Oracle::DelAddress(removed) = message else { panic!("{message:?}") };
        prop_assert_eq!((removed.header.index, removed.header.prefix_len), (index, given.prefix_len));
        prop_assert_eq!(sorted(&removed.attributes), sorted(&as_oracle(&given)[..2]));
    }

    #[test]
    fn addresses_are_read(given in any_address(), index in any::<u32>()) {
        let mut message = AddressMessage::default();
        message.header.family = if given.local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.index = index;
        message.header.prefix_len = given.prefix_len;
        message.header.scope = given.scope.into();
        message.attributes = as_oracle(&given);
        prop_assert_eq!(address::parse(&write(&message)), Ok((index, given)));
    }

    #[test]
    fn routes_are_added_and_removed(given in any_route(), join in any::<bool>()) {
        let (existing, how) = match join {
            true => (route::Existing::Join, flags::APPEND),
            false => (route::Existing::Keep, flags::EXCL),
        };
        let mut batch = Batch::new();
        route::add(&mut batch, &given, existing);
        let message = read_one(batch, kind::NEWROUTE, flags::ACK | flags::CREATE | how);
        let Oracle::NewRoute(added) = message else { panic!("{message:?}") };
        let mut batch = Batch::new();
        route::remove(&mut batch, &given);
        let message = read_one(batch, kind::DELROUTE, flags::ACK);
        let Oracle::DelRoute(removed) = message else { panic!("{message:?}") };
        prop_assert_eq!(&added, &removed);
        let header = &added.header;
        prop_assert_eq!(u8::from(header.address_family), given.family);
        prop_assert_eq!((header.destination_prefix_length, header.tos), (given.dst_len, given.tos));
        prop_assert_eq!(u8::from(header.protocol), given.protocol);
        prop_assert_eq!((u8::from(header.scope), header.kind), (given.scope, RouteType::Unicast));
        prop_assert_eq!(header.flags.bits(), given.flags & state::ROUTE_ONLINK);
        prop_assert_eq!(u32::from(header.table), if given.table < 256 { given.table } else { 0 });
        let has = |attribute: RouteAttribute| added.attributes.contains(&attribute);
        let address = |address| match address {
            IpAddr::V4(address) => RouteAddress::Inet(address),
            IpAddr::V6(address) => RouteAddress::Inet6(address),
        };
        prop_assert!(has(RouteAttribute::Table(given.table)));
        prop_assert!(given.destination().is_none_or(|to| has(RouteAttribute::Destination(address(to)))));
        if let Some(gateway) = given.attribute(route_attribute::GATEWAY).and_then(Attribute::as_address) {
            prop_assert!(has(RouteAttribute::Gateway(address(gateway))));
        }
        prop_assert!(given.metric() == 0 || has(RouteAttribute::Priority(given.metric())));
        prop_assert_eq!(added.attributes.len(), given.attributes.len() + 1);

        // what the oracle writes of it, we read back
        let bytes = write(&added);
        let read = route::parse(&bytes).unwrap();
        let flags = given.flags & state::ROUTE_ONLINK;
        prop_assert_eq!(&read, &Route { flags, ..given.clone() });
        let defaults = route::default_routes(&bytes);
        prop_assert_eq!(defaults.len(), usize::from(given.is_default()));
    }

    #[test]
    fn next_hops_are_read_and_given_other_links(hops in vec((any::<u32>(), any::<u8>(), any::<Ipv4Addr>()), 1..5)) {
        let hop = |&(link, hops, gateway): &(u32, u8, Ipv4Addr)| {
            let mut hop = RouteNextHop::default();
            (hop.interface_index, hop.hops) = (link, hops);
            hop.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway))];
            hop
        };
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::MultiPath(hops.iter().map(hop).collect())];
        let mut read = route::parse(&write(&message)).unwrap();
        let value = &mut read.attributes[0].value;
        let links: Vec<u32> = route::next_hops(value).map(|hop| hop.link).collect();
        prop_assert_eq!(links, hops.iter().map(|hop| hop.0).collect::<Vec<_>>());

        *value = route::with_links(value, |link| Some(link.wrapping_add(1)));
        let mut batch = Batch::new();
        route::add(&mut batch, &read, route::Existing::Keep);
        let Oracle::NewRoute(added) = read_one(batch, kind::NEWROUTE, flags::ACK | flags::CREATE | flags::EXCL) else {
            panic!()
        };
        let moved: Vec<_> = hops.iter().map(|(link, hops, gateway)| hop(&(link.wrapping_add(1), *hops, *gateway))).collect();
        prop_assert!(added.attributes.contains(&RouteAttribute::MultiPath(moved)));
    }

    #[test]
    fn neighbours_are_read_and_added(
        destination in any::<Ipv6Addr>(),
        mac in vec(any::<u8>(), 6),
        index in any::<u32>(),
        vlan in option::of(any::<u16>()),
    ) {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Router;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(destination)),
            NeighbourAttribute::LinkLayerAddress(mac.clone()),
        ];
        message.attributes.extend(vlan.map(NeighbourAttribute::Vlan));
        let settable = message.clone();
        message.attributes.push(NeighbourAttribute::Probes(3));
        let (read_index, read) = neighbour::parse(&write(&message)).unwrap();
        prop_assert_eq!((read_index, read.state), (index, state::NEIGHBOUR_PERMANENT));
        prop_assert_eq!(read.destination(), Some(IpAddr::V6(destination)));

        let mut batch = Batch::new();
        neighbour::add(&mut batch, index, &read);
        let written = read_one(batch, kind::NEWNEIGH, flags::ACK | flags::CREATE | flags::REPLACE);
        prop_assert_eq!(written, Oracle::NewNeighbour(settable));
    }

    #[test]
    fn any_name_is_asked_for_and_read_as_bytes(bytes in vec(1u8.., 1..16)) {
        let mut batch = Batch::new();
        link::get_by_name(&mut batch, &bytes);
        let asked = batch.into_bytes(0);
        let message = messages(&asked).next().unwrap().unwrap();
        let name = link::parse(message.payload).unwrap().to_link().map(|link| link.name);
        prop_assert_eq!(name, InterfaceName::new(&bytes).ok());
    }

    #[test]
    fn any_payload_is_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
    }

    /// Random bytes are seldom attributes: these are, with wrong lengths here and there.
    #[test]
    fn any_attributes_are_read_or_refused(
        header in vec(any::<u8>(), 8..17),
        attributes in vec((0u16..60, vec(any::<u8>(), 0..24), -4i16..4), 0..12),
    ) {
        let mut bytes = header;
        for (kind, value, wrong) in attributes {
            let length = (4 + value.len()) as i16;
            bytes.extend(length.saturating_add(if wrong.abs() < 2 { wrong } else { 0 }).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        read_all(&bytes);
    }
}

/// Every parser on the same payload.
fn read_all(payload: &[u8]) {
    if let Ok(link) = link::parse(payload) {
        let _ = (link.to_link(), link.to_state(), link.is_partial());
    }
    let _ = address::parse(payload);
    let _ = neighbour::parse(payload);
    let _ = (rule::reached_table(payload), route::default_routes(payload), route::family_of_default(payload));
    let _ = (route::default_route_by_object(payload), rtnl::nexthop::parse(payload), rtnl::nsid::parse(payload));
    let _ = route::next_hops(payload).count();
    let _ = route::with_links(payload, Some);
    if let Ok(route) = route::parse(payload) {
        let _ = (route.to_string(), route.has_gateway(), route.metric());
    }
}
