//! The reservations of a claim's devices: each as soon as it can be had, or the reason why not.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use netdevice::{
    Acquisition, DeviceId, InterfaceName, Owner, Reservation, View,
    children::Children,
    choice::free_child,
    claims::{
        claim::{Claim, ClaimError},
        slice::DeviceName,
    },
    exclusion::UplinkParents,
};
use tokio::time::{Instant, sleep_until};

use super::{CHECK, CHECK_SLOWLY, Subject, Wanted};
use crate::{
    api::{ApiError, until},
    driver::{ClaimLock, Driver, step},
    error::{DeviceError, PrepareError},
    obstacle::{Obstacle, Passes},
};

/// How long the kernel's notification of a link may take to reach the view.
const NOTIFICATION: Duration = Duration::from_secs(1);
/// How often the API server is asked whether the claim that holds a device still exists.
const CHECK_HOLDER: Duration = Duration::from_secs(2);
/// Below this remaining time it is not asked.
const LEAST_FOR_HOLDER: Duration = Duration::from_secs(5);

/// What one look at the devices came to.
struct Look {
    /// Those that are reserved now have their device.
    wanted: Vec<Wanted>,
    /// The first device that cannot be had yet, and what passes by itself; or the reason for a refusal.
    outcome: Result<Option<(usize, Obstacle)>, PrepareError>,
}

