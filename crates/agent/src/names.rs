//! The names of devices that have returned to the host. udev may rename an interface that appears: then it is renamed back.
//! A device whose name was in use is renamed as soon as that name is free.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use link::Restored;
use netdevice::{InterfaceName, Snapshot};
use rtnetlink::{LinkUnspec, packet_core::DefaultNla, packet_route::link::LinkAttribute};
use store::{Records, Waiting};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::view::{Part, Views};

/// `IFLA_IFNAME` (`include/uapi/linux/if_link.h`).
const IFLA_IFNAME: u16 = 3;

/// How long after its return a device is renamed back when another program renames it.
const GUARD: Duration = Duration::from_secs(10);

/// A device whose name is guarded.
struct Guarded {
    /// Its index on the host, once it was seen there under its name.
    index: Option<u32>,
    until: Instant,
}

/// The pause after a failed attempt to rename a device.
const RETRY: Duration = Duration::from_secs(10);

/// Guards the names of devices that have just returned, and renames devices that wait for their name.
pub(crate) async fn run(
    records: Records,
    restored: mpsc::UnboundedReceiver<InterfaceName>,
    views: Views,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        result = guard(restored, Part::links(views.clone())) => result,
        result = rename_waiting(&records, views) => result,
    }
}

/// Renames devices as soon as their name is free. A record ends when a device begins to wait: then the directory is read
/// again.
async fn rename_waiting(records: &Records, views: Views) -> anyhow::Result<()> {
    let (mut links, mut ledger) = (Part::links(views.clone()), Part::ledger(views.clone()));
    let mut retries: BTreeMap<InterfaceName, tokio::time::Instant> = BTreeMap::new();
    loop {
        // what changes from here on leads to another round
        links.now();
        ledger.now();
        let waiting = records.waiting().unwrap_or_else(|error| {
            warn!("cannot read the devices that wait for their name: {error}");
            Vec::new()
        });
        retries.retain(|present, _| waiting.iter().any(|waiting| waiting.present == *present));
        let now = tokio::time::Instant::now();
        let is_free = |waiting: &Waiting| {
            let view = views.borrow();
            let is_taken = view.snapshot.link_named(&waiting.device.to_name()).is_some();
            !is_taken && !view.ledger.contains_key(&waiting.device)
        };
        let count = waiting.len();
        for waiting in waiting.into_iter().filter(is_free) {
            if retries.get(&waiting.present).is_none_or(|at| *at <= now) {
                retries.insert(waiting.present.clone(), now + RETRY);
                restore(records, waiting).await?;
            }
        }
        let retry = retries.values().copied().filter(|at| *at > now).min();
        tokio::select! {
            changed = ledger.changed() => drop(changed?),
            changed = links.changed(), if count > 0 => drop(changed?),
            () = sleep_until(retry.unwrap_or(now)), if retry.is_some() => {}
        }
    }
}

async fn restore(records: &Records, waiting: Waiting) -> anyhow::Result<()> {
    let (device, present) = (waiting.device.clone(), waiting.present.clone());
    let records = records.clone();
    match spawn_blocking(move || link::restore_name(&records, &waiting)).await? {
        Ok(Restored::Done) => info!(%device, "renamed from {present}: its name is free again"),
        Ok(Restored::Void) => {
            info!(%device, "{present} no longer waits for the name: it was removed or renamed")
        }
        Ok(Restored::NotYet) => debug!(%device, "{present} waits for the name"),
        Err(error) => warn!(%device, "cannot rename {present}: {error}"),
    }
    Ok(())
}

/// For a while, renames returned devices back when another program renames them.
async fn guard(mut restored: mpsc::UnboundedReceiver<InterfaceName>, mut links: Part<Snapshot>) -> anyhow::Result<()> {
    let mut guarded: BTreeMap<InterfaceName, Guarded> = BTreeMap::new();
    loop {
        guarded.retain(|_, guard| guard.until > Instant::now());
        let left = guarded.values().map(|guard| guard.until.saturating_duration_since(Instant::now())).min();
        tokio::select! {
            name = restored.recv() => match name {
                Some(name) => _ = guarded.insert(name, Guarded { index: None, until: Instant::now() + GUARD }),
                None => return Ok(()),
            },
            changed = links.changed(), if !guarded.is_empty() => drop(changed?),
            () = sleep(left.unwrap_or_default()), if left.is_some() => continue,
        }
        let snapshot = links.now();
        for (name, guard) in &mut guarded {
            check(name, guard, &snapshot).await;
        }
    }
}

/// Renames the device if another program has renamed it.
async fn check(name: &InterfaceName, guard: &mut Guarded, snapshot: &Snapshot) {
    if let Some(link) = snapshot.link_named(name) {
        guard.index = Some(link.index);
        return;
    }
    let Some(link) = guard.index.and_then(|index| snapshot.link(index)) else { return };
    match rename_link(link.index, name).await {
        Ok(()) => {
            info!(device = %name, "renamed back from {}: another program had renamed it when it returned", link.name)
        }
        Err(error) => {
            warn!(device = %name, "cannot rename it back from {}, to which another program renamed it when it returned: {error:#}", link.name);
            guard.until = Instant::now();
        }
    }
}

/// Renames a link of the host. The kernel answers after the moves of links that are under way; the agent has one thread, so
/// it does not wait for the answer with a blocking call.
async fn rename_link(index: u32, name: &InterfaceName) -> anyhow::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
    // the crate's own attribute is a string, and a name need not be UTF-8
    let name = DefaultNla::new(IFLA_IFNAME, [name.as_bytes(), &[0]].concat());
    let message = LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::Other(name)).build();
    tokio::select! {
        renamed = handle.link().set(message).execute() => Ok(renamed?),
        () = connection => bail!("the netlink socket was closed"),
    }
}
