//! The log on standard error, as text or JSON, with klog's `-v N`. A process that the runtime started has no standard
//! error: its log is a file beside the records.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal},
    path::Path,
    sync::Mutex,
};

use tracing_subscriber::{EnvFilter, fmt, fmt::writer::BoxMakeWriter};

use crate::arguments::{Arguments, LogFormat};

/// Starts the log.
pub(crate) fn start(arguments: &Arguments) {
    let level = match arguments.verbosity {
        0 | 1 => "info",
        2..=4 => "debug",
        _ => "trace",
    };
    // libraries log their own steps only when everything is requested
    let libraries = if arguments.verbosity > 6 { "debug" } else { "warn" };
    // the caller of a request logs its result
    let client = if arguments.verbosity > 6 { "" } else { ",kube_client=off" };
    let ours =
        ["netdevice_agent", "device_plugin", "dra", "dynamic_networks", "inventory", "kubelet", "link", "nri", "wake"]
            .map(|name| format!("{name}={level}"))
            .join(",");
    let log =
        fmt().with_env_filter(EnvFilter::new(format!("{libraries},{ours}{client}"))).with_writer(writer(arguments));
    match arguments.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
    }
}

/// Size in bytes from which on a new log file is begun; the previous one is kept as `.1`.
const MAX_FILE: u64 = 1 << 20;

fn writer(arguments: &Arguments) -> BoxMakeWriter {
    let file = arguments.log_file().and_then(|path| open(&path).ok());
    file.map_or_else(|| BoxMakeWriter::new(io::stderr), |file| BoxMakeWriter::new(Mutex::new(file)))
}

fn open(path: &Path) -> io::Result<File> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    if fs::metadata(path).is_ok_and(|file| file.len() >= MAX_FILE) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().append(true).create(true).open(path)
}
