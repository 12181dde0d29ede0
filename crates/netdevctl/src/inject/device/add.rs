//! A device is added to a Pod.

use std::{fs, sync::Arc, thread, time::Instant};

use anyhow::{Context, Result, anyhow, bail};
use kubelet::PodResources;
use link::{
    AttachAllError, AttachRequest, ChooseError, ChooseRequest, Chooser, Diagnosis, OpenSandbox, RouteSocket,
    attach_all, choose_and_reserve, diagnose, repair,
};
use netdevice::{
    Acquisition, Attachment, DeviceId, DeviceRequest, Owner, Phase, Sandbox, SandboxConfiguration,
    SandboxInterfaceName, View, Wanted, choice::Allocated, configuration::IpPrefix, owner::Request,
};
use serde::Serialize;
use store::Records;

use super::{BUSY, DeviceRequestArguments, LIMIT, Place, find::host_name};
use crate::node::{Node, Selection};

/// A device that a Pod has by this command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddedDevice {
    /// Its id.
    pub device: String,
    /// The resource of its pool.
    pub pool: String,
    /// `namespace/name` of the Pod.
    pub pod: String,
    /// Id of the Pod's sandbox.
    pub sandbox: String,
    /// Its name in the Pod.
    pub name: String,
    /// Its addresses in the Pod, each with its prefix length.
    pub addresses: Vec<String>,
    /// Whether the Pod had it already.
    pub was_there: bool,
    /// What of the device cannot be in the Pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// What else the user should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Attaches a device to a sandbox, or makes sure that it is there, complete.
///
/// # Errors
///
/// What is wrong with the request, who has the device, or why it cannot be there. Then the device is on the host as it was, or
/// with its owner.
pub fn add(place: &Place, sandbox: &Sandbox, arguments: &DeviceRequestArguments) -> Result<AddedDevice> {
    let mut configuration = arguments.configuration()?;
    let owner = sandbox.owner(Request::Command).context("the runtime did not report the id of the pod's sandbox")?;
    let pod = sandbox.pod().context("the runtime did not report the pod of the sandbox")?;
    let opened = OpenSandbox::open(sandbox)?;
    let node = Node::read(&place.node)?;
    refuse_without_pools(&node.selection)?;
    let view = node.projector.view();
    let name = host_name(&arguments.device, &view.snapshot, &view.ledger);
    let name = name.with_context(|| format!("-device: {:?} is not the name of an interface", arguments.device))?;
    let device = DeviceId::from(&name);
    // the name that it has anyway
    configuration.name = configuration.name.filter(|inside| *inside.as_interface_name() != name);
    if configuration.name.is_none() {
        SandboxInterfaceName::try_from(name.clone()).context("-device: set another name with -name")?;
    }

    let (records, unpinned) = place.records();
    let limit = Instant::now() + LIMIT;
    let _lock = records.lock_sandbox(owner.id(), limit)?.context(BUSY)?;
    refuse_another_configuration(&records, &device, &owner, &configuration)?;
    let requests = [DeviceRequest { device: Wanted::Name(name), acquisition: Acquisition::Move, configuration }];
    let request = ChooseRequest { owner: &owner, pod, devices: &requests, limit };
    let (choices, reserved) = choose_and_reserve(&records, &Command(place), request).map_err(|error| match error {
        ChooseError::Chooser(error) => error,
        other => other.into(),
    })?;
    let ([request], [choice]) = (&requests, &choices[..]) else { bail!("one device was requested") };
    let attach = AttachRequest {
        device: &choice.device,
        resource: Some(&choice.resource),
        sandbox: &opened,
        owner: &owner,
        acquisition: choice.acquisition,
        uplink_parents: choice.uplink_parents,
        configuration: Some(&request.configuration),
    };
    let attached = attach_all(&records, &[attach], reserved, &|| false, &|_, _| {}).map_err(refused)?;
    let record = still_attached(&records, &choice.device, &owner)?;
    let skipped = attached.iter().flat_map(|attached| &attached.skipped);
    Ok(AddedDevice {
        device: choice.device.to_string(),
        pool: choice.resource.to_string(),
        pod: pod.to_string(),
        sandbox: owner.id().to_owned(),
        name: record.sandbox.name.to_string(),
        addresses: addresses(&record),
        was_there: attached.iter().all(|attached| attached.was_there),
        skipped: skipped.map(ToString::to_string).collect(),
        warnings: unpinned.filter(|_| record.needs_namespace()).map(|error| not_pinned(&error)).into_iter().collect(),
    })
}

fn refuse_without_pools(selection: &Selection) -> Result<()> {
    if selection.pools.is_none() {
        bail!(
            "no pools are known, {} does not exist: start the agent, or set -interfaces or -config",
            selection.source
        );
    }
    Ok(())
}

