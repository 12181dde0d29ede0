//! Moves a device from the host into a sandbox.

use netdevice::{Attachment, InterfaceName, LinkState, Moved, configuration::IpPrefix};
use rtnl::link::attribute as ifla;
use rustix::fd::{AsFd, AsRawFd};
use store::{Lock, Written};

use crate::{
    announce::announce_ipv6,
    bpf,
    configure::configure_inside,
    directory::Directory,
    end::give_back,
    error::{Error, WithSubject},
    identity::{Actor, INDEX_ATTEMPTS, INDEX_STEP},
    kept::read_kept,
    neighbourhood::{Use, exclusion},
    read::{Which, read_bare, read_whole, sysfs_directory},
    socket::{Change, KernelError},
    task::{Attached, Task},
};

impl Task<'_> {
    /// Moves the device: from its state on the host to its complete record.
    pub(crate) fn move_in(mut self, lock: &Lock) -> Result<Attached, Error> {
        self.records.check_children(self.request.device, lock)?;
        let mut state = read_whole(self.home, Which::Name(self.host_name))?.ok_or(Error::NotThere)?;
        let directory = sysfs_directory(&state.name, state.index).subject("the link in sysfs")?;
        if let Some(exclusion) = exclusion(self.records, self.home, &state, directory.as_ref(), Use::Device)? {
            return Err(Error::Excluded(exclusion));
        }
        read_kept(self.home, &mut state, directory.as_ref())?;
        if let Some(new_name) = self.new_name()
            && read_bare(self.inside, Which::Name(&new_name))?.is_some()
        {
            return Err(Error::NewNameTaken(new_name));
        }
        let mut record = self.record_of_move(state, directory)?;
        let mut written = self.records.write(&record)?;
        // Where nothing can be mounted the device lives as long as the sandbox's processes and mounts.
        let _ = self.records.pin(&record, self.request.sandbox.namespace());
        if let Err(error) = self.move_inside(&mut record, &mut written) {
            return Err(self.undo(record, error));
        }
        let link = match read_bare(self.inside, Which::Index(record.sandbox.ifindex)) {
            Ok(Some(link)) => link,
            Ok(None) => return Err(self.undo(record, Error::Vanished)),
            Err(error) => return Err(self.undo(record, error)),
        };
        let skipped = match configure_inside(&record.acquired.host, self.request, self.inside, &link) {
            Ok(skipped) => skipped,
            Err(error) => return Err(self.undo(record, error)),
        };
        if let Err(error) = written.note_attached() {
            return Err(self.undo(record, error.into()));
        }
        self.announce(&record, link);
        Ok(Attached { was_there: false, skipped })
    }

    /// Announces the IPv6 addresses to the device's neighbours; the IPv4 ones are announced as they are added.
    fn announce(&self, record: &Attachment<Moved>, mut link: LinkState) {
        let asked = record.configuration.as_ref();
        if let Some(mac) = asked.and_then(|asked| asked.mac.clone()) {
            link.mac = Some(mac);
        }
        let brought = record.acquired.host.addresses.iter().filter(|_| asked.is_none_or(|asked| asked.inherit));
        let given = asked.into_iter().flat_map(|asked| &asked.addresses).map(IpPrefix::address);
        let addresses = brought.map(|address| address.local).chain(given);
        announce_ipv6(&link, &mut addresses.into_iter(), Some((self.request.sandbox.namespace(), self.home)));
    }

    /// `directory` is the device's in sysfs, if it shows the node's network.
    fn record_of_move(
        &mut self,
        mut host: LinkState,
        directory: Option<Directory>,
    ) -> Result<Attachment<Moved>, Error> {
        if host.hardware.is_none() {
            host.sysfs_inode = directory.and_then(|directory| directory.inode().ok());
        }
        host.programs = bpf::programs(host.index, host.kind.as_deref()).ok();
        self.record(host.index, Moved { host, home: None })
    }

    /// The name that it gets inside, if it is another one than on the host.
    fn new_name(&self) -> Option<InterfaceName> {
        Some(self.name.as_interface_name()).filter(|name| *name != self.host_name).cloned()
    }

    /// Moves the link. Its index inside is chosen and written down before: a container cannot change it, so the device
    /// is found again whatever it is called. `written` is the record's.
    fn move_inside(&mut self, record: &mut Attachment<Moved>, written: &mut Written) -> Result<(), Error> {
        let target = self.request.sandbox.namespace().as_fd().as_raw_fd().cast_unsigned();
        for attempt in 1.. {
            let (index, wanted) = (record.acquired.host.index, record.sandbox.ifindex);
            let new_name = self.new_name().map(|name| name.as_bytes().to_vec());
            let mut changes: Vec<Change> = Vec::new();
            if let Some(name) = new_name.clone().filter(|name| has_altname(&record.acquired.host, name)) {
                // what is its alternative name cannot become its name
                changes.push(Box::new(move |batch| rtnl::link::remove_altname(batch, index, &name)));
            }
            // Without a name it keeps its own, and then a taken name is refused before anything moves (net/core/dev.c,
            // __dev_change_net_namespace). A new name is given after the move: it was free a moment ago, and where it is
            // not, the device is returned.
            changes.push(Box::new(move |batch| {
                let mut request = rtnl::link::set(batch, index, 0, 0);
                request.u32(ifla::NET_NS_FD, target).u32(ifla::NEW_IFINDEX, wanted);
                if let Some(name) = &new_name {
                    request.string(ifla::IFNAME, name);
                }
            }));
            let moved = self.home.change(changes).subject("the kernel's network configuration")?;
            match moved.into_iter().next_back().unwrap_or(Ok(())) {
                Ok(()) => return Ok(()),
                Err(error) if error.errno == libc::EBUSY && attempt <= INDEX_ATTEMPTS => {
                    record.sandbox.ifindex = index + attempt * INDEX_STEP;
                    *written = self.records.write(record)?;
                }
                Err(error) if error.errno == libc::EEXIST => {
                    return Err(self.taken_name(&record.acquired.host));
                }
                Err(error) => return Err(move_error(error)),
            }
        }
        Err(Error::Vanished)
    }

    /// The name that keeps the device out: the one that it was to get, or an alternative one.
    fn taken_name(&mut self, host: &LinkState) -> Error {
        let own = self.name.as_interface_name().clone();
        let altnames = host.altnames.iter().filter_map(|name| InterfaceName::new(name.as_bytes()).ok());
        // after a rename that came too late it is inside itself, under the name that it has on the host
        let is_other = |link: &LinkState| link.name != host.name;
        let mut names = std::iter::once(own.clone()).chain(altnames);
        let taken = names.find(|name| {
            let found = read_bare(self.inside, Which::Name(name));
            found.is_ok_and(|found| found.as_ref().is_some_and(is_other))
        });
        match taken.unwrap_or(own) {
            name if Some(&name) == self.new_name().as_ref() => Error::NewNameTaken(name),
            name => Error::NameTaken(name.to_string()),
        }
    }

    /// Returns the device to the host as it was; the error that made this necessary is the one to report.
    fn undo(&mut self, record: Attachment<Moved>, error: Error) -> Error {
        // The record stays if this fails, and the next actor goes on from it.
        let _ = give_back(self.records, record, self.home, Actor::Runtime);
        error
    }
}

fn has_altname(host: &LinkState, name: &[u8]) -> bool {
    host.altnames.iter().any(|altname| altname.as_bytes() == name)
}

fn move_error(error: KernelError) -> Error {
    match error.errno {
        libc::ENODEV => Error::NotThere,
        _ => Error::Move(error),
    }
}
