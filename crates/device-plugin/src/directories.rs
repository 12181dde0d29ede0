//! Reports when the kubelet's sockets, the CDI file or the CDI files of other programs may have changed, and every few
//! seconds without an event.
//!
//! A report does not say what changed: its receiver compares the wanted state with the present one, so that a lost event
//! only costs time. Changes of other files are not reported: runtimes open CDI files all the time, the kubelet
//! writes its checkpoint beside its sockets, and this plugin writes a file beside its own for each device that is added or
//! removed.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wake::{Changes, Directories};

use crate::{conflicts::is_document, error::Error};

/// The receivers of reports.
#[derive(Debug)]
pub(crate) struct Reports {
    /// For the sockets in the kubelet's directory.
    pub(crate) sockets: watch::Sender<()>,
    /// For the CDI file. The plugin changes it itself, which is no reason to check sockets.
    pub(crate) file: watch::Sender<()>,
    /// For the CDI files of other programs.
    pub(crate) others: watch::Sender<()>,
}

/// The files that are followed.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    /// The directory of sockets.
    pub(crate) sockets: PathBuf,
    /// The CDI file.
    pub(crate) file: PathBuf,
    /// The directories with CDI files of others.
    pub(crate) cdi_directories: Vec<PathBuf>,
}

/// Which of them may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Affected {
    sockets: bool,
    file: bool,
    others: bool,
}

impl Followed {
    /// Sends a report when there may be a difference, and all reports at each `poll`, until it is stopped.
    pub(crate) async fn run(self, reports: Reports, poll: Duration, stop: CancellationToken) -> Result<(), Error> {
        let mut directories = Directories::new(self.directories(), poll);
        let mut affected = Affected::ALL;
        loop {
            reports.send(affected);
            affected = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changes = directories.changed() => self.affected(&changes),
            };
        }
    }

    fn directories(&self) -> impl Iterator<Item = &Path> {
        let ours = [Some(self.sockets.as_path()), self.file.parent()].into_iter().flatten();
        ours.chain(self.cdi_directories.iter().map(PathBuf::as_path))
    }

    fn affected(&self, changes: &Changes) -> Affected {
        match changes {
            Changes::Anything => Affected::ALL,
            Changes::Files(files) => files.iter().map(|file| self.affected_by(file)).fold(Affected::NONE, Affected::or),
        }
    }

    fn affected_by(&self, file: &Path) -> Affected {
        let is_in_sockets = file.parent() == Some(&self.sockets);
        Affected {
            sockets: is_in_sockets && file.extension() == Some(OsStr::new("sock")),
            file: file == self.file,
            others: file != self.file && !is_in_sockets && is_document(file),
        }
    }
}

impl Reports {
    fn send(&self, affected: Affected) {
        let reports = [(&self.sockets, affected.sockets), (&self.file, affected.file), (&self.others, affected.others)];
        reports.into_iter().filter(|(_, is_affected)| *is_affected).for_each(|(report, _)| report.send_replace(()));
    }
}

impl Affected {
    const NONE: Self = Self { sockets: false, file: false, others: false };
    const ALL: Self = Self { sockets: true, file: true, others: true };

    fn or(self, other: Self) -> Self {
        Self {
            sockets: self.sockets || other.sockets,
            file: self.file || other.file,
            others: self.others || other.others,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_the_file_and_documents_of_others_are_reported() {
        let followed = Followed {
            sockets: "/plugins".into(),
            file: "/cdi/ours.json".into(),
            cdi_directories: vec!["/etc/cdi".into(), "/cdi".into()],
        };
        let nothing = Affected::NONE;
        let file = Affected { file: true, ..nothing };
        let others = Affected { others: true, ..nothing };
        let sockets = Affected { sockets: true, ..nothing };
        for (path, expected) in [
            ("/cdi/spec.ours.json.0.tmp", nothing),
            ("/cdi/other.json", others),
            ("/etc/cdi/other.yaml", others),
            ("/etc/cdi/other.txt", nothing),
            ("/plugins/other.json", nothing),
            ("/plugins/kubelet_internal_checkpoint", nothing),
            ("/cdi/ours.json", file),
            ("/plugins/kubelet.sock", sockets),
            ("/cdi/other.sock", nothing),
        ] {
            assert_eq!(followed.affected(&Changes::Files([path.into()].into())), expected, "{path}");
        }
        assert_eq!(followed.affected(&Changes::Anything), Affected::ALL);
        let two = Changes::Files(["/cdi/x.tmp".into(), "/cdi/ours.json".into()].into());
        assert_eq!(followed.affected(&two), file);
    }
}
