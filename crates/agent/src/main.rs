//! netdevice-agent: offers the node's network devices to Pods.
//!
//! Reads like a table of contents: the inventory follows the kernel, the views say what is offered, a plugin for each
//! pool tells the kubelet, the injector gives devices by annotation, the installer keeps the hook on the host, Events tell
//! the users of what happened, and the admin endpoint shows all of it. Every task is started here and ends here; the first
//! that ends unasked ends the process.
//! Called `network-device-injector`, it does the part of the injector alone.

mod admin;
mod announcer;
mod arguments;
mod descriptors;
mod directory;
mod events;
mod hook_file;
mod hook_runs;
mod injector;
mod journal;
mod logging;
mod metrics;
mod names;
mod plugins;
mod pools;
mod problems;
mod reconciler;
#[cfg(test)]
mod reference;
mod views;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use arguments::{Arguments, Program};
use device_plugin::Reservations;
use injector::Injector;
use inventory::Inventory;
use link::Records;
use metrics::Metrics;
use pools::PoolSource;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How long tasks may take to end once they are told to.
const SHUTDOWN: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments = Arguments::read();
    logging::start(&arguments);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start");
    let result = runtime.and_then(|runtime| {
        let result = runtime.block_on(run(arguments));
        // work on a device may hang: whoever comes next goes on from its record
        runtime.shutdown_timeout(SHUTDOWN);
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

type Tasks = JoinSet<anyhow::Result<()>>;

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    // a socket that the runtime gave us comes before any other file is opened
    let plugin = arguments.plugin().context("cannot be a plugin of the runtime")?;
    let name = arguments.program.name();
    info!(version = env!("CARGO_PKG_VERSION"), "{name} starts");
    descriptors::raise_limit();
    let shutdown = CancellationToken::new();
    let mut tasks: Tasks = JoinSet::new();
    // before anything that takes its time: a signal then ends it, and not the default action
    tasks.spawn(end_on_signal(shutdown.clone())?);

    let (records, obstacle) = Records::of_agent(&arguments.state_dir);
    let metrics = Arc::new(Metrics::default());
    if let (Some(obstacle), Some(_)) = (obstacle, &plugin) {
        let consequence =
            "a virtual device that a Pod has by annotation is lost if the Pod ends while this agent is down";
        let line = format!("cannot mount in the mount namespace of PID 1: {obstacle}; {consequence}");
        warn!("{line}");
        metrics.report(problems::Kind::Pins, vec![line]);
    }
    let (events, posting) = events::open(arguments.events, arguments.node_name(), &metrics);
    if let Some(posting) = posting {
        tasks.spawn(posting.run(shutdown.clone()));
    }
    let (texts_sender, texts) = watch::channel(None);
    let source = PoolSource::new(&arguments, texts)?;
    let inventory = Inventory::open(arguments.inventory()).context("cannot read the node's interfaces")?;
    metrics.set_inventory(inventory.stats());

    let (pools_sender, pools) = watch::channel(source.first()?);
    let (view_sender, view) = watch::channel(None);
    let (ledger_sender, ledgers) = watch::channel(Arc::default());
    let (restored_sender, restored) = mpsc::unbounded_channel();
    let (hook_sender, hook) = watch::channel(hook_file::State::Missing);
    let snapshots = inventory.subscribe();
    let namespaces_ended = inventory.subscribe_namespaces_ended();

    // what an injector selects is none of netdevctl's business: that shows what the agent offers
    let effective = (arguments.program == Program::Agent).then(|| records.clone());
    tasks.spawn(source.follow(pools_sender, effective, metrics.clone(), shutdown.clone()));
    let names = names::keep(records.clone(), restored, inventory.subscribe(), ledgers.clone(), shutdown.clone());
    tasks.spawn(names);
    tasks.spawn(views::keep(
        views::Inputs { snapshots, pools, records: records.clone() },
        views::Outputs { views: view_sender, ledgers: ledger_sender, metrics: metrics.clone(), events: events.clone() },
        shutdown.clone(),
    ));
    let pod_resources = arguments.pod_resources_socket.clone();
    tasks.spawn(announcer::keep(records.clone(), ledgers.clone(), shutdown.clone()));
    let triggers = reconciler::Triggers { ledgers, namespaces_ended, pod_resources: pod_resources.clone() };
    let notifier =
        reconciler::Notifier { metrics: metrics.clone(), restored: restored_sender.clone(), events: events.clone() };
    tasks.spawn(reconciler::run(triggers, records.clone(), notifier, shutdown.clone()));
    if let Some(plugin) = plugin {
        let injector = Injector::new(injector::Config {
            records: records.clone(),
            views: view.clone(),
            pod_resources,
            metrics: metrics.clone(),
            restored: restored_sender.clone(),
            events: events.clone(),
            texts: texts_sender,
        });
        tasks.spawn(inject(plugin, injector, metrics.clone(), shutdown.clone()));
    }
    match arguments.program {
        Program::Agent => {
            let (source, path) = (arguments.hook_source(), arguments.hook_path.clone());
            let reservations = Arc::<Reservations>::default();
            tasks.spawn(problems::keep(records.clone(), metrics.clone(), shutdown.clone()));
            tasks.spawn(hook_file::keep(source, path, hook_sender, metrics.clone(), shutdown.clone()));
            let offered = plugins::Offered { views: view.clone(), hook, reservations: reservations.clone() };
            tasks.spawn(plugins::keep(arguments.clone(), offered, metrics.clone(), shutdown.clone()));
            tasks.spawn(hook_runs::watch(reservations.clone(), view, metrics.clone(), shutdown.clone()));
            let listeners =
                journal::Listeners { metrics: metrics.clone(), restored: restored_sender, events, reservations };
            tasks.spawn(journal::follow(records, listeners, shutdown.clone()));
        }
        // it offers nothing that a hook would move
        Program::Injector => {}
    }
    tasks.spawn(admin::serve(arguments.admin_address, metrics, shutdown.clone()));
    let follow = inventory.run(shutdown.clone());
    tasks.spawn(async { follow.await.context("the node's interfaces cannot be followed") });

    let result = first_end(&mut tasks, &shutdown).await;
    shutdown.cancel();
    let drained = timeout(SHUTDOWN, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        info!("some tasks did not end in time");
    }
    info!("{name} ends");
    result
}

/// Serves the runtime. A process that the runtime started ends with the runtime.
async fn inject(
    plugin: nri::Config,
    injector: Injector,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let kept = injector.keep(shutdown.clone());
    let connector = nri::Connector::new(plugin, Arc::new(injector));
    metrics.set_runtime(connector.state());
    let connected = async {
        let ended = connector.run(shutdown.clone()).await;
        shutdown.cancel();
        ended
    };
    // work on a sandbox that was begun is finished
    let (ended, ()) = tokio::join!(connected, kept);
    ended.context("the runtime's plugin")
}

/// Waits until a task ends: because of a signal, which is well, or by itself, which is not.
async fn first_end(tasks: &mut Tasks, shutdown: &CancellationToken) -> anyhow::Result<()> {
    match tasks.join_next().await {
        Some(Ok(Ok(()))) if shutdown.is_cancelled() => Ok(()),
        Some(Ok(Ok(()))) | None => Err(anyhow!("a task ended unasked")),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(error).context("a task broke"),
    }
}

fn end_on_signal(shutdown: CancellationToken) -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM"),
            _ = interrupt.recv() => info!("SIGINT"),
            () = shutdown.cancelled() => {}
        }
        shutdown.cancel();
        Ok(())
    })
}
