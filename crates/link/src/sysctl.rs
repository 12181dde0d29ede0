//! Per-link settings that only files give: `/proc/sys/net/…`, which shows the calling thread's own namespace.

use std::{
    collections::BTreeMap,
    ffi::{CStr, OsStr},
    fs, io,
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use netdevice::{
    InterfaceName,
    sysctl::{IPV6_CONF_UNTOLD, Sysctl},
};
use rtnl::neighbour_table::Parameters;
use rustix::io::Errno;

use crate::{
    directory::{Directory, MAX_VALUE},
    socket::{RouteSocket, Seen},
};

const ROOT: &str = "/proc/sys/net";

/// Where a container has the node's `/proc/sys`: its own is read-only.
const ROOT_OF_NODE: &str = "/host/proc/sys/net";

fn directory(family: &str, directory: &str, link: &[u8]) -> PathBuf {
    directory_below(ROOT, family, directory, link)
}

fn directory_below(root: &str, family: &str, directory: &str, link: &[u8]) -> PathBuf {
    Path::new(root).join(family).join(directory).join(OsStr::from_bytes(link))
}

/// Writes one setting of a link.
pub(crate) fn write(link: &InterfaceName, setting: &Sysctl) -> io::Result<()> {
    let write_below = |root| {
        let directory = directory_below(root, setting.family, setting.folder, link.as_bytes());
        fs::write(directory.join(&setting.file), &setting.value)
    };
    match write_below(ROOT) {
        // whichever mount it is seen through, the files are those of the thread's own network namespace
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => write_below(ROOT_OF_NODE)
            .map_err(|of_node| if of_node.kind() == io::ErrorKind::NotFound { error } else { of_node }),
        written => written,
    }
}

/// Whether programs that are bound to no VRF accept connections through VRFs, of TCP and of UDP: where these settings are, and
/// where a container has them.
const ACCEPT_FROM_VRFS: [[&str; 2]; 2] = [
    ["/proc/sys/net/ipv4/tcp_l3mdev_accept", "/host/proc/sys/net/ipv4/tcp_l3mdev_accept"],
    ["/proc/sys/net/ipv4/udp_l3mdev_accept", "/host/proc/sys/net/ipv4/udp_l3mdev_accept"],
];

/// A bit for each of these.
pub(crate) const ALL_PROTOCOLS: u32 = 0b11;

/// The protocols that accept connections through the VRFs of the calling thread's namespace. One that this kernel has no setting
/// for counts as one that does.
pub(crate) fn accepting_from_vrfs() -> u32 {
    let mut accepting = ALL_PROTOCOLS;
    for (bit, [file, _]) in ACCEPT_FROM_VRFS.into_iter().enumerate() {
        if fs::read(file).is_ok_and(|value| value == b"0\n") {
            accepting &= !(1 << bit);
        }
    }
    accepting
}

/// Lets those protocols accept connections through the VRFs of the calling thread's namespace (`1`), or refuse them (`0`).
pub(crate) fn accept_from_vrfs(protocols: u32, value: &str) {
    for (bit, files) in ACCEPT_FROM_VRFS.into_iter().enumerate() {
        if protocols & (1 << bit) != 0 {
            let _ = files.into_iter().any(|file| fs::write(file, value).is_ok());
        }
    }
}

/// Whether the value of a link's setting is another one than new links get.
pub(crate) fn is_explicit(family: &str, file: &str, value: i32) -> bool {
    let text = fs::read_to_string(directory(family, "conf", b"default").join(file));
    text.ok().and_then(|text| text.trim().parse::<i32>().ok()).is_some_and(|default| default != value)
}

/// The settings of a link that only files show and that differ from what new links get.
///
/// Some 60 files of a link that has just come are more work than all else that a hook does besides the move. So the
/// kernel is asked first whether there is anything to find in most of them.
pub(crate) fn explicit_settings(
    socket: &mut RouteSocket,
    link: &InterfaceName,
    index: u32,
) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut compare = |own: &Directory, of_new: &Directory, key: &str, file: &CStr| {
        let (mut value, mut default) = ([0; MAX_VALUE], [0; MAX_VALUE]);
        let (Ok(value), Ok(default)) = (own.read(file, &mut value), of_new.read(file, &mut default)) else { return };
        if value != default
            && let (Ok(value), Ok(file)) = (str::from_utf8(value), file.to_str())
        {
            settings.insert(format!("{key}/{file}"), value.trim().to_owned());
        }
    };
    if let Ok((own, of_new)) = pair("ipv6", "conf", link) {
        IPV6_CONF_UNTOLD.iter().for_each(|file| compare(&own, &of_new, "ipv6/conf", file));
    }
    if has_neighbour_settings_of_new_links(socket, index) {
        return settings;
    }
    for family in ["ipv4", "ipv6"] {
        let Ok((own, of_new)) = pair(family, "neigh", link) else { continue };
        let key = format!("{family}/neigh");
        own.each_name(|name| {
            if !name.to_bytes().starts_with(b".") && !TOLD_FINER.contains(&name) {
                compare(&own, &of_new, &key, name);
            }
        });
    }
    settings
}

/// The secret that a link's stable private addresses are made of (RFC 7217), if it has one of its own; one that was never
/// set cannot be read.
pub(crate) fn stable_secret(link: &InterfaceName) -> Option<(String, String)> {
    let text = fs::read_to_string(directory("ipv6", "conf", link.as_bytes()).join("stable_secret")).ok()?;
    Some(("ipv6/conf/stable_secret".into(), text.trim().to_owned()))
}

/// Datagrams of the list of all links' neighbour settings that are received before the files are read instead. Each has
/// up to 32 KiB, with a hundred links, and takes as long as six files.
const NEIGHBOUR_DATAGRAMS: usize = 4;

/// Whether the kernel says that the link resolves neighbours just as a new one. "No" may mean that there are many links
/// and this one was not come to.
fn has_neighbour_settings_of_new_links(socket: &mut RouteSocket, index: u32) -> bool {
    let mut of_new: Vec<Parameters> = Vec::new();
    let mut found = 0;
    let mut differs = false;
    let seen = socket.look_through(rtnl::neighbour_table::dump, NEIGHBOUR_DATAGRAMS, |message| {
        match rtnl::neighbour_table::parse(message.payload) {
            Some(parameters) if parameters.link.is_none() => of_new.push(parameters),
            Some(own) if own.link == Some(index) => {
                found += 1;
                let new = of_new.iter().find(|new| new.family == own.family);
                differs |= new.is_none_or(|new| new.settings != own.settings);
            }
            _ => {}
        }
        if differs || found == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    // a link may be in one table only, or in none
    !differs && matches!(seen, Ok(Seen::Enough | Seen::Whole))
}

/// Files of a neighbour table's settings whose value another file has in a finer unit: the same field of the kernel
/// (`neigh_sysctl_table` in `net/core/neighbour.c`).
const TOLD_FINER: [&CStr; 3] = [c"base_reachable_time", c"retrans_time", c"unres_qlen"];

/// The directory of a link, and that of links to come: only the first namespace has `neigh/default`, elsewhere the loopback
/// interface shows what a new link gets.
fn pair(family: &str, kind: &str, link: &InterfaceName) -> Result<(Directory, Directory), Errno> {
    let open = |link| Directory::open(&directory(family, kind, link));
    let of_new = open(b"default").or_else(|_| open(b"lo"))?;
    Ok((open(link.as_bytes())?, of_new))
}
