//! `netdevctl explain`: rule by rule.

use std::{fmt::Write as _, io::Write, sync::Arc};

use anyhow::bail;
use netdevice::{
    Attachment, DeviceId, InterfaceName, Link, Phase, Snapshot, View,
    claims::health::{DeviceHealth, Health, health_of},
    projection::{Explanation, PoolExplanation},
    selector::{Condition, PHYSICAL},
};
use store::RecordDirectory;

use crate::{
    node::{Agent, Node, Selection, is_orphan},
    node_arguments::NodeArguments,
    way::Way,
};

/// Explains a device or an interface.
pub(crate) fn explain(name: &str, arguments: &NodeArguments, out: &mut impl Write) -> anyhow::Result<()> {
    let node = Node::read(arguments)?;
    out.write_all(text(name, &node, is_orphan)?.as_bytes())?;
    out.write_all(of_agent(&node.agent).as_bytes())?;
    Ok(())
}

/// What applies to every device of the node.
fn of_agent(agent: &Agent) -> String {
    match agent {
        Agent::Absent => "\nnetdevice-agent does not run on this node: the kubelet is offered no devices\n".into(),
        Agent::Running(problems) if problems.is_empty() => String::new(),
        Agent::Running(problems) => {
            let lines: String = problems.iter().map(|problem| format!("  {problem}\n")).collect();
            format!("\nproblems of this node, as the agent reports them:\n{lines}")
        }
    }
}

fn text(name: &str, node: &Node, is_orphan: impl Fn(&Attachment) -> bool) -> anyhow::Result<String> {
    let view = node.projector.view();
    let link = find(name, &view.snapshot);
    let id = name.parse::<DeviceId>().ok().or_else(|| Some(DeviceId::from(&name.parse::<InterfaceName>().ok()?)));
    if let Some(file) = node.unreadable.iter().find(|file| file.device.is_some() && file.device == id) {
        let advice = match file.place {
            RecordDirectory::Records => "",
            RecordDirectory::Quarantine => {
                "\nit is not offered until you remove that file. Before that, check that the interface is on the node and correctly configured"
            }
        };
        bail!("the record of {name} cannot be used: {}: {}{advice}", file.path.display(), file.reason);
    }
    let reserved = id.as_ref().and_then(|id| of_reservation(id, node));
    let waiting = id.as_ref().and_then(|id| of_waiting(id, node));
    let device = link.map(|link| DeviceId::from(&link.name)).or_else(|| id.clone());
    let of_slices = device.and_then(|id| of_slices(&id, view));
    let of_record = id.and_then(|id| view.ledger.get(&id)).map(|record| of_record(record, is_orphan(record)));
    let of_link = link.map(|link| of_link(link, view, &node.selection));
    let parts: Vec<String> = [waiting, reserved, of_record, of_slices, of_link].into_iter().flatten().collect();
    if parts.is_empty() {
        bail!("no device or interface {name:?} is on this node");
    }
    Ok(parts.join("\n"))
}

/// A device that is offered by claims.
fn of_slices(id: &DeviceId, view: &View) -> Option<String> {
    let DeviceHealth { device, health, message } = health_of(view, id)?;
    let taint = match health {
        Health::Healthy => String::new(),
        Health::Unhealthy => format!(", with a taint: {message}"),
    };
    Some(format!("{id} is in the ResourceSlices of the node as {device}{taint}\n"))
}

/// A device that is not attached yet.
fn of_reservation(id: &DeviceId, node: &Node) -> Option<String> {
    let reservation = node.reservations.get(id).filter(|_| !node.projector.view().ledger.contains_key(id))?;
    Some(format!("{id} is reserved for {}, and not attached yet\n", reservation.owner))
}

/// A device that is on the host under another name than its own, by either name.
fn of_waiting(id: &DeviceId, node: &Node) -> Option<String> {
    let (present, device) = node.waiting.iter().find(|(present, device)| [*present, *device].contains(&id))?;
    Some(format!(
        "{device} is on the host as {present}: its own name was taken when it returned from a pod. The agent renames it \
         as soon as no other interface has that name\n"
    ))
}

