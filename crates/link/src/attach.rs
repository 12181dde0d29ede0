//! From the host into a sandbox.

use netdevice::{
    Attachment, DeviceId, InterfaceName, LinkState, Owner, Phase, ResourceName, SandboxConfiguration,
    SandboxInterfaceName,
    configuration::IpPrefix,
    record::{Process, SandboxPlace},
};
use rtnl::link::attribute as ifla;
use rustix::fd::{AsFd, AsRawFd};
use store::{Lock, Namespace, Records, Written, journal};

use crate::{
    announce::announce_ipv6,
    bpf,
    configure::configure_inside,
    detach::{Homecoming, come_home},
    error::{Error, WithSubject},
    folder::Folder,
    identity::{
        Actor, INDEX_ATTEMPTS, INDEX_STEP, find_at_home, find_inside, find_namespace, holder_has_ended, namespace_id,
        process, viewpoint,
    },
    inside::socket_inside,
    kept::read_kept,
    neighbourhood::exclusion,
    read::{Which, read_bare, read_whole, sysfs_folder},
    socket::{Change, KernelError, RouteSocket},
    step::Skipped,
};

/// A device for a sandbox.
#[derive(Debug)]
pub struct AttachRequest<'a> {
    /// Which device.
    pub device: &'a DeviceId,
    /// The resource that it was handed out as.
    pub resource: Option<&'a ResourceName>,
    /// Where to.
    pub sandbox: &'a Namespace,
    /// Other places where the same namespace is found, for when the first is gone.
    pub paths: Vec<String>,
    /// Whose it becomes.
    pub owner: &'a Owner,
    /// Pid of the first process of that container or sandbox, whose end is the holder's. None where it is not to be seen: of
    /// a sandbox the kernel and the mounts tell the end, too.
    pub pid: Option<i32>,
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

/// Puts a device into a sandbox, or makes sure that it is there, complete.
///
/// Whatever an earlier attempt left half done, its record tells, and it is finished or undone first. A device that
/// another sandbox of the same Pod still has is fetched from there.
///
/// # Errors
///
/// Then the device is on the host as it was, or still with its holder.
pub fn attach(records: &Records, request: &AttachRequest<'_>) -> Result<Attached, Error> {
    attach_locked(records, request, None)
}

/// As [`attach`], for a caller that may have the device's lock already.
pub(crate) fn attach_locked(
    records: &Records,
    request: &AttachRequest<'_>,
    mut lock: Option<Lock>,
) -> Result<Attached, Error> {
    let result = attach_under(records, request, &mut lock);
    if let Some(lock) = lock {
        // the record says whose it is; and a sandbox that could not have it chooses anew
        if result.is_ok() || matches!(request.owner, Owner::Sandbox { .. }) {
            records.release(request.device, &lock);
        }
        if result.is_ok() {
            lock.leave();
        }
    }
    result
}

/// Attaches the device under its lock, which is taken if it is not there yet.
fn attach_under(records: &Records, request: &AttachRequest<'_>, lock: &mut Option<Lock>) -> Result<Attached, Error> {
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    let mut inside = socket_inside(request.sandbox, &home)
        .map_err(|source| Error::Namespace { path: request.sandbox.path().to_owned(), source })?;
    if inside.cookie() == home.cookie() {
        return Err(Error::HostNetwork);
    }
    let host_name = request.device.to_name();
    let name = match request.configuration.and_then(|configuration| configuration.name.clone()) {
        Some(name) => name,
        None => SandboxInterfaceName::try_from(host_name.clone())?,
    };
    // A record without its container's process would be kept for good: nobody would see that the container ended. When
    // it ends from here on, whoever reads the record sees that.
    let first = |pid| process(pid).subject("the container's process")?.ok_or(Error::ContainerEnded);
    let process = request.pid.map(first).transpose()?;
    let lock = match lock {
        Some(lock) => lock,
        None => lock.insert(records.lock(request.device)?),
    };
    if let Some(record) = records.take(request.device)? {
        // an attempt that was cut off may have ended before the move: a link inside with that index is another one then
        let went = match record.phase {
            Phase::Attached => true,
            Phase::Attaching => find_at_home(&record, &mut home)?.is_none(),
            Phase::Detaching => false,
        };
        // asked for in another way than it is there, it goes home and comes again; who says nothing takes it as it is
        let is_as_asked = request.configuration.is_none_or(|asked| record.configuration.as_ref() == Some(asked));
        if record.sandbox.cookie == inside.cookie()
            && is_as_asked
            && went
            && let Some(link) = find_inside(&record, &mut inside)?
        {
            return adopt(records, record, request, process, (&mut inside, &link));
        }
        settle(records, record, request, &mut home)?;
    }
    records.check_reservation(request.device, request.owner, lock)?;
    let (home, inside) = (&mut home, &mut inside);
    Move { records, request, process, host_name: &host_name, name: &name, home, inside }.run()
}

