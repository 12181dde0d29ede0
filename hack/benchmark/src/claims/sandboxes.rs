//! Prepare, called as the kubelet does at the driver's socket; and the start of a sandbox with a claim, reported as a runtime does,
//! beside the bare program that moves the same device, and beside the bare kernel call that creates a macvlan.
//!
//! API server, agent and kernel are real. The claims are allocated by hand, and the sandboxes are network namespaces of the node.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use e2e::DRIVER_SOCKETS;
use nri::{
    PodSandbox,
    stand_in::{Failure, Listener, Peer, runtime},
};
use proto::dra::{
    self, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest, dra_plugin_client::DraPluginClient,
};
use serde_json::json;
use store::Namespace;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::{
    cluster::{Cluster, DEVICES, SELECTED},
    objects::{PreparedPod, pod_with_claim},
};
use crate::{
    device::temporary,
    kernel::Kernel,
    process::{block_on, ms},
    row::{Budget, Row},
    samples::Samples,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// What an earlier run leads to is over by then.
const SETTLE: Duration = Duration::from_millis(150);
/// What the moved device has on the node, and in the Pod.
const CONFIGURE: &str = "ip address add 10.66.0.2/24 dev d0 && ip address add fd66::2/64 dev d0 nodad && \
    ip route add 10.77.0.0/24 via 10.66.0.1 && ip route add fd77::/64 via fd66::1 && \
    ip netns add benchmove && ip netns add benchmacvlan";
const BARE: &str = "10.66.0.2/24 fd66::2/64 10.77.0.0/24=10.66.0.1 fd77::/64=fd66::1";

/// The driver's client in the kubelet.
struct Kubelet {
    client: DraPluginClient<Channel>,
    /// The path of the socket itself may be too long.
    _link: TempDir,
}

pub(super) fn rows(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    cluster.node.run(["sh", "-ec", CONFIGURE]).text();
    block_on(async {
        cluster.node.write("/run/bench/about", "sockets of the benchmark\n");
        let listener = Listener::bind(&cluster.node.path("/run/bench/nri.sock"))?;
        let agent = cluster.start_agent(&[SELECTED, "-nri-socket=/run/bench/nri.sock"]);
        let mut peer = timeout(PATIENCE, listener.accept()).await.context("the agent connects")??;
        timeout(PATIENCE, peer.start(runtime(), &[], &[])).await.context("the agent registers")??;
        cluster.wait_until_publishing(&agent, DEVICES)?;
        let mut kubelet = Kubelet::connect(cluster).await?;
        let moved = pod_with_claim(cluster, "benchmove", "d0", None)?;
        let created = json!({"name": "net1", "create": {"kind": "macvlan"}});
        let created = pod_with_claim(cluster, "benchmacvlan", "d1", Some(created))?;
        let mut rows = prepare(cluster, &mut kubelet, &moved).await?;
        kubelet.prepare(&created.claim).await?;
        rows.extend(sandboxes(cluster, &peer, &moved, &created).await?);
        kubelet.unprepare(&moved.claim).await?;
        kubelet.unprepare(&created.claim).await?;
        agent.stop();
        cluster.node.delete(&["pod/benchmove", "pod/benchmacvlan", "--grace-period=0", "--force"]);
        cluster.node.delete(&["resourceclaim/benchmove", "resourceclaim/benchmacvlan"]);
        Ok(rows)
    })
}

impl Kubelet {
    async fn connect(cluster: &Cluster<'_>) -> Result<Self> {
        let link = temporary()?;
        let path = link.path().join("d");
        symlink(cluster.node.path(DRIVER_SOCKETS), &path)?;
        let channel = kubelet::connect(&path.join("dra.sock"), PATIENCE).await.context("the driver's socket")?;
        Ok(Self { client: DraPluginClient::new(channel), _link: link })
    }

    /// How long it took, in milliseconds.
    async fn prepare(&mut self, claim: &dra::Claim) -> Result<f64> {
        let request = NodePrepareResourcesRequest { claims: vec![claim.clone()] };
        let began = Instant::now();
        let answer = self.client.node_prepare_resources(request).await?.into_inner();
        let took = ms(began.elapsed());
        let prepared = answer.claims.get(&claim.uid).context("an answer for the claim")?;
        ensure!(prepared.error.is_empty() && prepared.devices.len() == 1, "{}", prepared.error);
        Ok(took)
    }

    async fn unprepare(&mut self, claim: &dra::Claim) -> Result<f64> {
        let request = NodeUnprepareResourcesRequest { claims: vec![claim.clone()] };
        let began = Instant::now();
        let answer = self.client.node_unprepare_resources(request).await?.into_inner();
        let took = ms(began.elapsed());
        let unprepared = answer.claims.get(&claim.uid).context("an answer for the claim")?;
        ensure!(unprepared.error.is_empty(), "{}", unprepared.error);
        Ok(took)
    }

    /// A call without a claim.
    async fn nothing(&mut self) -> Result<f64> {
        let began = Instant::now();
        self.client.node_prepare_resources(NodePrepareResourcesRequest { claims: Vec::new() }).await?;
        Ok(ms(began.elapsed()))
    }
}

/// Prepare and Unprepare in turn. The last one is Prepare.
async fn prepare(cluster: &Cluster<'_>, kubelet: &mut Kubelet, pod: &PreparedPod) -> Result<Vec<Row>> {
    let (mut first, mut again, mut unprepared, mut nothing) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    let runs = cluster.bench.runs(200, 20);
    // connections are opened
    kubelet.prepare(&pod.claim).await?;
    kubelet.unprepare(&pod.claim).await?;
    cluster.audit.settle()?;
    let position = cluster.audit.position()?;
    for _ in 0..runs {
        nothing.push(kubelet.nothing().await?);
        first.push(kubelet.prepare(&pod.claim).await?);
        again.push(kubelet.prepare(&pod.claim).await?);
        unprepared.push(kubelet.unprepare(&pod.claim).await?);
    }
    cluster.audit.settle()?;
    let requests = cluster.audit.since(position)?.per(2.0 * runs as f64);
    kubelet.prepare(&pod.claim).await?;
    Ok(vec![
        Row::new("NodePrepareResources of a claim with one device", "ms", &first)
            .beside("empty call", &nothing)
            .budget(Budget::Median(5.0)),
        Row::new("the same, prepared already", "ms", &again).beside("empty call", &nothing),
        Row::new("NodeUnprepareResources of it", "ms", &unprepared).beside("empty call", &nothing),
        Row::one(format!("API requests for a Prepare: {}", requests.describe()), "", requests.sum()),
    ])
}

/// Run and stop of a sandbox whose claim has a device that is moved, and of one with a macvlan; and what both are compared with.
async fn sandboxes(cluster: &Cluster<'_>, peer: &Peer, moved: &PreparedPod, created: &PreparedPod) -> Result<Vec<Row>> {
    let mut floor = Floor::open(cluster)?;
    let (mut run, mut stop, mut bare_run, mut bare_stop) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    let runs = cluster.bench.runs(100, 12);
    for round in 0..runs {
        for turn in [round % 2, 1 - round % 2] {
            if turn == 0 {
                let sandbox = sandbox(moved, round);
                run.push(answered(peer.run_pod_sandbox(&sandbox)).await?);
                floor.check("benchmove", "d0")?;
                stop.push(answered(peer.stop_pod_sandbox(&sandbox)).await?);
            } else {
                let [attach, detach] = floor.bare_move()?;
                bare_run.push(attach);
                bare_stop.push(detach);
            }
            // for the agent the bare program's device was gone: it has published that before the next one
            sleep(SETTLE).await;
        }
    }
    let (mut macvlan, mut call, mut more) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..runs {
        let sandbox = sandbox(created, round);
        let ours = answered(peer.run_pod_sandbox(&sandbox)).await?;
        floor.check("benchmacvlan", "net1")?;
        answered(peer.stop_pod_sandbox(&sandbox)).await?;
        let kernel = floor.macvlan()?;
        macvlan.push(ours);
        call.push(kernel);
        more.push(ours - kernel);
        sleep(SETTLE).await;
    }
    Ok(vec![
        Row::new("RunPodSandbox with a claim, one device moved", "ms", &run)
            .beside("bare", &bare_run)
            .budget(Budget::Ratio(1.15)),
        Row::new("StopPodSandbox of it", "ms", &stop).beside("bare", &bare_stop),
        Row::new("RunPodSandbox with a claim, a macvlan created", "ms", &macvlan).beside("one moved", &run),
        Row::new("the same, more than the kernel's call", "ms", &more)
            .beside("the call", &call)
            .budget(Budget::Median(1.5)),
    ])
}

/// What the kernel itself takes.
struct Floor<'c> {
    cluster: &'c Cluster<'c>,
    kernel: Kernel,
    parent: u32,
    /// The network namespace for macvlans, and a socket there.
    target: OwnedFd,
    inside: Kernel,
}

