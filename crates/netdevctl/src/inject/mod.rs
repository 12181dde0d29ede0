//! `if-inject`: interfaces in Pods that run. `netdevctl inject` is the same.
//!
//! It works in the mount namespace of the node, also when it is started in a container: there are the runtime's socket, the
//! plugins, their cache, and the Pods' network namespaces. Results are JSON on standard output, logs JSON on standard error.

pub(crate) mod arguments;
mod capabilities;
pub mod device;
mod logger;
mod network;
mod signals;

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches, ValueEnum, error::ErrorKind};
use cri::{Candidates, Client, Deadlines, FoundSandbox};
use link::OpenSandbox;
use netdevice::go_flags;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{arguments::long_flags, is_broken_pipe};
use arguments::{InjectArguments, Program, Verb};
use device::{DeviceRequestArguments, PodName};
use logger::Logger;

/// The program's name.
pub(crate) const IF_INJECT: &str = "if-inject";

/// Runs the program with its command line, its name first.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut command = Program::command();
    let arguments = go_flags::rewrite(arguments, &long_flags(&command));
    // prints help or what is wrong, with status 0 or 2
    let matches = command.try_get_matches_from_mut(arguments).unwrap_or_else(|error| error.exit());
    let program = Program::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    run(&program.arguments, &matches, &command)
}

