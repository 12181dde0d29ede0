//! Reservations: a right to a device that has not moved yet.
//!
//! There are three kinds. The kubelet's lasts from Allocate until the container's hook attaches the device; Allocate does
//! not say whose container it is, so any container may use it. A sandbox's lasts as long as the lock of the device, while an
//! injector attaches what it chose: one that is found without the lock is left over from a process that was killed. A claim's
//! lasts from Prepare to Unprepare, also while the device is attached: a new sandbox of the Pod gets the device again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use netdevice::{
    Acquisition, DeviceId, Owner, Reservation, ResourceName, exclusion::UplinkParents, record::Reservations,
};

use crate::{
    error::Error,
    lock::Lock,
    records::{BESIDE, Records, read_record_file},
    replace::replace_by_text,
};

const DIRECTORY: &str = "reservations";
const SUFFIX: &str = ".json";

/// How long, in seconds, a reservation of the kubelet counts against others than containers. After that the kubelet itself
/// lists the device (PodResources), or the Pod was deleted before it started.
const FRESH: u64 = 10;

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whether a reservation keeps `owner` from the device, asked under the device's lock.
fn keeps_from(reservation: &Reservation, owner: &Owner, now: u64) -> bool {
    match (&reservation.owner, owner) {
        (Owner::Kubelet, Owner::Container { .. } | Owner::Kubelet)
        | (Owner::Container { .. } | Owner::Sandbox { .. }, _) => false,
        (Owner::Kubelet, _) => is_fresh(reservation, now),
        (Owner::Claim { uid, .. }, Owner::Claim { uid: other, .. }) => uid != other,
        (Owner::Claim { .. }, _) => true,
    }
}

/// Whether a reservation keeps `owner` from attaching the device: also the sandbox of another Pod that shares the claim.
fn keeps_from_attaching(reservation: &Reservation, owner: &Owner, now: u64) -> bool {
    let is_other_pod = || matches!((reservation.owner.pod(), owner.pod()), (Some(pod), Some(other)) if pod != other);
    keeps_from(reservation, owner, now) || reservation.owner.is_same_claim(owner) && is_other_pod()
}

/// Whether a reservation of the kubelet is younger than [`FRESH`]. The clock may have been set back since.
fn is_fresh(reservation: &Reservation, now: u64) -> bool {
    now.checked_sub(reservation.since).is_some_and(|age| age < FRESH)
}

/// The device whose record a file is, if its id begins so.
fn record_of(file: &[u8], prefix: &str) -> Option<DeviceId> {
    let rest = file.strip_prefix(prefix.as_bytes())?.strip_suffix(SUFFIX.as_bytes())?;
    [prefix, str::from_utf8(rest).ok()?].concat().parse().ok()
}

impl Records {
    fn reservation_path(&self, device: &DeviceId) -> PathBuf {
        self.directory().join(DIRECTORY).join([device.as_str(), SUFFIX].concat())
    }

    /// The reservation of a device; none if there is none. One that cannot be used counts as none: the record of an
    /// attachment is what a device's return depends on.
    pub fn reservation(&self, device: &DeviceId) -> Option<Reservation> {
        Reservation::from_json(device, &read_record_file(&self.reservation_path(device)).ok()?).ok()
    }