/// The device is in this very sandbox: another container of the Pod starts, or an attempt was cut off.
fn adopt(
    records: &Records,
    mut record: Attachment,
    request: &AttachRequest<'_>,
    process: Option<Process>,
    (inside, link): (&mut RouteSocket, &LinkState),
) -> Result<Attached, Error> {
    let skipped = configure_inside(&record, request.sandbox, inside, link)?;
    let was_there = record.phase == Phase::Attached;
    // an older program may have attached it, or it was killed before
    let _ = records.pin(&record, request.sandbox);
    // what the sandbox has, it has longer than any of its containers
    if !record.owner.outlives_containers() {
        record.owner = request.owner.clone();
        record.process = process;
    }
    record.phase = Phase::Attached;
    records.write(&record)?;
    Ok(Attached { was_there, skipped })
}

/// Ends what a record of another attachment says, so that the device is on the host.
fn settle(
    records: &Records,
    record: Attachment,
    request: &AttachRequest<'_>,
    home: &mut RouteSocket,
) -> Result<(), Error> {
    if record.phase == Phase::Attached && !record.owner.is_same_pod(request.owner) && !holder_has_ended(&record) {
        // a namespace that ended holds nothing any more
        if let Some((_namespace, mut socket)) = find_namespace(records, &record, home, Actor::Runtime)?
            && find_inside(&record, &mut socket)?.is_some()
        {
            return Err(store::Error::Held(record.owner.into()).into());
        }
    }
    match come_home(records, record, home, Actor::Runtime)? {
        Homecoming::Home { .. } | Homecoming::Lost => Ok(()),
        Homecoming::Away => Err(Error::Away(request.device.clone())),
    }
}

/// One move, from reading the device to its record's last word.
struct Move<'a> {
    records: &'a Records,
    request: &'a AttachRequest<'a>,
    process: Option<Process>,
    host_name: &'a InterfaceName,
    /// Its name inside.
    name: &'a SandboxInterfaceName,
    home: &'a mut RouteSocket,
    inside: &'a mut RouteSocket,
}

