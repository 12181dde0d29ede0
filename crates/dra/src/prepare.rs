//! Prepare: from the kubelet's UID of a claim to reservations and a CDI file on disk, or to the reason for a refusal.
//!
//! All state is on disk, and every call writes it anew: two instances of the agent may answer in turn, and after a reboot the
//! files are gone while the claim is still allocated. An error costs the Pod 60 to 90 s (kubernetes#139836), so what passes by
//! itself is waited for: the device's former Pod ends, the interface returns to the host. What does not pass is refused at once.
//! Devices that could be reserved stay reserved: the kubelet repeats the call with all claims of the Pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use netdevice::{
    Acquisition, DeviceId, InterfaceName, Link, Owner, Pod, Reservation, SandboxConfiguration, View,
    choice::free_child,
    claims::{
        DRIVER,
        claim::{Allocation, Claim, ClaimError, is_uid},
        claimant::Claimant,
        document::{self, Document, Request},
        parameters::{self, ParameterError},
        slice::DeviceName,
    },
    pool::Offer,
    record::Reservations,
};
use proto::dra as wire;
use store::{NamedLock, journal};
use tokio::time::{Instant, sleep_until};
use wake::Backoff;

use crate::{
    api::{ApiError, until},
    cdi_file,
    driver::{Driver, step},
    error::{DeviceError, PrepareError},
    metadata::{self, NetworkData},
    obstacle::{Obstacle, Passes},
    settings::RuntimeState,
};

/// How often the disk is read at first while something is waited for, and at most.
const CHECK: Duration = Duration::from_millis(25);
/// How often it is read when nothing has changed for long.
const CHECK_SLOWLY: Duration = Duration::from_millis(500);
/// How long the kernel's notification of a link may take to reach the view.
const NOTIFICATION: Duration = Duration::from_secs(1);
/// How often the API server is asked whether the claim that holds a device still exists.
const CHECK_HOLDER: Duration = Duration::from_secs(2);
/// Below this remaining time it is not asked.
const LEAST_FOR_HOLDER: Duration = Duration::from_secs(5);
/// Pauses between attempts to read an object.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// The interface of the Pod itself, in every runtime.
const POD_INTERFACE: &str = "eth0";

/// A device that the claim is to have.
pub(crate) struct Wanted<'a> {
    pub(crate) allocation: &'a Allocation,
    /// How it comes into the Pod.
    pub(crate) acquisition: Acquisition,
    /// None: as on the host.
    pub(crate) configuration: Option<SandboxConfiguration>,
    /// The reserved device.
    pub(crate) device: Option<DeviceId>,
}

