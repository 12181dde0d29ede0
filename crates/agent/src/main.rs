//! netdevice-agent: offers the node's network devices to Pods.
//!
//! The stages are types: [`Arguments`] are parsed, [`Config`] is valid, [`App`] has opened everything, and runs.
//! [`App::build`] names the parts: the inventory follows the kernel, the view has what is offered and what is attached, a
//! plugin for each pool serves the kubelet, the injector attaches devices by annotation, the reconciler returns devices
//! that a hook did not return, and the admin endpoint has the metrics and problems.
//!
//! Under the name `network-device-injector` the program runs the injector only, under the name `dynamic-networks-controller`
//! the networks of running Pods only, under the name `netdevctl` that program.

mod admin;
mod announcer;
mod api_server;
mod app;
mod arguments;
mod claims;
mod config;
mod descriptors;
mod directory;
mod dynamic_networks;
mod events;
mod hook_file;
mod hook_runs;
mod injector;
mod journal;
mod logging;
mod metrics;
mod names;
mod network_ends;
mod plugins;
mod pools;
mod problem;
mod problem_file;
mod reconciler;
#[cfg(test)]
mod reference;
mod view;
mod view_update;

use std::process::ExitCode;

use anyhow::Context;
use tracing::error;

use app::{App, SHUTDOWN};
use arguments::Arguments;
use config::Config;

/// musl's own allocator maps and unmaps memory all the time: a seventh of the processor time of an injection.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    // the image has one program, and links to it
    if std::env::args_os().next().is_some_and(|program| netdevctl::is_called(&program)) {
        return netdevctl::main(std::env::args_os());
    }
    let arguments = Arguments::read();
    logging::start(&arguments);
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = Config::try_from(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let result = runtime.block_on(async { App::build(config)?.run().await });
    // work on a device may hang: a later repair continues from its record
    runtime.shutdown_timeout(SHUTDOWN);
    result
}
