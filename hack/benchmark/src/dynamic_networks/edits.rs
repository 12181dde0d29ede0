//! An edit of the annotation of a Pod that runs: how soon its interface is there, beside the plugin that is called by hand for
//! the same, in turn; and what the API server is asked for it.
//!
//! Both are timed until the kernel reports the link in the Pod's namespace (RTM_NEWLINK with its name; RTM_DELLINK). By hand
//! the time begins when the plugin is started. Their difference is what everything else takes: the API server's event, the
//! controller, the runtime's answers.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use rtnl::message::kind;
use store::Namespace;

use super::{
    audit::Requests,
    cluster::{Cluster, NETWORK, RunningAgent, configuration, one},
    watcher::Traffic,
};
use crate::{
    listener::LinkEvent,
    process::ms,
    row::{Budget, Row},
    samples::Samples,
};

const POD: &str = "bench";
/// The interface that the plugin makes when it is called by hand.
const BY_HAND: &str = "byhand";
/// Edits whose requests are counted: their Events are fewer than are posted at once.
const COUNTED: usize = 20;

/// What an edit costs the API server.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) requests: Requests,
    pub(super) watched: Traffic,
}

/// The Pod that is edited.
struct Edited<'a> {
    cluster: &'a Cluster<'a>,
    namespace: Namespace,
    /// In the node.
    path: String,
}

/// How long one direction took.
#[derive(Debug, Default)]
struct Direction {
    /// From the start of the plugin by hand to the kernel's report, and to its end.
    by_hand: Samples,
    whole_plugin: Samples,
    /// From the answer to the edit to the kernel's report.
    edited: Samples,
    /// The same less the plugin, and from the moment in which the edit was sent.
    rest: Samples,
    rest_since_sent: Samples,
}

pub(super) fn edits(cluster: &Cluster<'_>) -> Result<(Vec<Row>, Edit)> {
    let node = &cluster.node;
    let _pod = node.networked_pod(POD, "");
    let program = cluster.bench.programs.netdevctl.to_string_lossy();
    let script =
        format!("mkdir -p /run/bench; ln -sf {program} /run/bench/if-inject; /run/bench/if-inject netns -pod {POD}");
    let path = node.run(["sh", "-ec", &script]).text().to_owned();
    // /var/run is an absolute link, which would lead out of the node
    let outside = format!("/proc/{}/root{}", node.init_pid(), path.strip_prefix("/var").unwrap_or(&path));
    let namespace = Namespace::open(&outside).context(outside)?;
    node.write("/run/bench/macvlan.json", &configuration().to_string());
    let edited = Edited { cluster, namespace, path };

    let agent = cluster.start_controller(node.name())?;
    let edit = edited.count()?;
    let (mut add, mut remove, mut cpu) = (Direction::default(), Direction::default(), Samples::default());
    for run in 0..cluster.bench.runs(200, 20) {
        edited.measure(run, &agent, &mut add, &mut remove, &mut cpu)?;
    }
    agent.stop();
    let mut rows = add.rows("edited → interface in the Pod");
    rows.extend(remove.rows("edited → interface gone"));
    rows.push(Row::new("CPU of the agent for an edit, without the plugin", "ms", &cpu));
    let requests = &edit.requests;
    let of_edit = format!("API requests for an edit: {}", requests.describe());
    rows.push(Row::one(of_edit, "", requests.sum()));
    rows.push(Row::one("API events for an edit, to each watcher of the Pod", "", edit.watched.events));
    rows.push(Row::one("the same, as metadata", "kB", edit.watched.bytes / 1e3));
    Ok((rows, edit))
}

impl Direction {
    fn rows(&self, what: &str) -> Vec<Row> {
        let plugin = format!("the plugin by hand, of {:.1} in all,", self.whole_plugin.median());
        // the controller may have its event before the one who edits has the answer
        let budget = |row: Row| row.budget(Budget::MedianAndP99(50.0, 300.0));
        vec![
            Row::new(format!("annotation {what}, macvlan"), "ms", &self.edited).beside(&plugin, &self.by_hand),
            budget(Row::new("the same without the plugin", "ms", &self.rest)),
            budget(Row::new("the same, from the moment in which the edit is sent", "ms", &self.rest_since_sent)),
        ]
    }