impl Driver {
    /// Reserves each device as soon as it can be had. With the last one, the files of the claim are written.
    pub(super) async fn reserve_all(
        &self,
        subject: &Arc<Subject>,
        mut wanted: Vec<Wanted>,
        lock: &ClaimLock,
        deadline: Instant,
    ) -> Result<(), PrepareError> {
        let began = Instant::now();
        let mut pause = CHECK;
        let mut soon_since: Option<Instant> = None;
        let mut views = self.settings.views.clone();
        let mut holders_checked: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let (view, of) = (views.borrow_and_update().clone(), subject.clone());
            let look = move |driver: &Self| driver.reserve_some(&of, wanted, &view);
            let look = self.blocking(lock, deadline, look).await?;
            wanted = look.wanted;
            let Some((at, obstacle)) = look.outcome? else { return Ok(()) };
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
                self.end_if_gone(holder, &obstacle.device, lock, deadline).await?;
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

    /// Reserves the devices that can be had at this moment, and writes the files if these are all.
    fn reserve_some(&self, subject: &Subject, mut wanted: Vec<Wanted>, view: &View) -> Look {
        let mut outcome = self.try_reserve_some(subject, &mut wanted, view);
        if let Ok(None) = outcome {
            outcome = self.write_files(subject, &wanted).map(|()| None);
        }
        Look { wanted, outcome }
    }

    fn try_reserve_some(
        &self,
        subject: &Subject,
        wanted: &mut [Wanted],
        view: &View,
    ) -> Result<Option<(usize, Obstacle)>, PrepareError> {
        let hook = &self.settings.paths.hook;
        if !Path::new(hook).exists() {
            return Err(PrepareError::NoHook(hook.clone()));
        }
        self.check_names(subject, wanted)?;
        let mut has_reserved = false;
        let mut passing: Option<(usize, Obstacle)> = None;
        for at in 0..wanted.len() {
            if wanted[at].allocation.is_admin || wanted[at].device.is_some() {
                continue;
            }
            let others: BTreeSet<DeviceId> = wanted.iter().filter_map(|wanted| wanted.device.clone()).collect();
            match self.reserve(subject, &wanted[at], &others, view) {
                Ok(reserved) => {
                    wanted[at] = reserved;
                    has_reserved = true;
                    step();
                }
                Err(obstacle) if obstacle.passes == Passes::Never => return Err(wanted[at].error(*obstacle.error)),
                Err(obstacle) => passing = passing.or(Some((at, obstacle))),
            }
        }
        if has_reserved {
            // another claim of the Pod may have been prepared at the same time
            self.check_names(subject, wanted)?;
        }
        Ok(passing)
    }

    /// Reserves a device under its lock. `others` are those of the claim that are reserved already.
    pub(super) fn reserve(
        &self,
        subject: &Subject,
        wanted: &Wanted,
        others: &BTreeSet<DeviceId>,
        view: &View,
    ) -> Result<Wanted, Obstacle> {
        let records = &self.settings.records;
        let never = |error: DeviceError, device: &DeviceId| Obstacle::new(device, Passes::Never, error);
        let device = match wanted.allocation.device.parse::<DeviceName>() {
            Ok(name) => name.device(),
            Err(_) => {
                let device = DeviceId::from(&InterfaceName::try_from("none").expect("a valid name"));
                return Err(never(DeviceError::NotThere, &device));
            }
        };
        if wanted.acquisition.created().is_some() || children_on(view, &device).is_some() {
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
        let reserved = records.reserve(&subject.reservation(wanted, &device, UplinkParents::Refused), &lock);
        if record.is_some() {
            lock.leave();
        }
        match reserved {
            Ok(()) => Ok(Wanted { device: Some(device), ..wanted.clone() }),
            Err(store::Error::Held(owner)) => Err(Obstacle::reserved(&device, *owner)),
            Err(error) => Err(never(error.into(), &device)),
        }
    }

    /// Reserves a device that is to be created on `parent`, under the lock of the parent, which every program takes that creates one:
    /// the one that the claim has for the request already, or the first free one.
    pub(super) fn reserve_child(
        &self,
        subject: &Subject,
        wanted: &Wanted,
        others: &BTreeSet<DeviceId>,
        view: &View,
        parent: &DeviceId,
    ) -> Result<Wanted, Obstacle> {
        let records = &self.settings.records;
        let never = |error: DeviceError| Obstacle::new(parent, Passes::Never, error);
        let busy = || Obstacle::new(parent, Passes::InTime, DeviceError::Busy);
        if let Some(record) = records.read(parent).map_err(|error| never(error.into()))? {
            return Err(Obstacle::held(parent, &record));
        }
        let pool = self.check_parent(view, parent, wanted)?;
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
            let offered = pool.children.and_then(|children| children.kind_of(&reservation.device));
            let kind = wanted.acquisition.created().or(offered);
            reservation.owner.is_claim(&subject.claim.uid)
                && is_for_request
                && kind.is_some()
                && reservation.acquisition.created() == kind
                && reservation.device.parent().as_ref() == Some(parent)
                && !others.contains(&reservation.device)
        };
        let is_taken = |device: &DeviceId| {
            others.contains(device) || reservations.contains_key(device) || !matches!(records.read(device), Ok(None))
        };
        // the lowest number first, as the status of the claim takes them
        let own = reservations.values().filter(is_own).min_by_key(|reservation| reservation.device.child());
        let own = own.and_then(|reservation| Some((reservation.device.clone(), reservation.acquisition.created()?)));
        let requested = wanted.acquisition.created();
        let free = || free_child(&parent.to_name(), pool, requested, is_taken);
        let none_free = || Obstacle::new(parent, Passes::InTime, DeviceError::NoneFree);
        let (device, kind) = own.or_else(free).ok_or_else(none_free)?;
        let child_lock = records.try_lock(&device).map_err(|error| never(error.into()))?.ok_or_else(busy)?;
        let configuration = match (pool.children, wanted.configuration.clone()) {
            (Some(_), configuration) => Some(configuration.unwrap_or_default().with_own_name(&device)),
            (None, configuration) => configuration,
        };
        let reserved_as = Wanted {
            allocation: wanted.allocation.clone(),
            acquisition: Acquisition::Create(kind),
            configuration,
            device: Some(device.clone()),
        };
        let reserved = records.reserve(&subject.reservation(&reserved_as, &device, pool.uplink_parents()), &child_lock);
        if !matches!(records.read(&device), Ok(None)) {
            child_lock.leave();
        }
        match reserved {
            Ok(()) => Ok(reserved_as),
            Err(store::Error::Held(owner)) => Err(Obstacle::reserved(&device, *owner)),
            Err(error) => Err(never(error.into())),
        }
    }

    /// Ends the reservation of a claim that is gone, which was never unprepared or will be in a moment: after a forced deletion the
    /// kubelet prepares the next claim first (kubernetes#141471). A device that is still in a sandbox stays there.
    async fn end_if_gone(
        &self,
        holder: &Owner,
        device: &DeviceId,
        lock: &ClaimLock,
        deadline: Instant,
    ) -> Result<(), PrepareError> {
        let Owner::Claim { uid, namespace, name, .. } = holder else { return Ok(()) };
        let is_gone = match until(deadline, self.api.claim(namespace, name)).await {
            Ok(text) => match Claim::read(&text, &self.settings.node) {
                // also if it was allocated again, on another device
                Ok(claim) => claim.uid != *uid || !names(&claim, device),
                Err(ClaimError::NotAllocated | ClaimError::OtherPool { .. }) => true,
                Err(_) => false,
            },
            Err(error) => matches!(error, ApiError::NotFound(_)),
        };
        if is_gone {
            let (holder, device) = (holder.clone(), device.clone());
            self.blocking(lock, deadline, move |driver| driver.end_reservations(&holder, &device)).await?;
        }
        Ok(())
    }

    /// Ends what a claim has reserved of a device, or on it, and has in no sandbox.
    fn end_reservations(&self, holder: &Owner, device: &DeviceId) {
        let records = &self.settings.records;
        let reservations = records.reservations().unwrap_or_default().into_values();
        // the device, or what is to be created on it
        let ended = reservations.filter(|reservation| {
            let reserved = &reservation.device;
            let is_on_it = reserved == device || reserved.parent().as_ref() == Some(device);
            is_on_it && reservation.owner.is_same_claim(holder)
        });
        for Reservation { device, .. } in ended {
            if matches!(records.read(&device), Ok(None))
                && let Ok(Some(lock)) = records.try_lock(&device)
                && matches!(records.read(&device), Ok(None))
            {
                tracing::info!(%device, "ended the reservation of {holder}, which has no right to it any longer");
                let _ = records.release_claim(&device, holder.id(), &lock);
            }
        }
    }
}

/// What the pool of an interface offers in place of it, if so.
pub(super) fn children_on(view: &View, device: &DeviceId) -> Option<Children> {
    view.snapshot.link_named(&device.to_name()).and_then(|link| view.pools.of(link)?.children)
}

/// Whether an allocation of the claim is this device, or a device that is created on it or is its parent.
fn names(claim: &Claim, device: &DeviceId) -> bool {
    let allocations = claim.allocations.iter().filter(|allocation| !allocation.is_admin);
    let mut devices = allocations.filter_map(|allocation| Some(allocation.device.parse::<DeviceName>().ok()?.device()));
    devices.any(|allocated| allocated == *device || device.parent() == Some(allocated))
}
