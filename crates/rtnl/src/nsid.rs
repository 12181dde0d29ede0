//! Ids of namespaces: `struct rtgenmsg` and `NETNSA_*`. An id is valid in the namespace of the request, and ends with the
//! namespace that it stands for.

use crate::{
    attribute::attributes,
    message::{flags, kind},
    request::Batch,
};

const NSID: u16 = 1;
const PID: u16 = 2;
const FD: u16 = 3;
/// `struct rtgenmsg`, padded.
const HEADER: [u8; 4] = [0; 4];
/// `NETNSA_NSID_NOT_ASSIGNED`.
const NOT_ASSIGNED: i32 = -1;

/// The id in an `RTM_NEWNSID`; none if the namespace has no id here.
pub fn parse(payload: &[u8]) -> Option<i32> {
    let tail = payload.get(HEADER.len()..)?;
    let id = attributes(tail).find(|attribute| attribute.kind == NSID)?.i32()?;
    (id != NOT_ASSIGNED).then_some(id)
}

/// Requests the id of the namespace behind a file descriptor.
pub fn get_by_fd(batch: &mut Batch, fd: u32) {
    batch.push(kind::GETNSID, 0, &HEADER).u32(FD, fd);
}

/// Requests the id of the namespace of a process or thread.
pub fn get_by_pid(batch: &mut Batch, pid: u32) {
    batch.push(kind::GETNSID, 0, &HEADER).u32(PID, pid);
}

/// Requests all namespaces that have an id here.
pub fn dump(batch: &mut Batch) {
    batch.push(kind::GETNSID, flags::DUMP, &HEADER);
}

/// Asks whether a namespace has that id: `ENOENT` if none has.
pub fn get_by_id(batch: &mut Batch, id: i32) {
    batch.push(kind::GETNSID, 0, &HEADER).attribute(NSID, &id.to_ne_bytes());
}

/// Gives the namespace behind a file descriptor an id of the kernel's choice; `EEXIST` if it has one.
pub fn assign(batch: &mut Batch, fd: u32) {
    batch.push(kind::NEWNSID, flags::ACK, &HEADER).attribute(NSID, &NOT_ASSIGNED.to_ne_bytes()).u32(FD, fd);
}