/// Runs a command line that was parsed.
pub(crate) fn run(arguments: &InjectArguments, matches: &ArgMatches, command: &Command) -> ExitCode {
    if let Err(error) = arguments.check(matches) {
        command.clone().error(ErrorKind::ArgumentConflict, error).exit();
    }
    let log = Logger(arguments.loglevel);
    let done = match arguments.command {
        None => print_verbs(),
        Some(verb) => on_the_node(|| execute(verb, arguments, log)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // the reader has read enough
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            log.error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn print_verbs() -> Result<()> {
    let names = Verb::value_variants().iter().map(|verb| format!("  {verb}\n")).collect::<String>();
    print(&format!("Subcommands:\n{names}"))
}

/// Runs `work` in the node's mount namespace.
fn on_the_node(work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "{IF_INJECT} must run as root on the node: it enters the network namespaces of Pods"
    );
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
    if let (Ok(own), Ok(node)) = (namespace("self"), namespace("1"))
        && own != node
    {
        bail!(
            "{IF_INJECT} must run in the node's network namespace: in a Pod, with hostNetwork: true and hostPID: true"
        );
    }
    let entered = store::run_in_mounts_of_init(work);
    entered.context("cannot enter the mount namespace of the node (PID 1): in a Pod, set hostPID: true and the capabilities SYS_ADMIN, SYS_CHROOT and SYS_PTRACE")?
}

fn execute(verb: Verb, arguments: &InjectArguments, log: Logger) -> Result<()> {
    log.info(1, "start", json!({"command": verb.to_string(), "version": env!("CARGO_PKG_VERSION")}));
    let name = PodName { namespace: &arguments.ns, name: arguments.pod.as_deref().unwrap_or_default() };
    match verb {
        Verb::Netns => {
            let pod = RunningPod::find(arguments, log)?;
            print(&format!("{}\n", pod.found.namespace()))
        }
        Verb::Add => {
            let pod = RunningPod::find(arguments, log)?;
            match request(arguments) {
                Some(request) => {
                    let added = device::add(&place(arguments), pod.found.sandbox(), &request)?;
                    added.warnings.iter().for_each(|warning| log.warn(warning, Value::Null));
                    print_json(&added)
                }
                None => network::add(arguments, &pod, log),
            }
        }
        Verb::Del => {
            let pod = RunningPod::find_if_it_runs(arguments, log)?;
            match &arguments.device.device {
                Some(device) => {
                    let sandbox = pod.as_ref().map(|pod| pod.found.sandbox());
                    let returned = device::del(&place(arguments), name, sandbox, device)?;
                    report_returned(&returned, log);
                    Ok(())
                }
                None => network::delete(arguments, name, pod.as_ref(), log),
            }
        }
        Verb::Check => network::check(arguments, &RunningPod::find(arguments, log)?, log),
        Verb::List => {
            let pod = RunningPod::find_if_it_runs(arguments, log)?;
            let devices = device::list(&place(arguments), Some(name))?;
            let networks = network::list(arguments, name, pod.as_ref(), log)?;
            print_json(&network::Listed { devices, networks })
        }
        Verb::Status => network::status(arguments, log),
        Verb::Gc => {
            let list = network::load(arguments)?;
            let on_node = network::networks(arguments, log)?;
            let devices = device::gc(&place(arguments))?;
            let (networks, are_clean) = network::collect(&on_node, log)?;
            let are_returned = devices.iter().all(|device| device.outcome != device::Outcome::Failed);
            print_json(&json!({"devices": devices, "networks": networks}))?;
            ensure!(are_clean && are_returned, "not everything could be removed: see the reasons in the output");
            list.map_or(Ok(()), |list| network::collect_in_plugins(&on_node, &list, arguments, log))
        }
    }
}

fn report_returned(returned: &device::ReturnedDevice, log: Logger) {
    let fields = json!(returned);
    match (&returned.renamed, returned.outcome) {
        (Some(name), _) => log.warn(&format!("the device is on the node as {name}: its name was taken"), fields),
        (None, device::Outcome::Lost) => log.warn("the device no longer exists: it was deleted in the Pod", fields),
        (None, _) if !returned.skipped.is_empty() => log.warn("the device was returned, not completely", fields),
        (None, device::Outcome::Nothing) => log.info(1, "nothing to do", fields),
        (None, _) => log.info(1, "the device was returned", fields),
    }
}

fn place(arguments: &InjectArguments) -> device::Place {
    device::Place { node: arguments.node.clone(), pod_resources: arguments.device.pod_resources_socket.clone() }
}

fn request(arguments: &InjectArguments) -> Option<DeviceRequestArguments> {
    let flags = &arguments.device;
    Some(DeviceRequestArguments {
        device: flags.device.clone()?,
        name: flags.name.clone(),
        ips: flags.ips.clone(),
        mtu: flags.mtu.clone(),
        mac: flags.mac.clone(),
        routes: flags.routes.clone(),
        inherit: flags.inherit,
    })
}

/// A Pod that runs on this node, with its network namespace open.
pub(crate) struct RunningPod {
    pub(crate) found: FoundSandbox,
    pub(crate) opened: OpenSandbox,
}

impl RunningPod {
    /// Finds the Pod, by the container runtime.
    fn find(arguments: &InjectArguments, log: Logger) -> Result<Self> {
        let name = arguments.pod.as_deref().unwrap_or_default();
        let found = find_sandbox(arguments, name, log)?;
        let opened = OpenSandbox::open(found.sandbox()).with_context(|| format!("pod {}", found.pod()))?;
        log.info(1, "found the sandbox", json!({"sandbox": found.id(), "netns": found.namespace()}));
        log.info(4, "sandbox", json!({"debug": format!("{:?}", found.sandbox())}));
        Ok(Self { found, opened })
    }

    /// The Pod, or nothing if it does not run here any more.
    fn find_if_it_runs(arguments: &InjectArguments, log: Logger) -> Result<Option<Self>> {
        match Self::find(arguments, log) {
            Err(error) if is_gone(&error) => {
                log.info(1, "the Pod does not run", json!({"reason": format!("{error:#}")}));
                Ok(None)
            }
            found => found.map(Some),
        }
    }
}

fn is_gone(error: &anyhow::Error) -> bool {
    let by_runtime = error.downcast_ref::<cri::Error>();
    let is_unknown =
        by_runtime.is_some_and(|error| matches!(error, cri::Error::NoPod { .. } | cri::Error::NotRunning { .. }));
    is_unknown || error.downcast_ref::<link::OpenSandboxError>().is_some_and(link::OpenSandboxError::is_gone)
}

fn find_sandbox(arguments: &InjectArguments, name: &str, log: Logger) -> Result<FoundSandbox> {
    let candidates =
        Candidates::find(arguments.runtime_endpoint.as_ref(), std::env::var_os(cri::ENVIRONMENT).as_deref())?;
    log.info(2, "container runtime", json!({"candidates": format!("{candidates:?}")}));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let client = Client::connect(&candidates, Deadlines::default()).await?;
        log.info(2, "connected", json!({"endpoint": client.endpoint().to_string()}));
        Ok(client.find_sandbox(&arguments.ns, name).await?)
    })
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write")
}

/// JSON with an indent of four spaces, as the program that this one replaces writes it.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter)).context("cannot write JSON")?;
    print(&(String::from_utf8_lossy(&text) + "\n"))
}
