//! The source of the pools: one flag, or a file that is read again when it changes.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use netdevice::{
    Pools,
    pool::{EFFECTIVE_CONFIGURATION, MAX_CONFIGURATION},
};
use store::Records;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{config::Selection, directory::Directory, metrics::Metrics};

/// The source of the pools.
pub(crate) enum PoolSource {
    /// `-interfaces`: they never change. With the equivalent YAML.
    Flag(Arc<Pools>, String),
    /// `-config`.
    File(PathBuf),
    /// The runtime's configuration of its plugin: for the injector without flags.
    Runtime(watch::Receiver<Option<String>>),
}

impl PoolSource {
    pub(crate) fn new(selection: Selection, texts: watch::Receiver<Option<String>>) -> Self {
        match selection {
            Selection::Flag(pools, yaml) => Self::Flag(pools, yaml),
            Selection::File(path) => Self::File(path),
            Selection::Runtime => Self::Runtime(texts),
        }
    }

    /// The first pools. A missing file is waited for; an invalid one is an error at the start.
    pub(crate) fn first(&self) -> anyhow::Result<Arc<Pools>> {
        match self {
            Self::Flag(pools, _) => Ok(pools.clone()),
            Self::Runtime(_) => Ok(Arc::default()),
            Self::File(path) => match read(path) {
                Ok(text) => {
                    let pools = Pools::from_yaml(&text).with_context(|| format!("configuration {}", path.display()))?;
                    Ok(Arc::new(pools))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    warn!(file = %path.display(), "the configuration file does not exist yet: no device is offered until it does");
                    Ok(Arc::default())
                }
                Err(error) => Err(error).with_context(|| format!("configuration {}", path.display())),
            },
        }
    }

    /// Publishes the pools whenever the file changes them. An invalid text is logged, and the pools stay. The configuration in
    /// use is also written to the directory of the `effective` records.
    pub(crate) async fn follow(
        self,
        pools: watch::Sender<Arc<Pools>>,
        effective: Option<Records>,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut effective = EffectiveFile { records: effective, unwritten: None, failed: false };
        let path = match self {
            Self::Flag(_, yaml) => {
                effective.set(&yaml);
                loop {
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(()),
                        () = sleep(RETRY), if effective.unwritten.is_some() => effective.write(),
                    }
                }
            }
            Self::Runtime(texts) => return follow_runtime(texts, &pools, &shutdown).await,
            Self::File(path) => path,
        };
        // a ConfigMap is changed by exchanging a symbolic link in its directory
        let mut directory = Directory::new(path.parent().unwrap_or(Path::new("/")));
        let mut known = None;
        loop {
            let text = read(&path).map_err(|error| error.to_string());
            if known.as_ref() != Some(&text) {
                reload(&path, &text, &pools, &mut effective, &metrics, known.is_none());
                known = Some(text);
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = directory.changed() => {}
                () = sleep(RETRY), if effective.unwritten.is_some() => effective.write(),
            }
        }
    }
}

/// Publishes the pools of the runtime's configuration whenever the runtime sends one.
async fn follow_runtime(
    mut texts: watch::Receiver<Option<String>>,
    pools: &watch::Sender<Arc<Pools>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    warn!(
        "no interface is selected: every pod that requests one is refused until -interfaces, -config or the runtime's configuration of this plugin selects some"
    );
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = texts.changed() => changed?,
        }
        let text = texts.borrow_and_update().clone().unwrap_or_default();
        match Pools::from_yaml(&text) {
            Ok(new) => {
                info!(pools = new.iter().count(), "using the runtime's configuration of this plugin");
                pools.send_replace(Arc::new(new));
            }
            Err(error) => {
                warn!("invalid configuration of this plugin from the runtime, the previous one stays in use: {error}")
            }
        }
    }
}

fn reload(
    path: &Path,
    text: &Result<String, String>,
    pools: &watch::Sender<Arc<Pools>>,
    effective: &mut EffectiveFile,
    metrics: &Metrics,
    is_first: bool,
) {
    let read = text.as_ref().map_err(Clone::clone);
    match read.and_then(|text| Ok((text, Pools::from_yaml(text).map_err(|error| error.to_string())?))) {
        Ok((text, new)) => {
            effective.set(text);
            let changed = pools.send_if_modified(|pools| {
                let differs = **pools != new;
                *pools = Arc::new(new);
                differs
            });
            if changed {
                info!(file = %path.display(), pools = pools.borrow().iter().count(), "using the new configuration");
            }
            if !is_first {
                metrics.count_reload(true);
            }
        }
        Err(reason) if is_first => warn!(file = %path.display(), "the configuration cannot be read: {reason}"),
        Err(reason) => {
            warn!(file = %path.display(), "invalid configuration, the previous one stays in use: {reason}");
            metrics.count_reload(false);
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let text = store::read_text_limited(File::open(path)?, MAX_CONFIGURATION)?;
    if text.len() > MAX_CONFIGURATION {
        return Err(io::Error::other(format!("the file is larger than {MAX_CONFIGURATION} bytes")));
    }
    Ok(text)
}

/// How long after a failure the file for netdevctl is written again.
const RETRY: Duration = Duration::from_secs(5);

/// The configuration in use, as a file for netdevctl beside the records; netdevctl also works with flags of its own.
struct EffectiveFile {
    /// None where no file is wanted.
    records: Option<Records>,
    /// The text that is not written yet.
    unwritten: Option<String>,
    /// Whether the last attempt failed, which was logged.
    failed: bool,
}

impl EffectiveFile {
    fn set(&mut self, yaml: &str) {
        self.unwritten = Some(yaml.to_owned());
        self.write();
    }

    fn write(&mut self) {
        let (Some(records), Some(yaml)) = (&self.records, &self.unwritten) else {
            self.unwritten = None;
            return;
        };
        match records.replace(EFFECTIVE_CONFIGURATION, yaml.as_bytes()) {
            Ok(()) => (self.unwritten, self.failed) = (None, false),
            Err(_) if self.failed => {}
            Err(error) => {
                let file = records.directory().join(EFFECTIVE_CONFIGURATION);
                warn!(file = %file.display(), "cannot write the configuration for netdevctl, trying again every 5 s: {error}");
                self.failed = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_configuration_that_could_not_be_written_for_netdevctl_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        fs::write(&state, "a file where the directory should be").unwrap();
        let mut effective = EffectiveFile { records: Some(Records::new(&state)), unwritten: None, failed: false };
        effective.set("pools: []\n");
        assert!(effective.unwritten.is_some() && effective.failed);
        fs::remove_file(&state).unwrap();
        effective.write();
        assert!(effective.unwritten.is_none() && !effective.failed);
        assert_eq!(fs::read_to_string(state.join(EFFECTIVE_CONFIGURATION)).unwrap(), "pools: []\n");
    }
}
