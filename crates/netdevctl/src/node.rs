//! What is known of this node: the interfaces, the records, and the pools.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use link::{Diagnosis, RouteSocket};
use netdevice::{
    Attachment, DeviceId, Ledger, Pools, Projector, Snapshot,
    pool::{EFFECTIVE_CONFIGURATION, MAX_CONFIGURATION},
    record::Reservations,
};
use store::{Records, Unreadable};

use crate::node_arguments::NodeArguments;

/// Whether the container or the namespace that has a device has ended, as far as can be seen from here.
pub(crate) fn is_orphan(record: &Attachment) -> bool {
    let Ok(mut host) = RouteSocket::open() else { return false };
    matches!(link::diagnose(record, &mut host), Diagnosis::HolderEnded | Diagnosis::SandboxEnded)
}

/// The addresses that the node is known by, as the agent found them.
pub(crate) fn node_addresses(arguments: &NodeArguments) -> anyhow::Result<BTreeSet<IpAddr>> {
    Records::new(&arguments.state_dir).node_addresses().context("cannot read the addresses of this node")
}

/// The pools, and where they are from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    /// None if no pools are known.
    pub(crate) pools: Option<Pools>,
    /// `-interfaces`, or the path of the file.
    pub(crate) source: String,
}

impl Selection {
    /// The pools of the command line, or else those that the agent uses.
    pub(crate) fn read(node: &NodeArguments) -> anyhow::Result<Self> {
        if let Some(pattern) = &node.interfaces {
            return Ok(Self { pools: Some(Pools::by_name(pattern.clone())), source: "-interfaces".into() });
        }
        let (file, is_requested) = match &node.config {
            Some(file) => (file.clone(), true),
            None => (node.state_dir.join(EFFECTIVE_CONFIGURATION), false),
        };
        let source = file.display().to_string();
        match read_pools(&file) {
            Err(error) if !is_requested && is_missing(&error) => Ok(Self { pools: None, source }),
            read => Ok(Self { pools: Some(read?), source }),
        }
    }
}

/// Reads the pools of a configuration file.
pub(crate) fn read_pools(file: &Path) -> anyhow::Result<Pools> {
    let read = fs::File::open(file).and_then(|file| store::read_text_limited(file, MAX_CONFIGURATION));
    let text = read.with_context(|| format!("cannot read {}", file.display()))?;
    Pools::from_yaml(&text).with_context(|| format!("{}: invalid configuration", file.display()))
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// What the state directory says of the devices.
#[derive(Debug)]
struct Stored {
    ledger: Arc<Ledger>,
    unreadable: Vec<Unreadable>,
    reservations: Reservations,
    waiting: BTreeMap<DeviceId, DeviceId>,
}

impl Stored {
    /// Reads the state directory; one that does not exist has no records.
    fn read(directory: &Path) -> anyhow::Result<Self> {
        let records = Records::new(directory);
        // first the reservations: an attach writes the record before the reservation ends
        let read = || Ok::<_, io::Error>((records.reservations_in_force()?, records.list()?, records.waiting()?));
        let (reservations, (ledger, unreadable), waiting) =
            read().with_context(|| format!("cannot read the records in {}", directory.display()))?;
        let waiting = waiting.into_iter().map(|waiting| (DeviceId::from(&waiting.present), waiting.device));
        Ok(Self { ledger: Arc::new(ledger), unreadable, reservations, waiting: waiting.collect() })
    }
}

/// All that is known of the node.
#[derive(Debug)]
pub(crate) struct Node {
    /// The devices, by the pools of [`Node::selection`].
    pub(crate) projector: Projector,
    pub(crate) unreadable: Vec<Unreadable>,
    /// The reservations that count at this moment.
    pub(crate) reservations: Reservations,
    /// Devices that are on the host under another name than their own: that name, and their own.
    pub(crate) waiting: BTreeMap<DeviceId, DeviceId>,
    pub(crate) selection: Selection,
    pub(crate) agent: Agent,
}

/// The agent of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Agent {
    /// It does not run.
    Absent,
    /// It runs, and these are its problems.
    Running(Vec<String>),
}

impl Agent {
    fn read(directory: &Path) -> anyhow::Result<Self> {
        let records = Records::new(directory);
        if !records.has_agent() {
            return Ok(Self::Absent);
        }
        let problems = records.problems();
        let directory = directory.display();
        Ok(Self::Running(problems.with_context(|| format!("cannot read the agent's problems in {directory}"))?))
    }
}

impl Node {
    /// Reads the kernel and the records once.
    pub(crate) fn read(arguments: &NodeArguments) -> anyhow::Result<Self> {
        let node_addresses = node_addresses(arguments)?;
        let snapshot = inventory::read_once(&arguments.sysfs, node_addresses)
            .context("cannot read the interfaces of this node")?;
        Self::with_snapshot(arguments, snapshot)
    }

    /// Reads the records; the kernel was read before.
    pub(crate) fn with_snapshot(arguments: &NodeArguments, snapshot: Snapshot) -> anyhow::Result<Self> {
        let selection = Selection::read(arguments)?;
        let agent = Agent::read(&arguments.state_dir)?;
        let (unreadable, reservations, waiting) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let projector = Projector::new();
        let mut node = Self { projector, unreadable, reservations, waiting, selection, agent };
        node.projector.set_pools(Arc::new(node.selection.pools.clone().unwrap_or_default()));
        node.set_stored(Stored::read(&arguments.state_dir)?);
        node.projector.set_snapshot(snapshot);
        Ok(node)
    }

    /// Reads the records again, and the pools.
    pub(crate) fn refresh(&mut self, arguments: &NodeArguments) -> anyhow::Result<()> {
        self.set_stored(Stored::read(&arguments.state_dir)?);
        let selection = Selection::read(arguments)?;
        if selection != self.selection {
            self.projector.set_pools(Arc::new(selection.pools.clone().unwrap_or_default()));
            self.selection = selection;
        }
        Ok(())
    }

    fn set_stored(&mut self, stored: Stored) {
        self.projector.set_ledger(stored.ledger);
        self.projector.set_unknown(stored.unreadable.iter().filter_map(|file| file.device.clone()).collect());
        self.unreadable = stored.unreadable;
        self.reservations = stored.reservations;
        self.waiting = stored.waiting;
    }
}
