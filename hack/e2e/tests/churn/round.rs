//! One round on the node: Pods begin, somebody dies, Pods end, every device is home.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use e2e::{Action, HOOK_LOG, Node, wait_for};

use crate::agents::Agents;
use crate::check::{Picture, shims};
use crate::fleet::{SHAPES, make};
use crate::hunter::Hunter;
use crate::life::Life;
use crate::schedule::{Fault, Moment, Round, Verb};
use crate::tally::Tally;

/// How long after the last Pod's end everything may be on its way.
const PATIENCE: Duration = Duration::from_secs(30);

/// The node, the agent and the figures, over all rounds.
pub(crate) struct Churn<'n> {
    node: &'n Node,
    agents: Agents<'n>,
    hunter: Hunter,
    before: Picture,
    /// Whether nothing is on its way from the round before.
    is_calm: bool,
    pub(crate) tally: Tally,
}

impl<'n> Churn<'n> {
    /// Makes the fleet and begins the agent.
    pub(crate) fn begin(node: &'n Node) -> Self {
        // the first Pod of a node makes CNI's bridge
        let first = node.run_pod(e2e::PodSpec::new("first")).expect("a Pod");
        first.stop().and_then(|()| first.remove()).expect("the Pod goes");
        SHAPES.iter().for_each(|shape| make(node, shape));
        let mut agents = Agents::new(node);
        agents.begin();
        agents.wait_until_offered(&SHAPES.map(|shape| shape.name));
        let hunter = Hunter::new(agents.pid());
        Self { node, agents, hunter, before: Picture::settled(node), is_calm: true, tally: Tally::new() }
    }

