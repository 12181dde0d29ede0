//! Where the pools come from: one flag, or a file that is read again when it changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use link::Records;
use netdevice::{
    Pools,
    pool::{EFFECTIVE_CONFIGURATION, MAX_CONFIGURATION},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{arguments::Arguments, folder::Folder, metrics::Metrics};

/// Where the pools come from.
pub(crate) enum PoolSource {
    /// `-interfaces`: they stay as they are. With the YAML that says the same.
    Flag(Arc<Pools>, String),
    /// `-config`.
    File(PathBuf),
}

impl PoolSource {
    pub(crate) fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        match (&arguments.interfaces, &arguments.config) {
            (Some(pattern), None) => {
                let yaml = Pools::yaml_by_name(pattern);
                Ok(Self::Flag(Arc::new(Pools::by_name(pattern.clone())), yaml))
            }
            (None, Some(file)) => Ok(Self::File(file.clone())),
            _ => bail!("either -interfaces or -config is needed"),
        }
    }

    /// The pools to begin with. A file that is not there yet is waited for; a wrong one is an error at the start, when
    /// somebody looks.
    pub(crate) fn first(&self) -> anyhow::Result<Arc<Pools>> {
        match self {
            Self::Flag(pools, _) => Ok(pools.clone()),
            Self::File(path) => match read(path) {
                Ok(text) => {
                    let pools = Pools::from_yaml(&text).with_context(|| format!("configuration {}", path.display()))?;
                    Ok(Arc::new(pools))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    warn!(file = %path.display(), "the configuration is not there yet: nothing is offered until it is");
                    Ok(Arc::default())
                }
                Err(error) => Err(error).with_context(|| format!("configuration {}", path.display())),
            },
        }
    }

    /// Publishes other pools whenever the file names some. A wrong text is told, and the pools stay.
    pub(crate) async fn follow(
        self,
        pools: watch::Sender<Arc<Pools>>,
        records: Records,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let path = match self {
            Self::Flag(_, yaml) => {
                leave_effective(&records, &yaml);
                shutdown.cancelled().await;
                return Ok(());
            }
            Self::File(path) => path,
        };
        // a ConfigMap is changed by exchanging a symbolic link in the folder
        let mut folder =
            Folder::new(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")));
        let mut known = None;
        loop {
            let text = read(&path).map_err(|error| error.to_string());
            if known.as_ref() != Some(&text) {
                reload(&path, &text, &pools, &records, &metrics, known.is_none());
                known = Some(text);
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = folder.changed() => {}
            }
        }
    }
}

fn reload(
    path: &Path,
    text: &Result<String, String>,
    pools: &watch::Sender<Arc<Pools>>,
    records: &Records,
    metrics: &Metrics,
    is_first: bool,
) {
    let read = text.as_ref().map_err(Clone::clone);
    match read.and_then(|text| Ok((text, Pools::from_yaml(text).map_err(|error| error.to_string())?))) {
        Ok((text, new)) => {
            leave_effective(records, text);
            let changed = pools.send_if_modified(|pools| {
                let differs = **pools != new;
                *pools = Arc::new(new);
                differs
            });
            if changed {
                info!(file = %path.display(), pools = pools.borrow().iter().count(), "the configuration is in force");
            }
            if !is_first {
                metrics.count_reload(true);
            }
        }
        Err(reason) if is_first => warn!(file = %path.display(), "the configuration cannot be read: {reason}"),
        Err(reason) => {
            warn!(file = %path.display(), "the new configuration is not taken, the old one stays: {reason}");
            metrics.count_reload(false);
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path)?.len();
    if size > MAX_CONFIGURATION as u64 {
        return Err(io::Error::other(format!("it has {size} bytes: more than {MAX_CONFIGURATION} are not read")));
    }
    fs::read_to_string(path)
}

/// Tells netdevctl what is offered; it does without, asked with flags of its own.
fn leave_effective(records: &Records, yaml: &str) {
    let path = records.folder().join(EFFECTIVE_CONFIGURATION);
    let beside = records.folder().join(format!("{EFFECTIVE_CONFIGURATION}.new"));
    let write = || {
        fs::create_dir_all(records.folder())?;
        fs::write(&beside, yaml)?;
        fs::rename(&beside, &path)
    };
    if let Err(error) = write() {
        warn!(file = %path.display(), "cannot leave the configuration for netdevctl: {error}");
    }
}