impl Move<'_> {
    fn run(mut self) -> Result<Attached, Error> {
        let mut state = read_whole(self.home, Which::Name(self.host_name))?.ok_or(Error::NotThere)?;
        let folder = sysfs_folder(&state.name, state.index).subject("the link in sysfs")?;
        if let Some(exclusion) = exclusion(self.records, self.home, &state, folder.as_ref())? {
            return Err(Error::Excluded(exclusion));
        }
        read_kept(self.home, &mut state, folder.as_ref())?;
        if let Some(new_name) = self.new_name()
            && read_bare(self.inside, Which::Name(&new_name))?.is_some()
        {
            return Err(Error::NewNameTaken(new_name));
        }
        let mut record = self.record(state, folder)?;
        let mut written = self.records.write(&record)?;
        // Where nothing can be mounted the device lives as long as the sandbox's processes and mounts.
        let _ = self.records.pin(&record, self.request.sandbox);
        if let Err(error) = self.move_inside(&mut record, &mut written) {
            return Err(self.undo(record, error));
        }
        let link = match read_bare(self.inside, Which::Index(record.sandbox.ifindex)) {
            Ok(Some(link)) => link,
            Ok(None) => return Err(self.undo(record, Error::Vanished)),
            Err(error) => return Err(self.undo(record, error)),
        };
        let skipped = match configure_inside(&record, self.request.sandbox, self.inside, &link) {
            Ok(skipped) => skipped,
            Err(error) => return Err(self.undo(record, error)),
        };
        if let Err(error) = written.note_attached() {
            return Err(self.undo(record, error.into()));
        }
        self.announce(&record, link);
        Ok(Attached { was_there: false, skipped })
    }

    /// Tells the device's neighbours at once where its IPv6 addresses are; of IPv4 the kernel was told with the addresses.
    fn announce(&self, record: &Attachment, mut link: LinkState) {
        let asked = record.configuration.as_ref();
        if let Some(mac) = asked.and_then(|asked| asked.mac.clone()) {
            link.mac = Some(mac);
        }
        let brought = record.host.addresses.iter().filter(|_| asked.is_none_or(|asked| asked.inherit));
        let given = asked.into_iter().flat_map(|asked| &asked.addresses).map(IpPrefix::address);
        let addresses = brought.map(|address| address.local).chain(given);
        announce_ipv6(&link, &mut addresses.into_iter(), Some((self.request.sandbox, self.home)));
    }

    /// `folder` is the device's in sysfs, if it shows the node's network.
    fn record(&mut self, mut host: LinkState, folder: Option<Folder>) -> Result<Attachment, Error> {
        if host.hardware.is_none() {
            host.sysfs_inode = folder.and_then(|folder| folder.inode().ok());
        }
        host.programs = bpf::programs(host.index, host.kind.as_deref()).ok();
        let seen_from = viewpoint().subject("/proc")?;
        let mut paths = vec![self.request.sandbox.path().to_string_lossy().into_owned()];
        paths.extend(self.request.paths.iter().cloned());
        Ok(Attachment {
            device: self.request.device.clone(),
            resource: self.request.resource.cloned(),
            phase: Phase::Attaching,
            owner: self.request.owner.clone(),
            process: self.process,
            sandbox: SandboxPlace {
                cookie: self.inside.cookie(),
                inode: self.request.sandbox.inode(),
                nsid: namespace_id(self.home, self.request.sandbox),
                seen_from,
                paths,
                name: self.name.as_interface_name().clone(),
                ifindex: host.index,
            },
            configuration: self.request.configuration.cloned(),
            home: None,
            quarantined: None,
            host,
            since: journal::now(),
        })
    }

    /// The name that it gets inside, if it is another one than on the host.
    fn new_name(&self) -> Option<InterfaceName> {
        Some(self.name.as_interface_name()).filter(|name| *name != self.host_name).cloned()
    }

    /// Moves the link. Its index inside is chosen and written down before: a container cannot change it, so the device
    /// is found again whatever it is called. `written` is the record's.
    fn move_inside(&mut self, record: &mut Attachment, written: &mut Written) -> Result<(), Error> {
        let target = self.request.sandbox.as_fd().as_raw_fd().cast_unsigned();
        for attempt in 1.. {
            let (index, wanted) = (record.host.index, record.sandbox.ifindex);
            let new_name = self.new_name().map(|name| name.as_bytes().to_vec());
            let mut changes: Vec<Change> = Vec::new();
            if let Some(name) = new_name.clone().filter(|name| has_altname(&record.host, name)) {
                // what is its alternative name cannot become its name
                changes.push(Box::new(move |batch| rtnl::link::remove_altname(batch, index, &name)));
            }
            // Without a name it keeps its own, and then a taken name is refused before anything moves (net/core/dev.c,
            // __dev_change_net_namespace). A new name is given after the move: it was free a moment ago, and where it is
            // not, the device comes home again.
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
                    return Err(self.taken_name(&record.host));
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

    /// Puts the device back as it was; the error that made this necessary is the one to tell.
    fn undo(&mut self, record: Attachment, error: Error) -> Error {
        // The record stays if this fails, and the next actor goes on from it.
        let _ = come_home(self.records, record, self.home, Actor::Runtime);
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
