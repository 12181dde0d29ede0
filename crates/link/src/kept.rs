//! What the kernel keeps of a device besides its link, addresses and routes: read once, before it leaves the host. The
//! table of all of it is `docs/device-state.md`.

use std::fs;

use netdevice::{
    InterfaceName, LinkState,
    state::{Attribute, FORWARDING, NEIGHBOUR_NOARP, NEIGHBOUR_PERMANENT, NEIGHBOUR_SELF, Neighbour},
};
use rtnl::{
    message::kind,
    neighbour::List,
    qdisc::{CLSACT, FILTERS, ROOT},
};

use crate::{
    device_files,
    directory::Directory,
    error::{Error, WithSubject},
    ethtool,
    read::{dump, neighbours},
    skipped::Skipped,
    socket::RouteSocket,
};

/// Reads what a move destroys and what a container can change. The calling thread must be in the socket's namespace.
/// `directory` is the link's directory in sysfs, if sysfs shows that namespace.
pub(crate) fn read_kept(
    socket: &mut RouteSocket,
    state: &mut LinkState,
    directory: Option<&Directory>,
) -> Result<(), Error> {
    state.neighbours.extend(neighbours(socket, state.index, List::Proxies)?);
    let (groups, own): (Vec<_>, Vec<_>) = forwarding(socket, state.index)?.partition(is_group);
    state.neighbours.extend(own);
    if groups.iter().any(|group| !is_joined_by_kernel(group)) {
        let wanted = static_groups(state.index);
        state.neighbours.extend(
            groups
                .into_iter()
                .filter(|group| group.hardware_address().is_some_and(|address| wanted.contains(&hex(address)))),
        );
    }
    read_qdiscs(socket, state)?;
    state.ethtool = ethtool::read(socket, state);
    state.files = directory.map(|directory| device_files::read(directory, ethtool::is_hardware(state)));
    Ok(())
}

/// Gives a device what its driver had, before it is set up: most of it changes then without a reset of the line. What a
/// driver takes only of a link that is up is restored by [`restore_late`].
pub(crate) fn restore_early(socket: &RouteSocket, name: &InterfaceName, host: &LinkState) -> bool {
    ethtool::restore(socket, name, host).is_empty()
}

/// Gives a device that is set up again what is left: settings of its queues, and its queueing disciplines.
pub(crate) fn restore_late(
    socket: &mut RouteSocket,
    present: &LinkState,
    host: &LinkState,
    is_driver_done: bool,
) -> Result<Vec<Skipped>, Error> {
    let mut skipped = if is_driver_done { Vec::new() } else { ethtool::restore(socket, &present.name, host) };
    if let Some(files) = &host.files {
        let is_hardware = ethtool::is_hardware(host);
        skipped.extend(device_files::restore(&present.name, present.index, is_hardware, files));
    }
    for object in &host.objects {
        skipped.extend(restore_object(socket, present.index, object)?);
    }
    Ok(skipped)
}

/// Queueing disciplines that the kernel gives a link by itself.
const BY_KERNEL: [&str; 4] = ["noop", "noqueue", "mq", "mqprio"];
/// Those that are whole in one message. Others have classes, with filters and disciplines of their own.
const WHOLE: [&str; 15] = [
    "pfifo",
    "bfifo",
    "pfifo_head_drop",
    "fq",
    "fq_codel",
    "fq_pie",
    "codel",
    "pie",
    "cake",
    "sfq",
    "netem",
    "tbf",
    "hhf",
    "clsact",
    "ingress",
];

