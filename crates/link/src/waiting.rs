//! Gives a device of the host its old name, as soon as that is free.

use netdevice::DeviceId;
use rtnl::link::attribute as ifla;
use store::{Records, Waiting};

use crate::{
    error::{Error, WithSubject},
    identity::Identity,
    read::{Which, read_bare},
    socket::RouteSocket,
};

/// What became of the attempt to give a device its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// It has it.
    Done,
    /// Not now: the name is taken or another program works on the device.
    NotYet,
    /// The device is gone, or was given another name: nothing waits any more.
    Void,
}

/// Gives the device its name, if that is free and the link is the device still: by index, name, kind and permanent address.
///
/// # Errors
///
/// When the kernel refuses for another reason than that the name is taken; the device waits on.
pub fn restore_name(records: &Records, waiting: &Waiting) -> Result<Restored, Error> {
    let present = DeviceId::from(&waiting.present);
    // neither it nor a device that has its name is moved meanwhile
    let (Some(_lock), Some(_present)) = (records.try_lock(&waiting.device)?, records.try_lock(&present)?) else {
        return Ok(Restored::NotYet);
    };
    // in a Pod, under the name that it has now; or another device of its name is, and comes back
    if records.read(&waiting.device)?.is_some() || records.read(&present)?.is_some() {
        return Ok(Restored::NotYet);
    }
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    let link = read_bare(&mut home, Which::Index(waiting.index))?;
    if !link.is_some_and(|link| link.name == waiting.present && waiting.attachment().acquired.is(&link)) {
        waiting.end()?;
        return Ok(Restored::Void);
    }
    let (index, name) = (waiting.index, waiting.device.to_name());
    let bytes = name.as_bytes().to_vec();
    let renamed = home.change_one(move |batch| {
        rtnl::link::set(batch, index, 0, 0).string(ifla::IFNAME, &bytes);
    });
    match renamed.subject("the kernel's network configuration")? {
        Ok(()) => {
            waiting.end()?;
            Ok(Restored::Done)
        }
        Err(error) if error.errno == libc::EEXIST => Ok(Restored::NotYet),
        Err(error) => Err(Error::Configure { what: format!("the name {name}"), error }),
    }
}
