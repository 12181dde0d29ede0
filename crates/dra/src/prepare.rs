//! Prepare: from the kubelet's UID of a claim to reservations and a CDI file on disk, or to the reason for a refusal.
//!
//! All state is on disk, and every call writes it anew: two instances of the agent may answer in turn, and after a reboot the
//! files are gone while the claim is still allocated. An error costs the Pod 60 to 90 s (kubernetes#139836), so what passes by
//! itself is waited for: the device's former Pod ends, the interface returns to the host. What does not pass is refused at once.
//! Devices that could be reserved stay reserved: the kubelet repeats the call with all claims of the Pod.

mod check;
mod files;
mod reserve;

use std::{io, sync::Arc, time::Duration};

use netdevice::{
    Acquisition, DeviceId, InterfaceName, Owner, Pod, Reservation, SandboxConfiguration,
    claims::{
        claim::{Allocation, Claim, is_uid},
        claimant::Claimant,
        document,
        parameters::{self, ParameterError},
        slice::DeviceName,
    },
    exclusion::UplinkParents,
    record::Reservations,
};
use proto::dra as wire;
use store::journal;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use wake::Backoff;

use crate::{
    api::{ApiError, Freshness, until},
    driver::{ClaimLock, Driver, step},
    error::{DeviceError, PrepareError},
    settings::RuntimeState,
};

/// How often the disk is read at first while something is waited for, and at most.
const CHECK: Duration = Duration::from_millis(25);
/// How often it is read when nothing has changed for long.
const CHECK_SLOWLY: Duration = Duration::from_millis(500);
/// Pauses between attempts to read an object.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// A device that the claim is to have.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) allocation: Allocation,
    /// How it comes into the Pod. A device of a pool of children is created, whether or not the claim says so: which one, is known
    /// when it is reserved.
    pub(crate) acquisition: Acquisition,
    /// None: as on the host.
    pub(crate) configuration: Option<SandboxConfiguration>,
    /// The reserved device.
    pub(crate) device: Option<DeviceId>,
}

impl Wanted {
    /// Its name in the Pod, if it is this device.
    fn name_inside(&self, device: &DeviceId) -> InterfaceName {
        let host = device.to_name();
        self.configuration.as_ref().map_or(host.clone(), |configuration| configuration.name_inside(&host).clone())
    }

    fn error(&self, error: DeviceError) -> PrepareError {
        PrepareError::Device { device: self.allocation.device.clone(), error: error.into() }
    }
}

/// A claim with the Pod that it is prepared for.
pub(crate) struct Subject {
    pub(crate) claim: Claim,
    /// The first one of those that it is reserved for.
    pub(crate) pod: Option<Pod>,
}

impl Subject {
    pub(crate) fn owner(&self, allocation: &Allocation) -> Owner {
        let Claim { uid, namespace, name, .. } = &self.claim;
        Owner::Claim {
            uid: uid.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            request: allocation.request.clone(),
            sandbox: None,
            pod: self.pod.clone(),
        }
    }

    /// What is on disk for a device until the claim is unprepared.
    fn reservation(&self, wanted: &Wanted, device: &DeviceId, uplink_parents: UplinkParents) -> Reservation {
        Reservation {
            device: device.clone(),
            resource: None,
            owner: self.owner(&wanted.allocation),
            acquisition: wanted.acquisition,
            uplink_parents,
            configuration: wanted.configuration.clone(),
            is_of_one_pod: self.claim.is_of_its_pod(),
            since: journal::now(),
        }
    }
}

impl Driver {
    /// Prepares a claim.
    ///
    /// # Errors
    ///
    /// The first reason against it, also when it has not passed at the deadline.
    pub(crate) async fn prepare(
        &self,
        asked: &wire::Claim,
        deadline: Instant,
    ) -> Result<(Vec<wire::Device>, Option<Pod>), (PrepareError, Option<Pod>)> {
        if !is_uid(&asked.uid) {
            return Err((PrepareError::InvalidUid(asked.uid.clone()), None));
        }
        if Instant::now() >= deadline {
            return Err((PrepareError::NoTime, None));
        }
        let lock = match self.lock_claim(&asked.uid, deadline).await {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err((PrepareError::Busy, None)),
            Err(error) => {
                let directory = self.settings.records.directory().to_owned();
                return Err((PrepareError::Lock { directory, error }, None));
            }
        };
        let subject = Arc::new(self.read_claim(asked, deadline).await.map_err(|error| (error, None))?);
        let prepared = self.prepare_claim(&subject, &lock, deadline).await;
        step();
        drop(lock);
        let pod = subject.pod.clone();
        match prepared {
            Ok(devices) => Ok((devices, pod)),
            Err(error) => Err((error, pod)),
        }
    }

