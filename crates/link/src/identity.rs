//! Finding a device again: where the record says it went, and under whatever name.

use std::{fs, path::PathBuf};

use netdevice::{InterfaceName, LinkState, Phase, Record};

use crate::{
    error::Error,
    namespace::Namespace,
    read::{Which, read_bare, sysfs_folder},
    socket::RouteSocket,
};

/// The namespace that a record speaks of, with a socket inside; none if it ended.
pub(crate) fn find_namespace(record: &Record) -> Option<(Namespace, RouteSocket)> {
    let place = &record.sandbox;
    let verified = |path: PathBuf| {
        let namespace = Namespace::open(path).ok().filter(|namespace| namespace.inode() == place.inode)?;
        // the inode may be another namespace's by now; the cookie never is
        let socket = namespace.socket().ok().filter(|socket| socket.cookie() == place.cookie)?;
        Some((namespace, socket))
    };
    let named = || fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    let processes = || {
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbered = all.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
        numbered.map(|entry| entry.path().join("ns/net"))
    };
    let known = place.paths.iter().map(PathBuf::from);
    known.chain(named()).chain(processes()).find_map(verified)
}

/// Whether a link can be the device of the record, whatever a container made of its name, address and size.
pub(crate) fn is_device(record: &Record, link: &LinkState) -> bool {
    link.kind == record.host.kind && link.permanent_mac == record.host.permanent_mac
}

/// The device inside its sandbox, by the index that it was given there.
pub(crate) fn find_inside(record: &Record, socket: &mut RouteSocket) -> Result<Option<LinkState>, Error> {
    let found = read_bare(socket, Which::Index(record.sandbox.ifindex))?;
    Ok(found.filter(|link| is_device(record, link)))
}

/// The device on the host: by the index and name that it has or was to get there, or a physical one by its place in the
/// machine, whatever the kernel called it.
pub(crate) fn find_at_home(record: &Record, socket: &mut RouteSocket) -> Result<Option<LinkState>, Error> {
    let index = record.home.as_ref().map_or(record.host.index, |home| home.ifindex);
    if let Some(link) = read_bare(socket, Which::Index(index))?
        && is_device(record, &link)
        && has_expected_name(record, &link)
    {
        return Ok(Some(link));
    }
    let Some(place) = &record.host.hardware else { return Ok(None) };
    let nets = fs::read_dir(PathBuf::from(&place.path).join("net")).into_iter().flatten().flatten();
    for entry in nets {
        let Ok(name) = InterfaceName::new(entry.file_name().as_encoded_bytes()) else { continue };
        if let Some(link) = read_bare(socket, Which::Name(&name))?
            && link.name == name
            && is_device(record, &link)
            && sysfs_folder(&name, link.index).is_some()
        {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// What a device is called whose name was taken while it was away; names are short enough by their form.
pub(crate) fn fallback_name(index: u32, attempt: u32) -> InterfaceName {
    let name = if attempt == 1 { format!("nd{index}") } else { format!("nd{index}-{attempt}") };
    InterfaceName::new(name.as_bytes()).expect("at most 2 + 10 + 2 characters")
}

/// Its old name; once it is on its way home, also the one that it is to get there or had inside a moment before, and the
/// one that it gets when its own is taken.
fn has_expected_name(record: &Record, link: &LinkState) -> bool {
    let inside = (record.phase == Phase::Detaching).then_some(&record.sandbox.name);
    let home = record.home.as_ref().map(|home| &home.name);
    let fallback = record.phase == Phase::Detaching && link.name == fallback_name(record.host.index, 1);
    fallback || link.name == record.host.name || inside.into_iter().chain(home).any(|name| name.to_name() == link.name)
}
