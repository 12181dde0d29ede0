//! The log on standard error, as text or JSON, with klog's `-v N`.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use crate::arguments::{Arguments, LogFormat};

/// Starts the log.
pub(crate) fn start(arguments: &Arguments) {
    let level = match arguments.verbosity {
        0 | 1 => "info",
        2..=4 => "debug",
        _ => "trace",
    };
    // libraries tell their own steps only when everything is asked for
    let libraries = if arguments.verbosity > 6 { "debug" } else { "warn" };
    let ours =
        ["netdevice_agent", "device_plugin", "inventory", "link"].map(|name| format!("{name}={level}")).join(",");
    let log = fmt().with_env_filter(EnvFilter::new(format!("{libraries},{ours}"))).with_writer(io::stderr);
    match arguments.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
    }
}
