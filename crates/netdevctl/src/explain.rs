//! `netdevctl explain`: rule by rule.

use std::{fmt::Write as _, io::Write, sync::Arc};

use anyhow::bail;
use netdevice::{
    Attachment, DeviceId, InterfaceName, Link, Phase, Snapshot, View,
    projection::{Explanation, PoolExplanation},
    selector::{Condition, PHYSICAL},
};
use store::Place;

use crate::{
    arguments,
    node::{Agent, Node, Selection, is_orphan},
};

/// Explains a device or an interface.
pub(crate) fn explain(name: &str, arguments: &arguments::Node, out: &mut impl Write) -> anyhow::Result<()> {
    let node = Node::read(arguments)?;
    out.write_all(text(name, &node, is_orphan)?.as_bytes())?;
    out.write_all(of_agent(&node.agent).as_bytes())?;
    Ok(())
}

/// What concerns every device of the node.
fn of_agent(agent: &Agent) -> String {
    match agent {
        Agent::Absent => "\nnetdevice-agent does not run on this node: the kubelet gets no device\n".into(),
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
            Place::Records => "",
            Place::Quarantine => {
                "\nit is not offered until that file is removed: first see that the interface is on the node and as it should be"
            }
        };
        bail!("{name} has a record that cannot be read: {}: {}{advice}", file.path.display(), file.reason);
    }
    let waiting = id.as_ref().and_then(|id| of_waiting(id, node));
    let of_record = id.and_then(|id| view.ledger.get(&id)).map(|record| of_record(record, is_orphan(record)));
    let of_link = link.map(|link| of_link(link, view, &node.selection));
    let parts: Vec<String> = [waiting, of_record, of_link].into_iter().flatten().collect();
    if parts.is_empty() {
        bail!("no device or interface {name:?} is on this node");
    }
    Ok(parts.join("\n"))
}

/// A device that waits for its name, asked for by that name or by the one that it has until then.
fn of_waiting(id: &DeviceId, node: &Node) -> Option<String> {
    let (present, device) = node.waiting.iter().find(|(present, device)| [*present, *device].contains(&id))?;
    Some(format!(
        "{device} is on the host as {present}, for its name was taken when it returned from a pod: the agent gives it \
         its name as soon as no other interface has it\n"
    ))
}

/// The link with that name, that id, or that alternative name.
fn find<'a>(name: &str, snapshot: &'a Snapshot) -> Option<&'a Arc<Link>> {
    let named = name.parse::<InterfaceName>().ok();
    let of_id = name.parse::<DeviceId>().ok().map(|id| id.to_name());
    let by_name = [named, of_id].into_iter().flatten().find_map(|name| snapshot.link_named(&name));
    let has_altname = |link: &&Arc<Link>| link.altnames.iter().any(|altname| altname.as_bytes() == name.as_bytes());
    by_name.or_else(|| snapshot.links().values().find(has_altname))
}

fn of_record(record: &Attachment, is_gone: bool) -> String {
    let what = match record.phase {
        Phase::Attaching => "is on its way to",
        Phase::Attached => "is attached to",
        Phase::Detaching => "is on its way home from",
    };
    let mut text = format!("{} {what} {}, as {} there\n", record.device, record.owner, record.sandbox.name);
    if is_gone {
        let end =
            "  the namespace is gone: the agent, or the next hook that runs on this node, brings the device home\n";
        text.push_str(end);
    }
    text
}

fn of_link(link: &Link, view: &View, selection: &Selection) -> String {
    let explanation = view.explain(link);
    let mut text = format!("{}: {}\n\n", DeviceId::from(&link.name), verdict(&explanation));
    let mut say = |holds: bool, what: String| {
        let _ = writeln!(text, "{}  {what}", if holds { "yes" } else { "no " });
    };
    say(true, format!("it is on the host: {}", appearance(link)));
    match &explanation.exclusion {
        None => say(true, "it may be offered: it is no loopback, uplink, port of a bridge, or the like".into()),
        Some(exclusion) => say(false, format!("it may be offered: {exclusion}")),
    }
    if selection.pools.is_none() {
        say(false, format!("a pool takes it: no pools are known, {} is not there", selection.source));
    }
    for pool in &explanation.pools {
        let first = explanation.pool.as_ref().filter(|first| pool.takes && **first != pool.resource);
        let remark = first.map(|first| format!(", but {first} comes first")).unwrap_or_default();
        say(pool.takes, format!("the pool {} takes it{remark}{}", pool.resource, conditions(pool)));
    }
    match &explanation.owner {
        None => say(true, "nobody has a device of this name".into()),
        Some(holder) => say(false, format!("nobody has a device of this name: {holder} has")),
    }
    if let Some(healthy) = explanation.healthy {
        say(healthy, "it is healthy by the rule of its pool".into());
    }
    if selection.pools.is_some() {
        let _ = write!(text, "\nby the pools of {}\n", selection.source);
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
