//! Guards the names of devices that have just come home: udev may rename an interface that appears, as it did when the
//! node started, whatever it was called since.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use netdevice::{InterfaceName, Snapshot};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long after its return a device keeps its name whatever somebody else thinks.
const GUARD: Duration = Duration::from_secs(10);

/// A device that is guarded, by its name.
struct Guarded {
    /// Its index on the host, once it was seen there under its name.
    index: Option<u32>,
    until: Instant,
}

/// Gives devices that came home their names back, for a while.
pub(crate) async fn keep(
    mut restored: mpsc::UnboundedReceiver<InterfaceName>,
    mut snapshots: watch::Receiver<Snapshot>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut guarded: BTreeMap<InterfaceName, Guarded> = BTreeMap::new();
    loop {
        guarded.retain(|_, guard| guard.until > Instant::now());
        let left = guarded.values().map(|guard| guard.until.saturating_duration_since(Instant::now())).min();
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            name = restored.recv() => match name {
                Some(name) => _ = guarded.insert(name, Guarded { index: None, until: Instant::now() + GUARD }),
                None => return Ok(()),
            },
            changed = snapshots.changed(), if !guarded.is_empty() => {
                changed?;
                snapshots.mark_unchanged();
            }
            () = sleep(left.unwrap_or_default()), if left.is_some() => continue,
        }
        let snapshot = snapshots.borrow().clone();
        for (name, guard) in &mut guarded {
            look(name, guard, &snapshot);
        }
    }
}

fn look(name: &InterfaceName, guard: &mut Guarded, snapshot: &Snapshot) {
    if let Some(link) = snapshot.link_named(name) {
        guard.index = Some(link.index);
        return;
    }
    let Some(link) = guard.index.and_then(|index| snapshot.link(index)) else { return };
    match link::rename_link(link.index, name) {
        Ok(()) => info!(device = %name, "somebody renamed it to {} when it came home: it has its name back", link.name),
        Err(error) => {
            warn!(device = %name, "somebody renamed it to {} when it came home: {error}", link.name);
            guard.until = Instant::now();
        }
    }
}