/// The link with that name, that id, or that alternative name.
pub(crate) fn find<'a>(name: &str, snapshot: &'a Snapshot) -> Option<&'a Arc<Link>> {
    let named = name.parse::<InterfaceName>().ok();
    let of_id = name.parse::<DeviceId>().ok().map(|id| id.to_name());
    let by_name = [named, of_id].into_iter().flatten().find_map(|name| snapshot.link_named(&name));
    let has_altname = |link: &&Arc<Link>| link.altnames.iter().any(|altname| altname.as_bytes() == name.as_bytes());
    by_name.or_else(|| snapshot.links().values().find(has_altname))
}

fn of_record(record: &Attachment, is_gone: bool) -> String {
    let what = match record.phase {
        Phase::Attaching => "is being attached to",
        Phase::Attached => "is attached to",
        Phase::Detaching => "is being detached from",
    };
    let by = match Way::of(&record.owner) {
        // also of a container without Kubernetes
        Way::Resource => String::new(),
        way => format!(", by {way}"),
    };
    let (device, owner, name) = (&record.device, &record.owner, &record.sandbox.name);
    let mut text = format!("{device} {what} {owner}{by}; its name there is {name}\n");
    if is_gone {
        text.push_str(
            "  its container or the network namespace is gone: the agent, or the next hook on this node, returns the device\n",
        );
    }
    text
}

/// What the rules for an interface are about.
fn subject(explanation: &Explanation) -> String {
    match explanation.children {
        None => "it may be offered".into(),
        Some(children) => {
            let (count, kind) = (children.count(), children.first().name());
            format!("its pool offers {count} devices of kind {kind}, which may be created on it")
        }
    }
}

fn of_link(link: &Link, view: &View, selection: &Selection) -> String {
    let explanation = view.explain(link);
    let mut text = format!("{}: {}\n\n", DeviceId::from(&link.name), verdict(&explanation));
    let mut say = |holds: bool, what: String| {
        let _ = writeln!(text, "{}  {what}", if holds { "yes" } else { "no " });
    };
    say(true, format!("it is on the host: {}", appearance(link)));
    match &explanation.exclusion {
        None => say(true, format!("{}: no rule excludes it", subject(&explanation))),
        Some(exclusion) => say(false, format!("{}: {exclusion}", subject(&explanation))),
    }
    if selection.pools.is_none() {
        say(false, format!("a pool selects it: no pools are known, {} does not exist", selection.source));
    }
    for pool in &explanation.pools {
        let first = explanation.pool.as_ref().filter(|first| pool.takes && **first != pool.resource);
        let remark = first.map(|first| format!(", but {first} is first")).unwrap_or_default();
        say(pool.takes, format!("the pool {} selects it{remark}{}", pool.resource, conditions(pool)));
    }
    match &explanation.owner {
        None => say(true, "no Pod has a device of this name".into()),
        Some(owner) => say(false, format!("no Pod has a device of this name: {owner} has it")),
    }
    if let Some(healthy) = explanation.healthy {
        say(healthy, "it is healthy by the rule of its pool".into());
    }
    if selection.pools.is_some() {
        let _ = write!(text, "\npools: {}\n", selection.source);
    }
    text
}

fn verdict(explanation: &Explanation) -> String {
    match (explanation.is_offered(), &explanation.pool) {
        (true, Some(pool)) if explanation.healthy == Some(false) => format!("offered as {pool}, unhealthy"),
        (true, Some(pool)) => format!("offered as {pool}"),
        _ => "not offered".into(),
    }
}

/// `index 3, kind veth, down`.
fn appearance(link: &Link) -> String {
    let mut parts = vec![format!("index {}, {}", link.index, link.kind.as_deref().unwrap_or(PHYSICAL))];
    let hardware = link.hardware.as_deref();
    parts.extend(hardware.and_then(|hardware| Some(format!("driver {}", hardware.driver.as_deref()?))));
    parts.extend(hardware.and_then(|hardware| Some(format!("PCI {}", hardware.pci_address.as_deref()?))));
    parts.push(match (link.is_up(), link.has_carrier()) {
        (true, true) => "up".into(),
        (true, false) => "up without a carrier".into(),
        (false, _) => "down".into(),
    });
    parts.join(", ")
}

fn conditions(pool: &PoolExplanation) -> String {
    let line = |which: &str, condition: &Condition| {
        let matches = if condition.holds { "matches" } else { "does not match" };
        format!("\n       {which}  {}: {} {matches}", condition.property, condition.value)
    };
    let select = pool.select.iter().map(|condition| line("select", condition));
    let except = pool.except.iter().map(|condition| line("except", condition));
    select.chain(except).collect()
}

#[cfg(test)]
mod tests;
