//! Creating a link in a sandbox, on a parent that stays on the host: 0.06 ms in place of a move's 16 to 20.
//!
//! The link is made in the sandbox's namespace by one request of the host's socket, which knows the parent (`IFLA_LINK`,
//! `IFLA_NET_NS_FD`; `rtnl_newlink` in `net/core/rtnetlink.c`). Its index is chosen and written down before, so that the
//! record of an attachment that was cut off says which link to look for.

use netdevice::{
    Attachment, LinkState,
    acquisition::{ChildKind, Created},
};
use rtnl::link::attribute as ifla;
use rustix::fd::{AsFd, AsRawFd};
use store::Written;

use crate::{
    configure::configure_inside,
    end::delete,
    error::{Error, WithSubject},
    identity::{Actor, INDEX_ATTEMPTS, INDEX_STEP},
    neighbourhood::{Use, exclusion},
    read::{Which, read_addressed, read_bare, sysfs_directory},
    socket::RouteSocket,
    task::{Attached, Task},
};

/// Indexes from here on are not given by the kernel, which counts up from 1, before a billion links were made.
const FIRST_INDEX: u32 = 1 << 30;

impl Task<'_> {
    /// Creates the device: from its parent to its complete record.
    pub(crate) fn create(mut self, kind: ChildKind) -> Result<Attached, Error> {
        let parent = self.request.device.parent().ok_or(Error::WrongAcquisition)?;
        // the parent is not moved meanwhile; afterwards the record says that it is a parent
        let lock = self.records.lock(&parent)?;
        self.records.check_parent(&parent, &lock)?;
        let link = self.parent()?;
        let asked = self.request.configuration.and_then(|configuration| configuration.mtu);
        if let Some(mtu) = asked.filter(|mtu| *mtu > link.mtu) {
            return Err(Error::ParentMtu { parent: link.name, limit: link.mtu, mtu });
        }
        let name = self.name.as_interface_name();
        if read_bare(self.inside, Which::Name(name))?.is_some() {
            return Err(Error::NewNameTaken(name.clone()));
        }
        let created = Created { parent: link.name, parent_index: link.index, kind };
        // a different index for each child, so that few have to be tried
        let number = self.request.device.child().map_or(0, |number| u32::from(number.get()));
        let mut record = self.record(FIRST_INDEX + number, created)?;
        let mut written = self.records.write(&record)?;
        let made = self.make(&mut record, &mut written);
        drop(lock);
        let configured = made.and_then(|()| self.configure(&record));
        let noted = configured.and_then(|skipped| written.note_attached().map(|()| skipped).map_err(Error::from));
        match noted {
            Ok(skipped) => Ok(Attached { was_there: false, skipped }),
            Err(error) => {
                // the record stays if this fails, and the next actor goes on from it
                let _ = delete(self.records, &record, self.home, Actor::Runtime);
                Err(error)
            }
        }
    }

    /// The link of the host to create the device on, if it may be one: it may have become the node's uplink since the device
    /// was chosen.
    fn parent(&mut self) -> Result<LinkState, Error> {
        let parent = read_addressed(self.home, Which::Name(self.host_name))?.ok_or(Error::NotThere)?;
        let directory = sysfs_directory(&parent.name, parent.index).subject("the link in sysfs")?;
        let wanted = Use::Parent(self.request.uplink_parents);
        if let Some(exclusion) = exclusion(self.records, self.home, &parent, directory.as_ref(), wanted)? {
            return Err(Error::ExcludedParent(parent.name, exclusion));
        }
        if parent.is_up() { Ok(parent) } else { Err(Error::ParentDown(parent.name)) }
    }

    /// Creates the link, down.
    fn make(&mut self, record: &mut Attachment<Created>, written: &mut Written) -> Result<(), Error> {
        let target = self.request.sandbox.namespace().as_fd().as_raw_fd().cast_unsigned();
        let first = record.sandbox.ifindex;
        for attempt in 1.. {
            let Created { parent_index, kind, .. } = record.acquired;
            let (index, name) = (record.sandbox.ifindex, record.sandbox.name.as_bytes().to_vec());
            let configuration = self.request.configuration;
            let mtu = configuration.and_then(|configuration| configuration.mtu);
            let mac = configuration.and_then(|configuration| configuration.mac.clone());
            let made = self.home.change_one(move |batch| {
                let mut request = rtnl::link::create(batch, index, parent_index, kind);
                request.u32(ifla::NET_NS_FD, target).string(ifla::IFNAME, &name);
                if let Some(mtu) = mtu {
                    request.u32(ifla::MTU, mtu);
                }
                if let Some(mac) = &mac {
                    request.attribute(ifla::ADDRESS, mac.as_bytes());
                }
            });
            let Err(error) = made.subject("the kernel's network configuration")? else { return Ok(()) };
            if error.errno == libc::ENODEV {
                return Err(Error::NotThere);
            }
            if has(self.inside, Which::Name(&record.sandbox.name))? {
                return Err(Error::NewNameTaken(record.sandbox.name.clone()));
            }
            // an older kernel also looks for the index on the host
            let is_taken = has(self.inside, Which::Index(index))? || has(self.home, Which::Index(index))?;
            if !is_taken || attempt > INDEX_ATTEMPTS {
                let Created { parent, kind, .. } = &record.acquired;
                return Err(match (error.errno, *kind) {
                    (libc::EEXIST, ChildKind::Vlan { id }) => Error::VlanTaken(parent.clone(), id.into()),
                    (libc::EBUSY, _) => Error::ParentInUse(parent.clone()),
                    _ => Error::Create(error),
                });
            }
            record.sandbox.ifindex = first + attempt * INDEX_STEP;
            *written = self.records.write(record)?;
        }
        Err(Error::Vanished)
    }

    fn configure(&mut self, record: &Attachment<Created>) -> Result<Vec<crate::Skipped>, Error> {
        let link = read_bare(self.inside, Which::Index(record.sandbox.ifindex))?.ok_or(Error::Vanished)?;
        configure_inside(&link, self.request, self.inside, &link)
    }
}

fn has(socket: &mut RouteSocket, link: Which<'_>) -> Result<bool, Error> {
    Ok(read_bare(socket, link)?.is_some())
}