/// A device that is in the Pod stays as it is: the Pod uses it.
fn refuse_another_configuration(
    records: &Records,
    device: &DeviceId,
    owner: &Owner,
    configuration: &SandboxConfiguration,
) -> Result<()> {
    let Some(record) = records.read(device)? else { return Ok(()) };
    let is_there = record.owner == *owner && record.phase == Phase::Attached;
    if is_there && record.configuration.as_ref() != Some(configuration) {
        bail!("device {device} is in the pod already, with another configuration: run del -device {device} first");
    }
    Ok(())
}

/// The error in terms of the flags.
fn refused(error: AttachAllError) -> anyhow::Error {
    let device = &error.device;
    let mut text = match &*error.error {
        link::Error::NewNameTaken(name) => {
            format!("-name: the name {name} is taken in the pod's network namespace: choose another name")
        }
        link::Error::NameTaken(name) => {
            format!(
                "device {device}: the name {name} is taken in the pod's network namespace: set another name with -name"
            )
        }
        error => format!("device {device}: {error}"),
    };
    for (device, why) in &error.stranded {
        let why = why.as_ref().map_or_else(|| "it is not on the node yet".to_owned(), ToString::to_string);
        text.push_str(&format!("; device {device} was not returned: {why}"));
    }
    anyhow!(text)
}

/// The record of the attachment. If the sandbox ended meanwhile, the device is returned: the runtime's event may have come
/// before the record.
fn still_attached(records: &Records, device: &DeviceId, owner: &Owner) -> Result<Attachment> {
    let ended = || anyhow!("device {device}: the pod ended before the device was there; the device was returned");
    let is_over = |record: &Attachment, host: &mut RouteSocket| {
        let has_ended = matches!(diagnose(record, host), Diagnosis::HolderEnded | Diagnosis::SandboxEnded);
        record.owner == *owner && has_ended
    };
    let record = records.read(device)?.ok_or_else(ended)?;
    if is_over(&record, &mut RouteSocket::open().context("cannot open a netlink socket")?) {
        repair(records, device, None, is_over).with_context(ended)?;
        return Err(ended());
    }
    Ok(record)
}

/// The addresses that were given to the device in the Pod.
fn addresses(record: &Attachment) -> Vec<String> {
    let configuration = record.configuration.as_ref();
    let given = configuration.into_iter().flat_map(|configuration| &configuration.addresses).copied();
    let inherits = configuration.is_none_or(|configuration| configuration.inherit);
    let brought = record.host().filter(|_| inherits).into_iter().flat_map(|host| &host.addresses);
    let brought = brought.filter_map(|address| IpPrefix::new(address.local, address.prefix_len).ok());
    let mut all: Vec<IpPrefix> = given.collect();
    for prefix in brought {
        if all.iter().all(|other| other.address() != prefix.address()) {
            all.push(prefix);
        }
    }
    all.iter().map(ToString::to_string).collect()
}

fn not_pinned(error: &std::io::Error) -> String {
    format!(
        "the pod's network namespace is not pinned in the mount namespace of PID 1 ({error}): this virtual device is lost \
         if the pod ends while no agent runs"
    )
}

/// What the command chooses from: the node, read anew each time.
struct Command<'a>(&'a Place);

impl Chooser for Command<'_> {
    type Error = anyhow::Error;

    fn view(&self) -> Result<Arc<View>> {
        let node = Node::read(&self.0.node)?;
        refuse_without_pools(&node.selection)?;
        Ok(Arc::new(node.projector.view().clone()))
    }

    /// Without a socket there is no kubelet on this node, and nothing is allocated.
    fn allocated(&self) -> Result<Allocated> {
        let socket = &self.0.pod_resources;
        if fs::symlink_metadata(socket).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Ok(Allocated::new());
        }
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok::<_, anyhow::Error>(runtime.block_on(PodResources::new(socket).list())?)
        };
        // on a thread of its own: the caller may be in a runtime
        let asked = thread::scope(|scope| scope.spawn(ask).join());
        let pods = asked.unwrap_or_else(|_| Err(anyhow!("the task failed")));
        let pods = pods.context("cannot get the allocated devices from the kubelet")?;
        // of whichever resource: the agent that offers a device may have other pools
        let of_pod = |pod: &kubelet::Pod| {
            let owner = format!("{}/{}", pod.namespace, pod.name);
            pod.ids(None).filter_map(move |id| Some((id.parse().ok()?, owner.clone()))).collect::<Allocated>()
        };
        Ok(pods.iter().flatten().flat_map(of_pod).collect())
    }
}
