//! What a configuration adds to a sandbox's namespace beside the device: routing rules, and a VRF. They end with the namespace,
//! or when the device leaves it.

use netdevice::{
    Attachment, DeviceId, SandboxConfiguration,
    configuration::{SandboxRule, Vrf},
};
use rtnl::{
    Message,
    link::{VRF, attribute as ifla, vrf_table},
    message::kind,
};
use store::{Namespace, Records};

use crate::{
    error::{Error, WithSubject},
    identity::{Actor, Identity, find_namespace},
    inside::briefly_inside,
    read::{Which, read_bare},
    socket::{Change, RouteSocket},
    sysctl::{ALL_PROTOCOLS, accept_from_vrfs, accepting_from_vrfs},
};

/// Group of a VRF that was made here ("nd"): of all by which its maker could know it, the kernel sets the group alone with the
/// creation. Its lowest bits are the protocols that accepted connections from VRFs before the first one.
const OURS: u32 = 0x6e64_0000;
const SUBJECT: &str = "the pod's network configuration";

/// Adds the rules that are not there.
pub(crate) fn add_rules(inside: &mut RouteSocket, configuration: &SandboxConfiguration) -> Result<(), Error> {
    if configuration.rules.is_empty() {
        return Ok(());
    }
    let add = |rule| -> Change { Box::new(move |batch| rtnl::rule::add(batch, &rule)) };
    let results = inside.change(configuration.rules.iter().copied().map(add).collect()).subject(SUBJECT)?;
    for (rule, result) in configuration.rules.iter().zip(results) {
        match result {
            Err(error) if error.errno != libc::EEXIST => {
                return Err(Error::Configure { what: format!("rule {rule}"), error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a namespace has beside a VRF and a device in it.
#[derive(Default)]
struct Beside {
    has_ports: bool,
    /// What accepted connections before the other VRFs that were made here; none if there is none.
    before: Option<u32>,
    is_whole: bool,
}

fn beside(inside: &mut RouteSocket, vrf: u32, device: u32) -> Beside {
    let mut beside = Beside::default();
    let mut look = |message: &Message<'_>| {
        let Ok(link) = rtnl::link::parse(message.payload) else { return };
        for attribute in link.attributes() {
            let value = attribute.u32().unwrap_or(0);
            if attribute.kind == ifla::MASTER {
                beside.has_ports |= value == vrf && link.index != device;
            } else if attribute.kind == ifla::GROUP
                && link.index != vrf
                && let Some(protocols) = protocols_before(value)
            {
                beside.before = Some(beside.before.unwrap_or(ALL_PROTOCOLS) & protocols);
            }
        }
    };
    let listed = inside.each(&rtnl::link::dump, &mut look);
    beside.is_whole = matches!(listed, Ok(Ok(_)));
    beside
}

/// What accepted connections before a VRF of that group; none if it was not made here.
fn protocols_before(group: u32) -> Option<u32> {
    (group & !ALL_PROTOCOLS == OURS).then_some(group & ALL_PROTOCOLS)
}

/// Makes the device a port of its VRF, which is made if it is not there. The calling thread must be in the socket's namespace.
pub(crate) fn join_vrf(inside: &mut RouteSocket, vrf: &Vrf, index: u32) -> Result<(), Error> {
    let (name, table) = (vrf.name.as_interface_name(), vrf.table);
    let bytes = name.as_bytes().to_vec();
    // read first: what is on now is perhaps so because of another VRF, which is there then
    let now = accepting_from_vrfs();
    let before = beside(inside, 0, 0).before.unwrap_or(now);
    let made =
        inside.change_one(move |batch| rtnl::link::create_vrf(batch, &bytes, table, OURS | before)).subject(SUBJECT)?;
    let what = || format!("VRF {name}");
    match made {
        Ok(()) => {}
        Err(error) if error.errno == libc::EEXIST => {
            let bytes = name.as_bytes().to_vec();
            let answer = inside.get(|batch| rtnl::link::get_by_name(batch, &bytes)).subject(SUBJECT)?;
            let objects = answer.map_err(|error| Error::Configure { what: what(), error })?;
            let there = objects.of(kind::NEWLINK).next().and_then(vrf_table);
            if there != Some(table) {
                let reason = "the pod has a link of that name that is not a VRF with that table".to_owned();
                return Err(Error::NotApplied { what: what(), reason });
            }
        }
        Err(error) if error.errno == libc::EOPNOTSUPP => {
            let reason = "the node's kernel has no VRF (module vrf)".to_owned();
            return Err(Error::NotApplied { what: what(), reason });
        }
        Err(error) => return Err(Error::Configure { what: what(), error }),
    }
    let vrf = read_bare(inside, Which::Name(name))?.ok_or(Error::Vanished)?;
    if protocols_before(vrf.group).is_some() {
        // also for one whose maker was killed
        accept_from_vrfs(ALL_PROTOCOLS, "1");
    }
    let master = vrf.index;
    let is_port = read_bare(inside, Which::Index(index))?.is_some_and(|link| link.master == Some(master));
    if is_port {
        return Ok(());
    }
    let joined = inside.change_one(move |batch| {
        rtnl::link::set(batch, index, 0, 0).u32(ifla::MASTER, master);
    });
    joined.subject(SUBJECT)?.map_err(|error| Error::Configure { what: what(), error })
}

/// Removes the rules of a device that leaves its sandbox, but for those that another device there requests, and its VRF if it was
/// made here and has no other port. What cannot be removed stays: it ends with the namespace.
pub(crate) fn leave<A: Identity>(records: &Records, record: &Attachment<A>, home: &mut RouteSocket, actor: Actor<'_>) {
    let own = |configuration: &&SandboxConfiguration| !configuration.rules.is_empty() || configuration.vrf.is_some();
    let Some(configuration) = record.configuration.as_ref().filter(own) else { return };
    let Ok(Some((namespace, mut inside))) = find_namespace(records, record, home, actor) else { return };
    remove_rules(records, &mut inside, &record.device, &configuration.rules);
    if let Some(vrf) = &configuration.vrf {
        remove_vrf(&mut inside, vrf, record.sandbox.ifindex, &namespace, home);
    }
}

fn remove_rules(records: &Records, inside: &mut RouteSocket, device: &DeviceId, rules: &[SandboxRule]) {
    if rules.is_empty() {
        return;
    }
    let Ok((ledger, _)) = records.list() else { return };
    let cookie = inside.cookie();
    let is_beside = |record: &Attachment| record.sandbox.cookie == cookie && record.device != *device;
    let mut removals: Vec<Change> = Vec::new();
    for &rule in rules {
        let requests = |record: &Attachment| record.configuration.as_ref().is_some_and(|it| it.rules.contains(&rule));
        if !ledger.values().any(|record| is_beside(record) && requests(record)) {
            removals.push(Box::new(move |batch| rtnl::rule::remove(batch, &rule)));
        }
    }
    let _ = inside.change(removals);
}

/// Removes a VRF that was made here and has no port but the device with that index.
fn remove_vrf(inside: &mut RouteSocket, vrf: &Vrf, index: u32, namespace: &Namespace, home: &RouteSocket) {
    let Ok(Some(link)) = read_bare(inside, Which::Name(vrf.name.as_interface_name())) else { return };
    let Some(before) = protocols_before(link.group).filter(|_| link.kind.as_deref() == Some(VRF)) else { return };
    let others = beside(inside, link.index, index);
    if others.has_ports || !others.is_whole {
        return;
    }
    // before the VRF goes, which says what was before
    if others.before.is_none() {
        let _ = briefly_inside(namespace, home, || {
            accept_from_vrfs(!before, "0");
            Ok(())
        });
    }
    let _ = inside.change_one(move |batch| rtnl::link::delete(batch, link.index));
}
