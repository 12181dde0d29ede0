//! Rows of `if-inject`: an interface of a Pod that runs, added and removed by a plugin, beside the plugin that is called by
//! hand with the same environment. In turn, timed inside the node.

use anyhow::{Context, Result, anyhow, ensure};
use e2e::{Node, PodSpec};

use crate::{
    bench::Bench,
    row::{Budget, Row},
    samples::Samples,
};

const CONFIGURATION: &str =
    r#"{"cniVersion":"1.0.0","name":"bench","type":"ptp","ipam":{"type":"host-local","subnet":"10.66.0.0/16"}}"#;

/// ADD and DEL of ptp with host-local.
pub(crate) fn networks(bench: &Bench) -> Result<Vec<Row>> {
    let node = Node::start("benchn");
    let pod = node.run_pod(PodSpec::new("bench")).map_err(|failure| anyhow!("{failure}"))?;
    node.write("/run/bench/ptp.json", CONFIGURATION);
    let program = bench.programs.netdevctl.to_string_lossy();
    // microseconds: ADD by hand, DEL by hand, add, del
    let script = format!(
        "ln -sf {program} /run/bench/if-inject
        namespace=$(/run/bench/if-inject netns -pod bench)
        timed() {{ local began=${{EPOCHREALTIME/./}}; \"$@\" >/run/bench/out || exit 1; took+=\" $((${{EPOCHREALTIME/./}} - began))\"; }}
        by_hand() {{
          CNI_COMMAND=$1 CNI_CONTAINERID={id} CNI_NETNS=$namespace CNI_IFNAME=net1 CNI_PATH=/opt/cni/bin \
            CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench' /opt/cni/bin/ptp < /run/bench/ptp.json
        }}
        for run in $(seq {runs}); do
          took=
          timed by_hand ADD
          timed by_hand DEL
          timed /run/bench/if-inject add -pod bench -spec /run/bench/ptp.json
          timed /run/bench/if-inject del -pod bench -spec /run/bench/ptp.json
          echo $took
        done",
        id = pod.id(),
        runs = bench.runs(60, 10)
    );
    let done = node.run(["bash", "-c", &script]);
    ensure!(done.success(), "{done}");
    let mut times = [const { Vec::new() }; 4];
    for line in done.text().lines() {
        let values: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        ensure!(values.len() == times.len(), "{line}");
        times.iter_mut().zip(values).for_each(|(times, value)| times.push(value / 1e3));
    }
    let [add_by_hand, del_by_hand, add, del] = times.map(|times| times.into_iter().collect::<Samples>());
    let row = |verb: &str, ours: &Samples, by_hand: &Samples| {
        let row = Row::new(format!("if-inject {verb}, ptp and host-local"), "ms", ours);
        row.beside("the plugin by hand", by_hand).budget(Budget::Ratio(1.10))
    };
    let rows = vec![row("add", &add, &add_by_hand), row("del", &del, &del_by_hand)];
    pod.stop().map_err(|failure| anyhow!("{failure}")).context("the pod does not stop")?;
    Ok(rows)
}
