//! Sequences of messages as the kernel sends them, as bytes.

use netdevice::{InterfaceName, link::VirtualFunction};
use proptest::prelude::*;
use rtnl::{Batch, Request, link::attribute, messages};

use super::*;

const MAIN: u32 = 254;
const BRIDGE_FAMILY: u8 = 7;

/// A message under construction.
struct Told(Batch);

impl Told {
    fn new(kind: u16, message_flags: u16, header: &[u8], fill: impl FnOnce(&mut Request<'_>)) -> Self {
        let mut batch = Batch::new();
        fill(&mut batch.push(kind, message_flags, header));
        Self(batch)
    }

    fn link(kind: u16, family: u8, index: u32, link_flags: u32, fill: impl FnOnce(&mut Request<'_>)) -> Self {
        let mut header = [0; 16];
        header[0] = family;
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[8..12].copy_from_slice(&link_flags.to_ne_bytes());
        Self::new(kind, 0, &header, fill)
    }

    fn route(kind: u16, message_flags: u16, family: u8, prefix_len: u8, link: u32) -> Self {
        let header = [family, prefix_len, 0, 0, MAIN as u8, 3, 0, 1, 0, 0, 0, 0];
        Self::new(kind, message_flags, &header, |request| _ = request.u32(4, link))
    }

    fn rule(kind: u16, family: u8, table: u32) -> Self {
        Self::new(kind, 0, &[family, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], |request| _ = request.u32(15, table))
    }

    fn tell(self, mut hear: impl FnMut(&Message<'_>)) {
        let bytes = self.0.into_bytes(0);
        messages(&bytes).for_each(|message| hear(&message.unwrap()));
    }
}

fn up(index: u32, name: &str) -> Told {
    Told::link(kind::NEWLINK, 0, index, flags::UP, |request| _ = request.string(attribute::IFNAME, name.as_bytes()))
}

fn down(index: u32, name: &str) -> Told {
    Told::link(kind::NEWLINK, 0, index, 0, |request| _ = request.string(attribute::IFNAME, name.as_bytes()))
}

fn gone(index: u32) -> Told {
    Told::link(kind::DELLINK, 0, index, 0, |_| ())
}

fn address(kind: u16, index: u32, local: [u8; 4], prefix_len: u8) -> Told {
    let mut header = [2, prefix_len, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    Told::new(kind, 0, &header, |request| _ = request.attribute(2, &local))
}

fn new_route(family: u8, link: u32) -> Told {
    Told::route(kind::NEWROUTE, 0, family, 0, link)
}

/// A state that has listed these links and default routes (family, link), and the rules of a node as it is installed.
fn listed(links: &[(u32, &str)], routes: &[(u8, u32)]) -> State {
    let mut state = State::new();
    for part in state.stale() {
        state.init();
        let mut hear = |told: Told| told.tell(|message| state.init_apply(part, message));
        match part {
            Part::Links => links.iter().for_each(|(index, name)| hear(up(*index, name))),
            Part::Routes(_) => routes.iter().for_each(|(family, link)| hear(new_route(*family, *link))),
            Part::Addresses | Part::NextHops | Part::Redirects => {}
            Part::Rules(_) => {
                hear(Told::rule(kind::NEWRULE, 2, MAIN));
                hear(Told::rule(kind::NEWRULE, 10, MAIN));
            }
        }
        state.init_done(part);
    }
    assert!(state.stale().is_empty());
    state.next_snapshot(no_hardware);
    state
}

fn no_hardware(_: &Link) -> Option<Hardware> {
    None
}

fn apply(state: &mut State, told: impl IntoIterator<Item = Told>) {
    told.into_iter().for_each(|told| told.tell(|message| state.apply(message)));
}

/// `index name` of each link.
fn names(state: &mut State) -> Vec<String> {
    state.next_snapshot(no_hardware);
    let links = state.snapshot.links().values();
    links.map(|link| format!("{} {}", link.index, link.name)).collect()
}

fn named(state: &State, name: &str) -> Option<u32> {
    let name: InterfaceName = name.parse().unwrap();
    state.snapshot.link_named(&name).map(|link| link.index)
}

#[test]
fn links_appear_change_their_names_and_disappear() {
    let mut state = listed(&[(1, "lo"), (2, "eth0")], &[]);
    apply(&mut state, [up(3, "eth1"), up(2, "uplink"), gone(1), gone(9)]);
    assert_eq!(names(&mut state), ["2 uplink", "3 eth1"]);
    assert_eq!((named(&state, "eth0"), named(&state, "uplink")), (None, Some(2)));
}

#[test]
fn two_links_swap_their_names_in_one_step_or_in_many() {
    let swap = || [up(2, "tmp"), up(3, "a"), up(2, "b")];
    let mut at_once = listed(&[(2, "a"), (3, "b")], &[]);
    apply(&mut at_once, swap());
    let mut one_by_one = listed(&[(2, "a"), (3, "b")], &[]);
    for told in swap() {
        apply(&mut one_by_one, [told]);
        one_by_one.next_snapshot(no_hardware);
    }
    for mut state in [at_once, one_by_one] {
        assert_eq!(names(&mut state), ["2 b", "3 a"]);
        assert_eq!((named(&state, "a"), named(&state, "b")), (Some(3), Some(2)));
    }
}

#[test]
fn what_was_queued_before_a_list_leads_to_the_same_end() {
    // the list was made after the swap, the notifications are of before and while
    let mut state = listed(&[(2, "b"), (3, "a")], &[]);
    for told in [up(2, "a"), up(2, "tmp"), up(3, "a"), up(2, "b")] {
        apply(&mut state, [told]);
        state.next_snapshot(no_hardware);
    }
    assert_eq!((named(&state, "a"), named(&state, "b")), (Some(3), Some(2)));
}

#[test]
fn a_port_that_leaves_its_bridge_stays_a_link() {
    let mut state = listed(&[(2, "eth0")], &[]);
    let port = |kind| {
        Told::link(kind, BRIDGE_FAMILY, 2, flags::UP, |request| {
            request.string(attribute::IFNAME, b"eth0").u32(attribute::MASTER, 5);
        })
    };
    apply(&mut state, [port(kind::NEWLINK), port(kind::DELLINK)]);
    assert!(state.next_snapshot(no_hardware).is_none());
    assert_eq!(names(&mut state), ["2 eth0"]);
}

#[test]
fn a_wireless_event_changes_nothing() {
    let mut state = listed(&[(2, "wlan0")], &[(2, 2)]);
    let event = Told::link(kind::NEWLINK, 0, 2, flags::UP | flags::LOWER_UP, |request| {
        request.string(attribute::IFNAME, b"wlan0").attribute(attribute::WIRELESS, &[0; 8]);
    });
    apply(&mut state, [event]);
    assert!(state.next_snapshot(no_hardware).is_none());
}

#[test]
fn nothing_is_published_when_nothing_changed_in_the_end() {
    let mut state = listed(&[(2, "eth0")], &[]);
    apply(&mut state, [up(2, "eth0"), down(2, "eth0"), up(2, "eth0"), up(3, "new"), gone(3), new_route_to_a_host()]);
    assert!(state.next_snapshot(no_hardware).is_none());
}

fn new_route_to_a_host() -> Told {
    Told::route(kind::NEWROUTE, 0, 2, 32, 2)
}

#[test]
fn default_routes_are_heard_of_or_listed_again() {
    let v4 = Part::Routes(Family::V4);
    let v6 = Part::Routes(Family::V6);
    let replace = message_flags::REPLACE;
    let both = &[(2, 2), (10, 2), (10, 3)][..];
    let deleted_address = || {
        let mut header = [2, 24, 0, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&2u32.to_ne_bytes());
        Told::new(kind::DELADDR, 0, &header, |request| _ = request.attribute(2, &[10, 0, 0, 1]))
    };
    let table: [(&str, Told, &[Part]); 11] = [
        ("a new route", new_route(2, 3), &[]),
        ("another route's end", Told::route(kind::DELROUTE, 0, 2, 24, 2), &[]),
        ("an IPv4 default route's end", Told::route(kind::DELROUTE, 0, 2, 0, 2), &[v4]),
        ("an IPv6 default route's end", Told::route(kind::DELROUTE, 0, 10, 0, 2), &[v6]),
        ("a replaced route", Told::route(kind::NEWROUTE, replace, 10, 0, 3), &[v6]),
        ("another replaced route", Told::route(kind::NEWROUTE, replace, 10, 64, 3), &[]),
        ("the uplink goes down", down(2, "eth0"), &[v4, v6]),
        ("the IPv6 uplink goes", gone(3), &[v6]),
        ("another link goes down", down(4, "eth2"), &[]),
        ("the uplink stays up", up(2, "eth0"), &[]),
        ("the uplink loses an address", deleted_address(), &[v4, v6]),
    ];
    for (what, told, stale) in table {
        let mut state = listed(&[(2, "eth0"), (3, "eth1"), (4, "eth2")], both);
        apply(&mut state, [told]);
        assert_eq!(state.stale(), stale, "{what}");
    }
}

#[test]
fn default_routes_by_next_hop_objects_lead_through_their_links() {
    let mut state = listed(&[(2, "eth0"), (3, "eth1")], &[]);
    let hop = |kind, id: u32, link: u32| Told::new(kind, 0, &[0; 8], |request| _ = request.u32(1, id).u32(5, link));
    let members = [11u32, 0, 12, 0].map(u32::to_ne_bytes).concat();
    let group = Told::new(kind::NEWNEXTHOP, 0, &[0; 8], |request| _ = request.u32(1, 20).attribute(2, &members));
    let header = [2, 0, 0, 0, MAIN as u8, 3, 0, 1, 0, 0, 0, 0];
    let route = Told::new(kind::NEWROUTE, 0, &header, |request| _ = request.u32(30, 20));
    let links = |state: &mut State| {
        state.next_snapshot(no_hardware);
        state.snapshot.default_routes().iter().map(|route| route.link).collect::<Vec<_>>()
    };
    apply(&mut state, [hop(kind::NEWNEXTHOP, 11, 2), hop(kind::NEWNEXTHOP, 12, 3), group, route]);
    assert_eq!(links(&mut state), [2, 3]);
    apply(&mut state, [hop(kind::NEWNEXTHOP, 77, 9)]);
    assert_eq!(state.stale(), [], "another object");
    apply(&mut state, [hop(kind::NEWNEXTHOP, 12, 2)]);
    assert_eq!(links(&mut state), [2]);
    assert_eq!(state.stale(), [Part::Routes(Family::V4)]);
    apply(&mut state, [down(2, "eth0")]);
    assert_eq!(state.stale(), [Part::Routes(Family::V4), Part::NextHops]);
}

#[test]
fn a_list_of_routes_replaces_those_of_its_family_only() {
    let mut state = listed(&[(2, "eth0"), (3, "eth1")], &[(2, 2), (10, 2)]);
    apply(&mut state, [Told::route(kind::DELROUTE, 0, 2, 0, 2)]);
    state.init();
    // a kernel without the family that was asked for answers with another one's
    new_route(10, 3).tell(|message| state.init_apply(Part::Routes(Family::V4), message));
    state.init_done(Part::Routes(Family::V4));
    let snapshot = state.next_snapshot(no_hardware).unwrap();
    let left = DefaultRoute { family: Family::V6, table: MAIN, metric: 0, link: 2 };
    assert_eq!(snapshot.default_routes().iter().collect::<Vec<_>>(), [&left]);
}

#[test]
fn an_interrupted_list_takes_nothing_away_and_is_made_again() {
    let mut state = listed(&[(2, "eth0"), (3, "eth1")], &[(2, 2)]);
    state.set_node_addresses([NODE.into()].into());
    state.lose_all();
    for part in state.stale() {
        state.init();
        if part == Part::Links {
            up(4, "new").tell(|message| state.init_apply(part, message));
        }
        state.init_interrupted();
    }
    let snapshot = state.next_snapshot(no_hardware).unwrap();
    assert_eq!((snapshot.links().len(), snapshot.default_routes().len()), (3, 1));
    assert_eq!(state.stale(), Part::ALL);
}

#[test]
fn a_list_that_begins_again_forgets_what_it_had() {
    let mut state = listed(&[], &[]);
    state.lose_all();
    state.init();
    up(2, "gone-since").tell(|message| state.init_apply(Part::Links, message));
    state.init();
    up(3, "eth1").tell(|message| state.init_apply(Part::Links, message));
    state.init_done(Part::Links);
    assert_eq!(names(&mut state), ["3 eth1"]);
}

#[test]
fn rules_are_listed_again_when_a_table_may_be_reached_or_not() {
    let mut state = listed(&[], &[]);
    apply(&mut state, [Told::rule(kind::NEWRULE, 2, MAIN)]);
    assert_eq!(state.stale(), []);
    apply(&mut state, [Told::rule(kind::NEWRULE, 2, 100), Told::rule(kind::DELRULE, 10, MAIN)]);
    assert_eq!(state.stale(), [Part::Rules(Family::V4), Part::Rules(Family::V6)]);
}

#[test]
fn without_rules_and_with_vrfs_every_table_with_a_default_route_is_reached() {
    let through_table = |table: u32| {
        let header = [10, 0, 0, 0, 0, 3, 0, 1, 0, 0, 0, 0];
        Told::new(kind::NEWROUTE, 0, &header, |request| _ = request.u32(4, 2).u32(15, table))
    };
    for rules in [&[][..], &[MAIN, 0]] {
        let mut state = listed(&[(2, "eth0")], &[]);
        apply(&mut state, [through_table(1000)]);
        assert!(!state.next_snapshot(no_hardware).unwrap().is_reached(Family::V6, 1000));
        state.init();
        for table in rules {
            Told::rule(kind::NEWRULE, 10, *table).tell(|message| state.init_apply(Part::Rules(Family::V6), message));
        }
        state.init_done(Part::Rules(Family::V6));
        let snapshot = state.next_snapshot(no_hardware).unwrap();
        assert!(snapshot.is_reached(Family::V6, 1000) && !snapshot.is_reached(Family::V4, 1000), "{rules:?}");
    }
}

#[test]
fn hardware_is_read_when_a_link_is_new_renamed_or_changes_its_carrier_and_not_else() {
    let mut state = listed(&[], &[]);
    let carrier = |index, name: &'static str| {
        Told::link(kind::NEWLINK, 0, index, flags::UP | flags::LOWER_UP, |request| {
            request.string(attribute::IFNAME, name.as_bytes());
        })
    };
    let other_mtu = |index, name: &'static str| {
        Told::link(kind::NEWLINK, 0, index, flags::UP | flags::LOWER_UP, |request| {
            request.string(attribute::IFNAME, name.as_bytes()).u32(attribute::MTU, 9000);
        })
    };
    let virtual_link = Told::link(kind::NEWLINK, 0, 3, flags::UP, |request| {
        request.string(attribute::IFNAME, b"veth0").nest(attribute::LINKINFO, |info| {
            info.string(attribute::INFO_KIND, b"veth");
        });
    });
    let loopback = Told::link(kind::NEWLINK, 0, 1, flags::LOOPBACK, |request| {
        request.string(attribute::IFNAME, b"lo");
    });
    let table: [(&str, Vec<Told>, u32); 8] = [
        ("new", vec![up(2, "eth0")], 1),
        ("the same", vec![up(2, "eth0")], 0),
        ("carrier", vec![carrier(2, "eth0")], 1),
        ("another MTU", vec![other_mtu(2, "eth0")], 0),
        ("renamed", vec![other_mtu(2, "eth1")], 1),
        ("away and back", vec![gone(2), other_mtu(2, "eth1")], 1),
        ("virtual", vec![virtual_link], 0),
        ("loopback", vec![loopback], 0),
    ];
    for (what, told, reads) in table {
        let mut count = 0;
        apply(&mut state, told);
        state.next_snapshot(|_| {
            count += 1;
            Some(Hardware { driver: Some("igb".into()), ..Hardware::default() })
        });
        assert_eq!(count, reads, "{what}");
    }
    assert!(state.snapshot.link(2).unwrap().hardware.is_some());
}

#[test]
fn virtual_functions_hear_of_their_physical_functions_new_name() {
    let mut state = listed(&[], &[]);
    let look = |pf: Option<&'static str>| {
        move |link: &Link| {
            let function = VirtualFunction {
                physical_function: "0000:3b:00.0".into(),
                physical_function_name: pf.map(|name| name.parse().unwrap()),
                index: 0,
            };
            let virtual_function = (link.index == 3).then_some(function);
            Some(Hardware { virtual_function, ..Hardware::default() })
        }
    };
    let pf_name = |snapshot: &Snapshot| {
        let hardware = snapshot.link(3).unwrap().hardware.clone().unwrap();
        hardware.virtual_function.clone().unwrap().physical_function_name.map(|name| name.to_string())
    };
    apply(&mut state, [up(2, "pf0"), up(3, "vf0")]);
    assert_eq!(pf_name(&state.next_snapshot(look(Some("pf0"))).unwrap()).as_deref(), Some("pf0"));
    apply(&mut state, [up(2, "renamed")]);
    assert_eq!(pf_name(&state.next_snapshot(look(Some("renamed"))).unwrap()).as_deref(), Some("renamed"));
    apply(&mut state, [gone(2)]);
    assert_eq!(pf_name(&state.next_snapshot(look(None)).unwrap()), None);
}

proptest! {
    #[test]
    fn any_bytes_are_applied_or_ignored(kind in 16u16..110, payload in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut state = listed(&[(2, "eth0")], &[(2, 2)]);
        let message = Message { kind, flags: 0, sequence: 0, payload: &payload };
        state.apply(&message);
        Part::ALL.into_iter().for_each(|part| state.init_apply(part, &message));
        state.next_snapshot(no_hardware);
    }

    #[test]
    fn whatever_happened_the_snapshot_is_what_was_heard_last(
        told in prop::collection::vec((2u32..6, 0u8..4, any::<bool>(), any::<bool>()), 0..40),
    ) {
        let mut state = listed(&[], &[]);
        let mut model: std::collections::BTreeMap<u32, String> = Default::default();
        for (index, name, is_there, settles) in told {
            let name = format!("eth{name}");
            if !is_there {
                model.remove(&index);
                apply(&mut state, [gone(index)]);
            } else if model.iter().all(|(other, taken)| *other == index || *taken != name) {
                model.insert(index, name.clone());
                apply(&mut state, [up(index, &name)]);
            }
            if settles {
                state.next_snapshot(no_hardware);
            }
        }
        state.next_snapshot(no_hardware);
        for (index, name) in &model {
            prop_assert_eq!(named(&state, name), Some(*index));
        }
        prop_assert_eq!(state.snapshot.links().len(), model.len());
    }
}

const NODE: [u8; 4] = [10, 0, 0, 5];

fn node_links(state: &mut State) -> Vec<u32> {
    state.next_snapshot(|_| None);
    state.snapshot.node_links().iter().map(|(link, _)| *link).collect()
}

/// Lists these addresses (link, prefix length), all of them the node's.
fn list_addresses(state: &mut State, links: &[(u32, u8)]) {
    state.init();
    for (link, prefix_len) in links {
        address(kind::NEWADDR, *link, NODE, *prefix_len).tell(|message| state.init_apply(Part::Addresses, message));
    }
    state.init_done(Part::Addresses);
}

#[test]
fn addresses_are_listed_only_when_the_node_is_known_by_some() {
    let mut state = State::new();
    assert!(!state.stale().contains(&Part::Addresses));
    state.set_node_addresses([NODE.into()].into());
    assert!(state.stale().contains(&Part::Addresses));
    list_addresses(&mut state, &[(2, 24)]);
    assert_eq!(node_links(&mut state), [2]);
    state.set_node_addresses([NODE.into()].into());
    assert!(!state.stale().contains(&Part::Addresses), "they are the same");
    state.set_node_addresses([[10, 0, 0, 6].into()].into());
    assert!(state.stale().contains(&Part::Addresses));
    assert_eq!(node_links(&mut state), Vec::<u32>::new(), "what the node is no longer known by is nothing");
}

#[test]
fn an_address_of_the_node_that_moves_is_known_at_once_and_others_are_no_change() {
    let mut state = listed(&[(2, "eth0"), (3, "eth1")], &[]);
    state.set_node_addresses([NODE.into()].into());
    list_addresses(&mut state, &[(2, 24)]);
    assert_eq!(node_links(&mut state), [2]);
    address(kind::NEWADDR, 3, [10, 0, 0, 77], 24).tell(|message| state.apply(message));
    assert!(state.next_snapshot(|_| None).is_none(), "another address is no new snapshot");
    address(kind::NEWADDR, 3, NODE, 24).tell(|message| state.apply(message));
    assert_eq!(node_links(&mut state), [2, 3]);
    address(kind::DELADDR, 2, NODE, 24).tell(|message| state.apply(message));
    assert!(state.stale().contains(&Part::Addresses), "it may be there with another prefix length");
    list_addresses(&mut state, &[(3, 24)]);
    assert_eq!(node_links(&mut state), [3]);
    gone(3).tell(|message| state.apply(message));
    assert_eq!(node_links(&mut state), Vec::<u32>::new(), "a link takes its addresses along");
}
