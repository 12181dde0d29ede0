//! From the host into a sandbox.

use netdevice::{
    DeviceId, Holder, InterfaceName, LinkState, Phase, Record, ResourceName, SandboxInterfaceName,
    plan::{Place, Step, aged, plan, wanted_in_sandbox},
    record::{Process, RECORD_VERSION, SandboxPlace},
    state::Route,
};
use rtnl::{
    link::attribute as ifla,
    message::kind,
    route::{IPV4, IPV6},
};
use rustix::{
    fd::{AsFd, AsRawFd},
    time::{ClockId, clock_gettime},
};

use crate::{
    detach::{Homecoming, come_home},
    error::{Error, WithSubject},
    identity::{Actor, find_at_home, find_inside, find_namespace, holder_has_ended, namespace_id, process, viewpoint},
    ledger::Records,
    namespace::Namespace,
    neighbourhood::exclusion,
    read::{Which, boot_time, read_bare, read_whole},
    socket::{KernelError, RouteSocket},
    step::{Site, Skipped},
    sysctl,
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
    pub holder: &'a Holder,
    /// Pid of the first process of that container.
    pub pid: i32,
}

/// How an attachment went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Whether the device was in the sandbox already.
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
    let mut home = RouteSocket::open().subject("the node's network namespace")?;
    let mut inside = request
        .sandbox
        .socket()
        .map_err(|source| Error::Namespace { path: request.sandbox.path().to_owned(), source })?;
    if inside.cookie() == home.cookie() {
        return Err(Error::HostNetwork);
    }
    let name = SandboxInterfaceName::try_from(request.device.to_name())?;
    // A record without its process would be kept for good: nobody would see that the container ended. When it ends from
    // here on, whoever reads the record sees that.
    let process = process(request.pid).ok_or(Error::ContainerEnded)?;
    let _lock = records.lock(request.device)?;
    if let Some(record) = records.read(request.device)? {
        // an attempt that was cut off may have ended before the move: a link inside with that index is another one then
        let went = match record.phase {
            Phase::Attached => true,
            Phase::Attaching => find_at_home(&record, &mut home)?.is_none(),
            Phase::Detaching => false,
        };
        if record.sandbox.cookie == inside.cookie()
            && went
            && let Some(link) = find_inside(&record, &mut inside)?
        {
            return adopt(records, record, request, process, (&mut inside, &link));
        }
        settle(records, record, request, &mut home)?;
    }
    Move { records, request, process, name: &name, home: &mut home, inside: &mut inside }.run()
}

/// The device is in this very sandbox: another container of the Pod starts, or an attempt was cut off.
fn adopt(
    records: &Records,
    mut record: Record,
    request: &AttachRequest<'_>,
    process: Process,
    (inside, link): (&mut RouteSocket, &LinkState),
) -> Result<Attached, Error> {
    let skipped = configure_inside(&record, request, inside, link)?;
    record.holder = request.holder.clone();
    record.process = Some(process);
    record.phase = Phase::Attached;
    records.write(&record)?;
    Ok(Attached { was_there: true, skipped })
}

