//! A node for a test: directorys of its own, links that the test names, a kubelet stand-in and the plugin.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use device_plugin::{Config, DevicePlugin, Error, Paths, RecordCheck, Stats, Timing};
use kubelet_stand_in::{Kubelet, KubeletState, Resource};
use netdevice::{
    Attachment, DeviceId, InterfaceName, Ledger, Link, Owner, Pools, Projector, ResourceName, Snapshot, View, fixture,
    link::{Hardware, flags},
    owner::Pod,
    snapshot::{DefaultRoute, Family},
};
use tempfile::TempDir;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub(crate) const RESOURCE: &str = "networking.k8s.io/netdevice";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) directory: TempDir,
    pub(crate) timing: Timing,
    snapshot: Snapshot,
    ledger: Ledger,
    projector: Projector,
    view: watch::Sender<Arc<View>>,
}

impl Node {
    /// A node with one pool, of all links with `dummy` in their name.
    pub(crate) fn new() -> Self {
        let timing = Timing {
            poll: Duration::from_millis(200),
            held_grace: Duration::from_millis(100),
            register: Duration::from_secs(5),
            complete_list: Duration::ZERO,
            ..Timing::default()
        };
        let mut node = Self {
            directory: tempfile::tempdir().unwrap(),
            timing,
            snapshot: Snapshot::default(),
            ledger: Ledger::new(),
            projector: Projector::new(),
            view: watch::Sender::default(),
        };
        node.set_pools("{resource: networking.k8s.io/netdevice, select: {names: [dummy]}}");
        node
    }

    pub(crate) fn with_links(names: &[&str]) -> Self {
        let mut node = Self::new();
        names.iter().for_each(|name| node.add(name));
        node
    }

    pub(crate) fn set_pools(&mut self, pools: &str) {
        let pools = Pools::from_yaml(&format!("pools: [{pools}]")).unwrap();
        self.projector.set_pools(Arc::new(pools));
        self.publish();
    }

    pub(crate) fn add(&mut self, name: &str) {
        self.add_link(name, flags::UP, None);
    }

    pub(crate) fn add_link(&mut self, name: &str, flags: u32, numa_node: Option<u32>) {
        self.add_bytes(name.as_bytes(), flags, numa_node);
    }

    pub(crate) fn add_bytes(&mut self, name: &[u8], flags: u32, numa_node: Option<u32>) {
        let name = InterfaceName::new(name).unwrap();
        let known = self.snapshot.link_named(&name).map(|link| link.index);
        let next = self.snapshot.links().keys().next_back().map_or(1, |index| index + 1);
        self.snapshot.insert_link(Arc::new(Link {
            index: known.unwrap_or(next),
            name,
            altnames: Box::default(),
            alias: None,
            kind: Some("dummy".into()),
            mac: None,
            flags,
            mtu: 1500,
            master: None,
            parent: None,
            link_netnsid: None,
            netns_immutable: None,
            hardware: numa_node.map(|node| Arc::new(Hardware { numa_node: Some(node), ..Hardware::default() })),
        }));
        self.publish();
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let name = InterfaceName::try_from(name).unwrap();
        let index = self.snapshot.link_named(&name).unwrap().index;
        self.snapshot.remove_link(index);
        self.publish();
    }

    pub(crate) fn make_uplink(&mut self, name: &str) {
        let link = self.snapshot.link_named(&InterfaceName::try_from(name).unwrap()).unwrap().index;
        self.snapshot.insert_default_route(DefaultRoute { family: Family::V4, table: 254, metric: 0, link });
        self.publish();
    }

    /// A Pod's container starts: the link goes into the sandbox.
    pub(crate) fn attach(&mut self, name: &str, pod: &str) {
        let record = record(name, pod);
        self.ledger.insert(record.device.clone(), Arc::new(record));
        self.projector.set_ledger(Arc::new(self.ledger.clone()));
        self.remove(name);
    }

    /// The container ends: the link comes home.
    pub(crate) fn detach(&mut self, name: &str) {
        self.add(name);
        self.forget_record(name);
    }

