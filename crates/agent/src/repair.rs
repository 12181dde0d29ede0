//! Puts right what hooks that were killed, and sandboxes that ended without one, left behind.
//!
//! Level, not edge: each look compares all records with the kernel, so a look that was missed costs time and nothing
//! else. What this agent may not do, for want of a capability, the next hook on the node does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use link::{Homecoming, Records, Repair};
use netdevice::DeviceId;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{folder::Folder, metrics::Metrics};

/// A physical device comes back some 150 ms after its namespace ended.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Looks at the records when one changed, when a namespace ended, and again while a device is on its way.
pub(crate) async fn keep(
    mut namespaces_ended: watch::Receiver<u64>,
    records: Records,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut folder = Folder::new(records.folder());
    let mut told = BTreeMap::new();
    let mut retry = FIRST_RETRY;
    loop {
        let looked = records.clone();
        let findings = spawn_blocking(move || look(&looked)).await?;
        let is_open = tell(findings, &mut told, &metrics);
        retry = if is_open { (retry * 2).min(LAST_RETRY) } else { FIRST_RETRY };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = folder.changed() => {}
            changed = namespaces_ended.changed() => changed?,
            () = sleep(retry), if is_open => {}
        }
    }
}

type Findings = Vec<(DeviceId, Result<Homecoming, String>)>;

/// Repairs each device that needs it.
fn look(records: &Records) -> Findings {
    // a folder that cannot be read is told of where the views are made
    let Ok((ledger, _)) = records.list() else { return Vec::new() };
    let repair = |device: DeviceId| match link::repair(records, &device) {
        Ok(Repair::Done(homecoming)) => Some((device, Ok(homecoming))),
        Ok(Repair::Busy | Repair::Unneeded) => None,
        Err(error) => Some((device, Err(error.to_string()))),
    };
    ledger.into_keys().filter_map(repair).collect()
}

/// Logs what is new, and says whether something is left to do.
fn tell(findings: Findings, told: &mut BTreeMap<DeviceId, String>, metrics: &Metrics) -> bool {
    let mut open = BTreeMap::new();
    for (device, result) in findings {
        match result {
            Ok(Homecoming::Home { renamed, skipped }) => {
                metrics.count_repair("ok");
                let left_out: Vec<String> = skipped.iter().map(ToString::to_string).collect();
                match renamed {
                    None => {
                        info!(%device, "brought home after its sandbox or hook was killed; {}", left_out.join("; "))
                    }
                    Some(name) => {
                        warn!(%device, "brought home as {name}, for its name was taken; {}", left_out.join("; "))
                    }
                }
            }
            Ok(Homecoming::Lost) => {
                metrics.count_repair("lost");
                warn!(%device, "the virtual link was deleted with its sandbox, before a hook could bring it home");
            }
            Ok(Homecoming::Away) => _ = open.insert(device, "it is not on the node yet".to_owned()),
            Err(error) => _ = open.insert(device, error),
        }
    }
    for (device, reason) in &open {
        if told.get(device) != Some(reason) {
            metrics.count_repair("failed");
            warn!(%device, "should come home and does not, the next hook on this node tries again: {reason}");
        }
    }
    *told = open;
    !told.is_empty()
}