    async fn prepare_claim(
        &self,
        subject: &Arc<Subject>,
        lock: &ClaimLock,
        deadline: Instant,
    ) -> Result<Vec<wire::Device>, PrepareError> {
        step();
        let allocations = &subject.claim.allocations;
        // the Pod is asked for meanwhile
        let (released, claimant) =
            tokio::join!(self.release_unwanted(subject, lock, deadline), self.read_claimant(subject, deadline));
        released?;
        if allocations.is_empty() {
            return Ok(Vec::new());
        }
        let mut wanted = Vec::new();
        for allocation in allocations {
            let (acquisition, configuration) = resolve(allocation).map_err(|error| PrepareError::Device {
                device: allocation.device.clone(),
                error: Box::new(error.into()),
            })?;
            wanted.push(Wanted { allocation: allocation.clone(), acquisition, configuration, device: None });
        }
        self.check_pod(subject, claimant?, deadline).await?;
        self.reserve_all(subject, wanted, lock, deadline).await?;
        let device = |allocation: &Allocation| wire::Device {
            request_names: vec![allocation.main_request().to_owned()],
            pool_name: self.settings.node.clone(),
            device_name: allocation.device.clone(),
            cdi_device_ids: vec![document::qualified_name(&subject.claim.uid, allocation.main_request())],
            share_id: allocation.share_id.clone(),
        };
        Ok(allocations.iter().map(device).collect())
    }

    /// The lock of a claim, which other instances take, too; none if one of them works on it until the deadline.
    ///
    /// # Errors
    ///
    /// When the directory of the records cannot be made or written.
    pub(crate) async fn lock_claim(&self, uid: &str, deadline: Instant) -> io::Result<Option<ClaimLock>> {
        loop {
            let (records, id) = (self.settings.records.clone(), uid.to_owned());
            let locked = spawn_blocking(move || records.try_lock_claim(&id)).await.map_err(io::Error::other)?;
            match locked? {
                Some(lock) => return Ok(Some(lock.into())),
                None if Instant::now() >= deadline => return Ok(None),
                None => sleep_until(deadline.min(Instant::now() + CHECK)).await,
            }
        }
    }

