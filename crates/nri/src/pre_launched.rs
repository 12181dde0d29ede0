//! The socket that a runtime passes to a plugin that it starts.

use std::{
    ffi::OsStr,
    os::{
        fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{FileType, fstat},
    io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd},
};

use crate::error::Error;

/// The environment names the descriptor for the whole process: it can be taken over once.
static ADOPTED: AtomicBool = AtomicBool::new(false);

/// Takes over the socket with the number that the environment gives. Programs that this process starts do not inherit it.
pub(crate) fn adopt(number: &OsStr) -> Result<UnixStream, Error> {
    let failed = |error: Errno| Error::AdoptFailed { number: number.to_owned(), cause: error.into() };
    let parsed: Option<RawFd> = number.to_str().and_then(|number| number.parse().ok());
    // 0 to 2 are /dev/null, never the socket
    let raw = parsed.filter(|raw| *raw > 2).ok_or(Errno::BADF).map_err(failed)?;
    if ADOPTED.swap(true, Ordering::Relaxed) {
        return Err(failed(Errno::BUSY));
    }
    let socket = take(raw).map_err(failed)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(failed)?;
    let kind = FileType::from_raw_mode(fstat(&socket).map_err(failed)?.st_mode);
    if kind != FileType::Socket {
        return Err(failed(Errno::NOTSOCK));
    }
    Ok(UnixStream::from(socket))
}

#[allow(unsafe_code)] // no crate makes an owned descriptor of a number
fn take(raw: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the number is only used within this call
    fcntl_getfd(unsafe { BorrowedFd::borrow_raw(raw) })?;
    // SAFETY: it is open, the runtime opened it for this process alone, and `ADOPTED` prevents taking it twice
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