impl Wanted<'_> {
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
        let subject = self.read_claim(asked, deadline).await.map_err(|error| (error, None))?;
        let prepared = self.prepare_claim(&subject, deadline).await;
        step();
        drop(lock);
        let pod = subject.pod;
        match prepared {
            Ok(devices) => Ok((devices, pod)),
            Err(error) => Err((error, pod)),
        }
    }

    async fn prepare_claim(&self, subject: &Subject, deadline: Instant) -> Result<Vec<wire::Device>, PrepareError> {
        step();
        let allocations = &subject.claim.allocations;
        self.release_unwanted(subject, deadline).await?;
        if allocations.is_empty() {
            return Ok(Vec::new());
        }
        let hook = &self.settings.paths.hook;
        if !Path::new(hook).exists() {
            return Err(PrepareError::NoHook(hook.clone()));
        }
        let mut wanted = Vec::new();
        for allocation in allocations {
            let (acquisition, configuration) = resolve(allocation).map_err(|error| PrepareError::Device {
                device: allocation.device.clone(),
                error: Box::new(error.into()),
            })?;
            wanted.push(Wanted { allocation, acquisition, configuration, device: None });
        }
        if allocations.iter().any(|allocation| !allocation.is_admin) {
            self.check_pod(subject, deadline).await?;
        }
        self.reserve_all(subject, &mut wanted, deadline).await?;
        self.write_files(subject, &wanted)?;
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
    pub(crate) async fn lock_claim(&self, uid: &str, deadline: Instant) -> io::Result<Option<NamedLock>> {
        loop {
            match self.settings.records.try_lock_claim(uid)? {
                Some(lock) => return Ok(Some(lock)),
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
    async fn check_pod(&self, subject: &Subject, deadline: Instant) -> Result<(), PrepareError> {
        let claimant = match &subject.pod {
            Some(pod) => self.read_pod(pod, deadline).await?,
            None => None,
        };
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

    /// The Pod; none if the agent may not read Pods, or it is another one by now.
    async fn read_pod(&self, pod: &Pod, deadline: Instant) -> Result<Option<Claimant>, PrepareError> {
        let text = match until(deadline, self.api.pod(&pod.namespace, &pod.name)).await {
            Ok(text) => text,
            // the hook and the injector refuse later, with less of an explanation
            Err(ApiError::Forbidden(_)) => return Ok(None),
            Err(error) if error.is_passing() => {
                tracing::warn!("a claim is prepared without knowledge of its pod: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Claimant::read(&text).ok().filter(|claimant| claimant.uid == pod.uid))
    }

    /// Ends the reservations of an earlier allocation of the claim: the scheduler may give these devices to others. A device that is
    /// in a sandbox stays reserved, and is waited for.
    async fn release_unwanted(&self, subject: &Subject, deadline: Instant) -> Result<(), PrepareError> {
        let records = &self.settings.records;
        let began = Instant::now();
        for device in unwanted(&subject.claim, &records.reservations().unwrap_or_default()) {
            let failed = |error: DeviceError| PrepareError::Device { device: device.to_string(), error: error.into() };
            loop {
                let error = match records.try_lock(&device).map_err(|error| failed(error.into()))? {
                    None => DeviceError::Busy,
                    Some(lock) => match records.read(&device).map_err(|error| failed(error.into()))? {
                        Some(record) if record.owner.is_claim(&subject.claim.uid) => {
                            lock.leave();
                            DeviceError::EarlierAllocation(record.owner.into())
                        }
                        _ => {
                            let released = records.release_claim(&device, &subject.claim.uid, &lock);
                            let path = records.directory().to_owned();
                            released.map_err(|error| PrepareError::Write { path, error })?;
                            tracing::info!(%device, "ended the reservation of an earlier allocation of the claim");
                            step();
                            break;
                        }
                    },
                };
                if Instant::now() >= deadline {
                    let (device, error) = (device.to_string(), error.into());
                    return Err(PrepareError::Waited { device, error, waited: began.elapsed() });
                }
                sleep_until(deadline.min(Instant::now() + CHECK_SLOWLY)).await;
            }
        }
        Ok(())
    }

    /// Reserves each device as soon as it can be had.
    async fn reserve_all(
        &self,
        subject: &Subject,
        wanted: &mut [Wanted<'_>],
        deadline: Instant,
    ) -> Result<(), PrepareError> {
        let began = Instant::now();
        let mut pause = CHECK;
        self.check_names(subject, wanted)?;
        let mut soon_since: Option<Instant> = None;
        let mut views = self.settings.views.clone();
        let mut holders_checked: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let view = views.borrow_and_update().clone();
            let mut has_reserved = false;
            let mut passing: Option<(usize, Obstacle)> = None;
            for at in 0..wanted.len() {
                if wanted[at].allocation.is_admin || wanted[at].device.is_some() {
                    continue;
                }
                let others: BTreeSet<DeviceId> = wanted.iter().filter_map(|wanted| wanted.device.clone()).collect();
                match self.reserve(subject, &wanted[at], &others, &view) {
                    Ok(device) => {
                        wanted[at].device = Some(device);
                        has_reserved = true;
                        step();
                    }
                    Err(obstacle) if obstacle.passes == Passes::Never => {
                        return Err(wanted[at].error(*obstacle.error));
                    }
                    Err(obstacle) => passing = passing.or(Some((at, obstacle))),
                }
            }
            if has_reserved {
                self.check_names(subject, wanted)?;
            }
            let Some((at, obstacle)) = passing else { return Ok(()) };
            // what was held for long has only now returned to the host
            soon_since = match obstacle.passes {
                Passes::Soon => soon_since.or_else(|| Some(Instant::now())),
                Passes::InTime | Passes::Never => None,
            };
            let limit = soon_since.map_or(deadline, |since| deadline.min(since + NOTIFICATION));
            if Instant::now() >= limit {
                let (device, error) = (wanted[at].allocation.device.clone(), obstacle.error);
                return Err(PrepareError::Waited { device, error, waited: began.elapsed() });
            }
            if let Some(holder) = &obstacle.reserved_by
                && deadline.saturating_duration_since(Instant::now()) >= LEAST_FOR_HOLDER
                && holders_checked.get(holder.id()).is_none_or(|checked| checked.elapsed() >= CHECK_HOLDER)
            {
                holders_checked.insert(holder.id().to_owned(), Instant::now());
                self.end_if_gone(holder, &obstacle.device, deadline).await;
            }
            let now = Instant::now();
            tokio::select! {
                Ok(()) = views.changed() => {
                    pause = CHECK;
                    // a view may change often
                    sleep_until(limit.min(now + CHECK)).await;
                }
                () = sleep_until(limit.min(now + pause)) => pause = CHECK_SLOWLY.min(pause * 2),
            }
        }
    }

    /// Reserves a device under its lock. `others` are those of the claim that are reserved already.
    fn reserve(
        &self,
        subject: &Subject,
        wanted: &Wanted<'_>,
        others: &BTreeSet<DeviceId>,
        view: &Arc<View>,
    ) -> Result<DeviceId, Obstacle> {
        let records = &self.settings.records;
        let owner = subject.owner(wanted.allocation);
        let never = |error: DeviceError, device: &DeviceId| Obstacle::new(device, Passes::Never, error);
        let device = match wanted.allocation.device.parse::<DeviceName>() {
            Ok(name) => name.device(),
            Err(_) => {
                let device = DeviceId::from(&InterfaceName::try_from("none").expect("a valid name"));
                return Err(never(DeviceError::NotThere, &device));
            }
        };
        if matches!(wanted.acquisition, Acquisition::Create(_)) {
            return self.reserve_child(subject, wanted, others, view, &device);
        }
        let record = records.read(&device).map_err(|error| never(error.into(), &device))?;
        match &record {
            Some(record) if record.owner.is_claim(&subject.claim.uid) => {}
            Some(record) => return Err(Obstacle::held(&device, record)),
            None => self.check(view, &device, wanted)?,
        }
        let lock = records.try_lock(&device).map_err(|error| never(error.into(), &device))?;
        let Some(lock) = lock else { return Err(Obstacle::new(&device, Passes::InTime, DeviceError::Busy)) };
        let reservation = Reservation {
            device: device.clone(),
            resource: None,
            owner,
            acquisition: Acquisition::Move,
            configuration: wanted.configuration.clone(),
            is_of_one_pod: subject.claim.is_of_its_pod(),
            since: journal::now(),
        };
        let reserved = records.reserve(&reservation, &lock);
        if record.is_some() {
            lock.leave();
        }
        match reserved {
            Ok(()) => Ok(device),
            Err(store::Error::Held(owner)) => Err(Obstacle::reserved(&device, *owner)),
            Err(error) => Err(never(error.into(), &device)),
        }
    }

    /// Reserves a device that is to be created on `parent`, under the lock of the parent, which every program takes that creates one:
    /// the one that the claim has for the request already, or the first free one.
    fn reserve_child(
        &self,
        subject: &Subject,
        wanted: &Wanted<'_>,
        others: &BTreeSet<DeviceId>,
        view: &View,
        parent: &DeviceId,
    ) -> Result<DeviceId, Obstacle> {
        let records = &self.settings.records;
        let owner = subject.owner(wanted.allocation);
        let never = |error: DeviceError| Obstacle::new(parent, Passes::Never, error);
        let busy = || Obstacle::new(parent, Passes::InTime, DeviceError::Busy);
        if let Some(record) = records.read(parent).map_err(|error| never(error.into()))? {
            return Err(Obstacle::held(parent, &record));
        }
        self.check(view, parent, wanted)?;
        let lock = records.try_lock(parent).map_err(|error| never(error.into()))?.ok_or_else(busy)?;
        match records.check_parent(parent, &lock) {
            Ok(()) => {}
            Err(store::Error::Held(owner)) => return Err(Obstacle::reserved(parent, *owner)),
            Err(error) => return Err(never(error.into())),
        }
        let reservations = records.reservations().unwrap_or_default();
        let is_own = |reservation: &&Reservation| {
            let is_for_request =
                matches!(&reservation.owner, Owner::Claim { request, .. } if *request == wanted.allocation.request);
            reservation.owner.is_claim(&subject.claim.uid)
                && is_for_request
                && reservation.acquisition == wanted.acquisition
                && reservation.device.parent().as_ref() == Some(parent)
                && !others.contains(&reservation.device)
        };
        let is_taken = |device: &DeviceId| {
            others.contains(device) || reservations.contains_key(device) || !matches!(records.read(device), Ok(None))
        };
        let own = reservations.values().find(is_own).map(|reservation| reservation.device.clone());
        let device = own.or_else(|| free_child(&parent.to_name(), is_taken)).ok_or_else(busy)?;
        let child_lock = records.try_lock(&device).map_err(|error| never(error.into()))?.ok_or_else(busy)?;
        let reservation = Reservation {
            device: device.clone(),
            resource: None,
            owner,
            acquisition: wanted.acquisition,
            configuration: wanted.configuration.clone(),
            is_of_one_pod: subject.claim.is_of_its_pod(),
            since: journal::now(),
        };
        let reserved = records.reserve(&reservation, &child_lock);
        if !matches!(records.read(&device), Ok(None)) {
            child_lock.leave();
        }
        match reserved {
            Ok(()) => Ok(device),
            Err(store::Error::Held(owner)) => Err(Obstacle::reserved(&device, *owner)),
            Err(error) => Err(never(error.into())),
        }
    }

    /// Checks that a device on the host may be given, and can be configured as it is wanted.
    fn check(&self, view: &View, device: &DeviceId, wanted: &Wanted<'_>) -> Result<(), Obstacle> {
        let never = |error| Obstacle::new(device, Passes::Never, error);
        let soon = |error| Obstacle::new(device, Passes::Soon, error);
        if view.unknown.contains(device) {
            return Err(never(DeviceError::Unknown));
        }
        let Some(link) = view.snapshot.link_named(&device.to_name()) else {
            return Err(soon(DeviceError::NotThere));
        };
        if matches!(wanted.acquisition, Acquisition::Create(_)) {
            let Some(pool) = view.pools.of(link) else { return Err(soon(DeviceError::NotSelected)) };
            if pool.offer != Offer::Claims {
                return Err(never(DeviceError::NotByClaims(pool.resource.clone())));
            }
            if let Some(exclusion) = view.parent_exclusion(link, pool) {
                return Err(soon(DeviceError::Excluded(exclusion)));
            }
            check_ethtool(view, link, wanted).map_err(never)?;
            return check_mtu_of(Some(link.as_ref()), wanted.configuration.as_ref()).map_err(never);
        }
        match view.devices().get(device) {
            Some(found) if found.offer != Offer::Claims => {
                return Err(never(DeviceError::NotByClaims(found.resource.clone())));
            }
            Some(found) if found.owner().is_some() => return Err(soon(DeviceError::Returning)),
            Some(_) => {}
            None => {
                let error = view.explain(link).exclusion.map_or(DeviceError::NotSelected, DeviceError::Excluded);
                return Err(soon(error));
            }
        }
        check_ethtool(view, link, wanted).map_err(never)?;
        check_mtu(view, link, wanted.configuration.as_ref()).map_err(never)
    }

    /// Checks that no two devices of the Pod have one name, as far as Prepare knows them, nor that of its own interface.
    fn check_names(&self, subject: &Subject, wanted: &[Wanted<'_>]) -> Result<(), PrepareError> {
        let reservations = self.settings.records.reservations().unwrap_or_default().into_values();
        let of_others = reservations.filter(|reservation| {
            matches!(reservation.owner, Owner::Claim { .. })
                && !reservation.owner.is_claim(&subject.claim.uid)
                && subject.pod.is_some()
                && reservation.owner.pod() == subject.pod.as_ref()
        });
        let mut names: BTreeMap<InterfaceName, DeviceId> = of_others
            .map(|reservation| {
                let host = reservation.device.to_name();
                let inside = reservation.configuration.as_ref().map(|it| it.name_inside(&host).clone());
                (inside.unwrap_or(host), reservation.device)
            })
            .collect();
        for wanted in wanted.iter().filter(|wanted| !wanted.allocation.is_admin) {
            let Ok(name) = wanted.allocation.device.parse::<DeviceName>() else { continue };
            let device = name.device();
            let name = wanted.name_inside(&device);
            if name.as_bytes() == POD_INTERFACE.as_bytes() {
                return Err(wanted.error(DeviceError::PodInterface(name.to_string())));
            }
            if let Some(other) = names.insert(name.clone(), device) {
                return Err(wanted.error(DeviceError::SameName { name: name.to_string(), other }));
            }
        }
        Ok(())
    }

    /// Ends the reservation of a claim that is gone, which was never unprepared or will be in a moment: after a forced deletion the
    /// kubelet prepares the next claim first (kubernetes#141471). A device that is still in a sandbox stays there.
    async fn end_if_gone(&self, holder: &Owner, device: &DeviceId, deadline: Instant) {
        let Owner::Claim { uid, namespace, name, .. } = holder else { return };
        let is_gone = match until(deadline, self.api.claim(namespace, name)).await {
            Ok(text) => match Claim::read(&text, &self.settings.node) {
                // also if it was allocated again, on another device
                Ok(claim) => claim.uid != *uid || !names(&claim, device),
                Err(ClaimError::NotAllocated | ClaimError::OtherPool { .. }) => true,
                Err(_) => false,
            },
            Err(error) => matches!(error, ApiError::NotFound(_)),
        };
        if !is_gone {
            return;
        }
        let records = &self.settings.records;
        let reservations = records.reservations().unwrap_or_default().into_values();
        // the device, or what is to be created on it
        let ended = reservations.filter(|reservation| {
            let reserved = &reservation.device;
            reservation.owner.is_claim(uid) && (reserved == device || reserved.parent().as_ref() == Some(device))
        });
        for Reservation { device, .. } in ended {
            if matches!(records.read(&device), Ok(None))
                && let Ok(Some(lock)) = records.try_lock(&device)
                && matches!(records.read(&device), Ok(None))
            {
                tracing::info!(%device, "ended the reservation of {holder}, which has no right to it any longer");
                let _ = records.release_claim(&device, uid, &lock);
            }
        }
    }

    /// Writes the metadata of each request, and then the CDI file.
    fn write_files(&self, subject: &Subject, wanted: &[Wanted<'_>]) -> Result<(), PrepareError> {
        let (paths, claim) = (&self.settings.paths, &subject.claim);
        let view = self.settings.views.borrow().clone();
        let mut seen = BTreeSet::new();
        let names = wanted.iter().map(|wanted| wanted.allocation.main_request()).filter(|name| seen.insert(*name));
        let requests = names.map(|name| {
            let of_request: Vec<&Wanted<'_>> =
                wanted.iter().filter(|wanted| wanted.allocation.main_request() == name).collect();
            let devices: Vec<metadata::Device> =
                of_request.iter().map(|wanted| self.metadata_of(wanted, &view)).collect();
            let file = metadata::write(paths, claim, name, &devices)
                .map_err(|error| PrepareError::Write { path: paths.plugin.join("dra-device-metadata"), error })?;
            step();
            let devices = of_request.iter().filter_map(|wanted| wanted.device.clone()).collect();
            Ok(Request {
                name: name.to_owned(),
                environment: environment(claim, name, &of_request, &view),
                devices,
                file: Some(file),
            })
        });
        let requests: Vec<Request> = requests.collect::<Result<_, PrepareError>>()?;
        let (hook, state_dir) = (paths.hook.as_str(), paths.state_dir.as_deref());
        let document = Document { uid: &claim.uid, hook, state_dir, requests: &requests };
        let text = document.to_json().unwrap_or_default();
        let written = cdi_file::write(&paths.cdi, &claim.uid, &text);
        written.map_err(|error| PrepareError::Write { path: cdi_file::path(&paths.cdi, &claim.uid), error })
    }

    fn metadata_of(&self, wanted: &Wanted<'_>, view: &View) -> metadata::Device {
        let network_data = wanted.device.as_ref().map(|device| {
            let configuration = wanted.configuration.as_ref();
            let is_moved = wanted.acquisition == Acquisition::Move;
            let host = view.snapshot.link_named(&device.to_name()).and_then(|link| link.mac.clone());
            NetworkData {
                interface_name: wanted.name_inside(device).to_string(),
                ips: configuration.map_or_else(Vec::new, |it| it.addresses.iter().map(ToString::to_string).collect()),
                hardware_address: configuration
                    .and_then(|it| it.mac.clone())
                    .or(host.filter(|_| is_moved))
                    .map(|mac| mac.to_string()),
            }
        });
        metadata::Device {
            driver: DRIVER,
            pool: self.settings.node.clone(),
            name: wanted.allocation.device.clone(),
            network_data,
        }
    }
}

/// Whether an allocation of the claim is this device, or a device that is created on it or is its parent.
fn names(claim: &Claim, device: &DeviceId) -> bool {
    let allocations = claim.allocations.iter().filter(|allocation| !allocation.is_admin);
    let mut devices = allocations.filter_map(|allocation| Some(allocation.device.parse::<DeviceName>().ok()?.device()));
    devices.any(|allocated| allocated == *device || device.parent() == Some(allocated))
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

/// Checks that the pool of the device allows what is requested of the driver.
fn check_ethtool(view: &View, link: &Link, wanted: &Wanted<'_>) -> Result<(), DeviceError> {
    let Some((pool, configuration)) = view.pools.of(link).zip(wanted.configuration.as_ref()) else { return Ok(()) };
    Ok(pool.check_ethtool(configuration)?)
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

/// A virtual function has at most the MTU of its physical function, and what is built on an interface that of the interface.
fn check_mtu(view: &View, link: &Link, configuration: Option<&SandboxConfiguration>) -> Result<(), DeviceError> {
    let function = link.hardware.as_ref().and_then(|hardware| hardware.virtual_function.as_ref());
    let physical = function.and_then(|function| function.physical_function_name.as_ref());
    let physical = physical.and_then(|name| view.snapshot.link_named(name));
    let is_bounded = matches!(link.kind.as_deref(), Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap"));
    let parent = link.parent.filter(|_| is_bounded).and_then(|parent| view.snapshot.link(parent));
    check_mtu_of(physical.or(parent).map(|limit| &**limit), configuration)
}

/// Checks the MTU against that of the interface below.
fn check_mtu_of(limit: Option<&Link>, configuration: Option<&SandboxConfiguration>) -> Result<(), DeviceError> {
    let Some(asked) = configuration.and_then(|configuration| configuration.mtu) else { return Ok(()) };
    match limit.filter(|limit| asked > limit.mtu) {
        None => Ok(()),
        Some(limit) => Err(DeviceError::Mtu { asked, most: limit.mtu, of: limit.name.to_string() }),
    }
}

/// The variables that list the interfaces of a request in the Pod, separated by spaces. A claim for an extended resource also
/// has the device plugin's.
fn environment(claim: &Claim, request: &str, wanted: &[&Wanted<'_>], view: &View) -> Vec<String> {
    let text = |name: InterfaceName| name.to_str().map_or_else(|| DeviceId::from(&name).to_string(), str::to_owned);
    let devices = || wanted.iter().filter_map(|wanted| Some((wanted, wanted.device.as_ref()?)));
    let names: Vec<String> = devices().map(|(wanted, device)| text(wanted.name_inside(device))).collect();
    let names = names.join(" ");
    let claim_name = claim.pod_claim_name.as_deref().unwrap_or(&claim.name);
    let mut variables = vec![format!("{}={names}", document::environment_variable(claim_name, request))];
    if claim.is_extended_resource {
        let resource = devices().find_map(|(_, device)| Some(view.devices().get(device)?.resource.clone()));
        variables.extend(resource.map(|resource| format!("{}={names}", resource.environment_variable())));
    }
    variables
}
