//! What happens in a round, drawn from a seed: nothing here acts.

use std::time::Duration;

use crate::dice::Dice;

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// While containers start.
    Starting,
    /// While they run.
    Running,
    /// While the Pods end.
    Ending,
}

/// What a hook was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `createRuntime`.
    Attach,
    /// `poststop`.
    Detach,
}

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody.
    Nothing,
    /// The agent; it is back when the round's Pods have ended.
    AgentKilled(Moment),
    /// The agent, a moment after a newer one began.
    AgentReplaced(Moment),
    /// containerd; it is back at once.
    ContainerdKilled(Moment),
    /// containerd is stopped, the Pod's processes are killed, containerd is started.
    ContainerdAway,
    /// A Pod's shim, then its containers; no hook will run.
    ShimKilled,
    /// A Pod's shim; the containers' processes outlive the Pod, and are killed then.
    ShimKilledContainersLeaked,
    /// A container's process.
    ContainerKilled,
    /// The Pod's first process, then the containers.
    PauseKilled,
    /// The agent and containerd at once; containerd is back at once, the agent when the round's Pods have ended.
    AgentAndContainerdKilled(Moment),
    /// The agent is away while a Pod's shim is killed, then its containers.
    ShimKilledAgentAway,
    /// A hook at its work.
    HookKilled(Verb),
    /// The agent is away while a hook is killed at its work.
    HookKilledAgentAway(Verb),
    /// Nobody, but a process in the Pod's network outlives the Pod.
    ProcessLeaked,
    /// Agent, shim, containers and pause process; the agent is back before the Pod is removed.
    EverybodyKilled,
    /// The same, and the agent is back after that: no process and no mount of the runtime is left of the Pod's network.
    EverybodyKilledAgentLate,
}

impl Fault {
    /// Whether there is a fault with such words.
    pub(crate) fn is_known(words: &str) -> bool {
        FAULTS.iter().any(|(_, fault)| fault.kind().contains(words))
    }

    /// What is counted.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::AgentKilled(_) => "agent killed",
            Self::AgentReplaced(_) => "agent replaced by a newer one",
            Self::ContainerdKilled(_) => "containerd killed",
            Self::ContainerdAway => "containerd stopped, processes killed",
            Self::ShimKilled => "shim and containers killed",
            Self::ShimKilledContainersLeaked => "shim killed, containers outlive the Pod",
            Self::ContainerKilled => "container killed",
            Self::PauseKilled => "pause process killed",
            Self::HookKilled(Verb::Attach) => "hook killed, attaching",
            Self::HookKilled(Verb::Detach) => "hook killed, detaching",
            Self::HookKilledAgentAway(Verb::Attach) => "hook killed, attaching, agent away",
            Self::HookKilledAgentAway(Verb::Detach) => "hook killed, detaching, agent away",
            Self::ProcessLeaked => "process leaked into the Pod's network",
            Self::AgentAndContainerdKilled(_) => "agent and containerd killed",
            Self::ShimKilledAgentAway => "shim and containers killed, agent away",
            Self::EverybodyKilled => "everybody killed, agent back before the Pod is removed",
            Self::EverybodyKilledAgentLate => "everybody killed, agent back after the Pod is removed",
        }
    }
}

const FAULTS: [(u64, Fault); 28] = [
    (20, Fault::Nothing),
    (3, Fault::AgentKilled(Moment::Starting)),
    (3, Fault::AgentKilled(Moment::Running)),
    (3, Fault::AgentKilled(Moment::Ending)),
    (2, Fault::AgentReplaced(Moment::Starting)),
    (2, Fault::AgentReplaced(Moment::Running)),
    (2, Fault::AgentReplaced(Moment::Ending)),
    (2, Fault::ContainerdKilled(Moment::Starting)),
    (2, Fault::ContainerdKilled(Moment::Running)),
    (2, Fault::ContainerdKilled(Moment::Ending)),
    (4, Fault::ContainerdAway),
    (5, Fault::ShimKilled),
    (4, Fault::ShimKilledContainersLeaked),
    (6, Fault::ContainerKilled),
    (5, Fault::PauseKilled),
    (8, Fault::HookKilled(Verb::Attach)),
    (8, Fault::HookKilled(Verb::Detach)),
    (3, Fault::HookKilledAgentAway(Verb::Attach)),
    (3, Fault::HookKilledAgentAway(Verb::Detach)),
    (4, Fault::ProcessLeaked),
    (3, Fault::EverybodyKilled),
    (4, Fault::EverybodyKilledAgentLate),
    (2, Fault::AgentAndContainerdKilled(Moment::Starting)),
    (2, Fault::AgentAndContainerdKilled(Moment::Running)),
    (2, Fault::AgentAndContainerdKilled(Moment::Ending)),
    (4, Fault::ShimKilledAgentAway),
    (1, Fault::AgentKilled(Moment::Starting)),
    (1, Fault::AgentReplaced(Moment::Running)),
];

