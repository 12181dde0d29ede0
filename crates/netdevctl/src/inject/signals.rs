//! SIGINT and SIGTERM end a plugin that runs; what it did is then undone.

use std::{io, os::fd::OwnedFd, process, sync::Arc, thread};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::signal::unix::{SignalKind, signal};

/// From now on the first signal makes the descriptor readable, and the second one ends the process.
///
/// # Errors
///
/// When signals cannot be handled.
pub(crate) fn stop_on_signal() -> io::Result<Arc<OwnedFd>> {
    // a plugin must not have the other end: it would keep the pipe open
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _runtime = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new().spawn(move || {
        runtime.block_on(async {
            let mut wait = async || tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} };
            wait().await;
            drop(writer);
            wait().await;
            process::exit(1);
        });
    })?;
    Ok(Arc::new(reader))
}
