//! Connections without a request, kept for the next ones.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::connection::Connection;

/// How many are kept.
const MAX_IDLE: usize = 2;

/// The connections.
#[derive(Default)]
pub(super) struct Idle(Mutex<Vec<Connection>>);

impl Idle {
    /// One that the server has not closed, if there is one.
    pub(super) async fn take(&self) -> Option<Connection> {
        loop {
            // the lock is not held while it is checked
            let connection = self.connections().pop()?;
            if let Some(open) = connection.if_open().await {
                return Some(open);
            }
        }
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn put(&self, connection: Connection) {
        let mut connections = self.connections();
        if connections.len() < MAX_IDLE {
            connections.push(connection);
        }
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
