//! This node as it is now: the kernel, the records, and the pools to judge by.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use link::{Diagnosis, RouteSocket};
use netdevice::{
    Attachment, DeviceId, Ledger, Pools, Projector, Snapshot,
    pool::{EFFECTIVE_CONFIGURATION, MAX_CONFIGURATION},
};
use store::{Records, Unreadable};

use crate::arguments;

/// Whether the container or the namespace that has a device has ended, as far as can be seen from here.
pub(crate) fn is_orphan(record: &Attachment) -> bool {
    let Ok(mut home) = RouteSocket::open() else { return false };
    matches!(link::diagnose(record, &mut home), Diagnosis::HolderEnded | Diagnosis::SandboxEnded)
}

/// The addresses that the node is known by, as the agent found them.
pub(crate) fn node_addresses(arguments: &arguments::Node) -> anyhow::Result<BTreeSet<IpAddr>> {
    Records::new(&arguments.state_dir).node_addresses().context("cannot read the addresses of this node")
}

/// The pools, and who says so.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    /// None if nobody says it.
    pub(crate) pools: Option<Pools>,
    /// `-interfaces`, or the file.
    pub(crate) source: String,
}

impl Selection {
    /// The pools of the command line, or else those that the agent works by.
    pub(crate) fn read(node: &arguments::Node) -> anyhow::Result<Self> {
        if let Some(pattern) = &node.interfaces {
            return Ok(Self { pools: Some(Pools::by_name(pattern.clone())), source: "-interfaces".into() });
        }
        let (file, is_asked_for) = match &node.config {
            Some(file) => (file.clone(), true),
            None => (node.state_dir.join(EFFECTIVE_CONFIGURATION), false),
        };
        let source = file.display().to_string();
        match read_pools(&file) {
            Err(error) if !is_asked_for && is_missing(&error) => Ok(Self { pools: None, source }),
            read => Ok(Self { pools: Some(read?), source }),
        }
    }
}

/// Reads the pools of a configuration file.
pub(crate) fn read_pools(file: &Path) -> anyhow::Result<Pools> {
    let read = || {
        let mut text = String::new();
        let limit = u64::try_from(MAX_CONFIGURATION).unwrap_or(u64::MAX) + 1;
        fs::File::open(file)?.take(limit).read_to_string(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    let text = read().with_context(|| format!("cannot read {}", file.display()))?;
    Pools::from_yaml(&text).with_context(|| format!("{} is no configuration", file.display()))
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The attachments, and the files that cannot be read.
#[derive(Debug)]
struct Attachments {
    ledger: Arc<Ledger>,
    unreadable: Vec<Unreadable>,
    waiting: BTreeMap<DeviceId, DeviceId>,
}

impl Attachments {
    /// Reads all records below a folder, which need not be there.
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let records = Records::new(folder);
        let read = || Ok::<_, io::Error>((records.list()?, records.waiting()?));
        let ((ledger, unreadable), waiting) =
            read().with_context(|| format!("cannot read the records in {}", folder.display()))?;
        let waiting = waiting.into_iter().map(|waiting| (DeviceId::from(&waiting.present), waiting.device));
        Ok(Self { ledger: Arc::new(ledger), unreadable, waiting: waiting.collect() })
    }
}

/// All that is known of the node.
#[derive(Debug)]
pub(crate) struct Node {
    /// The devices, by the pools of [`Node::selection`].
    pub(crate) projector: Projector,
    pub(crate) unreadable: Vec<Unreadable>,
    /// Devices that are on the host under another name and wait for theirs: what they are called now, and that name.
    pub(crate) waiting: BTreeMap<DeviceId, DeviceId>,
    pub(crate) selection: Selection,
    pub(crate) agent: Agent,
}

/// What the agent of this node has to report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Agent {
    /// None runs.
    Absent,
    /// It runs, and these are its problems.
    Running(Vec<String>),
}

impl Agent {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let records = Records::new(folder);
        if !records.has_agent() {
            return Ok(Self::Absent);
        }
        let problems = records.problems();
        let folder = folder.display();
        Ok(Self::Running(problems.with_context(|| format!("cannot read the agent's problems in {folder}"))?))
    }
}

impl Node {
    /// Reads the kernel and the records once.
    pub(crate) fn read(arguments: &arguments::Node) -> anyhow::Result<Self> {
        let node_addresses = node_addresses(arguments)?;
        let snapshot = inventory::read_once(&arguments.sysfs, node_addresses)
            .context("cannot read the interfaces of this node")?;
        Self::with_snapshot(arguments, snapshot)
    }

    /// Reads the records; the kernel was read before.
    pub(crate) fn with_snapshot(arguments: &arguments::Node, snapshot: Snapshot) -> anyhow::Result<Self> {
        let selection = Selection::read(arguments)?;
        let agent = Agent::read(&arguments.state_dir)?;
        let (unreadable, waiting) = (Vec::new(), BTreeMap::new());
        let mut node = Self { projector: Projector::new(), unreadable, waiting, selection, agent };
        node.projector.set_pools(Arc::new(node.selection.pools.clone().unwrap_or_default()));
        node.set_attachments(Attachments::read(&arguments.state_dir)?);
        node.projector.set_snapshot(snapshot);
        Ok(node)
    }

    /// Reads the records again, and the pools.
    pub(crate) fn refresh(&mut self, arguments: &arguments::Node) -> anyhow::Result<()> {
        self.set_attachments(Attachments::read(&arguments.state_dir)?);
        let selection = Selection::read(arguments)?;
        if selection != self.selection {
            self.projector.set_pools(Arc::new(selection.pools.clone().unwrap_or_default()));
            self.selection = selection;
        }
        Ok(())
    }

    fn set_attachments(&mut self, attachments: Attachments) {
        self.projector.set_ledger(attachments.ledger);
        self.projector.set_unknown(attachments.unreadable.iter().filter_map(|file| file.device.clone()).collect());
        self.unreadable = attachments.unreadable;
        self.waiting = attachments.waiting;
    }
}
