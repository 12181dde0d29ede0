//! Rows on a real node and a real cluster: what a container's start takes, and what a kubelet's restart does.

use std::{
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use e2e::{Action, ContainerSpec, Kind, Node, PodSpec};
use serde_json::json;

use crate::{
    agent::RESOURCE,
    bench::Bench,
    process::ms,
    row::{Budget, Row},
    samples::Samples,
};

/// What the devices of containers have.
const CONFIGURE: &str = "ip address add 10.66.0.2/24 dev d0 && ip address add fd66::2/64 dev d0 nodad && \
    ip link set d0 up && ip route add 10.77.0.0/24 via 10.66.0.1 && ip route add fd77::/64 via fd66::1";

/// Create and start through CRI with one device and without one, in turn, for runc and for crun.
pub(crate) fn containers(bench: &Bench) -> Result<Vec<Row>> {
    let node = Node::start("bench");
    let hook = bench.programs.hook.to_string_lossy();
    node.run(["sh", "-c", &format!("ip link add d0 type ifb && {CONFIGURE}")]).text();
    let edit = |stage: &str, verb: &str| json!({"hookName": stage, "path": hook, "args": ["netdevice-hook", verb, format!("{RESOURCE}=d0")]});
    let hooks = [edit("createRuntime", "attach"), edit("poststop", "detach")];
    let document = json!({"cdiVersion": "0.5.0", "kind": RESOURCE,
        "devices": [{"name": "d0", "containerEdits": {"hooks": hooks}}]});
    node.write("/etc/cdi/bench.json", &document.to_string());
    let mut rows = Vec::new();
    for handler in ["runc", "crun"] {
        let (mut with, mut without, mut more) = (Samples::default(), Samples::default(), Samples::default());
        let failed = |failure: e2e::Failure| anyhow!("{handler}: {failure}");
        let pod = node.run_pod(PodSpec::new(&format!("bench-{handler}")).handler(handler)).map_err(failed)?;
        for round in 0..bench.runs(60, 5) {
            let mut times = [0.0; 2];
            for turn in [round % 2, 1 - round % 2] {
                let attempt = u32::try_from(2 * round + turn)?;
                let plain = ContainerSpec::new("c").attempt(attempt);
                let spec = if turn == 0 { plain.cdi_device(&format!("{RESOURCE}=d0")) } else { plain };
                let container = pod.create(&spec).map_err(failed)?;
                let began = Instant::now();
                container.start().map_err(failed)?;
                times[turn] = ms(began.elapsed());
                container.stop().map_err(failed)?;
                container.remove().map_err(failed)?;
            }
            with.push(times[0]);
            without.push(times[1]);
            more.push(times[0] - times[1]);
        }
        pod.stop().map_err(failed)?;
        pod.remove().map_err(failed)?;
        let floor = floor(bench, &node)?;
        rows.push(Row::new(format!("StartContainer by crictl, no device, {handler}"), "ms", &without));
        rows.push(Row::new(format!("StartContainer by crictl, one device, {handler}"), "ms", &with));
        rows.push(
            Row::new(format!("one device more, {handler}"), "ms", &more)
                .beside("bare attach", &floor)
                .budget(Budget::Ratio(1.25))
                .quoted(if handler == "runc" {
                    "original +22.5; two /bin/true +2.5"
                } else {
                    "original +24.1; two /bin/true +4.0"
                }),
        );
    }
    Ok(rows)
}

/// The bare program on the node's device, timed inside the node.
fn floor(bench: &Bench, node: &Node) -> Result<Samples> {
    let bare = bench.programs.bare_move.to_string_lossy();
    let more = "10.66.0.2/24 fd66::2/64 10.77.0.0/24=10.66.0.1 fd77::/64=fd66::1";
    let script = format!(
        "unshare --net sleep 1000 & sleep 0.3; sandbox=/proc/$!/ns/net; index=$(cat /sys/class/net/d0/ifindex)
        for run in $(seq {}); do
          began=${{EPOCHREALTIME/./}}
          {bare} attach $index d0 $sandbox {more} || exit 1
          echo $((${{EPOCHREALTIME/./}} - began))
          {bare} detach $index d0 $sandbox {more} || exit 1
        done
        kill $!",
        bench.runs(40, 10)
    );
    let done = node.run(["bash", "-c", &script]);
    ensure!(done.success(), "{done}");
    done.text().lines().map(|line| Ok(line.parse::<f64>()? / 1e3)).collect()
}

/// The real kubelet is restarted; the Node is looked at ten times a second.
pub(crate) fn kubelet(bench: &Bench) -> Result<Vec<Row>> {
    let node = Node::start_as("benchk", Kind::Cluster);
    node.run(["sh", "-c", "for n in 0 1 2 3; do ip link add d$n type ifb && ip link set d$n up; done"]).text();
    let program = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let agent = node.spawn([
        program(&bench.programs.agent),
        "-interfaces=^d[0-9]".into(),
        "-hook-source".into(),
        program(&bench.programs.hook),
    ]);
    let resource = RESOURCE.replace('.', "\\.");
    let path = format!("jsonpath={{.status.allocatable.{resource}}}");
    let said = || node.kubectl(&["get", "node", node.name(), "-o", &path]).stdout;
    e2e::wait_for("the Node has four devices", said, |count| count == "4");
    let _proxy = node.spawn(["kubectl", "proxy", "--port=8009"]);
    let look = format!(
        "while sleep 0.1; do busybox wget -q -T 2 -O - http://127.0.0.1:8009/api/v1/nodes/{} | tr -d ' \\n' | \
        sed -n 's|.*\"allocatable\":{{\\([^}}]*\\)}}.*|\\1|p' | grep -o '{RESOURCE}\":\"[0-9]*' || echo gone; done",
        node.name()
    );
    let looks = node.spawn(["sh", "-c", &look]);
    looks.wait_for_output(&format!("{RESOURCE}\":\"4"));
    let before = looks.output().lines().count();
    let mut again = Samples::default();
    for _ in 0..bench.runs(20, 3) {
        let told = agent.output().matches(REGISTERED).count();
        node.kubelet(Action::Restart);
        let is_again = || agent.output().matches(REGISTERED).count() > told;
        e2e::wait_for("it is registered again", is_again, |again| *again);
        let socket = std::fs::metadata(node.path("/var/lib/kubelet/device-plugins/kubelet.sock"))?;
        let born = socket.mtime() as f64 + socket.mtime_nsec() as f64 / 1e9;
        let output = agent.output();
        let line = output.lines().rfind(|line| line.contains(REGISTERED)).context("it was waited for")?;
        again.push((seconds_of_day(line)? - born.rem_euclid(86_400.0)) * 1e3);
        std::thread::sleep(Duration::from_secs(2));
    }
    let output = looks.output();
    let seen: Vec<&str> = output.lines().skip(before).collect();
    let gaps = seen.iter().filter(|line| !line.ends_with(":\"4")).count();
    let looks = seen.len();
    Ok(vec![
        Row::new("kubelet (real) restarted: its socket → registered", "ms", &again).budget(Budget::P99(50.0)),
        Row::one(format!("the same: looks at the Node without the resource, of {looks}"), "", gaps as f64)
            .budget(Budget::Most(0.0)),
    ])
}

const REGISTERED: &str = "registered with the kubelet";

/// The time of a log line, `2026-11-21T13:14:15.123456Z ...`, in seconds since midnight.
fn seconds_of_day(line: &str) -> Result<f64> {
    let (_, time) = line.split_once('T').context("a time")?;
    let (time, _) = time.split_once('Z').context("UTC")?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut next = || parts.next().context("hours, minutes, seconds")?.context("a number");
    Ok(next()? * 3600.0 + next()? * 60.0 + next()?)
}
