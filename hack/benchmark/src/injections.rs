//! Rows of the injector: what a Pod's sandbox takes with a device by annotation, and without any annotation, which every
//! Pod of the node pays.

use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nri::{
    PodSandbox,
    stand_in::{Failure, Listener, Peer, runtime},
};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    agent::Agent,
    bench::Bench,
    device::{Device, temporary},
    kernel::ip,
    process::{block_on, ms, timed},
    row::{Budget, Row},
    samples::Samples,
};

/// The runtime waits so long for a plugin to register.
const PATIENCE: Duration = Duration::from_secs(5);

/// Run and stop of a sandbox, beside the bare program on the same link in turn; and of one that asks for nothing.
pub(crate) fn injections(bench: &Bench) -> Result<Vec<Row>> {
    let folder = temporary()?;
    ip("link add veth9 type veth peer name peer9\nlink set dev peer9 up\n")?;
    let device = Device::new("veth9", 0, &folder)?;
    block_on(async {
        let (agent, peer) = connect(bench, &folder).await?;
        let (mut there, mut back) =
            ([Samples::default(), Samples::default()], [Samples::default(), Samples::default()]);
        let mut cpu = Samples::default();
        for round in 0..bench.runs(100, 12) {
            let before = agent.cpu()?;
            let pod = pod(&device, round, &device.annotation());
            for turn in [round % 2, 1 - round % 2] {
                let (run, stop) = if turn == 0 {
                    let run = answered(peer.run_pod_sandbox(&pod)).await?;
                    (run, answered(peer.stop_pod_sandbox(&pod)).await?)
                } else {
                    let attach = timed(&mut device.bare(bench, "attach"))?;
                    (ms(attach.wall), ms(timed(&mut device.bare(bench, "detach"))?.wall))
                };
                there[turn].push(run);
                back[turn].push(stop);
            }
            cpu.push(ms(agent.cpu()?.saturating_sub(before)));
        }
        let (mut plain, mut nothing) = (Samples::default(), Samples::default());
        for round in 0..bench.runs(2_000, 500) {
            plain.push(answered(peer.run_pod_sandbox(&pod(&device, round, ""))).await?);
            nothing.push(answered(async { peer.call("Shutdown", Vec::new()).await.map(drop) }).await?);
        }
        agent.stop()?;
        let row = |name: &str, [injector, bare]: &[Samples; 2]| {
            Row::new(name, "ms", injector).beside("bare", bare).budget(Budget::Ratio(1.15))
        };
        Ok(vec![
            row("RunPodSandbox with a device by annotation, veth", &there),
            row("StopPodSandbox of it", &back),
            Row::new("processor time of both, of the injector", "ms", &cpu).budget(Budget::Median(4.0)),
            Row::new("RunPodSandbox without an annotation", "ms", &plain)
                .beside("empty call", &nothing)
                .budget(Budget::P99(1.0)),
        ])
    })
}

/// An injector, registered with a stand-in of the runtime.
async fn connect(bench: &Bench, folder: &TempDir) -> Result<(Agent, Peer)> {
    let socket = folder.path().join("nri.sock");
    let listener = Listener::bind(&socket)?;
    let mut command = Command::new(&bench.programs.agent);
    command.arg0("network-device-injector").args(["-interfaces=^veth9$", "-admin-address=127.0.0.1:0", "-nri-socket"]);
    command.arg(&socket).arg("-state-dir").arg(folder.path().join("records"));
    command.arg("-pod-resources-socket").arg(folder.path().join("none.sock"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let agent = Agent::start(&mut command)?;
    let mut peer = timeout(PATIENCE, listener.accept()).await.context("the injector connects")??;
    timeout(PATIENCE, peer.start(runtime(), &[], &[])).await.context("the injector registers")??;
    Ok((agent, peer))
}

/// How long an answer takes, in milliseconds.
async fn answered(call: impl Future<Output = Result<(), Failure>>) -> Result<f64> {
    let began = Instant::now();
    call.await.map_err(|failure| anyhow!("the injector: {failure}"))?;
    Ok(ms(began.elapsed()))
}

fn pod(device: &Device, round: usize, annotation: &str) -> PodSandbox {
    let annotations = (!annotation.is_empty())
        .then(|| BTreeMap::from([("netdevices.nri.containerd.io".to_owned(), annotation.to_owned())]));
    PodSandbox {
        id: format!("sandbox-{round}"),
        name: format!("pod-{round}"),
        namespace: "default".into(),
        uid: format!("uid-{round}"),
        annotations: annotations.unwrap_or_default(),
        network_namespace: Some(device.namespace()),
        pid: None,
    }
}