    /// One round, from calm to calm; a hurried one leaves what is on its way to the next.
    pub(crate) fn run(&mut self, round: &Round) {
        *self.tally.faults.entry(round.fault.kind()).or_default() += 1;
        self.tally.rounds += 1;
        self.tally.pods += round.pods.len();
        self.tally.containers += round.pods.iter().map(|pod| pod.containers.len()).sum::<usize>();
        let node = self.node;
        let mut lives: Vec<Life<'n>> = thread::scope(|scope| {
            let name = |at: usize| format!("p{}-{at}", round.number);
            let begin = |(at, plan)| scope.spawn(move || Life::begin(node, &name(at), plan));
            let begun: Vec<_> = round.pods.iter().enumerate().map(begin).collect();
            begun.into_iter().map(joined).collect()
        });
        self.start(round, &mut lives);
        if round.looks_inside && !spoils_starting(round.fault) {
            lives.iter().for_each(Life::assert_complete);
        }
        lives.iter().for_each(Life::act);
        let leaked = self.strike(round, &lives);
        if matches!(round.fault, Fault::Nothing | Fault::AgentKilled(_) | Fault::AgentReplaced(_)) {
            lives.iter_mut().for_each(|life| life.restart().unwrap_or_else(|error| panic!("it starts again: {error}")));
        }
        self.meanwhile(round, (Moment::Ending, Verb::Detach), &mut lives, Life::end);
        self.after(round, &leaked);
    }

    /// Starts the containers of all Pods at once.
    fn start(&mut self, round: &Round, lives: &mut [Life<'n>]) {
        if is_without_agent(round.fault) {
            self.agents.kill();
        }
        let results = self.meanwhile(round, (Moment::Starting, Verb::Attach), lives, Life::start);
        for (life, result) in lives.iter_mut().zip(results) {
            let Err(error) = result else { continue };
            assert!(spoils_starting(round.fault), "a container does not start: {error}");
            self.tally.refused += 1;
            // half of the time it is tried again in the same Pod, as a kubelet does
            if round.after.as_micros().is_multiple_of(2)
                && !matches!(round.fault, Fault::ContainerdKilled(_) | Fault::AgentAndContainerdKilled(_))
            {
                life.start().unwrap_or_else(|error| panic!("it does not start after its hook was killed: {error}"));
            }
        }
    }

    /// Does something to all Pods at once, and what the fault wants of this moment.
    fn meanwhile<T: Send>(
        &mut self,
        round: &Round,
        (moment, verb): (Moment, Verb),
        lives: &mut [Life<'n>],
        act: fn(&mut Life<'n>) -> T,
    ) -> Vec<T> {
        let Self { node, agents, hunter, .. } = self;
        let enough = AtomicBool::new(false);
        let (results, struck) = thread::scope(|scope| {
            let acting: Vec<_> = lives.iter_mut().map(|life| scope.spawn(move || act(life))).collect();
            let hunts = matches!(round.fault, Fault::HookKilled(of) | Fault::HookKilledAgentAway(of) if of == verb);
            let hunting = hunts.then(|| scope.spawn(|| hunter.kill_one(verb, round.after, &enough)));
            strike_node(node, agents, round, moment);
            let results: Vec<T> = acting.into_iter().map(joined).collect();
            enough.store(true, Ordering::Relaxed);
            (results, hunting.map(joined))
        });
        if struck == Some(false) {
            *self.tally.missed.entry(round.fault.kind()).or_default() += 1;
        }
        results
    }

    /// Faults while the containers run. The first Pod is the victim. What is left running is returned.
    fn strike(&mut self, round: &Round, lives: &[Life<'n>]) -> Vec<u64> {
        strike_node(self.node, &mut self.agents, round, Moment::Running);
        let Some(victim) = lives.first() else { return Vec::new() };
        match round.fault {
            Fault::ContainerdAway => {
                let mut processes = victim.processes();
                if round.after.as_micros().is_multiple_of(2) {
                    processes.pop();
                }
                self.node.containerd(Action::Stop);
                self.kill(&processes);
                self.node.containerd(Action::Start);
            }
            Fault::ContainerKilled => {
                let mut processes = victim.processes();
                processes.pop();
                self.kill(&processes);
            }
            Fault::PauseKilled => {
                let mut processes = victim.processes();
                processes.reverse();
                self.kill(&processes);
            }
            Fault::ShimKilled | Fault::ShimKilledAgentAway => {
                let mut processes = victim.processes();
                self.kill_shim(victim);
                let pause = processes.pop();
                self.kill(&processes);
                return pause.into_iter().collect();
            }
            Fault::ShimKilledContainersLeaked => {
                let processes = victim.processes();
                self.kill_shim(victim);
                return processes;
            }
            Fault::EverybodyKilled | Fault::EverybodyKilledAgentLate => {
                let processes = victim.processes();
                self.kill_shim(victim);
                self.kill(&processes);
                if round.fault == Fault::EverybodyKilled {
                    self.agents.begin();
                    let devices = victim.members.iter().flat_map(|member| &member.plan.devices);
                    let records = || devices.clone().any(|device| self.record(*device).exists());
                    wait_for("the devices are home before the Pod is removed", records, |any| !any);
                }
            }
            Fault::ProcessLeaked => {
                let script = format!(
                    "nsenter --net=/proc/{}/ns/net setsid sleep 1000000 </dev/null >/dev/null 2>&1 & echo $!",
                    victim.pause
                );
                return self.node.sh(&script).text().parse().into_iter().collect();
            }
            _ => {}
        }
        Vec::new()
    }

    fn record(&self, device: usize) -> std::path::PathBuf {
        self.node.path(&format!("/run/netdevice/{}.json", SHAPES[device].name))
    }

    fn kill_shim(&self, victim: &Life<'n>) {
        self.node.sh(&format!("kill -KILL $(pgrep -f '[c]ontainerd-shim.* -id {}')", victim.pod.id()));
    }

    /// Kills processes of the node; those that have ended already are no matter.
    fn kill(&self, pids: &[u64]) {
        let all = pids.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        self.node.sh(&format!(
            "for pid in {all}; do
                kill -KILL $pid 2>/dev/null || :
                while grep -qs '^State:.[^ZX]' /proc/$pid/status; do sleep 0.01; done
            done"
        ));
    }

    /// Everything is as it was, or the next round begins.
    fn after(&mut self, round: &Round, leaked: &[u64]) {
        if round.fault == Fault::ProcessLeaked {
            // the namespace lives on, and the devices have left it
            for device in round.devices() {
                wait_for("its record ends", || self.record(device).exists(), |there| !there);
            }
        }
        self.kill(leaked);
        self.agents.begin();
        self.is_calm = !round.hurried;
        if self.is_calm {
            self.assert_calm(round);
        }
    }

    #[track_caller]
    fn assert_calm(&mut self, round: &Round) {
        if let Err(differences) = self.before.wait_for_return(self.node, PATIENCE) {
            let journal = std::fs::read_to_string(self.node.path(HOOK_LOG)).unwrap_or_default();
            let mut journal: Vec<&str> = journal.lines().rev().take(12).collect();
            journal.reverse();
            panic!("not as it was after {round:#?}\n{differences}\n{}\n{}", journal.join("\n"), self.agents.log());
        }
    }

    /// The figures, at the end.
    pub(crate) fn finish(mut self) -> Tally {
        self.tally.shims = shims(self.node);
        self.tally.agents = self.agents.begun;
        self.tally.deeds = self.agents.deeds();
        self.tally.read_journal(self.node);
        let lost = self.tally.deeds.lost + lost_by_hooks(self.node);
        assert_eq!(lost, 0, "no device is lost\n{}", self.tally);
        self.tally
    }
}

/// How many devices hooks told to be lost.
fn lost_by_hooks(node: &Node) -> usize {
    let journals = [HOOK_LOG.to_owned(), format!("{HOOK_LOG}.1")].map(|file| std::fs::read_to_string(node.path(&file)));
    journals.into_iter().flatten().map(|journal| journal.matches(r#""outcome":"lost""#).count()).sum()
}

/// Faults of the node's programs.
fn strike_node(node: &Node, agents: &mut Agents<'_>, round: &Round, moment: Moment) {
    let later = || thread::sleep(round.after); // any moment will do: nothing is waited for
    match round.fault {
        Fault::AgentKilled(at) if at == moment => {
            later();
            agents.kill();
        }
        Fault::AgentReplaced(at) if at == moment => {
            later();
            agents.replace();
        }
        Fault::ContainerdKilled(at) | Fault::AgentAndContainerdKilled(at) if at == moment => {
            later();
            if matches!(round.fault, Fault::AgentAndContainerdKilled(_)) {
                agents.kill();
            }
            node.sh("read -r pid </run/rig/containerd.pid; kill -KILL $pid
                while [ -e /proc/$pid ]; do sleep 0.01; done; rm /run/rig/containerd.pid");
            node.containerd(Action::Start);
        }
        _ => {}
    }
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether the agent is away from before the containers start until their Pods have ended.
fn is_without_agent(fault: Fault) -> bool {
    use Fault::{EverybodyKilled, EverybodyKilledAgentLate, HookKilledAgentAway, ShimKilledAgentAway};
    matches!(fault, HookKilledAgentAway(_) | EverybodyKilled | EverybodyKilledAgentLate | ShimKilledAgentAway)
}

/// Whether a start may be refused because of the fault.
fn spoils_starting(fault: Fault) -> bool {
    use Fault::{AgentAndContainerdKilled, ContainerdKilled, HookKilled, HookKilledAgentAway};
    let containerd = matches!(fault, ContainerdKilled(at) | AgentAndContainerdKilled(at) if at == Moment::Starting);
    containerd || matches!(fault, HookKilled(Verb::Attach) | HookKilledAgentAway(Verb::Attach))
}