fn read_qdiscs(socket: &mut RouteSocket, state: &mut LinkState) -> Result<(), Error> {
    let index = state.index;
    let may_be_set = state.qdisc.as_deref().is_some_and(|kind| !BY_KERNEL.contains(&kind));
    for place in [ROOT, CLSACT].into_iter().skip(usize::from(!may_be_set)) {
        let answer = socket.get(|batch| rtnl::qdisc::get(batch, index, place)).subject("queueing disciplines")?;
        // there is none
        let Ok(objects) = answer else { continue };
        let Some(payload) = objects.of(kind::NEWQDISC).next() else { continue };
        if rtnl::qdisc::parse(payload).is_some_and(|qdisc| qdisc.handle != 0) {
            state.objects.push(Attribute { kind: kind::NEWQDISC, value: payload.to_vec() });
        }
        for parent in FILTERS.into_iter().filter(|_| place == CLSACT) {
            let filters = dump(socket, "filters", |batch| rtnl::qdisc::dump_filters(batch, index, parent))?;
            if filters.of(kind::NEWTFILTER).next().is_some() {
                state.objects.push(Attribute { kind: kind::NEWTFILTER, value: Vec::new() });
                break;
            }
        }
    }
    Ok(())
}

fn restore_object(socket: &mut RouteSocket, index: u32, object: &Attribute) -> Result<Option<Skipped>, Error> {
    if object.kind == kind::NEWTFILTER {
        let reason = "they were lost when it was moved".to_owned();
        return Ok(Some(Skipped { what: "tc filters".into(), reason }));
    }
    let kind = rtnl::qdisc::parse(&object.value).map_or("", |qdisc| qdisc.kind);
    let skipped = |reason| Some(Skipped { what: format!("qdisc {kind}"), reason });
    if !WHOLE.contains(&kind) {
        return Ok(skipped("its classes and filters were lost when it was moved".to_owned()));
    }
    let payload = object.value.clone();
    let added = socket.change_one(move |batch| rtnl::qdisc::add(batch, index, &payload));
    let added = added.subject("the kernel's network configuration")?;
    Ok(added.err().and_then(|error| skipped(error.to_string())))
}

/// Static entries of a link's forwarding database but groups: hardware addresses that it receives besides its own, or of a
/// vxlan the nodes behind it.
pub(crate) fn read_forwarding(socket: &mut RouteSocket, index: u32) -> Result<Vec<Neighbour>, Error> {
    Ok(forwarding(socket, index)?.filter(|entry| !is_group(entry)).collect())
}

/// Whether a link of that kind keeps its forwarding database when it moves, and so what a container put there. Of other
/// links the kernel empties it (`__dev_change_net_namespace`).
pub(crate) fn is_forwarding_kept(state: &LinkState) -> bool {
    state.kind.as_deref() == Some("vxlan")
}

fn forwarding(socket: &mut RouteSocket, index: u32) -> Result<impl Iterator<Item = Neighbour>, Error> {
    let is_static = |entry: &Neighbour| {
        entry.state & (NEIGHBOUR_PERMANENT | NEIGHBOUR_NOARP) != 0 && entry.flags & NEIGHBOUR_SELF != 0
    };
    Ok(neighbours(socket, index, List::Forwarding)?.filter(is_static))
}

/// Whether an entry of the forwarding database is a multicast group.
pub(crate) fn is_group(entry: &Neighbour) -> bool {
    let address = entry.hardware_address().and_then(|address| address.first());
    entry.family == FORWARDING && address.is_some_and(|byte| byte & 1 != 0)
}

/// Groups that the kernel joins on each link by itself: all nodes, all routers, and those of its own addresses.
fn is_joined_by_kernel(group: &Neighbour) -> bool {
    matches!(
        group.hardware_address(),
        Some([0x33, 0x33, 0xff, ..] | [0x33, 0x33, 0, 0, 0, 1 | 2] | [0x01, 0x00, 0x5e, 0, 0, 1])
    )
}

/// Groups that were added to the link by `ip maddress add`, and that no socket joined, as hex digits: only this file
/// distinguishes them, and it is of all links.
fn static_groups(index: u32) -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev_mcast").unwrap_or_default();
    // index, name, users, users that are no sockets, address (`dev_mc_seq_show`)
    let group = |line: &str| {
        let mut words = line.split_whitespace();
        let link: u32 = words.next()?.parse().ok()?;
        let address = words.next_back()?;
        let is_static = words.next_back()? != "0";
        (link == index && is_static).then(|| address.to_owned())
    };
    text.lines().filter_map(group).collect()
}

fn hex(address: &[u8]) -> String {
    address.iter().map(|byte| format!("{byte:02x}")).collect()
}
