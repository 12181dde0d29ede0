//! What the kernel keeps of a device besides its link, addresses and routes: read once, before it leaves the host. The
//! table of all of it is `docs/device-state.md`.

use std::fs;

use netdevice::{
    LinkState,
    state::{FORWARDING, NEIGHBOUR_NOARP, NEIGHBOUR_PERMANENT, NEIGHBOUR_SELF, Neighbour},
};
use rtnl::neighbour::List;

use crate::{error::Error, read::neighbours, socket::RouteSocket};

/// Reads what a move destroys and what a container can change. The calling thread must be in the socket's namespace.
pub(crate) fn read_kept(socket: &mut RouteSocket, state: &mut LinkState) -> Result<(), Error> {
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
    Ok(())
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

/// Groups that somebody added to the link for good (`ip maddress add`), and no socket joined, as hex digits: only this file
/// tells one from the other, and it is of all links.
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
