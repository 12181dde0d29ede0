//! Settings that only sysfs has: how a device's packets are spread over processors, and how its interrupts are put off.
//!
//! Nobody but the kernel knows a default of them that is not zero, with two exceptions that hardware alone has. So a record
//! has what is not zero, and what it does not have shall be zero again.

use std::{collections::BTreeMap, ffi::CString, fs, io, os::unix::ffi::OsStrExt, path::Path};

use netdevice::InterfaceName;

use crate::{
    directory::Directory,
    read::{sysfs_directory, sysfs_path},
    skipped::Skipped,
};

/// Of the device itself.
const OWN: [&str; 3] = ["gro_flush_timeout", "napi_defer_hard_irqs", "threaded"];
/// Of each queue that receives.
const RECEIVE: [&str; 2] = ["rps_cpus", "rps_flow_cnt"];
/// Of each queue that sends, where there are several.
const SEND: [&str; 2] = ["xps_cpus", "xps_rxqs"];
/// Of each queue of hardware that sends.
const HARDWARE: [&str; 4] =
    ["tx_maxrate", "byte_queue_limits/limit_min", "byte_queue_limits/limit_max", "byte_queue_limits/hold_time"];
/// Those that are not zero by default.
const NOT_ZERO: [&str; 2] = ["limit_max", "hold_time"];

/// Queues that are looked at; a virtual link has one for each processor at most.
const MAX_QUEUES: usize = 512;
/// Where a container has the node's `/sys`: its own is read-only.
const ROOT_OF_NODE: &str = "/host/sys/class/net";

/// What was set. `directory` is the link's directory.
pub(crate) fn read(directory: &Directory, is_hardware: bool) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    each(directory, is_hardware, |file, value| {
        if !is_zero(value) {
            found.insert(file.to_owned(), value.to_owned());
        }
    });
    found
}

/// Writes back what is another value than the record's.
pub(crate) fn restore(
    link: &InterfaceName,
    index: u32,
    is_hardware: bool,
    wanted: &BTreeMap<String, String>,
) -> Vec<Skipped> {
    let no_directory = |reason| vec![Skipped { what: "settings of its queues".into(), reason }];
    let directory = match sysfs_directory(link, index) {
        Ok(Some(directory)) => directory,
        Ok(None) => return no_directory("sysfs does not show the node's network".to_owned()),
        Err(error) => return no_directory(error.to_string()),
    };
    let mut skipped = Vec::new();
    let count = each(&directory, is_hardware, |file, value| {
        let is_known = !NOT_ZERO.iter().any(|name| file.ends_with(name));
        let wanted = match wanted.get(file) {
            Some(wanted) => wanted.as_str(),
            None if is_known => "0",
            None => return,
        };
        if value == wanted || (is_zero(value) && is_zero(wanted)) {
            return;
        }
        if let Err(error) = write(link, index, file, wanted) {
            skipped.push(Skipped { what: file.to_owned(), reason: error.to_string() });
        }
    });
    if count > MAX_QUEUES {
        let reason = "there are more than are looked at".to_owned();
        skipped.push(Skipped { what: format!("settings of {} of its queues", count - MAX_QUEUES), reason });
    }
    skipped
}

/// Whether a number or a mask is zero: `00,00000000`.
fn is_zero(value: &str) -> bool {
    value.bytes().all(|byte| matches!(byte, b'0' | b','))
}

/// Calls `look` with each file, relative to the link's directory, and its value. Returns how many queues there are.
#[inline(never)] // as of `Directory::each_name`
fn each(directory: &Directory, is_hardware: bool, mut look: impl FnMut(&str, &str)) -> usize {
    // a mask of 8,192 processors has 2.3 kB
    let mut buffer = [0; 4096];
    let mut visit = |file: &str| {
        let Ok(path) = CString::new(file) else { return };
        if let Ok(value) = directory.read(&path, &mut buffer)
            && let Ok(value) = str::from_utf8(value)
        {
            look(file, value.trim());
        }
    };
    OWN.iter().for_each(|file| visit(file));
    let mut queues = Vec::new();
    if let Ok(list) = directory.open_below(b"queues") {
        list.each_name(|name| queues.extend(name.to_str().ok().filter(|name| name.contains('-')).map(str::to_owned)));
    }
    let senders = queues.iter().filter(|queue| queue.starts_with('t')).count();
    for queue in queues.iter().take(MAX_QUEUES) {
        let (common, of_hardware): (&[&str], &[&str]) = match (queue.starts_with("rx"), senders > 1) {
            (true, _) => (&RECEIVE, &[]),
            (false, true) => (&SEND, &HARDWARE),
            (false, false) => (&[], &HARDWARE),
        };
        let of_hardware = if is_hardware { of_hardware } else { &[] };
        for file in common.iter().chain(of_hardware) {
            visit(&["queues", queue, file].join("/"));
        }
    }
    queues.len()
}

fn write(link: &InterfaceName, index: u32, file: &str, value: &str) -> io::Result<()> {
    match fs::write(sysfs_path(link).join(file), value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let path = Path::new(ROOT_OF_NODE).join(std::ffi::OsStr::from_bytes(link.as_bytes()));
            let shown = fs::read_to_string(path.join("ifindex")).ok().and_then(|text| text.trim().parse().ok());
            if shown == Some(index) { fs::write(path.join(file), value) } else { Err(error) }
        }
        written => written,
    }
}
