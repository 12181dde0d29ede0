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
use store::Records;

use crate::{
    error::{Error, WithSubject},
    identity::{Actor, Identity, find_namespace},
    read::{Which, read_bare},
    socket::{Change, RouteSocket},
    sysctl,
};

/// Alias of a VRF that was made here.
const OURS: &[u8] = b"netdevice";
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

/// Makes the device a port of its VRF, which is made if it is not there. The calling thread must be in the socket's namespace.
pub(crate) fn join_vrf(inside: &mut RouteSocket, vrf: &Vrf, index: u32) -> Result<(), Error> {
    let (name, table) = (vrf.name.as_interface_name(), vrf.table);
    let bytes = name.as_bytes().to_vec();
    let made = inside.change_one(move |batch| rtnl::link::create_vrf(batch, &bytes, table, OURS)).subject(SUBJECT)?;
    let what = || format!("VRF {name}");
    match made {
        Ok(()) => sysctl::accept_from_vrfs(),
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
    let master = read_bare(inside, Which::Name(name))?.ok_or(Error::Vanished)?.index;
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
    let Ok(Some((_namespace, mut inside))) = find_namespace(records, record, home, actor) else { return };
    remove_rules(records, &mut inside, &record.device, &configuration.rules);
    if let Some(vrf) = &configuration.vrf {
        remove_vrf(&mut inside, vrf, record.sandbox.ifindex);
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

fn remove_vrf(inside: &mut RouteSocket, vrf: &Vrf, index: u32) {
    let Ok(Some(link)) = read_bare(inside, Which::Name(vrf.name.as_interface_name())) else { return };
    let is_ours =
        link.kind.as_deref() == Some(VRF) && link.alias.as_ref().is_some_and(|alias| alias.as_bytes() == OURS);
    let mut others = 0;
    let mut look = |message: &Message<'_>| {
        let port = rtnl::link::parse(message.payload).ok().and_then(|link| link.to_link());
        let is_other = |port: &netdevice::Link| port.master == Some(link.index) && port.index != index;
        others += usize::from(port.as_ref().is_some_and(is_other));
    };
    let listed = inside.each(&rtnl::link::dump, &mut look);
    if is_ours && others == 0 && matches!(listed, Ok(Ok(_))) {
        let _ = inside.change_one(move |batch| rtnl::link::delete(batch, link.index));
    }
}