    /// Whether there is any reservation. It reads none.
    pub fn has_reservations(&self) -> bool {
        match fs::read_dir(self.directory().join(DIRECTORY)) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// All reservations.
    ///
    /// # Errors
    ///
    /// When the directory is there and cannot be read.
    pub fn reservations(&self) -> io::Result<Reservations> {
        let entries = match fs::read_dir(self.directory().join(DIRECTORY)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reservations::new()),
            other => other?,
        };
        let mut reservations = Reservations::new();
        for entry in entries {
            let name = entry?.file_name();
            let device = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse::<DeviceId>().ok());
            let reservation = device.and_then(|device| self.reservation(&device));
            reservations.extend(reservation.map(|reservation| (reservation.device.clone(), reservation)));
        }
        Ok(reservations)
    }

    /// The reservations that count at this moment, for people to read: the kubelet's while it keeps others from the device, a
    /// sandbox's while a program works on the device, a claim's until it ends.
    ///
    /// # Errors
    ///
    /// Those of [`Records::reservations`].
    pub fn reservations_in_force(&self) -> io::Result<Reservations> {
        let now = now();
        let mut reservations = self.reservations()?;
        reservations.retain(|device, reservation| match &reservation.owner {
            Owner::Kubelet => is_fresh(reservation, now),
            Owner::Container { .. } | Owner::Sandbox { .. } => self.is_locked(device),
            Owner::Claim { .. } => true,
        });
        Ok(reservations)
    }

    /// The devices that others have a right to, so that `owner` cannot have them, with those owners.
    ///
    /// # Errors
    ///
    /// Those of [`Records::reservations`].
    pub fn reserved_from(&self, owner: &Owner) -> io::Result<BTreeMap<DeviceId, Owner>> {
        let now = now();
        let all = self.reservations()?.into_iter();
        let others = all.filter(|(_, reservation)| keeps_from(reservation, owner, now));
        Ok(others.map(|(device, reservation)| (device, reservation.owner)).collect())
    }

    /// Checks that `owner` may attach a device: no other owner has a right to it, and a claim has one. The device's lock is held.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] with that other owner; [`Error::NotPrepared`].
    pub fn check_reservation(&self, device: &DeviceId, owner: &Owner, _lock: &Lock) -> Result<(), Error> {
        match self.reservation(device) {
            Some(reservation) if keeps_from_attaching(&reservation, owner, now()) => {
                Err(Error::Held(reservation.owner.into()))
            }
            Some(reservation) if reservation.owner.is_same_claim(owner) => Ok(()),
            _ if matches!(owner, Owner::Claim { .. }) => Err(Error::NotPrepared(owner.clone().into())),
            _ => Ok(()),
        }
    }

    /// Checks that devices may be created on an interface: it has no owner and is not reserved. Its lock is held.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] with that owner.
    pub fn check_parent(&self, parent: &DeviceId, _lock: &Lock) -> Result<(), Error> {
        if let Some(record) = self.take(parent)? {
            return Err(Error::Held(record.owner.into()));
        }
        let now = now();
        let is_due = |reservation: &Reservation| match reservation.owner {
            Owner::Kubelet => is_fresh(reservation, now),
            Owner::Claim { .. } => true,
            Owner::Container { .. } | Owner::Sandbox { .. } => false,
        };
        match self.reservation(parent).filter(is_due) {
            Some(reservation) => Err(Error::Held(reservation.owner.into())),
            None => Ok(()),
        }
    }

    /// Checks that an interface may be moved: no device is created on it, or reserved for a claim. Its lock is held, which the
    /// creation and the reservation of one take, too.
    ///
    /// # Errors
    ///
    /// [`Error::Parent`] with the owner of such a device.
    pub fn check_children(&self, device: &DeviceId, _lock: &Lock) -> Result<(), Error> {
        self.owner_of_child(device)?.map_or(Ok(()), |owner| Err(Error::Parent(owner.into())))
    }

    /// Who has a device that is created on this one, or a claim that has reserved such a device.
    fn owner_of_child(&self, parent: &DeviceId) -> Result<Option<Owner>, Error> {
        let prefix = [parent.as_str(), ":"].concat();
        for directory in [self.directory().to_owned(), self.directory().join(DIRECTORY)] {
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|error| Error::Record { path: directory, error })?,
            };
            for entry in entries.flatten() {
                let child = record_of(entry.file_name().as_encoded_bytes(), &prefix);
                let Some(child) = child.filter(|child| child.parent().as_ref() == Some(parent)) else { continue };
                if let Some(record) = self.read(&child)? {
                    return Ok(Some(record.owner));
                }
                let reservation = self.reservation(&child).map(|reservation| reservation.owner);
                if let Some(owner @ Owner::Claim { .. }) = reservation {
                    return Ok(Some(owner));
                }
            }
        }
        Ok(None)
    }

    /// Reserves a device that is on the host, or that the same claim has already. Its lock is held.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] when another owner has it or a right to it; or when the disk does not take it.
    pub fn reserve(&self, reservation: &Reservation, lock: &Lock) -> Result<(), Error> {
        let device = &reservation.device;
        if let Some(record) = self.take(device)?
            && !record.owner.is_same_pod(&reservation.owner)
            && !record.owner.is_same_claim(&reservation.owner)
        {
            return Err(Error::Held(record.owner.into()));
        }
        if let Some(other) = self.reservation(device).filter(|other| keeps_from(other, &reservation.owner, now())) {
            return Err(Error::Held(other.owner.into()));
        }
        self.check_children(device, lock)?;
        let path = self.reservation_path(device);
        let beside = self.reservation_beside(device);
        let write = || replace_by_text(&path, &beside, &reservation.to_json(), 0o600);
        let written = write().or_else(|error| {
            // the first one on this node
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            fs::create_dir_all(self.directory().join(DIRECTORY))?;
            write()
        });
        written.map(drop).map_err(|error| Error::Record { path: path.clone(), error })
    }

    /// The owner because of which the kubelet may not hand a device out: by its record, by a reservation,
    /// or by a device that is created on it.
    ///
    /// # Errors
    ///
    /// When there is a record that cannot be read or followed.
    pub fn owner_before_kubelet(&self, device: &DeviceId) -> Result<Option<Owner>, Error> {
        if let Some(record) = self.read(device)? {
            return Ok(Some(record.owner));
        }
        Ok(match self.reservation(device).map(|reservation| reservation.owner) {
            Some(owner @ Owner::Claim { .. }) => Some(owner),
            // it counts while a program works on the device
            Some(owner @ Owner::Sandbox { .. }) if self.try_lock(device)?.is_none() => Some(owner),
            _ => self.owner_of_child(device)?,
        })
    }

    /// Reserves a device for a container that the kubelet is going to start. If another program works on the device at this moment,
    /// nothing is written: the container's hook decides.
    ///
    /// # Errors
    ///
    /// Those of [`Records::reserve`].
    pub fn reserve_for_kubelet(
        &self,
        device: &DeviceId,
        resource: &ResourceName,
        acquisition: Acquisition,
    ) -> Result<(), Error> {
        let (device, resource) = (device.clone(), Some(resource.clone()));
        let Some(lock) = self.try_lock(&device)? else { return Ok(()) };
        let reservation = Reservation {
            device,
            resource,
            owner: Owner::Kubelet,
            acquisition,
            uplink_parents: UplinkParents::Refused,
            configuration: None,
            is_of_one_pod: false,
            since: now(),
        };
        self.reserve(&reservation, &lock)
    }

    /// Ends the reservation of a device that was attached or is not wanted any longer. A claim's stays, see
    /// [`Records::release_claim`]. The device's lock is held.
    pub fn release(&self, device: &DeviceId, _lock: &Lock) {
        if !self.reservation(device).is_some_and(|reservation| matches!(reservation.owner, Owner::Claim { .. })) {
            // mostly there is none
            let _ = fs::remove_file(self.reservation_path(device));
        }
    }

    /// Ends a claim's reservation of a device, if it has one: the claim is unprepared. The device's lock is held.
    pub fn release_claim(&self, device: &DeviceId, claim: &str, _lock: &Lock) -> io::Result<()> {
        if !self.reservation(device).is_some_and(|reservation| reservation.owner.is_claim(claim)) {
            return Ok(());
        }
        match fs::remove_file(self.reservation_path(device)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends the reservations of a sandbox that has ended, except of devices that a program works on.
    pub fn release_sandbox(&self, sandbox: &str) {
        self.release_if(|owner, _| matches!(owner, Owner::Sandbox { id, .. } if id == sandbox));
    }

    /// Where a reservation is written before it takes its place.
    fn reservation_beside(&self, device: &DeviceId) -> PathBuf {
        self.directory().join(DIRECTORY).join([".", device.as_str(), SUFFIX, BESIDE].concat())
    }

    /// Removes what sandboxes had reserved whose injector was killed, what the kubelet had reserved long ago, and what writers
    /// that were killed left half written.
    pub(crate) fn sweep_reservations(&self) {
        for entry in fs::read_dir(self.directory().join(DIRECTORY)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let device = || name.to_str()?.strip_prefix('.')?.strip_suffix(BESIDE)?.strip_suffix(SUFFIX)?.parse().ok();
            if let Some(device) = device()
                && let Ok(Some(_lock)) = self.try_lock(&device)
            {
                let _ = fs::remove_file(self.reservation_beside(&device));
            }
        }
        let now = now();
        self.release_if(|owner, since| match owner {
            Owner::Claim { .. } => false,
            Owner::Kubelet => now.abs_diff(since) > 360 * FRESH,
            Owner::Container { .. } | Owner::Sandbox { .. } => true,
        });
    }

    fn release_if(&self, is_over: impl Fn(&Owner, u64) -> bool) {
        let is_left = |reservation: &Reservation| is_over(&reservation.owner, reservation.since);
        for (device, reservation) in self.reservations().into_iter().flatten() {
            if is_left(&reservation)
                && let Ok(Some(lock)) = self.try_lock(&device)
                && self.reservation(&device).is_some_and(|reservation| is_left(&reservation))
            {
                self.release(&device, &lock);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netdevice::{Attachment, Pod, fixture, owner::Request};

    use super::*;

    fn claim(uid: &str) -> Owner {
        Owner::Claim {
            uid: uid.into(),
            namespace: "default".into(),
            name: "fast".into(),
            request: "nic".into(),
            sandbox: None,
            pod: None,
        }
    }

    fn of(owner: &Owner, since: u64) -> Reservation {
        let device = "eth0".parse().unwrap();
        Reservation {
            device,
            resource: None,
            owner: owner.clone(),
            acquisition: Acquisition::Move,
            uplink_parents: UplinkParents::Refused,
            configuration: None,
            is_of_one_pod: false,
            since,
        }
    }

    #[test]
    fn a_reservation_keeps_others_from_the_device() {
        let (container, kubelet) = (fixture::owner("container"), Owner::Kubelet);
        let sandbox = Owner::Sandbox { id: "other".into(), pod: None, by: Request::Annotation };
        let table = [
            (&kubelet, 95, &container, false),
            (&kubelet, 95, &kubelet, false),
            (&kubelet, 95, &sandbox, true),
            (&kubelet, 95, &claim("1"), true),
            (&kubelet, 90, &sandbox, false),
            // the clock was set back
            (&kubelet, 200, &sandbox, false),
            (&sandbox, 95, &container, false),
            (&sandbox, 95, &kubelet, false),
            (&claim("1"), 0, &claim("1"), false),
            (&claim("1"), 0, &claim("2"), true),
            (&claim("1"), 0, &container, true),
            (&claim("1"), 0, &sandbox, true),
        ];
        for (reserved, since, owner, expected) in table {
            assert_eq!(keeps_from(&of(reserved, since), owner, 100), expected, "{reserved:?} {owner:?} {since}");
        }
    }

    #[test]
    fn a_device_is_reserved_once_and_the_owner_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let reservation = of(&claim("1"), now());
        let lock = records.lock(&reservation.device).unwrap();
        records.reserve(&reservation, &lock).unwrap();
        records.reserve(&reservation, &lock).unwrap();
        assert_eq!(
            records.reservations().unwrap().into_values().collect::<Vec<_>>(),
            std::slice::from_ref(&reservation)
        );
        let refused = records.reserve(&of(&claim("2"), now()), &lock).unwrap_err();
        assert_eq!(refused.to_string(), "it is held by claim default/fast: delete that pod or choose another device");
        records.release(&reservation.device, &lock);
        records.release_claim(&reservation.device, "2", &lock).unwrap();
        assert!(records.reservation(&reservation.device).is_some(), "it lasts until that claim is unprepared");
        records.release_claim(&reservation.device, "1", &lock).unwrap();
        records.release_claim(&reservation.device, "1", &lock).unwrap();
        records.reserve(&of(&claim("2"), now()), &lock).unwrap();
        // nor a device that is attached
        let attached = fixture::record("eth1");
        records.write(&attached).unwrap();
        let other = Reservation { device: attached.device.clone(), ..of(&Owner::Kubelet, now()) };
        let lock = records.lock(&attached.device).unwrap();
        assert!(matches!(records.reserve(&other, &lock), Err(Error::Held(owner)) if *owner == attached.owner));
        assert!(records.list().unwrap().1.is_empty(), "a reservation is not taken for a record");
    }

    #[test]
    fn a_claim_is_prepared_again_while_it_is_attached_and_only_its_own_pod_attaches_it() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let in_sandbox = |uid: &str, sandbox: Option<&str>, pod: Option<&str>| {
            let Owner::Claim { namespace, name, request, .. } = claim(uid) else { unreachable!() };
            let pod = pod.map(|uid| Pod { namespace: "default".into(), name: "web".into(), uid: uid.into() });
            Owner::Claim { uid: uid.into(), namespace, name, request, sandbox: sandbox.map(Into::into), pod }
        };
        let (reserved, eth0) = (in_sandbox("1", None, Some("p1")), "eth0".parse().unwrap());
        let lock = records.lock(&eth0).unwrap();
        let attached = Attachment { owner: in_sandbox("1", Some("s1"), Some("p1")), ..fixture::record("eth0") };
        let may_attach = |owner: &Owner| records.check_reservation(&eth0, owner, &lock);
        assert!(matches!(may_attach(&attached.owner), Err(Error::NotPrepared(owner)) if *owner == attached.owner));
        records.reserve(&of(&reserved, now()), &lock).unwrap();
        records.write(&attached).unwrap();
        records.reserve(&of(&reserved, now()), &lock).unwrap();
        // the first Pod of those that the claim is reserved for has ended
        records.reserve(&of(&in_sandbox("1", None, Some("p2")), now()), &lock).unwrap();
        records.reserve(&of(&reserved, now()), &lock).unwrap();
        assert!(may_attach(&attached.owner).is_ok() && may_attach(&in_sandbox("1", Some("s2"), Some("p1"))).is_ok());
        let refused = [in_sandbox("1", Some("s3"), Some("p2")), in_sandbox("2", Some("s1"), Some("p1"))];
        for owner in refused.iter().chain([&fixture::owner("container"), &fixture::owner("sandbox")]) {
            assert!(matches!(may_attach(owner), Err(Error::Held(owner)) if *owner == reserved), "{owner:?}");
        }
        assert!(records.reserve(&of(&in_sandbox("2", None, Some("p1")), now()), &lock).is_err());
        assert_eq!(records.reservations_in_force().unwrap().len(), 1);
        records.release(&eth0, &lock);
        assert_eq!(records.reservation(&eth0).map(|reservation| reservation.owner), Some(reserved));
    }

    #[test]
    fn only_reservations_that_count_are_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let reserve = |device: &str, owner: &Owner, since: u64| {
            let reservation = Reservation { device: device.parse().unwrap(), ..of(owner, since) };
            records.reserve(&reservation, &records.lock(&reservation.device).unwrap()).unwrap();
        };
        reserve("claimed", &claim("1"), 0);
        reserve("fresh", &Owner::Kubelet, now());
        reserve("old", &Owner::Kubelet, now() - 2 * FRESH);
        reserve("injected", &fixture::owner("sandbox"), now());
        let in_force = || {
            let devices = records.reservations_in_force().unwrap().into_keys();
            devices.map(|id| id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(in_force(), ["claimed", "fresh"]);
        let lock = records.lock(&"injected".parse().unwrap()).unwrap();
        assert_eq!(in_force(), ["claimed", "fresh", "injected"]);
        drop(lock);
        assert_eq!(in_force(), ["claimed", "fresh"]);
    }

    #[test]
    fn the_kubelet_is_told_who_has_reserved_a_device() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let (eth0, resource) = ("eth0".parse().unwrap(), ResourceName::default());
        let owner = || records.owner_before_kubelet(&eth0).unwrap();
        records.reserve_for_kubelet(&eth0, &resource, Acquisition::Move).unwrap();
        assert_eq!(records.reservation(&eth0).unwrap().owner, Owner::Kubelet);
        assert_eq!(owner(), None, "another Allocate may come for the same container");
        assert_eq!(records.reserved_from(&fixture::owner("sandbox")).unwrap(), [(eth0.clone(), Owner::Kubelet)].into());
        assert!(records.reserved_from(&fixture::owner("container")).unwrap().is_empty());
        let lock = records.lock(&eth0).unwrap();
        records.release(&eth0, &lock);
        records.reserve(&of(&fixture::owner("sandbox"), now()), &lock).unwrap();
        assert_eq!(owner(), Some(fixture::owner("sandbox")));
        drop(lock);
        assert_eq!(owner(), None, "the injector was killed");
        records.reserve(&of(&claim("1"), now()), &records.lock(&eth0).unwrap()).unwrap();
        assert_eq!(owner(), Some(claim("1")));
        assert!(matches!(records.reserve_for_kubelet(&eth0, &resource, Acquisition::Move), Err(Error::Held(_))));
    }

    #[test]
    fn a_device_that_a_claim_is_to_have_created_keeps_its_parent_on_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let (eth0, child): (DeviceId, DeviceId) = ("eth0".parse().unwrap(), "eth0:1".parse().unwrap());
        let reserve = |device: &DeviceId, owner: &Owner| {
            let reservation = Reservation { device: device.clone(), ..of(owner, now()) };
            records.reserve(&reservation, &records.lock(device).unwrap())
        };
        let is_parent =
            |checked: Result<(), Error>| matches!(checked, Err(Error::Parent(owner)) if *owner == claim("1"));
        reserve(&child, &claim("1")).unwrap();
        assert!(is_parent(records.check_children(&eth0, &records.lock(&eth0).unwrap())));
        assert!(is_parent(reserve(&eth0, &claim("2"))));
        assert_eq!(records.owner_before_kubelet(&eth0).unwrap(), Some(claim("1")));
        assert_eq!(records.owner_before_kubelet(&"eth00".parse().unwrap()).unwrap(), None);
        records.release_claim(&child, "1", &records.lock(&child).unwrap()).unwrap();
        // one of an injector counts as long as it works, and then there is a record
        reserve(&child, &fixture::owner("sandbox")).unwrap();
        assert!(records.check_children(&eth0, &records.lock(&eth0).unwrap()).is_ok());
        assert_eq!(records.owner_before_kubelet(&eth0).unwrap(), None);
    }

    #[test]
    fn what_a_killed_injector_had_reserved_is_swept_unless_somebody_works_on_the_device() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        let owners = [("a", fixture::owner("sandbox")), ("b", claim("1")), ("c", Owner::Kubelet)];
        for (device, owner) in &owners {
            let reservation = Reservation { device: device.parse().unwrap(), ..of(owner, now()) };
            records.reserve(&reservation, &records.lock(&reservation.device).unwrap()).unwrap();
        }
        let left = || records.reservations().unwrap().into_keys().map(|id| id.to_string()).collect::<String>();
        let half_written = ["a", "d"].map(|device| records.reservation_beside(&device.parse().unwrap()));
        half_written.iter().for_each(|path| fs::write(path, "{").unwrap());
        let lock = records.lock(&"a".parse().unwrap()).unwrap();
        records.sweep();
        assert_eq!(left(), "abc");
        assert_eq!(half_written.each_ref().map(|path| path.exists()), [true, false]);
        drop(lock);
        records.sweep();
        assert_eq!(left(), "bc");
        assert!(!half_written[0].exists());
    }
}
