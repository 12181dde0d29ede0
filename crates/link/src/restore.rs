//! Gives a device on the host the state of its record.

use netdevice::{
    Attachment, InterfaceName, LinkState, Moved,
    plan::{LinkChange, Location, Step, aged, plan, relabel},
};
use rtnl::link::attribute as ifla;

use crate::{
    announce::announce_ipv6,
    error::{Error, WithSubject},
    identity::fallback_name,
    kept::{is_forwarding_kept, read_forwarding, restore_early, restore_late},
    read::{Which, boot_time, read_bare, read_whole},
    skipped::Skipped,
    socket::RouteSocket,
    step::StepTarget,
};

/// What a device is after its return.
pub(crate) struct Restored {
    /// What it is called, where its old name was taken.
    pub(crate) renamed: Option<InterfaceName>,
    /// What of its old state could not be put back.
    pub(crate) skipped: Vec<Skipped>,
}

/// Gives the device on the host what the record says.
pub(crate) fn restore(
    record: &Attachment<Moved>,
    link: LinkState,
    mut skipped: Vec<Skipped>,
    home: &mut RouteSocket,
) -> Result<Restored, Error> {
    let index = link.index;
    // half restored before, or taken up by a manager of the host meanwhile
    let mut present = if link.is_up() { read_whole(home, Which::Index(index))?.ok_or(Error::Vanished)? } else { link };
    let renamed = rename(record, &mut present, home)?;
    let mut wanted = aged(&record.acquired.host, boot_time).into_owned();
    relabel(&mut wanted.addresses, &record.acquired.host.name, &present.name);
    if let Some(name) = &record.acquired.host.master_name {
        let master = read_bare(home, Which::Name(name))?;
        wanted.master = master.map(|master| master.index);
        if wanted.master.is_none() {
            skipped.push(Skipped { what: format!("master {name}"), reason: "it is gone".into() });
        }
    }
    if present.mtu != wanted.mtu {
        // below 1,280 bytes a link has no IPv6 (RFC 8200, section 5), and so no settings of it to compare
        let change = LinkChange { mtu: Some(wanted.mtu), ..LinkChange::default() };
        skipped.extend(at_home(record, &present, home).apply(vec![Step::Link(change)])?);
        let now = read_bare(home, Which::Index(index))?.ok_or(Error::Vanished)?;
        (present.mtu, present.ipv6_conf) = (wanted.mtu, now.ipv6_conf);
    }
    if is_forwarding_kept(&wanted) {
        present.neighbours.extend(read_forwarding(home, present.index)?);
    }
    let is_driver_done = restore_early(home, &present.name, &wanted);
    let steps = plan(&wanted, &present, Location::Host);
    skipped.extend(at_home(record, &present, home).apply(steps)?);
    skipped.extend(restore_late(home, &present, &wanted, is_driver_done)?);
    if wanted.routes_unseen {
        skipped.push(Skipped {
            what: "routes through other links with an address of it as their source".into(),
            reason: "the node has more routes than are looked through for them".into(),
        });
    }
    if wanted.is_up() {
        announce_ipv6(&present, &mut wanted.addresses.iter().map(|address| address.local), None);
    }
    Ok(Restored { renamed, skipped })
}

fn at_home<'a>(record: &Attachment<Moved>, present: &'a LinkState, home: &'a mut RouteSocket) -> StepTarget<'a> {
    StepTarget {
        socket: home,
        location: Location::Host,
        name: &present.name,
        index: present.index,
        host_index: record.acquired.host.index,
        own_routes: &[],
    }
}

/// Gives the device its name, or returns the one that it has instead.
fn rename(
    record: &Attachment<Moved>,
    present: &mut LinkState,
    home: &mut RouteSocket,
) -> Result<Option<InterfaceName>, Error> {
    let old = &record.acquired.host.name;
    if present.name == *old {
        return Ok(None);
    }
    let fallback = fallback_name(record.acquired.host.index, 1);
    let mut names = vec![old.clone()];
    if present.name != fallback {
        names.push(fallback);
    }
    for name in names {
        let (index, bytes) = (present.index, name.as_bytes().to_vec());
        let renamed = home.change_one(move |batch| {
            rtnl::link::set(batch, index, 0, 0).string(ifla::IFNAME, &bytes);
        });
        if renamed.subject("the kernel's network configuration")?.is_ok() {
            present.name = name;
            break;
        }
    }
    Ok((present.name != *old).then(|| present.name.clone()))
}
