//! Devices by claim: the configuration of the driver, and its connection with the rest of the agent.

use std::sync::Arc;

use anyhow::{Context, bail};
use dra::{
    Outcome, Paths, RegistrationState, Report, RuntimeState, Settings,
    holders::{ApiHolders, ClaimHolders},
    slices,
    status::{self, Failures, Reported, StatusSettings, Unwritable},
};
use kube::Client;
use netdevice::{InterfaceName, claims::status::Failure};
use store::Records;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    api_server::ApiServer,
    arguments::{Arguments, Program},
    events::{Events, Occurrence},
    metrics::Metrics,
    view::Views,
};

/// The configuration of the driver.
#[derive(Debug)]
pub(crate) struct Config {
    node: String,
    instance: Option<String>,
    paths: Paths,
}

impl Config {
    /// That of these arguments; none if they do not request the driver.
    ///
    /// # Errors
    ///
    /// When the Node's name is not known.
    pub(crate) fn from_arguments(arguments: &Arguments) -> anyhow::Result<Option<Self>> {
        if !arguments.dra || arguments.program != Program::Agent {
            return Ok(None);
        }
        let Some(node) = arguments.node_name() else {
            bail!("-dra needs the name of the Node: set NODE_NAME (downward API) or -node-name")
        };
        let is_default = arguments.state_dir.as_os_str() == store::DEFAULT_STATE_DIR;
        let paths = Paths {
            cdi: arguments.cdi_dir.clone(),
            hook: arguments.hook_path.clone(),
            state_dir: (!is_default).then(|| arguments.state_dir.to_string_lossy().into_owned()),
            ..Paths::of_kubelet(&arguments.kubelet_dir)
        };
        let instance = Some(arguments.pod_uid.clone()).filter(|uid| !uid.is_empty());
        Ok(Some(Self { node, instance, paths }))
    }
}

/// What the driver uses of the agent.
pub(crate) struct Parts {
    pub(crate) records: Records,
    pub(crate) views: Views,
    /// The connection to the container runtime; none without -nri.
    pub(crate) runtime: Option<watch::Receiver<nri::ConnectionState>>,
    /// Receives the names of devices that have returned to the host.
    pub(crate) restored: mpsc::UnboundedSender<InterfaceName>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: Events,
}

/// The driver with its API server.
pub(crate) struct Claims {
    config: Config,
    client: Client,
    failures: (Failures, Reported),
    /// It keeps the connections of the client.
    _api_server: ApiServer,
}

impl Claims {
    /// Opens what the driver needs; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When there is no API server.
    pub(crate) fn open(config: Config) -> anyhow::Result<Self> {
        let api_server = ApiServer::in_cluster();
        let api_server =
            api_server.context("-dra reads claims from the API server, and this process has no service account")?;
        let client = api_server.client().context("cannot use the API server")?;
        Ok(Self { config, client, failures: status::failures(), _api_server: api_server })
    }

    /// Who may use a claim, for the injector.
    pub(crate) fn holders(&self) -> Arc<dyn ClaimHolders> {
        Arc::new(ApiHolders::new(self.client.clone(), self.config.node.clone()))
    }

    /// Where the injector reports why a device is not attached, for the claim's status.
    pub(crate) fn failures(&self) -> Failures {
        self.failures.0.clone()
    }

    /// The driver, and the task that writes the claims' status, until `shutdown`.
    ///
    /// # Errors
    ///
    /// None: a failure is repeated.
    pub(crate) async fn run(self, parts: Parts, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { config: Config { node, instance, paths }, client, failures: (failures, reported), _api_server } =
            self;
        let Parts { records, views, runtime, restored, metrics, events } = parts;
        let to = events.clone();
        let statuses = StatusSettings {
            node: node.clone(),
            records: records.clone(),
            views: views.clone(),
            client: client.clone(),
            unwritable: Arc::new(move |unwritable| report_unwritable(&to, unwritable)),
        };
        let statuses = status::run(statuses, reported, shutdown.clone());
        let (state, states) = watch::channel(RegistrationState::default());
        metrics.set_claims(states);
        let of_slices = slices::Settings::new(&node);
        metrics.set_slices(of_slices.stats.clone());
        let reporter = Arc::new(move |report: Report| {
            report_outcome(&events, &failures, &report);
            take(&metrics, &restored, report);
        });
        let runtime = Arc::new(move || runtime_state(runtime.as_ref()));
        let slices = slices::run(of_slices, client.clone(), views.clone(), shutdown.clone());
        let settings = Settings { node, instance, paths, records, views, client, runtime, reporter };
        tokio::join!(slices, dra::serve(settings, state, shutdown), statuses);
        Ok(())
    }
}

/// Says in an Event and in the claim's status why it is not prepared.
fn report_outcome(events: &Events, failures: &Failures, report: &Report) {
    match &report.outcome {
        Outcome::Prepared => failures.forget(report.claim.clone()),
        Outcome::Refused(message) => {
            failures.report(report.claim.clone(), Failure { device: None, message: message.clone() });
            if let Some(pod) = report.pod.clone() {
                let reason = format!("claim {}/{}: {message}", report.claim.namespace, report.claim.name);
                events.report(Occurrence::ClaimNotAttached { pod, reason });
            }
        }
        Outcome::Unprepared(_) | Outcome::NotUnprepared(_) => {}
    }
}

/// Says in an Event of the Pod that the API server does not take a status.
fn report_unwritable(events: &Events, Unwritable { claim, pod, reason }: Unwritable) {
    let Some(pod) = pod else { return };
    let claim = format!("{}/{}", claim.namespace, claim.name);
    events.report(Occurrence::ClaimStatusNotWritten { pod, claim, reason });
}

fn take(metrics: &Metrics, restored: &mpsc::UnboundedSender<InterfaceName>, report: Report) {
    match report.outcome {
        Outcome::Prepared => metrics.count_claim("prepare", "ok"),
        Outcome::Refused(_) => metrics.count_claim("prepare", "failed"),
        Outcome::NotUnprepared(_) => metrics.count_claim("unprepare", "failed"),
        Outcome::Unprepared(names) => {
            metrics.count_claim("unprepare", "ok");
            // the receiver is gone only while the agent ends
            names.into_iter().for_each(|name| _ = restored.send(name));
        }
    }
}

fn runtime_state(runtime: Option<&watch::Receiver<nri::ConnectionState>>) -> RuntimeState {
    let Some(runtime) = runtime else { return RuntimeState::Off };
    match &*runtime.borrow() {
        nri::ConnectionState::Active(_) => RuntimeState::Connected,
        nri::ConnectionState::Starting | nri::ConnectionState::Registering => {
            RuntimeState::Disconnected("not connected yet".into())
        }
        nri::ConnectionState::Disconnected(why) => RuntimeState::Disconnected(why.to_string()),
    }
}
