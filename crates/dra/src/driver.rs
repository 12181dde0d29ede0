//! The driver: one for each process, without state of its own.

use std::{fmt, time::Duration};

use crate::{api::Api, settings::Settings};

/// How long a request may wait: the kubelet gives up after 45 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// What the services share.
pub(crate) struct Driver {
    pub(crate) settings: Settings,
    pub(crate) api: Api,
}

/// A moment between two changes on disk, at which a test kills the process.
pub(crate) fn step() {
    #[cfg(test)]
    crate::tests::killed::step();
}

impl Driver {
    pub(crate) fn new(settings: Settings) -> Self {
        let api = Api::new(settings.client.clone());
        Self { settings, api }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Driver").field("node", &self.settings.node).finish_non_exhaustive()
    }
}
