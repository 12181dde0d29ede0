//! One attachment that is being made: the request, and what is open for it.

use netdevice::{
    Acquisition, Attachment, DeviceId, InterfaceName, Owner, Phase, ResourceName, SandboxConfiguration,
    SandboxInterfaceName, acquisition::Recorded, exclusion::UplinkParents, record::SandboxPlace,
};
use store::{Records, journal};

use crate::{
    error::{Error, WithSubject},
    identity::{namespace_id, viewpoint},
    sandbox::OpenSandbox,
    skipped::Skipped,
    socket::RouteSocket,
};

/// A device for a sandbox.
#[derive(Debug)]
pub struct AttachRequest<'a> {
    /// Which device.
    pub device: &'a DeviceId,
    /// The resource that it was handed out as.
    pub resource: Option<&'a ResourceName>,
    /// Where to.
    pub sandbox: &'a OpenSandbox,
    /// Whose it becomes.
    pub owner: &'a Owner,
    /// How it comes there.
    pub acquisition: Acquisition,
    /// Of a device that is created: whether its pool allows a parent that the node itself is connected by.
    pub uplink_parents: UplinkParents,
    /// How it shall be there; none makes it what it is on the host.
    pub configuration: Option<&'a SandboxConfiguration>,
}

/// How an attachment went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Whether the device was in the sandbox already, complete as far as its record says.
    pub was_there: bool,
    /// What of the device cannot be in the sandbox.
    pub skipped: Vec<Skipped>,
}

/// An attachment that is being made, under the device's lock.
pub(crate) struct Task<'a> {
    pub(crate) records: &'a Records,
    pub(crate) request: &'a AttachRequest<'a>,
    /// Name of the device on the host, or of its parent.
    pub(crate) host_name: &'a InterfaceName,
    /// Its name inside.
    pub(crate) name: &'a SandboxInterfaceName,
    pub(crate) home: &'a mut RouteSocket,
    pub(crate) inside: &'a mut RouteSocket,
}

impl Task<'_> {
    /// The record of a device that is to have that index inside.
    pub(crate) fn record<A: Recorded>(&mut self, ifindex: u32, acquired: A) -> Result<Attachment<A>, Error> {
        let sandbox = self.request.sandbox;
        Ok(Attachment {
            device: self.request.device.clone(),
            resource: self.request.resource.cloned(),
            phase: Phase::Attaching,
            owner: self.request.owner.clone(),
            process: sandbox.process_of(self.request.owner),
            sandbox: SandboxPlace {
                cookie: self.inside.cookie(),
                inode: sandbox.namespace().inode(),
                nsid: namespace_id(self.home, sandbox.namespace()),
                seen_from: viewpoint().subject("/proc")?,
                paths: sandbox.paths().to_vec(),
                name: self.name.as_interface_name().clone(),
                ifindex,
            },
            configuration: self.request.configuration.cloned(),
            acquired,
            quarantined: None,
            since: journal::now(),
        })
    }
}
