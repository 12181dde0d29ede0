//! Announces the addresses of devices a second time: a moment after a device arrived in a sandbox or on the host, or as
//! soon after as its link has a carrier, which a switch takes a second or more to give.
//!
//! The attachment or detachment itself announces them the first time, also without an agent, or when the agent lacks the
//! capability to enter a sandbox.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use link::Announcement;
use netdevice::{Attachment, DeviceId, InterfaceName, Ledger, Phase};
use store::Records;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::view::Part;

/// How long after its arrival a device's addresses are announced again (`ANNOUNCE_INTERVAL` of RFC 5227 is two seconds,
/// `RetransTimer` of RFC 4861 one).
const PAUSE: Duration = Duration::from_secs(1);
/// How long to wait for a carrier.
const CARRIER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a device arrived.
#[derive(Debug, Clone, PartialEq)]
enum Arrival {
    Sandbox(Arc<Attachment>),
    Host(InterfaceName),
}

/// An announcement that is to be made.
#[derive(Debug)]
struct Due {
    arrival: Arrival,
    at: Instant,
    /// When waiting for a carrier ends.
    until: Instant,
}

/// Announces what arrives from now on, until `shutdown`.
pub(crate) async fn run(
    records: Records,
    mut ledger: Part<Arc<Ledger>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    // an earlier agent announced what was attached before this one started
    let mut known = ledger.now();
    let mut due: BTreeMap<DeviceId, Due> = BTreeMap::new();
    loop {
        let next = due.values().map(|due| due.at).min();
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = ledger.changed() => {
                let now = changed?;
                for (device, arrival) in arrivals(&known, &now) {
                    let at = Instant::now() + PAUSE;
                    due.insert(device, Due { arrival, at, until: at + CARRIER_TIMEOUT });
                }
                known = now;
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let now = Instant::now();
                let (ready, left) = due.into_iter().partition(|(_, due)| due.at <= now);
                due = left;
                for (device, waiting) in announce(records.clone(), ready).await? {
                    if now < waiting.until {
                        due.insert(device, Due { at: now + PAUSE, ..waiting });
                    }
                }
            }
        }
    }
}

/// Devices that are attached now and were not, or were attached elsewhere, and those that returned to the host.
fn arrivals(before: &Ledger, now: &Ledger) -> Vec<(DeviceId, Arrival)> {
    let is_attached = |record: &&Arc<Attachment>| record.phase == Phase::Attached;
    let there =
        |ledger: &Ledger, device: &DeviceId| ledger.get(device).filter(is_attached).map(|record| record.sandbox.cookie);
    let attached = now.iter().filter(|(_, record)| is_attached(record));
    let attached = attached.filter(|(device, record)| there(before, device) != Some(record.sandbox.cookie));
    let attached = attached.map(|(device, record)| (device.clone(), Arrival::Sandbox(record.clone())));
    let returned =
        before.iter().filter(|(device, record)| !now.contains_key(*device) && record.phase != Phase::Attaching);
    let returned =
        returned.filter_map(|(device, record)| Some((device.clone(), Arrival::Host(record.host()?.name.clone()))));
    attached.chain(returned).collect()
}

/// Announces these, and returns those whose link has no carrier.
async fn announce(records: Records, ready: BTreeMap<DeviceId, Due>) -> anyhow::Result<Vec<(DeviceId, Due)>> {
    let announce = move || {
        let mut waiting = Vec::new();
        for (device, due) in ready {
            let announced = match &due.arrival {
                Arrival::Sandbox(record) => link::announce_in_sandbox(&records, record),
                Arrival::Host(name) => link::announce_on_host(name),
            };
            match announced {
                Ok(Announcement::Done) => debug!(%device, "announced its addresses"),
                Ok(Announcement::NoCarrier) => waiting.push((device, due)),
                Err(error) => debug!(%device, "cannot announce its addresses: {error}"),
            }
        }
        waiting
    };
    Ok(spawn_blocking(announce).await?)
}

#[cfg(test)]
mod tests {
    use netdevice::fixture;

    use super::*;

    fn record(name: &str, cookie: u64, phase: Phase) -> Attachment {
        let mut record = Attachment { phase, ..fixture::record(name) };
        record.sandbox.cookie = cookie;
        record
    }

    #[test]
    fn a_device_is_announced_where_it_arrived_and_once() {
        use Phase::{Attached, Attaching, Detaching};
        let ledger = |of: Option<(u64, Phase)>| -> Ledger {
            of.map(|(cookie, phase)| record("eth1", cookie, phase))
                .into_iter()
                .map(|record| (record.device.clone(), Arc::new(record)))
                .collect()
        };
        let table = [
            ("begins", None, Some((1, Attaching)), None),
            ("arrives", Some((1, Attaching)), Some((1, Attached)), Some("sandbox 1")),
            ("arrives at once", None, Some((1, Attached)), Some("sandbox 1")),
            ("stays", Some((1, Attached)), Some((1, Attached)), None),
            ("is elsewhere", Some((1, Attached)), Some((2, Attached)), Some("sandbox 2")),
            ("leaves", Some((1, Attached)), Some((1, Detaching)), None),
            ("returns", Some((1, Detaching)), None, Some("host")),
            ("returns at once", Some((1, Attached)), None, Some("host")),
            ("did not leave", Some((1, Attaching)), None, None),
        ];
        for (what, before, now, expected) in table {
            let found = arrivals(&ledger(before), &ledger(now)).into_iter().map(|(_, arrival)| match arrival {
                Arrival::Sandbox(record) => format!("sandbox {}", record.sandbox.cookie),
                Arrival::Host(_) => "host".to_owned(),
            });
            assert_eq!(found.collect::<Vec<_>>(), Vec::from_iter(expected.map(str::to_owned)), "a device that {what}");
        }
    }
}