    async fn read_claim(&self, asked: &wire::Claim, deadline: Instant) -> Result<Subject, PrepareError> {
        let wire::Claim { namespace, uid, name } = asked;
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let text = loop {
            match until(deadline, self.api.claim(namespace, name)).await {
                Ok(text) => break text,
                Err(error) if error.is_passing() && Instant::now() < deadline => {
                    sleep_until(deadline.min(Instant::now() + backoff.next_pause())).await;
                    if Instant::now() >= deadline {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        let claim = Claim::read(&text, &self.settings.node)?;
        if claim.uid != *uid {
            let name = format!("{namespace}/{name}");
            return Err(PrepareError::OtherUid { name, found: claim.uid, asked: uid.clone() });
        }
        let first = claim.reserved_for.first().cloned();
        let pod = first.map(|pod| Pod { namespace: claim.namespace.clone(), name: pod.name, uid: pod.uid });
        Ok(Subject { claim, pod })
    }

    /// Checks that the Pod has a network namespace, and that something attaches the devices before its containers run.
    async fn check_pod(
        &self,
        subject: &Subject,
        claimant: Option<Claimant>,
        deadline: Instant,
    ) -> Result<(), PrepareError> {
        let pod = subject.pod.as_ref().map_or_else(|| "unknown".to_owned(), Pod::to_string);
        if claimant.as_ref().is_some_and(|claimant| claimant.is_host_network) {
            return Err(PrepareError::HostNetwork(pod));
        }
        let Subject { claim, .. } = subject;
        let is_named = |allocation: &&Allocation| match &claimant {
            Some(claimant) => claimant.names(claim, allocation),
            None => claim.is_extended_resource,
        };
        let moving = claim.allocations.iter().filter(|allocation| !allocation.is_admin);
        let Some(unguarded) = moving.clone().find(|allocation| !is_named(allocation)) else { return Ok(()) };
        // an injector finds the claim by its Pod
        if subject.pod.is_none() {
            return Err(PrepareError::NoPod(unguarded.request.clone()));
        }
        loop {
            let (reason, is_passing) = match (self.settings.runtime)() {
                RuntimeState::Connected => return Ok(()),
                RuntimeState::Disconnected(reason) => {
                    (format!("netdevice-agent is not connected to the container runtime ({reason})"), true)
                }
                RuntimeState::Off => ("netdevice-agent runs without -nri".to_owned(), false),
            };
            if !is_passing || Instant::now() >= deadline {
                let request = unguarded.request.clone();
                return Err(PrepareError::Unguarded { request, pod, reason });
            }
            sleep_until(deadline.min(Instant::now() + CHECK)).await;
        }
    }

    /// The Pod; none if it is not needed, the agent may not read Pods, or it is another one by now.
    async fn read_claimant(&self, subject: &Subject, deadline: Instant) -> Result<Option<Claimant>, PrepareError> {
        let Subject { claim, pod: Some(pod) } = subject else { return Ok(None) };
        if claim.allocations.iter().all(|allocation| allocation.is_admin) {
            return Ok(None);
        }
        // what matters of a Pod does not change, but for the names of its claims: if the API server's cache has these, it is enough
        let read = match self.read_pod(pod, Freshness::Cached, deadline).await {
            Ok(Some(claimant)) if claimant.knows(claim) => return Ok(Some(claimant)),
            // the answer would be no other
            refused @ Err(ApiError::Forbidden(_) | ApiError::Timeout) => refused,
            _ => self.read_pod(pod, Freshness::Newest, deadline).await,
        };
        match read {
            Ok(claimant) => Ok(claimant),
            // the hook and the injector refuse later, with less of an explanation
            Err(ApiError::Forbidden(_)) => Ok(None),
            Err(error) if error.is_passing() => {
                tracing::warn!("a claim is prepared without knowledge of its pod: {error}");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The Pod of this UID.
    async fn read_pod(&self, pod: &Pod, freshness: Freshness, deadline: Instant) -> Result<Option<Claimant>, ApiError> {
        let text = until(deadline, self.api.pod(&pod.namespace, &pod.name, freshness)).await?;
        Ok(Claimant::read(&text).ok().filter(|claimant| claimant.uid == pod.uid))
    }

    /// Ends the reservations of an earlier allocation of the claim: the scheduler may give these devices to others. A device that is
    /// in a sandbox stays reserved, and is waited for.
    async fn release_unwanted(
        &self,
        subject: &Arc<Subject>,
        lock: &ClaimLock,
        deadline: Instant,
    ) -> Result<(), PrepareError> {
        let began = Instant::now();
        loop {
            let of = subject.clone();
            let left = self.blocking(lock, deadline, move |driver| driver.try_release_unwanted(&of)).await??;
            let Some((device, error)) = left else { return Ok(()) };
            if Instant::now() >= deadline {
                let (device, error) = (device.to_string(), error.into());
                return Err(PrepareError::Waited { device, error, waited: began.elapsed() });
            }
            sleep_until(deadline.min(Instant::now() + CHECK_SLOWLY)).await;
        }
    }

    /// Ends those that can be ended. Returns one that cannot yet, and why.
    fn try_release_unwanted(&self, subject: &Subject) -> Result<Option<(DeviceId, DeviceError)>, PrepareError> {
        let (records, uid) = (&self.settings.records, &subject.claim.uid);
        let mut left = None;
        for device in unwanted(&subject.claim, &records.reservations().unwrap_or_default()) {
            let failed = |error: store::Error| PrepareError::Device {
                device: device.to_string(),
                error: Box::new(DeviceError::from(error)),
            };
            let error = match records.try_lock(&device).map_err(failed)? {
                None => DeviceError::Busy,
                Some(lock) => match records.read(&device).map_err(failed)? {
                    Some(record) if record.owner.is_claim(uid) => {
                        lock.leave();
                        DeviceError::EarlierAllocation(record.owner.into())
                    }
                    _ => {
                        let released = records.release_claim(&device, uid, &lock);
                        let path = records.directory().to_owned();
                        released.map_err(|error| PrepareError::Write { path, error })?;
                        tracing::info!(%device, "ended the reservation of an earlier allocation of the claim");
                        step();
                        continue;
                    }
                },
            };
            left = left.or(Some((device, error)));
        }
        Ok(left)
    }
}

/// The devices that the claim has reserved and that are no part of its allocation, each part of which is one device.
fn unwanted(claim: &Claim, reservations: &Reservations) -> Vec<DeviceId> {
    let mut allocations: Vec<&Allocation> = claim.allocations.iter().filter(|it| !it.is_admin).collect();
    let own = reservations.values().filter(|reservation| reservation.owner.is_claim(&claim.uid));
    let unwanted = own.filter(|reservation| {
        let is_for = |allocation: &&Allocation| {
            let is_request =
                matches!(&reservation.owner, Owner::Claim { request, .. } if *request == allocation.request);
            let allocated = allocation.device.parse::<DeviceName>().ok().map(|name| name.device());
            let is_created = matches!(reservation.acquisition, Acquisition::Create(_));
            let found = if is_created { reservation.device.parent() } else { Some(reservation.device.clone()) };
            is_request && allocated.is_some() && allocated == found
        };
        let at = allocations.iter().position(is_for);
        at.map(|at| allocations.swap_remove(at)).is_none()
    });
    unwanted.map(|reservation| reservation.device.clone()).collect()
}

/// How a device comes into the Pod and its configuration: the class's parameters, changed by the claim's.
fn resolve(allocation: &Allocation) -> Result<(Acquisition, Option<SandboxConfiguration>), ParameterError> {
    let mut merged = None;
    for text in &allocation.parameters {
        let later = parameters::parse(text)?;
        merged = Some(match merged {
            None => later,
            Some(earlier) => parameters::DeviceConfiguration::merged(earlier, later),
        });
    }
    match merged {
        None => Ok((Acquisition::Move, None)),
        Some(merged) => merged.resolve().map(|(acquisition, configuration)| (acquisition, Some(configuration))),
    }
}
