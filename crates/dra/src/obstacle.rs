//! What keeps a claim from a device, and whether it passes by itself.

use link::{Diagnosis, RouteSocket, diagnose};
use netdevice::{Attachment, DeviceId, Owner, Phase};

use crate::error::DeviceError;

/// Whether an obstacle passes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passes {
    /// No.
    Never,
    /// The view is only a moment behind, or it does not.
    Soon,
    /// It may, while the kubelet waits.
    InTime,
}

/// What keeps a claim from a device.
#[derive(Debug)]
pub(crate) struct Obstacle {
    pub(crate) device: DeviceId,
    pub(crate) passes: Passes,
    pub(crate) error: Box<DeviceError>,
    /// The claim that has a right to the device, and has it in no sandbox.
    pub(crate) reserved_by: Option<Box<Owner>>,
}

impl Obstacle {
    pub(crate) fn new(device: &DeviceId, passes: Passes, error: DeviceError) -> Self {
        Self { device: device.clone(), passes, error: error.into(), reserved_by: None }
    }

    /// Another owner has the device. It is waited for if it is on its way to the host, and if a claim has it: the scheduler gave it to
    /// this one, so that one has ended.
    pub(crate) fn held(device: &DeviceId, record: &Attachment) -> Self {
        let is_ending = || {
            let diagnosis = RouteSocket::open().ok().map(|mut home| diagnose(record, &mut home));
            matches!(diagnosis, Some(Diagnosis::HolderEnded | Diagnosis::SandboxEnded))
        };
        let is_claim = matches!(record.owner, Owner::Claim { .. });
        let passes =
            if is_claim || record.phase != Phase::Attached || is_ending() { Passes::InTime } else { Passes::Never };
        Self::new(device, passes, DeviceError::Held(record.owner.clone().into()))
    }

    /// Another owner has a right to the device. It passes: the kubelet's ends after some seconds, an injector's with its work, and
    /// of a claim the same holds as above.
    pub(crate) fn reserved(device: &DeviceId, owner: Owner) -> Self {
        let reserved_by = matches!(owner, Owner::Claim { .. }).then(|| owner.clone().into());
        Self { reserved_by, ..Self::new(device, Passes::InTime, DeviceError::Held(owner.into())) }
    }
}