/// What a container does to its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Nothing.
    Nothing,
    /// Another name, alternative name and alias.
    Rename,
    /// Another hardware address and size.
    Resize,
    /// A size that IPv6 does not have.
    Shrink,
    /// Other addresses, routes and neighbours.
    Readdress,
    /// Settings.
    Settings,
    /// Takes it down.
    Down,
    /// Makes it a port of a bridge of its own.
    Bridge,
    /// Stacks a link on it.
    Stack,
}

const DEEDS: [(u64, Deed); 9] = [
    (30, Deed::Nothing),
    (10, Deed::Rename),
    (10, Deed::Resize),
    (5, Deed::Shrink),
    (10, Deed::Readdress),
    (10, Deed::Settings),
    (5, Deed::Down),
    (5, Deed::Bridge),
    (5, Deed::Stack),
];

/// A container with devices.
#[derive(Debug, Clone)]
pub(crate) struct ContainerPlan {
    /// Positions in the fleet.
    pub(crate) devices: Vec<usize>,
    pub(crate) deed: Deed,
    /// Whether it ends and starts once more while the Pod stays.
    pub(crate) restarts: bool,
}

/// A Pod's life.
#[derive(Debug, Clone)]
pub(crate) struct PodPlan {
    pub(crate) containers: Vec<ContainerPlan>,
    /// Whether containers are told to end before the Pod is stopped.
    pub(crate) gently: bool,
}

/// Some Pods at once, and one fault.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) number: u32,
    pub(crate) pods: Vec<PodPlan>,
    pub(crate) fault: Fault,
    /// How long after its moment's beginning it strikes.
    pub(crate) after: Duration,
    /// The next round does not wait until this one's devices are home.
    pub(crate) hurried: bool,
    /// Whether the devices are looked at inside.
    pub(crate) looks_inside: bool,
}

impl Round {
    /// Draws the round of that number for a fleet of that size.
    pub(crate) fn draw(seed: u64, number: u32, fleet: usize) -> Self {
        let mut dice = Dice::new(seed, number);
        let mut free: Vec<usize> = (0..fleet).collect();
        let pods = dice.weighted(&[(60, 1), (25, 2), (15, 3)]);
        let pods = (0..pods).map(|_| draw_pod(&mut dice, &mut free)).filter(|pod| !pod.containers.is_empty()).collect();
        let fault = dice.weighted(&FAULTS);
        let longest = match fault {
            // the kernel takes most of the 25 ms that a hook lives
            Fault::HookKilled(_) | Fault::HookKilledAgentAway(_) => 20_000,
            _ => 300_000,
        };
        // the sooner the more often: there are many steps before and behind the move
        let after = Duration::from_micros(dice.below(longest).min(dice.below(longest)));
        Self { number, pods, fault, after, hurried: dice.in_hundred(20), looks_inside: dice.in_hundred(35) }
    }
}

impl Round {
    /// Positions of all devices.
    pub(crate) fn devices(&self) -> Vec<usize> {
        let containers = self.pods.iter().flat_map(|pod| &pod.containers);
        containers.flat_map(|container| container.devices.iter().copied()).collect()
    }
}

fn draw_pod(dice: &mut Dice, free: &mut Vec<usize>) -> PodPlan {
    let containers = dice.weighted(&[(75, 1), (25, 2)]);
    let mut pod = PodPlan { containers: Vec::new(), gently: dice.in_hundred(30) };
    for _ in 0..containers {
        let count = dice.weighted(&[(75, 1), (25, 2)]).min(free.len());
        let devices: Vec<usize> = (0..count).map(|_| free.remove(dice.position(free))).collect();
        if !devices.is_empty() {
            pod.containers.push(ContainerPlan { devices, deed: dice.weighted(&DEEDS), restarts: dice.in_hundred(15) });
        }
    }
    pod
}

#[test]
fn a_seed_says_it_all_and_no_device_is_in_two_containers() {
    for number in 0..300 {
        let round = Round::draw(7, number, 7);
        assert_eq!(format!("{round:?}"), format!("{:?}", Round::draw(7, number, 7)));
        assert!(!round.pods.is_empty());
        let mut devices = round.devices();
        let all = devices.len();
        devices.sort_unstable();
        devices.dedup();
        assert_eq!(devices.len(), all, "{round:?}");
    }
    assert_ne!(format!("{:?}", Round::draw(7, 1, 7)), format!("{:?}", Round::draw(8, 1, 7)));
}

#[test]
fn every_fault_and_every_deed_comes_up() {
    let rounds: Vec<Round> = (0..1000).map(|number| Round::draw(1, number, 7)).collect();
    for (_, fault) in FAULTS {
        assert!(rounds.iter().any(|round| round.fault == fault), "{fault:?}");
    }
    let deeds: Vec<Deed> =
        rounds.iter().flat_map(|round| &round.pods).flat_map(|pod| &pod.containers).map(|one| one.deed).collect();
    for (_, deed) in DEEDS {
        assert!(deeds.contains(&deed), "{deed:?}");
    }
}