    pub(crate) fn forget_record(&mut self, name: &str) {
        self.ledger.remove(&name.parse::<DeviceId>().unwrap());
        self.projector.set_ledger(Arc::new(self.ledger.clone()));
        self.publish();
    }

    pub(crate) fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    fn publish(&mut self) {
        self.projector.set_snapshot(self.snapshot.clone());
        self.view.send_replace(Arc::new(self.projector.view().clone()));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn kubelet(&self) -> Kubelet {
        Kubelet::start(&self.path("plugins")).unwrap()
    }

    pub(crate) fn config(&self) -> Config {
        let paths = Paths {
            device_plugins: self.path("plugins"),
            pod_resources: self.path("pod-resources/kubelet.sock"),
            cdi: self.path("run/cdi"),
            cdi_spec_dirs: vec![self.path("etc/cdi"), self.path("run/cdi")],
            hook: "/opt/netdevice/netdevice-hook".into(),
            state_dir: None,
        };
        Config {
            resource: ResourceName::default(),
            paths,
            timing: self.timing.clone(),
            record_check: RecordCheck::default(),
            reservations: Arc::default(),
            report_waker: Arc::default(),
        }
    }

    pub(crate) fn start(&self) -> Plugin {
        self.start_with(self.config())
    }

    pub(crate) fn start_with(&self, config: Config) -> Plugin {
        let plugin = DevicePlugin::new(config, self.view());
        let (stats, shutdown) = (plugin.stats(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(plugin.run(shutdown.clone()));
        Plugin { stats, shutdown, task }
    }

    pub(crate) fn cdi_file(&self) -> PathBuf {
        self.path("run/cdi/networking.k8s.io-netdevice.json")
    }

    /// Devices in the CDI file, none without a file.
    pub(crate) fn cdi_devices(&self) -> Vec<String> {
        let Ok(text) = std::fs::read_to_string(self.cdi_file()) else { return Vec::new() };
        let spec: serde_json::Value = serde_json::from_str(&text).expect("nobody sees half a file");
        let devices = spec["devices"].as_array().unwrap().iter();
        devices.map(|device| device["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Our sockets in the kubelet's directory.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("plugins")).unwrap().map(|entry| entry.unwrap());
        let ours =
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(device_plugin::SOCKET_PREFIX));
        ours.map(|entry| entry.path()).collect()
    }
}

/// A plugin that runs; it is dropped without a goodbye, as if it was killed.
pub(crate) struct Plugin {
    pub(crate) stats: Arc<Stats>,
    shutdown: CancellationToken,
    task: JoinSet<Result<(), Error>>,
}

impl Plugin {
    pub(crate) async fn shut_down(mut self) {
        self.shutdown.cancel();
        self.ended().await;
    }

    /// Waits until the plugin ends.
    pub(crate) async fn ended(&mut self) {
        let ended = timeout(PATIENCE, self.task.join_next()).await.expect("the plugin ends");
        ended.unwrap().unwrap().unwrap();
    }
}

/// Waits until something outside of any protocol is so: a file, a counter.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}: not so after {PATIENCE:?}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the kubelet's list of the default resource has these ids, and the stream is open.
pub(crate) async fn listed(kubelet: &Kubelet, ids: &[&str]) -> Resource {
    let is_so = |state: &KubeletState| {
        let resource = state.resources.get(RESOURCE);
        resource.is_some_and(|known| known.is_connected && !known.lists.is_empty() && known.ids() == ids)
    };
    kubelet.until(&format!("{ids:?} are listed"), is_so).await.resources.remove(RESOURCE).unwrap()
}

pub(crate) fn health(resource: &Resource) -> BTreeMap<&str, &str> {
    resource.devices().iter().map(|device| (device.id.as_str(), device.health.as_str())).collect()
}

pub(crate) fn record(name: &str, pod: &str) -> Attachment {
    let pod = Pod { namespace: "default".into(), name: pod.into(), uid: format!("uid-{pod}") };
    let owner = Owner::Container { id: "c0ffee".into(), sandbox: Some("5a4db0c5".into()), pod: Some(pod) };
    Attachment { owner, resource: Some(ResourceName::default()), ..fixture::record(name) }
}
