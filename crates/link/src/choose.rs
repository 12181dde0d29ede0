//! Chooses devices by their names or pools and reserves them: for a Pod's annotation in the agent, and for a command on the node.
//!
//! One program of the node at a time chooses. What it has chosen stays reserved for it while others choose.

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use netdevice::{
    DeviceId, DeviceRequest, Owner, Pod, View,
    choice::{Allocated, Choice, ChoiceError, Demand, choose},
};
use store::Records;

use crate::{
    devices::{ReserveError, Reserved},
    read::read_link,
    socket::RouteSocket,
};

/// How long the kernel's notification of a new link may take to reach the view.
const NOTIFICATION: Duration = Duration::from_millis(500);
/// How often a condition that is waited for is checked.
const POLL: Duration = Duration::from_millis(2);

/// The devices that are requested for a sandbox.
#[derive(Debug, Clone, Copy)]
pub struct ChooseRequest<'a> {
    /// Their owner.
    pub owner: &'a Owner,
    /// The owner's Pod.
    pub pod: &'a Pod,
    /// The devices, by name or by pool.
    pub devices: &'a [DeviceRequest],
    /// When no condition is waited for any longer.
    pub limit: Instant,
}

/// What the program that chooses knows of the node.
pub trait Chooser {
    /// Why that is not known.
    type Error;

    /// The devices of the node. A view may be slightly older than the records.
    ///
    /// # Errors
    ///
    /// When the node cannot be read.
    fn view(&self) -> Result<Arc<View>, Self::Error>;

    /// The devices that the kubelet has allocated. Blocks.
    ///
    /// # Errors
    ///
    /// When there is a kubelet and it does not answer.
    fn allocated(&self) -> Result<Allocated, Self::Error>;

    /// Whether no device is wanted any longer.
    fn is_stopped(&self) -> bool {
        false
    }

    /// Receives what is waited for at this moment; none if nothing is.
    fn set_obstacle(&self, _obstacle: Option<String>) {}
}

/// What to say while another program chooses, and when it does not end.
const BUSY: &str = "another program of this node did not finish in time: try again in a moment";

/// Why no devices were reserved.
#[derive(Debug, thiserror::Error)]
pub enum ChooseError<E> {
    /// The node is not known.
    #[error("{0}")]
    Chooser(E),
    /// A device cannot be had.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// Another owner was first.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// Another program chooses.
    #[error("{}", BUSY)]
    Busy,
    /// See [`Chooser::is_stopped`].
    #[error("the pod is being stopped")]
    Stopped,
    /// The records.
    #[error("cannot read the records of this node: {0}")]
    Records(#[from] io::Error),
}

/// Chooses a device for each request and reserves them. A link that the kernel has and the view has not is waited for: it was
/// just created or returned. So is a device that another program works on.
///
/// # Errors
///
/// The first request that cannot be met, or that is not met in time.
pub fn choose_and_reserve<C: Chooser>(
    records: &Records,
    chooser: &C,
    request: ChooseRequest<'_>,
) -> Result<(Vec<Choice>, Reserved), ChooseError<C::Error>> {
    let ChooseRequest { owner, pod, devices: requests, limit } = request;
    let began = Instant::now();
    let (mut allocated, mut busy) = (None, BTreeSet::new());
    let mut obstacle = None;
    let none = Allocated::new();
    loop {
        if chooser.is_stopped() {
            return Err(ChooseError::Stopped);
        }
        // what was waited for in the last round is the better reason
        chooser.set_obstacle(obstacle.clone().or_else(|| Some(BUSY.to_owned())));
        let choice_lock = records.lock_choice(limit)?.ok_or(ChooseError::Busy)?;
        chooser.set_obstacle(obstacle.clone());
        let view = chooser.view().map_err(ChooseError::Chooser)?;
        let (ledger, _) = records.list()?;
        let reserved = records.reserved_from(owner)?;
        let demand = Demand {
            owner,
            pod,
            requests,
            allocated: allocated.as_ref().unwrap_or(&none),
            reserved: &reserved,
            busy: &busy,
            ledger: &ledger,
        };
        let choices = match choose(&view, &demand) {
            Ok(choices) => choices,
            Err(error) if error.missing().is_some_and(is_on_node) => {
                drop(choice_lock);
                obstacle = Some(wait_or(chooser, error.into(), limit.min(began + NOTIFICATION))?);
                continue;
            }
            Err(error @ ChoiceError::NoneFree(_)) if !busy.is_empty() => {
                drop(choice_lock);
                busy.clear();
                obstacle = Some(wait_or(chooser, error.into(), limit)?);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        // devices that the sandbox has already need no check
        let has_all = choices.iter().all(|choice| ledger.contains_key(&choice.device));
        if !has_all && allocated.is_none() {
            drop(choice_lock);
            allocated = Some(chooser.allocated().map_err(ChooseError::Chooser)?);
            continue;
        }
        let devices = choices.iter().map(|choice| (&choice.device, Some(&choice.resource), choice.acquisition));
        match Reserved::take(records, owner, devices) {
            Ok(reserved) => {
                chooser.set_obstacle(None);
                return Ok((choices, reserved));
            }
            // another number does as well
            Err(ReserveError::Busy(device) | ReserveError::Refused(device, _))
                if device.child().is_some() && !ledger.contains_key(&device) && Instant::now() < limit =>
            {
                drop(choice_lock);
                busy.insert(device);
            }
            Err(ReserveError::Busy(device)) => {
                drop(choice_lock);
                obstacle = Some(wait_or(chooser, ReserveError::Busy(device.clone()).into(), limit)?);
                busy.insert(device);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits a moment, with the error as the reason, which it returns; or returns the error when it is too late for that.
fn wait_or<C: Chooser>(
    chooser: &C,
    error: ChooseError<C::Error>,
    latest: Instant,
) -> Result<String, ChooseError<C::Error>> {
    if Instant::now() >= latest {
        return Err(error);
    }
    let reason = match &error {
        ChooseError::Choice(error) => error.to_string(),
        ChooseError::Reserve(error) => error.to_string(),
        _ => return Err(error),
    };
    chooser.set_obstacle(Some(reason.clone()));
    sleep(POLL);
    Ok(reason)
}

/// Whether the kernel has a link of the device's name.
fn is_on_node(device: &DeviceId) -> bool {
    let found = RouteSocket::open().ok().map(|mut node| read_link(&mut node, &device.to_name()));
    matches!(found, Some(Ok(Some(_))))
}