impl<'c> Floor<'c> {
    fn open(cluster: &'c Cluster<'c>) -> Result<Self> {
        let index = cluster.node.run(["cat", "/sys/class/net/d1/ifindex"]);
        let target = File::open(namespace(cluster, "benchmacvlan"))?;
        let inside = link::run_inside(&Namespace::open(namespace(cluster, "benchmacvlan"))?, Kernel::open)??;
        Ok(Self { cluster, kernel: cluster.kernel()?, parent: index.text().parse()?, target: target.into(), inside })
    }

    /// The bare program there and back, timed inside the node.
    fn bare_move(&self) -> Result<[f64; 2]> {
        let bare = self.cluster.bench.programs.bare_move.to_string_lossy();
        let script = format!(
            "index=$(cat /sys/class/net/d0/ifindex); sandbox=/run/netns/benchmove
            began=${{EPOCHREALTIME/./}}
            {bare} attach $index d0 $sandbox {BARE} || exit 1
            there=${{EPOCHREALTIME/./}}
            {bare} detach $index d0 $sandbox {BARE} || exit 1
            echo $((there - began)) $((${{EPOCHREALTIME/./}} - there))"
        );
        let done = self.cluster.node.run(["bash", "-c", &script]);
        ensure!(done.success(), "{done}");
        let (attach, detach) = done.text().split_once(' ').context("two times")?;
        Ok([attach.parse::<f64>()? / 1e3, detach.parse::<f64>()? / 1e3])
    }