/// Ends what a record of another attachment says, so that the device is on the host.
fn settle(records: &Records, record: Record, request: &AttachRequest<'_>, home: &mut RouteSocket) -> Result<(), Error> {
    if record.phase == Phase::Attached && !record.holder.is_same_pod(request.holder) && !holder_has_ended(&record) {
        // a namespace that ended holds nothing any more
        if let Some((_namespace, mut socket)) = find_namespace(&record, home, Actor::Runtime)?
            && find_inside(&record, &mut socket)?.is_some()
        {
            return Err(Error::Held(record.holder));
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
    process: Process,
    name: &'a SandboxInterfaceName,
    home: &'a mut RouteSocket,
    inside: &'a mut RouteSocket,
}

impl Move<'_> {
    fn run(mut self) -> Result<Attached, Error> {
        let state = read_whole(self.home, Which::Name(self.name.as_interface_name()))?.ok_or(Error::NotThere)?;
        if let Some(exclusion) = exclusion(self.home, &state)? {
            return Err(Error::Excluded(exclusion));
        }
        let mut record = self.record(state)?;
        self.records.write(&record)?;
        if let Err(error) = self.move_inside(&mut record) {
            return Err(self.undo(record, error));
        }
        let link = match read_bare(self.inside, Which::Index(record.sandbox.ifindex)) {
            Ok(Some(link)) => link,
            Ok(None) => return Err(self.undo(record, Error::Vanished)),
            Err(error) => return Err(self.undo(record, error)),
        };
        let skipped = match configure_inside(&record, self.request, self.inside, &link) {
            Ok(skipped) => skipped,
            Err(error) => return Err(self.undo(record, error)),
        };
        record.phase = Phase::Attached;
        if let Err(error) = self.records.write(&record) {
            return Err(self.undo(record, error));
        }
        Ok(Attached { was_there: false, skipped })
    }

    fn record(&mut self, host: LinkState) -> Result<Record, Error> {
        let seen_from = viewpoint().subject("/proc")?;
        let mut paths = vec![self.request.sandbox.path().to_string_lossy().into_owned()];
        paths.extend(self.request.paths.iter().cloned());
        Ok(Record {
            version: RECORD_VERSION,
            device: self.request.device.clone(),
            resource: self.request.resource.cloned(),
            phase: Phase::Attaching,
            holder: self.request.holder.clone(),
            process: Some(self.process),
            sandbox: SandboxPlace {
                cookie: self.inside.cookie(),
                inode: self.request.sandbox.inode(),
                nsid: namespace_id(self.home, self.request.sandbox),
                seen_from,
                paths,
                name: DeviceId::from(self.name.as_interface_name()),
                ifindex: host.index,
            },
            home: None,
            host,
            since: u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or(0),
        })
    }

    /// Moves the link. Its index inside is chosen and written down before: a container cannot change it, so the device
    /// is found again whatever it is called.
    fn move_inside(&mut self, record: &mut Record) -> Result<(), Error> {
        let target = self.request.sandbox.as_fd().as_raw_fd().cast_unsigned();
        for attempt in 1.. {
            let (index, wanted) = (record.host.index, record.sandbox.ifindex);
            // No name: it keeps its own, and then a taken name is refused before anything moves (net/core/dev.c,
            // __dev_change_net_namespace).
            let moved = self.home.change_one(move |batch| {
                rtnl::link::set(batch, index, 0, 0).u32(ifla::NET_NS_FD, target).u32(ifla::NEW_IFINDEX, wanted);
            });
            match moved.subject("the kernel's network configuration")? {
                Ok(()) => return Ok(()),
                Err(error) if error.errno == libc::EBUSY && attempt <= INDEX_ATTEMPTS => {
                    record.sandbox.ifindex = index + attempt * INDEX_STEP;
                    self.records.write(record)?;
                }
                Err(error) if error.errno == libc::EEXIST => {
                    return Err(Error::NameTaken(self.taken_name(&record.host)));
                }
                Err(error) => return Err(move_error(error)),
            }
        }
        Err(Error::Vanished)
    }

    /// The name that keeps the device out: its own, or an alternative one.
    fn taken_name(&mut self, host: &LinkState) -> String {
        let altnames = host.altnames.iter().filter_map(|name| InterfaceName::new(name.as_bytes()).ok());
        let mut names = std::iter::once(host.name.clone()).chain(altnames);
        let taken = names.find(|name| matches!(read_bare(self.inside, Which::Name(name)), Ok(Some(_))));
        taken.as_ref().unwrap_or(&host.name).to_string()
    }

    /// Puts the device back as it was; the error that made this necessary is the one to tell.
    fn undo(&mut self, record: Record, error: Error) -> Error {
        // The record stays if this fails, and the next actor goes on from it.
        let _ = come_home(self.records, record, self.home, Actor::Runtime);
        error
    }
}

/// An index that the sandbox has already is replaced by one that is far from those that the kernel counts up to.
pub(crate) const INDEX_STEP: u32 = 1 << 20;
/// How many such indexes are tried.
pub(crate) const INDEX_ATTEMPTS: u32 = 8;

fn move_error(error: KernelError) -> Error {
    match error.errno {
        libc::ENODEV => Error::NotThere,
        _ => Error::Move(error),
    }
}

/// Gives the device in the sandbox what it had on the host.
fn configure_inside(
    record: &Record,
    request: &AttachRequest<'_>,
    inside: &mut RouteSocket,
    link: &LinkState,
) -> Result<Vec<Skipped>, Error> {
    let host = aged(&record.host, boot_time());
    // settings that somebody made on the host are told from those that every link has there
    let mut wanted = wanted_in_sandbox(&host, link, sysctl::is_explicit);
    // the sandbox's name and master are its own
    wanted.name.clone_from(&link.name);
    let index = link.index;
    // files show the namespace of the thread that opens them; all else is the socket's business
    let work = |inside: &mut RouteSocket, present: &LinkState, steps: Vec<Step>| {
        let own_routes = if wanted.routes.is_empty() { Vec::new() } else { routes_of_others(inside, index)? };
        let host_index = record.host.index;
        Site { socket: inside, place: Place::Sandbox, name: &present.name, index, host_index, own_routes: &own_routes }
            .apply(steps)
    };
    let is_fresh = !link.is_up();
    let steps = plan(&wanted, link, Place::Sandbox);
    if is_fresh && !steps.iter().any(|step| matches!(step, Step::Sysctl(_))) {
        return work(inside, link, steps);
    }
    let within = || {
        if is_fresh {
            return work(inside, link, steps);
        }
        let present = read_whole(inside, Which::Index(index))?.ok_or(Error::Vanished)?;
        let steps = plan(&wanted, &present, Place::Sandbox);
        work(inside, &present, steps)
    };
    let result = request.sandbox.run(within);
    result.map_err(|source| Error::Namespace { path: request.sandbox.path().to_owned(), source })?
}

/// Routes of a namespace that do not go through the link.
fn routes_of_others(socket: &mut RouteSocket, link: u32) -> Result<Vec<Route>, Error> {
    let mut routes = Vec::new();
    for family in [IPV4, IPV6] {
        let objects = socket.dump(|batch| rtnl::route::dump(batch, family, 0)).subject("the pod's routes")?;
        let objects = objects.map_err(|source| Error::Read { what: "the pod's routes", source })?;
        let all = objects.of(kind::NEWROUTE).filter_map(|payload| rtnl::route::parse(payload).ok());
        let through =
            |route: &Route| route.attribute(netdevice::state::route_attribute::OIF).and_then(|oif| oif.as_u32());
        routes.extend(all.filter(|route| route.family == family && through(route) != Some(link)));
    }
    Ok(routes)
}