    fn push(
        &mut self,
        (started, ended, by_hand): (Instant, Instant, Instant),
        times: super::proxy::Times,
        at: Instant,
    ) {
        let plugin = signed(started, by_hand);
        self.by_hand.push(plugin);
        self.whole_plugin.push(signed(started, ended));
        let edited = signed(times.answered, at);
        self.edited.push(edited);
        self.rest.push(edited - plugin);
        self.rest_since_sent.push(signed(times.sent, at) - plugin);
    }
}

/// Milliseconds; less than none if the second moment is the earlier one.
fn signed(from: Instant, to: Instant) -> f64 {
    ms(to.saturating_duration_since(from)) - ms(from.saturating_duration_since(to))
}

impl Edited<'_> {
    /// An interface by hand and by an edit, added and removed.
    fn measure(
        &self,
        run: usize,
        agent: &RunningAgent,
        add: &mut Direction,
        remove: &mut Direction,
        cpu: &mut Samples,
    ) -> Result<()> {
        let interface = format!("b{run}");
        let added_by_hand = self.by_hand("ADD", kind::NEWLINK)?;
        let removed_by_hand = self.by_hand("DEL", kind::DELLINK)?;
        let before = agent.cpu()?;
        let event = LinkEvent::begin(&self.namespace, kind::NEWLINK, &interface)?;
        let times = self.cluster.edit(POD, Some(&one(&interface)))?;
        add.push(added_by_hand, times, event.wait()?);
        self.cluster.wait_for_status(POD, &[&interface])?;
        let event = LinkEvent::begin(&self.namespace, kind::DELLINK, &interface)?;
        let times = self.cluster.edit(POD, None)?;
        remove.push(removed_by_hand, times, event.wait()?);
        self.cluster.wait_for_status(POD, &[])?;
        cpu.push(ms(agent.cpu()?.saturating_sub(before)) / 2.0);
        Ok(())
    }

    /// When the plugin was started, when it ended, and when the kernel reported its link.
    fn by_hand(&self, verb: &str, kind: u16) -> Result<(Instant, Instant, Instant)> {
        let script = format!(
            "export CNI_COMMAND={verb} CNI_CONTAINERID=bench-by-hand CNI_NETNS={path} CNI_IFNAME={BY_HAND} CNI_PATH=/opt/cni/bin
            export CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={POD}'
            began=$EPOCHREALTIME; /opt/cni/bin/macvlan </run/bench/macvlan.json >/dev/null || exit 1
            echo $began $EPOCHREALTIME",
            path = self.path,
        );
        let event = LinkEvent::begin(&self.namespace, kind, BY_HAND)?;
        let done = self.cluster.node.run(["bash", "-c", &script]);
        let (now, clock) = (Instant::now(), SystemTime::now());
        ensure!(done.success(), "{done}");
        let (began, ended) = done.text().split_once(' ').context("two times")?;
        let moment = |text: &str| -> Result<Instant> {
            let since = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(text.parse()?);
            now.checked_sub(clock.duration_since(since)?).context("it was after the start of this machine")
        };
        Ok((moment(began)?, moment(ended)?, event.wait()?))
    }

    /// What edits cost the API server.
    fn count(&self) -> Result<Edit> {
        let watcher = self.cluster.watch_pods(self.cluster.node.name())?;
        self.cluster.audit.settle()?;
        let (position, before) = (self.cluster.audit.position()?, watcher.traffic());
        for number in 0..COUNTED / 2 {
            let interface = format!("c{number}");
            self.cluster.edit(POD, Some(&one(&interface)))?;
            self.cluster.wait_for_status(POD, &[&interface])?;
            self.cluster.edit(POD, None)?;
            self.cluster.wait_for_status(POD, &[])?;
        }
        self.cluster.audit.settle()?;
        let (requests, watched) = (self.cluster.audit.since(position)?, watcher.traffic().since(before));
        ensure!(requests.of("patch pods/status") > 0.0, "{NETWORK}: nothing was counted");
        Ok(Edit { requests: requests.per(COUNTED as f64), watched: watched.per(COUNTED as f64) })
    }
}
