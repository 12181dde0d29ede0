//! netdevice-agent: offers the node's network devices to Pods.
//!
//! Reads like a table of contents: the inventory follows the kernel, the views say what is offered, a plugin for each
//! pool tells the kubelet, the installer keeps the hook on the host, and the admin endpoint shows all of it. Every task
//! is started here and ends here; the first that ends unasked ends the process.

mod admin;
mod arguments;
mod folder;
mod hook_file;
mod journal;
mod logging;
mod metrics;
mod names;
mod plugins;
mod pools;
mod repair;
mod views;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use arguments::Arguments;
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
use tracing::{error, info};

/// How long tasks may take to end once they are told to.
const SHUTDOWN: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments = Arguments::read();
    logging::start(&arguments);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start");
    match runtime.and_then(|runtime| runtime.block_on(run(arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

type Tasks = JoinSet<anyhow::Result<()>>;

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    info!(version = env!("CARGO_PKG_VERSION"), "netdevice-agent starts");
    let shutdown = CancellationToken::new();
    let mut tasks: Tasks = JoinSet::new();
    // before anything that takes its time: a signal then ends it, and not the default action
    tasks.spawn(end_on_signal(shutdown.clone())?);

    let records = Records::new(&arguments.state_dir);
    let metrics = Arc::new(Metrics::default());
    let source = PoolSource::new(&arguments)?;
    let inventory = Inventory::open(arguments.inventory()).context("cannot read the node's interfaces")?;
    metrics.set_inventory(inventory.stats());

    let (pools_sender, pools) = watch::channel(source.first()?);
    let (view_sender, view) = watch::channel(None);
    let (ledger_sender, ledgers) = watch::channel(Arc::default());
    let (restored_sender, restored) = mpsc::unbounded_channel();
    let (hook_sender, hook) = watch::channel(hook_file::State::Missing);
    let snapshots = inventory.subscribe();
    let namespaces_ended = inventory.subscribe_namespaces_ended();

    tasks.spawn(source.follow(pools_sender, records.clone(), metrics.clone(), shutdown.clone()));
    tasks.spawn(names::keep(restored, inventory.subscribe(), shutdown.clone()));
    tasks.spawn(views::keep(
        snapshots,
        pools,
        records.clone(),
        metrics.clone(),
        view_sender,
        ledger_sender,
        shutdown.clone(),
    ));
    tasks.spawn(hook_file::keep(arguments.hook_source(), arguments.hook_path.clone(), hook_sender, shutdown.clone()));
    tasks.spawn(plugins::keep(arguments.clone(), view, hook.clone(), metrics.clone(), shutdown.clone()));
    let triggers =
        repair::Triggers { ledgers, namespaces_ended, pod_resources: arguments.pod_resources_socket.clone() };
    tasks.spawn(repair::keep(triggers, records.clone(), metrics.clone(), restored_sender.clone(), shutdown.clone()));
    tasks.spawn(journal::follow(records, metrics.clone(), restored_sender, shutdown.clone()));
    tasks.spawn(admin::serve(arguments.admin_address, metrics, hook, shutdown.clone()));
    let follow = inventory.run(shutdown.clone());
    tasks.spawn(async { follow.await.context("the node's interfaces cannot be followed") });

    let result = first_end(&mut tasks, &shutdown).await;
    shutdown.cancel();
    let drained = timeout(SHUTDOWN, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        info!("some tasks did not end in time");
    }
    info!("netdevice-agent ends");
    result
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
