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

use crate::{
    arguments::{Arguments, Program},
    folder::Folder,
    metrics::Metrics,
};

/// Where the pools come from.
pub(crate) enum PoolSource {
    /// `-interfaces`: they stay as they are. With the YAML that says the same.
    Flag(Arc<Pools>, String),
    /// `-config`.
    File(PathBuf),
    /// The text that the runtime has for its plugin: the injector's, where no flag selects anything.
    Runtime(watch::Receiver<Option<String>>),
}

impl PoolSource {
    pub(crate) fn new(arguments: &Arguments, texts: watch::Receiver<Option<String>>) -> anyhow::Result<Self> {
        match (&arguments.interfaces, &arguments.config) {
            (Some(pattern), None) => {
                let (mut pools, mut yaml) = (Pools::by_name(pattern.clone()), Pools::yaml_by_name(pattern));
                if arguments.nri {
                    pools = pools.with_annotations();
                    yaml.push_str("  annotations: true\n");
                }
                Ok(Self::Flag(Arc::new(pools), yaml))
            }
            (None, Some(file)) => Ok(Self::File(file.clone())),
            (None, None) if arguments.program == Program::Injector => Ok(Self::Runtime(texts)),
            _ => bail!("either -interfaces or -config is needed"),
        }
    }

    /// The pools to begin with. A file that is not there yet is waited for; a wrong one is an error at the start, when
    /// somebody looks.
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
                    warn!(file = %path.display(), "the configuration is not there yet: nothing is offered until it is");
                    Ok(Arc::default())
                }
                Err(error) => Err(error).with_context(|| format!("configuration {}", path.display())),
            },
        }
    }

    /// Publishes other pools whenever the file names some. A wrong text is told, and the pools stay. What is in force is
    /// left beside the `effective` records.
    pub(crate) async fn follow(
        self,
        pools: watch::Sender<Arc<Pools>>,
        effective: Option<Records>,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let path = match self {
            Self::Flag(_, yaml) => {
                leave_effective(effective.as_ref(), &yaml);
                shutdown.cancelled().await;
                return Ok(());
            }
            Self::Runtime(texts) => return follow_runtime(texts, &pools, &shutdown).await,
            Self::File(path) => path,
        };
        // a ConfigMap is changed by exchanging a symbolic link in the folder
        let mut folder =
            Folder::new(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")));
        let mut known = None;
        loop {
            let text = read(&path).map_err(|error| error.to_string());
            if known.as_ref() != Some(&text) {
                reload(&path, &text, &pools, effective.as_ref(), &metrics, known.is_none());
                known = Some(text);
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = folder.changed() => {}
            }
        }
    }
}

/// Takes the pools from the runtime's text, each time that it has one.
async fn follow_runtime(
    mut texts: watch::Receiver<Option<String>>,
    pools: &watch::Sender<Arc<Pools>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    warn!(
        "no interface is selected: every pod that asks for one is refused, until -interfaces, -config or the runtime's configuration of this plugin selects some"
    );
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = texts.changed() => changed?,
        }
        let text = texts.borrow_and_update().clone().unwrap_or_default();
        match Pools::from_yaml(&text) {
            Ok(new) => {
                info!(pools = new.iter().count(), "the runtime's configuration of this plugin is in force");
                pools.send_replace(Arc::new(new));
            }
            Err(error) => warn!("the runtime's configuration of this plugin is not taken: {error}"),
        }
    }
}

fn reload(
    path: &Path,
    text: &Result<String, String>,
    pools: &watch::Sender<Arc<Pools>>,
    effective: Option<&Records>,
    metrics: &Metrics,
    is_first: bool,
) {
    let read = text.as_ref().map_err(Clone::clone);
    match read.and_then(|text| Ok((text, Pools::from_yaml(text).map_err(|error| error.to_string())?))) {
        Ok((text, new)) => {
            leave_effective(effective, text);
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
fn leave_effective(records: Option<&Records>, yaml: &str) {
    let Some(records) = records else { return };
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
