//! Reports of records that cannot be read, once each: in the log, and for those in quarantine as an Event.

use std::path::Path;

use store::{RecordDirectory, Unreadable};
use tracing::warn;

use crate::events::{Events, Occurrence};

/// What was reported.
pub(super) struct UnreadableReport {
    events: Events,
    reported: Option<Result<Vec<Unreadable>, String>>,
}

impl UnreadableReport {
    pub(super) fn new(events: Events) -> Self {
        Self { events, reported: None }
    }

    /// Reports the files that could not be read in `directory`, or that it could not be read, unless that was reported.
    pub(super) fn report(&mut self, directory: &Path, result: Result<Vec<Unreadable>, String>) {
        if self.reported.as_ref() == Some(&result) {
            return;
        }
        match &result {
            Ok(unreadable) => {
                unreadable.iter().for_each(log);
                self.post_quarantined(unreadable);
            }
            Err(error) => warn!(directory = %directory.display(), "cannot read the records: {error}"),
        }
        self.reported = Some(result);
    }

    /// Posts Events for what is new in quarantine. An earlier agent reported what was there before this one started.
    fn post_quarantined(&self, unreadable: &[Unreadable]) {
        let Some(Ok(before)) = &self.reported else { return };
        for file in unreadable.iter().filter(|file| file.place == RecordDirectory::Quarantine && !before.contains(file))
        {
            if let Some(device) = file.device.clone() {
                let (file, reason) = (file.path.display().to_string(), file.reason.to_string());
                self.events.report(Occurrence::RecordQuarantined { device, file, reason });
            }
        }
    }
}

fn log(file: &Unreadable) {
    let Unreadable { path, reason, device, place } = file;
    let path = path.display();
    match (place, device) {
        (RecordDirectory::Quarantine, Some(device)) => warn!(
            %device, file = %path,
            "the device is quarantined: it is neither offered nor moved; check that the interface is on the node with the right settings, then remove the file: {reason}"
        ),
        _ => warn!(file = %path, "cannot read this record, its device is neither offered nor moved: {reason}"),
    }
}
