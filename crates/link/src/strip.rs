//! Takes from a device, while it is still in its sandbox, what a container put on it and a move would bring to the host.

use netdevice::{Link, LinkState, Record};
use rtnl::{link::attribute as ifla, message::kind};

use crate::{
    error::{Error, WithSubject},
    ledger::Records,
    socket::{Change, RouteSocket},
};

/// Kinds of links that come in pairs: each names the other one as the link below it (`IFLA_LINK`).
const PAIR_KINDS: [&str; 3] = ["veth", "netkit", "vxcan"];

/// Takes off foreign alternative names, an XDP program, and the links that were stacked on the device.
pub(crate) fn strip(
    records: &Records,
    record: &Record,
    link: &LinkState,
    inside: &mut RouteSocket,
) -> Result<(), Error> {
    let index = link.index;
    let mut changes: Vec<Change> = Vec::new();
    for above in stacked(records, record, link, inside)? {
        changes.push(Box::new(move |batch| rtnl::link::delete(batch, above)));
    }
    let foreign = link.altnames.iter().filter(|name| !record.host.altnames.contains(name)).cloned();
    for name in foreign {
        changes.push(Box::new(move |batch| rtnl::link::remove_altname(batch, index, name.as_bytes())));
    }
    if link.xdp && !record.host.xdp {
        changes.push(Box::new(move |batch| {
            rtnl::link::set(batch, index, 0, 0).nest(ifla::XDP, |xdp| {
                xdp.attribute(ifla::XDP_FD, &(-1i32).to_ne_bytes());
            });
        }));
    }
    // what cannot be taken off shows when the device is home
    inside.change(changes).subject("the pod's network configuration").map(drop)
}

/// Links of the sandbox that were made on top of the device. They would stay there and go on sending and receiving
/// through it, on the host and in the next Pod, for as long as anything keeps the namespace. Those that are devices of
/// their own are spared.
fn stacked(records: &Records, record: &Record, link: &LinkState, inside: &mut RouteSocket) -> Result<Vec<u32>, Error> {
    let answer = inside.dump(rtnl::link::dump).subject("the links of the pod")?;
    // without an answer the device comes home all the same
    let Ok(objects) = answer else { return Ok(Vec::new()) };
    let links = objects.of(kind::NEWLINK).filter_map(|payload| rtnl::link::parse(payload).ok()?.to_link());
    let is_pair = |other: &Link| other.kind.as_deref().is_none_or(|kind| PAIR_KINDS.contains(&kind));
    let above = links.filter(|other| other.parent == Some(link.index) && !is_pair(other));
    let mut above: Vec<u32> = above.map(|other| other.index).collect();
    if !above.is_empty() {
        let (ledger, _) = records.list().subject("the records")?;
        let is_device = |index: &u32| {
            ledger
                .values()
                .any(|other| other.sandbox.cookie == record.sandbox.cookie && other.sandbox.ifindex == *index)
        };
        above.retain(|index| !is_device(index));
    }
    Ok(above)
}
