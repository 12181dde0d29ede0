//! What a container left on its device, taken off when the device is on the host and before it is set up: BPF programs,
//! which no move takes off, and links in other namespaces.

use netdevice::{Attachment, LinkState, Moved, state::BpfProgram};

use crate::{
    bpf,
    error::{Error, WithSubject},
    nested::{self, Origin},
    read::{Which, read_bare},
    skipped::Skipped,
    socket::{Change, RouteSocket},
};

/// How a device is after the cleaning.
pub(crate) enum Cleaned {
    /// It has what it had on the host; without what a container took off, which we cannot put back.
    Clean(Vec<Skipped>),
    /// There is something on it that cannot be taken off.
    Unclean(String),
}

/// Cleans a device that is on the host, in which the calling thread is. `origin` is where it was a moment ago.
pub(crate) fn clean(
    record: &Attachment<Moved>,
    link: &mut LinkState,
    origin: Option<&mut Origin>,
    home: &mut RouteSocket,
) -> Result<Cleaned, Error> {
    if let Some(reason) = remove_xdp(record, link, home)? {
        return Ok(Cleaned::Unclean(reason));
    }
    let missing = match remove_programs(record, link) {
        Ok(missing) => missing,
        Err(reason) => return Ok(Cleaned::Unclean(reason)),
    };
    if let Some(reason) = nested::clean(origin, link, home)? {
        return Ok(Cleaned::Unclean(reason));
    }
    let skipped = |what: String| Skipped { what, reason: "it was removed while the device was attached".into() };
    let xdp = record.acquired.host.xdp && !link.xdp;
    let xdp = xdp.then(|| skipped("the XDP program".into()));
    let programs = missing.into_iter().map(|program| skipped(format!("BPF program {}", program.program)));
    Ok(Cleaned::Clean(xdp.into_iter().chain(programs).collect()))
}

/// Takes off the XDP programs that are not the host's, by netlink, or from the BPF links that hold them.
fn remove_xdp(
    record: &Attachment<Moved>,
    link: &mut LinkState,
    home: &mut RouteSocket,
) -> Result<Option<String>, Error> {
    let index = link.index;
    let Some(changes) = foreign_xdp(record, link) else { return Ok(None) };
    let remove =
        |(mode, _): (u16, u32)| -> Change { Box::new(move |batch| rtnl::link::remove_xdp(batch, index, mode)) };
    home.change(changes.into_iter().map(remove).collect()).subject("the kernel's network configuration")?;
    reread_xdp(link, home)?;
    let Some(held) = foreign_xdp(record, link) else { return Ok(None) };
    let mut obstacle = None;
    for (_, program) in held {
        obstacle = bpf::remove_xdp(index, program).err().or(obstacle);
    }
    reread_xdp(link, home)?;
    let reason = |(_, program): &(u16, u32)| match &obstacle {
        Some(error) => format!("the XDP program {program} of its pod cannot be removed: {error}"),
        None => format!("the XDP program {program} of its pod cannot be removed"),
    };
    Ok(foreign_xdp(record, link).and_then(|left| left.first().map(reason)))
}

/// The XDP programs that were not there on the host, if any.
fn foreign_xdp(record: &Attachment<Moved>, link: &LinkState) -> Option<Vec<(u16, u32)>> {
    let host = &record.acquired.host;
    // a record of an earlier version says only that there was one
    if host.xdp && host.xdp_programs.is_empty() {
        return None;
    }
    let is_foreign = |(mode, program): &(&u16, &u32)| host.xdp_programs.get(mode) != Some(program);
    let foreign: Vec<_> =
        link.xdp_programs.iter().filter(is_foreign).map(|(mode, program)| (*mode, *program)).collect();
    (!foreign.is_empty()).then_some(foreign)
}

fn reread_xdp(link: &mut LinkState, home: &mut RouteSocket) -> Result<(), Error> {
    let now = read_bare(home, Which::Index(link.index))?.ok_or(Error::Vanished)?;
    (link.xdp, link.xdp_programs) = (now.xdp, now.xdp_programs);
    Ok(())
}

/// Takes off the tcx and netkit programs that are not the host's; returns those of the host's that are gone.
fn remove_programs(record: &Attachment<Moved>, link: &LinkState) -> Result<Vec<BpfProgram>, String> {
    let list = || bpf::programs(link.index, link.kind.as_deref());
    let unknown = |error| format!("the kernel does not list the BPF programs on it: {error}");
    let own = record.acquired.host.programs.as_deref().unwrap_or_default();
    let is_own = |program: &BpfProgram| own.iter().any(|own| own.is_same(program));
    let mut present = list().map_err(unknown)?;
    let mut obstacle = None;
    if !present.iter().all(is_own) {
        for program in present.iter().filter(|program| !is_own(program)) {
            obstacle = bpf::remove(link.index, program).err().or(obstacle);
        }
        present = list().map_err(unknown)?;
    }
    if let Some(BpfProgram { program, .. }) = present.iter().find(|program| !is_own(program)) {
        let error = obstacle.map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!("the BPF program {program} of its pod cannot be removed{error}"));
    }
    Ok(own.iter().filter(|own| !present.iter().any(|program| program.is_same(own))).copied().collect())
}
