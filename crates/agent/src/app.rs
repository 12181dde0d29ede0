//! The parts of the process and how they are connected. `build` opens what they need and names every task; `run` runs them
//! until a signal, or until the first of them ends unexpectedly.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use device_plugin::Reservations;
use inventory::Inventory;
use netdevice::InterfaceName;
use store::Records;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admin, announcer,
    claims::{self, Claims},
    config::{Config, NetworkPaths, Offer},
    descriptors, dynamic_networks,
    events::{self, Events},
    hook_file, hook_runs,
    injector::{self, Injector},
    journal,
    metrics::Metrics,
    names, network_ends, plugins,
    pools::PoolSource,
    problem, problem_file, reconciler,
    view::{Part, Views},
    view_update,
};

/// How long tasks may take to end at shutdown.
pub(crate) const SHUTDOWN: Duration = Duration::from_secs(5);

/// All tasks, none of which runs yet.
pub(crate) struct App {
    name: &'static str,
    tasks: Vec<Task>,
    shutdown: CancellationToken,
}

type Task = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// What most parts share.
#[derive(Clone)]
struct Shared {
    records: Records,
    metrics: Arc<Metrics>,
    events: Events,
    /// Receives the names of devices that have returned to the host.
    restored: mpsc::UnboundedSender<InterfaceName>,
    /// What is offered and what is attached.
    views: Views,
}

/// Other ways to request interfaces, which the injector asks about a Pod.
struct Others {
    networks: Option<::dynamic_networks::Handle>,
    holders: Option<Arc<dyn ::dra::holders::ClaimHolders>>,
    failures: Option<::dra::status::Failures>,
}

impl App {
    /// Opens what the tasks need. Called within the runtime that is to run them.
    pub(crate) fn build(config: Config) -> anyhow::Result<Self> {
        let name = config.program.name();
        info!(version = env!("CARGO_PKG_VERSION"), "{name} starts");
        descriptors::raise_limit();
        let mut app = Self { name, tasks: Vec::new(), shutdown: CancellationToken::new() };
        // first of all: from now on a signal ends the tasks, not the process
        app.spawn(end_on_signal(app.shutdown.clone())?);

        let metrics = Arc::new(Metrics::default());
        let records = open_records(&config, &metrics);
        let events = app.post_events(&config, &metrics);
        let (texts_sender, texts) = watch::channel(None);
        let source = PoolSource::new(config.selection, texts);
        let inventory = Inventory::open(config.inventory).context("cannot read the interfaces of the node")?;
        metrics.set_inventory(inventory.stats());

        let (pools_sender, pools) = watch::channel(source.first()?);
        let inputs = view_update::Inputs { snapshots: inventory.subscribe(), pools, records: records.clone() };
        let updater = view_update::Updater::open(inputs, metrics.clone(), events.clone());
        let views = updater.subscribe();
        metrics.set_views(views.clone());
        let (restored, restored_names) = mpsc::unbounded_channel();
        let shared = Shared { records: records.clone(), metrics: metrics.clone(), events, restored, views };

        // netdevctl shows what the agent offers, not what an injector selects
        let effective = config.offer.as_ref().map(|_| records.clone());
        app.spawn(source.follow(pools_sender, effective, metrics.clone(), app.shutdown.clone()));
        app.spawn(updater.run(app.shutdown.clone()));
        app.return_devices(&inventory, restored_names, &config.pod_resources, &shared);
        let (handle, inquiries) = ::dynamic_networks::Handle::new();
        let has_networks = config.dynamic_networks.is_some();
        if let (Some(dynamic), Some(paths)) = (config.dynamic_networks, config.networks.clone()) {
            let Shared { records, metrics, events, restored, views } = shared.clone();
            let pod_resources = config.pod_resources.clone();
            let parts = dynamic_networks::Parts { paths, records, views, pod_resources, restored, events, metrics };
            app.spawn(dynamic_networks::build(dynamic, parts, inquiries, app.shutdown.clone())?);
        }
        if let Some(NetworkPaths { plugin_dirs, cache, multus_cache }) = config.networks {
            let (records, metrics) = (records.clone(), metrics.clone());
            let ends = network_ends::Config { plugin_dirs, cache, multus_cache, records, metrics };
            app.spawn(network_ends::run(ends, inventory.subscribe_namespaces_ended(), app.shutdown.clone()));
        }
        let claims = config.claims.map(Claims::open).transpose()?;
        let others = Others {
            networks: has_networks.then_some(handle),
            holders: claims.as_ref().map(Claims::holders),
            failures: claims.as_ref().map(Claims::failures),
        };
        let runtime =
            config.runtime.map(|runtime| app.inject(runtime, config.pod_resources, texts_sender, others, &shared));
        if let Some(claims) = claims {
            let Shared { records, metrics, restored, views, events } = shared.clone();
            let parts = claims::Parts { records, views, runtime, restored, metrics, events };
            app.spawn(claims.run(parts, app.shutdown.clone()));
        }
        if let Some(offer) = config.offer {
            app.offer(offer, &shared);
        }
        app.spawn(admin::serve(config.admin_address, metrics, app.shutdown.clone()));
        let follow = inventory.run(app.shutdown.clone());
        app.spawn(async { follow.await.context("cannot follow the interfaces of the node") });
        Ok(app)
    }

