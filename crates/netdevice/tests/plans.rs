//! Plans on a model of the kernel: carried out, they lead to what was wanted, and then there is nothing left to do.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)] // all of it is a test

mod states;

use netdevice::{
    Acquisition, Attachment, KernelString, LinkState, Owner, Phase, Reservation, SandboxConfiguration,
    exclusion::UplinkParents,
    owner::Request,
    plan::{LINK_TOKEN, LinkChange, Location, Step, missing, plan, relabel, wanted_as_configured},
    record_text::attached_in_place,
    state::{Address, Attribute, FORWARDING, Neighbour, Route},
    sysctl::{IPV4_MC_FORWARDING, IPV6_CONF, Unit},
};
use proptest::prelude::*;
use states::{any_configuration, any_record, any_state};

/// What the kernel makes of a step.
fn apply(state: &mut LinkState, step: Step) {
    match step {
        Step::Link(change) => apply_link(state, change),
        Step::AddAltname(name) => {
            assert!(!state.altnames.contains(&name));
            state.altnames.push(name);
        }
        Step::RemoveAltname(name) => state.altnames.retain(|there| *there != name),
        Step::Sysctl(setting) => {
            let index = IPV6_CONF.iter().position(|(file, _)| *file == setting.file && setting.folder == "conf");
            match index {
                Some(index) => {
                    let value: i32 = setting.value.parse().unwrap();
                    let unit = if IPV6_CONF[index].1 == Unit::Seconds && value > 0 { 1000 } else { 1 };
                    state.ipv6_conf[index] = value * unit;
                }
                None => {
                    let key = format!("{}/{}/{}", setting.family, setting.folder, setting.file);
                    state.sysctls.insert(key, setting.value);
                }
            }
        }
        Step::Flags(flags, mask) => state.flags = state.flags & !mask | flags,
        Step::Address(address) => {
            assert!(!state.addresses.iter().any(|there| there.is_same(&address)), "an address twice: {address}");
            let v4 = state.addresses.iter().filter(|there| there.local.is_ipv4()).count();
            // behind the last IPv4 address, which is before the first IPv6 address
            state.addresses.insert(v4, address);
        }
        Step::Routes(routes) => state.routes.extend(routes),
        Step::RoutesFrom(routes) => state.routes_from.extend(routes),
        Step::Neighbour(neighbour) => state.neighbours.push(neighbour),
        Step::RemoveNeighbour(neighbour) => state.neighbours.retain(|there| *there != neighbour),
        Step::Attribute(attribute) => set(&mut state.attributes, attribute),
        Step::Kind(_, settings) => settings.into_iter().for_each(|setting| set(&mut state.info_data, setting)),
    }
}

fn set(all: &mut [Attribute], attribute: Attribute) {
    let place = all.iter_mut().find(|there| there.kind == attribute.kind).expect("the kernel has it");
    *place = attribute;
}

fn apply_link(state: &mut LinkState, change: LinkChange) {
    state.mac = change.mac.or(state.mac.take());
    state.mtu = change.mtu.unwrap_or(state.mtu);
    state.txqlen = change.txqlen.unwrap_or(state.txqlen);
    state.group = change.group.unwrap_or(state.group);
    state.offload_sizes.extend(change.offload_sizes);
    state.macvlan_mode = change.macvlan_mode.map(|(_, mode)| mode).or(state.macvlan_mode);
    if let Some(alias) = change.alias {
        state.alias = Some(alias).filter(|alias| !alias.as_bytes().is_empty());
    }
    if let Some(master) = change.master {
        state.master = Some(master).filter(|master| *master != 0);
    }
    for (index, value) in change.ipv4_conf {
        state.ipv4_conf[usize::from(index) - 1] = value;
    }
}