    /// One call creates a macvlan in the other namespace.
    fn macvlan(&mut self) -> Result<f64> {
        let began = Instant::now();
        self.kernel.add_macvlan("bare", self.parent, &self.target)?;
        let took = ms(began.elapsed());
        self.inside.delete("bare")?;
        Ok(took)
    }

    /// The device is in the sandbox.
    fn check(&self, namespace: &str, interface: &str) -> Result<()> {
        let found = self.cluster.node.run(["ip", "-n", namespace, "link", "show", "dev", interface]);
        ensure!(found.success(), "{interface} is not in {namespace}: {found}");
        Ok(())
    }
}

/// A network namespace of the node, as this process sees it.
fn namespace(cluster: &Cluster<'_>, name: &str) -> String {
    format!("/proc/{}/root/run/netns/{name}", cluster.node.init_pid())
}

/// How long an answer takes, in milliseconds.
async fn answered(call: impl Future<Output = Result<(), Failure>>) -> Result<f64> {
    let began = Instant::now();
    call.await.map_err(|failure| anyhow!("the agent: {failure}"))?;
    Ok(ms(began.elapsed()))
}

fn sandbox(pod: &PreparedPod, round: usize) -> PodSandbox {
    PodSandbox {
        id: format!("sandbox-{}-{round}", pod.name),
        name: pod.name.clone(),
        namespace: "default".into(),
        uid: pod.uid.clone(),
        annotations: std::collections::BTreeMap::new(),
        network_namespace: Some(Path::new("/run/netns").join(&pod.name).to_string_lossy().into_owned()),
        pid: None,
    }
}