    /// Runs the tasks until one ends, then asks the others to end and waits for them.
    ///
    /// # Errors
    ///
    /// That of the task that ended first, unless a signal ended it.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { name, tasks, shutdown } = self;
        let mut tasks: JoinSet<anyhow::Result<()>> = tasks.into_iter().collect();
        let result = match tasks.join_next().await {
            Some(Ok(Ok(()))) if shutdown.is_cancelled() => Ok(()),
            Some(Ok(Ok(()))) | None => Err(anyhow!("a task ended unexpectedly")),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(error).context("a task failed"),
        };
        shutdown.cancel();
        let drained = timeout(SHUTDOWN, async { while tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            info!("some tasks did not end in time");
        }
        info!("{name} ends");
        result
    }

    fn spawn(&mut self, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.tasks.push(Box::pin(task));
    }

    /// Posts Events, if they are wanted.
    fn post_events(&mut self, config: &Config, metrics: &Arc<Metrics>) -> Events {
        let (events, posting) = events::open(config.events, config.node_name.clone(), metrics);
        if let Some(posting) = posting {
            self.spawn(posting.run(self.shutdown.clone()));
        }
        events
    }

    /// Returns devices to the host whose Pods have ended, under their names, and announces their addresses.
    fn return_devices(
        &mut self,
        inventory: &Inventory,
        restored: mpsc::UnboundedReceiver<InterfaceName>,
        pod_resources: &Path,
        shared: &Shared,
    ) {
        let Shared { records, metrics, events, views, .. } = shared.clone();
        self.spawn(names::run(records.clone(), restored, views.clone(), self.shutdown.clone()));
        self.spawn(announcer::run(records.clone(), Part::ledger(views.clone()), self.shutdown.clone()));
        let namespaces_ended = inventory.subscribe_namespaces_ended();
        let triggers = reconciler::Triggers { views, namespaces_ended, pod_resources: pod_resources.to_owned() };
        let notifier = reconciler::Notifier { metrics, restored: shared.restored.clone(), events };
        self.spawn(reconciler::run(triggers, records, notifier, self.shutdown.clone()));
    }

    /// Attaches devices by annotation, as a plugin of the runtime. Returns the state of the connection.
    fn inject(
        &mut self,
        runtime: nri::Config,
        pod_resources: PathBuf,
        texts: watch::Sender<Option<String>>,
        Others { networks, holders, failures }: Others,
        shared: &Shared,
    ) -> watch::Receiver<nri::ConnectionState> {
        let Shared { records, metrics, events, restored, views, .. } = shared.clone();
        let injector = Injector::new(injector::Config {
            records,
            views,
            pod_resources,
            metrics: metrics.clone(),
            restored,
            events,
            texts,
            networks,
            holders,
            failures,
        });
        let kept = injector.keep(self.shutdown.clone());
        let connector = nri::Connector::new(runtime, Arc::new(injector));
        let state = connector.state();
        metrics.set_runtime(state.clone());
        self.spawn(serve_runtime(connector, kept, self.shutdown.clone()));
        state
    }

    /// Offers devices as extended resources: a plugin for each pool, and the hook that moves the devices.
    fn offer(&mut self, offer: Offer, shared: &Shared) {
        let Offer { paths, hook_source } = offer;
        let Shared { records, metrics, events, restored, views, .. } = shared.clone();
        let reservations = Arc::<Reservations>::default();
        let (hook_sender, hook) = watch::channel(hook_file::HookState::Missing);
        let shutdown = self.shutdown.clone();
        self.spawn(problem_file::run(records.clone(), metrics.clone(), shutdown.clone()));
        self.spawn(hook_file::run(hook_source, paths.hook.clone(), hook_sender, metrics.clone(), shutdown.clone()));
        let offered = plugins::Offered { views: views.clone(), hook, reservations: reservations.clone() };
        let locations = plugins::Locations { paths, records: records.clone() };
        self.spawn(plugins::run(locations, offered, metrics.clone(), shutdown.clone()));
        self.spawn(hook_runs::run(reservations.clone(), views, metrics.clone(), shutdown.clone()));
        let listeners = journal::Listeners { metrics, restored, events, reservations };
        self.spawn(journal::run(records, listeners, shutdown));
    }
}

/// The records, and a warning where the namespaces of virtual devices cannot be pinned.
fn open_records(config: &Config, metrics: &Metrics) -> Records {
    let (records, obstacle) = Records::of_agent(&config.state_dir);
    if let (Some(obstacle), Some(_)) = (obstacle, &config.runtime) {
        let consequence =
            "a virtual device that a Pod has by annotation is lost if the Pod ends while this agent is down";
        let line = format!("cannot mount in the mount namespace of PID 1: {obstacle}; {consequence}");
        warn!("{line}");
        metrics.report(problem::Kind::Pins, vec![line]);
    }
    records
}

/// Serves the runtime. A process that the runtime started ends with the runtime.
async fn serve_runtime(
    connector: nri::Connector<Injector>,
    kept: impl Future<Output = ()> + Send,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let connected = async {
        let ended = connector.run(shutdown.clone()).await;
        shutdown.cancel();
        ended
    };
    // work on a sandbox that has begun is completed
    let (ended, ()) = tokio::join!(connected, kept);
    ended.context("the plugin of the container runtime failed")
}

fn end_on_signal(shutdown: CancellationToken) -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
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