/// The state of a link that has just come by a move.
fn after_a_move(state: &LinkState) -> LinkState {
    let mut moved = state.clone();
    moved.flags &= !1;
    moved.addresses.clear();
    // as a vxlan, which keeps its forwarding database
    moved.neighbours.retain(|neighbour| neighbour.family == FORWARDING);
    (moved.routes, moved.routes_from) = (Vec::new(), Vec::new());
    moved.sysctls.clear();
    moved
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_state_that_is_there_needs_nothing(state in any_state()) {
        prop_assert_eq!(plan(&state, &state, Location::Host), vec![]);
        prop_assert_eq!(plan(&state, &state, Location::Sandbox), vec![]);
    }

    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do(wanted in any_state(), present in any_state()) {
        for place in [Location::Host, Location::Sandbox] {
            let mut state = present.clone();
            plan(&wanted, &present, place).into_iter().for_each(|step| apply(&mut state, step));
            prop_assert_eq!(plan(&wanted, &state, place), vec![]);
        }
    }

    #[test]
    fn what_a_container_made_of_a_device_is_gone_when_it_is_home(host in any_state(), container in any_state()) {
        let mut state = after_a_move(&container);
        plan(&host, &state, Location::Host).into_iter().for_each(|step| apply(&mut state, step));
        // what no plan is about: the index and name come with the move
        state.index = host.index;
        state.routes_unseen = host.routes_unseen;
        // what programs are on it is looked at beside the plan
        (state.xdp_programs, state.programs) = (host.xdp_programs.clone(), host.programs.clone());
        (state.sysfs_inode, state.promiscuity) = (host.sysfs_inode, host.promiscuity);
        // restored beside the plan
        (state.ethtool, state.files) = (host.ethtool.clone(), host.files.clone());
        (state.qdisc, state.objects) = (host.qdisc.clone(), host.objects.clone());
        state.name = host.name.clone();
        state.ipv4_conf[IPV4_MC_FORWARDING] = host.ipv4_conf[IPV4_MC_FORWARDING];
        for (index, (_, unit)) in IPV6_CONF.iter().enumerate() {
            if *unit == Unit::Kept {
                state.ipv6_conf[index] = host.ipv6_conf[index];
            }
        }
        state.altnames.sort_by_key(|name| name.as_bytes().to_vec());
        let mut wanted = host.clone();
        wanted.altnames.sort_by_key(|name| name.as_bytes().to_vec());
        wanted.routes.sort_by_key(|route| (route.has_gateway(), u8::MAX - route.dst_len));
        state.neighbours.sort_by_key(|neighbour| format!("{neighbour:?}"));
        wanted.neighbours.sort_by_key(|neighbour| format!("{neighbour:?}"));
        prop_assert_eq!(state, wanted);
    }

    #[test]
    fn what_a_pod_asks_for_is_there_when_the_plan_was_carried_out(
        configuration in any_configuration(), host in any_state(), sandbox in any_state()
    ) {
        let link = LinkState { ipv4_conf: sandbox.ipv4_conf, ipv6_conf: sandbox.ipv6_conf, ..after_a_move(&host) };
        let wanted = wanted_as_configured(&configuration, &host, &link, |_, _, _| true);
        let mut state = link;
        plan(&wanted, &state, Location::Sandbox).into_iter().for_each(|step| apply(&mut state, step));
        prop_assert_eq!(missing(&configuration, &state), None);
        prop_assert_eq!(plan(&wanted, &state, Location::Sandbox), vec![]);
        if !configuration.inherit {
            let moved_along = |neighbour: &Neighbour| neighbour.family == FORWARDING;
            let asked = |neighbour: &Neighbour| {
                configuration.neighbours.iter().any(|it| Some(it.address) == neighbour.destination())
            };
            prop_assert!(state.alias.is_none() && state.altnames.is_empty());
            prop_assert!(state.neighbours.iter().filter(|it| !asked(it)).all(moved_along));
            prop_assert!(state.routes.len() <= configuration.routes.len());
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written(record in any_record()) {
        let text = record.to_json();
        prop_assert_eq!(Attachment::from_json(&record.device, &text).unwrap(), record);
    }

    #[test]
    fn a_program_of_version_1_follows_what_it_can(record in any_record()) {
        let text: serde_json::Value = serde_json::from_slice(&record.to_json()).unwrap();
        let is_known = match &record.owner {
            Owner::Container { id, sandbox, .. } => sandbox.as_ref() != Some(id),
            Owner::Sandbox { by, .. } => *by == Request::Annotation,
            Owner::Claim { .. } | Owner::Kubelet => false,
        };
        let version = match (record.created(), is_known) {
            (Some(_), _) => 3,
            (None, true) => 1,
            (None, false) => 2,
        };
        prop_assert_eq!(&text["version"], version);
        prop_assert_eq!(text["host"].is_object(), record.host().is_some());
        prop_assert_eq!((text["holder"].is_object(), text["owner"].is_object()), (is_known, !is_known));
    }

    #[test]
    fn a_reservation_is_read_as_it_was_written(record in any_record()) {
        let acquisition = record.created().map_or(Acquisition::Move, |created| Acquisition::Create(created.kind));
        let Attachment { device, resource, owner, configuration, since, .. } = record;
        let uplink_parents = UplinkParents::allowed_if(acquisition.created().is_some());
        let reservation =
            Reservation { device, resource, owner, acquisition, uplink_parents, configuration, is_of_one_pod: false, since };
        let text = reservation.to_json();
        prop_assert_eq!(Reservation::from_json(&reservation.device, &text).unwrap(), reservation);
    }

    #[test]
    fn an_attachment_is_completed_in_place(record in any_record()) {
        let mut text = record.to_json();
        let found = attached_in_place(&text);
        prop_assert_eq!(found.is_some(), record.phase == Phase::Attaching);
        if let Some((at, bytes)) = found {
            let at = usize::try_from(at).unwrap();
            text[at..at + bytes.len()].copy_from_slice(bytes);
            prop_assert_eq!(Attachment::from_json(&record.device, &text).unwrap(), Attachment { phase: Phase::Attached, ..record });
        }
    }

    #[test]
    fn a_record_that_was_cut_off_or_changed_is_refused_or_read(record in any_record(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = record.to_json();
        let at = at.index(text.len());
        prop_assert!(Attachment::from_json(&record.device, &text[..at]).is_err());
        text[at] = byte;
        if let Ok(read) = Attachment::from_json(&record.device, &text) {
            prop_assert_eq!(read.device, record.device);
        }
    }

    #[test]
    fn any_bytes_are_a_record_or_refused(record in any_record(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Attachment::from_json(&record.device, &bytes).is_err());
    }
}

fn an_address() -> Address {
    serde_json::from_str(r#"{"local":"10.9.0.2","prefix_len":24,"scope":0,"flags":128}"#).unwrap()
}

#[test]
fn labels_follow_the_name_as_far_as_the_kernel_has_room() {
    for (label, expected) in [
        ("td0", "net1"),
        ("td0:1", "net1:1"),
        ("td0:as-long-one", "net1"),
        ("td01", "td01"),
        ("other", "other"),
        ("td", "td"),
    ] {
        let mut address = Address { label: Some(KernelString::new(label.as_bytes())), ..an_address() };
        relabel(std::slice::from_mut(&mut address), &"td0".try_into().unwrap(), &"net1".try_into().unwrap());
        assert_eq!(address.label.unwrap().as_bytes(), expected.as_bytes(), "{label}");
    }
}

#[test]
fn what_is_the_nodes_does_not_go_into_a_sandbox() {
    let entry = |family, flags| Neighbour { family, state: 0x80, flags, attributes: Vec::new() };
    let (own, proxy, forwarding) = (entry(2, 0), entry(2, 8), entry(FORWARDING, 2));
    let state = |neighbours| LinkState { neighbours, ..LinkState::new("eth0".try_into().unwrap(), 2) };
    let host = state(vec![own.clone(), proxy.clone(), forwarding.clone()]);
    assert_eq!(plan(&host, &state(Vec::new()), Location::Sandbox), [Step::Neighbour(own.clone())]);
    let steps = plan(&host, &state(vec![own, entry(FORWARDING, 3)]), Location::Host);
    let expected = [Step::RemoveNeighbour(entry(FORWARDING, 3)), Step::Neighbour(proxy), Step::Neighbour(forwarding)];
    assert_eq!(steps, expected);
}

#[test]
fn a_token_comes_after_the_settings_that_it_needs() {
    let token = Attribute { kind: LINK_TOKEN, value: vec![1] };
    let mode = Attribute { kind: 17, value: vec![1] };
    let mut host = LinkState { ipv6_conf: vec![0, 0, 0, 1], ..LinkState::new("eth0".try_into().unwrap(), 2) };
    host.attributes = vec![token.clone(), mode.clone()];
    let present = LinkState { ipv6_conf: vec![0; 4], attributes: Vec::new(), ..host.clone() };
    let steps = plan(&host, &present, Location::Host);
    assert_eq!((&steps[0], &steps[2]), (&Step::Attribute(mode.clone()), &Step::Attribute(token)));
    assert!(matches!(&steps[1], Step::Sysctl(setting) if setting.file == "accept_ra"));
    assert_eq!(plan(&host, &present, Location::Sandbox)[0], Step::Attribute(mode));
}

#[test]
fn phases_are_written_in_words() {
    assert_eq!(serde_json::to_string(&Phase::Detaching).unwrap(), "\"detaching\"");
}

#[test]
fn local_routes_come_with_their_addresses_in_a_vrf_too() {
    let link = |routes| LinkState { flags: 1, routes, ..LinkState::new("eth0".try_into().unwrap(), 2) };
    let route = |kind, protocol| Route {
        family: 10,
        dst_len: 128,
        src_len: 0,
        tos: 0,
        table: 70,
        protocol,
        scope: 0,
        kind,
        flags: 0,
        attributes: Vec::new(),
    };
    let (local, own) = (route(2, 2), route(2, 4));
    let steps = plan(&link(vec![local, own.clone()]), &link(Vec::new()), Location::Host);
    assert_eq!(steps, [Step::Routes(vec![own])]);
}

#[test]
fn a_size_up_to_64_kib_is_that_of_ipv4_too_unless_it_has_its_own() {
    let sizes = [(41, 65_536), (58, 65_536), (63, 65_536), (64, 65_536)];
    let link = LinkState { offload_sizes: sizes.into(), ..LinkState::new("eth0".try_into().unwrap(), 2) };
    for (asked, expected) in [
        (vec![(41, 20_000)], [20_000, 65_536, 20_000, 65_536]),
        (vec![(58, 9_000)], [65_536, 9_000, 65_536, 9_000]),
        (vec![(41, 20_000), (63, 30_000)], [20_000, 65_536, 30_000, 65_536]),
        (vec![(41, 100_000), (58, 100_000)], [100_000, 100_000, 65_536, 65_536]),
    ] {
        for inherit in [false, true] {
            let offload_sizes = asked.iter().copied().collect();
            let configuration = SandboxConfiguration { inherit, offload_sizes, ..SandboxConfiguration::default() };
            let wanted = wanted_as_configured(&configuration, &link, &link, |_, _, _| true);
            assert_eq!(wanted.offload_sizes.into_values().collect::<Vec<_>>(), expected, "{asked:?}");
        }
    }
}
