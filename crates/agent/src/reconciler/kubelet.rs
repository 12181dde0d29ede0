//! Asks the kubelet for the Pods. A Pod that no longer exists has no right to a device, although a process of it may still
//! run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use kubelet::PodResources;
use netdevice::{DeviceId, Owner, Pod};
use tokio::{sync::watch, time::sleep};

use crate::view::Views;

/// How often the kubelet is asked while a device is attached.
const INTERVAL: Duration = Duration::from_secs(30);
/// A Pod no longer exists when it is missing in this many answers in a row: after a restart the kubelet knows no Pod for a
/// second, and learns of them one by one.
const ABSENCES: u32 = 2;

/// Devices of Pods that no longer exist, with the owner of that time: the device may have another one by now.
pub(super) type Gone = BTreeMap<DeviceId, Owner>;

/// Asks the kubelet, and publishes the devices of Pods that no longer exist.
pub(super) struct Kubelet {
    pod_resources: PodResources,
    views: Views,
    absences: BTreeMap<DeviceId, (Owner, u32)>,
}

impl Kubelet {
    pub(super) fn new(socket: PathBuf, views: Views) -> Self {
        Self { pod_resources: PodResources::new(socket), views, absences: BTreeMap::new() }
    }

    pub(super) async fn run(mut self, gone: watch::Sender<Gone>) -> anyhow::Result<()> {
        loop {
            self.views.wait_for(|view| !view.ledger.is_empty()).await?;
            sleep(INTERVAL).await;
            // without an answer nothing changes
            let Ok(Some(known)) = self.pod_resources.list().await else { continue };
            let now = self.update(&known.into_iter().map(|pod| (pod.namespace, pod.name)).collect());
            gone.send_if_modified(|gone| {
                let differs = *gone != now;
                *gone = now;
                differs
            });
        }
    }

    /// Takes an answer, and returns the devices of Pods that no longer exist. An answer without any Pod is ignored.
    fn update(&mut self, known: &BTreeSet<(String, String)>) -> Gone {
        let ledger = self.views.borrow().ledger.clone();
        self.absences.retain(|device, (owner, _)| ledger.get(device).is_some_and(|record| record.owner == *owner));
        if !known.is_empty() {
            for (device, record) in ledger.iter() {
                let is_known = |pod: &Pod| known.contains(&(pod.namespace.clone(), pod.name.clone()));
                if record.owner.pod().is_none_or(is_known) {
                    self.absences.remove(device);
                } else {
                    self.absences.entry(device.clone()).or_insert_with(|| (record.owner.clone(), 0)).1 += 1;
                }
            }
        }
        let often = self.absences.iter().filter(|(_, (_, absences))| *absences >= ABSENCES);
        often.map(|(device, (owner, _))| (device.clone(), owner.clone())).collect()
    }
}
