//! Both ways in at once: Pods by annotation and containers with a resource share a few devices, come and go and are
//! restarted as a seed says, while the agent is killed. After each step each device is in one place, the one that its
//! record names; at the end all are home as they were.
//!
//! `NETDEVICE_STEPS=1000 NETDEVICE_SEED=7 cargo test -p e2e --test both_ways -- --nocapture` runs it for long.

#![allow(clippy::print_stdout)] // which step was the last

#[path = "churn/dice.rs"]
mod dice;

use std::collections::BTreeMap;
use std::time::Duration;

use dice::Dice;
use e2e::{ANNOTATION, Agent, Container, ContainerSpec, Device, Failure, Kind, Node, Pod, PodSpec, Signal, wait_for};
use rustix::process::{Pid, kill_process};
use serde_json::Value;

const STEPS: u64 = 60;
const SEED: u64 = 1;
const DEVICES: [&str; 4] = ["both0", "both1", "both2", "both3"];
/// Most Pods at a time: more than there are devices.
const PODS: usize = 5;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[derive(Debug, Clone, Copy)]
enum Step {
    ByName,
    ByPool,
    ByResource,
    ByNameAgentKilled,
    End,
    RestartContainer,
    AgentKilled,
}

const CHOICES: [(u64, Step); 7] = [
    (20, Step::ByName),
    (15, Step::ByPool),
    (20, Step::ByResource),
    (5, Step::ByNameAgentKilled),
    (25, Step::End),
    (10, Step::RestartContainer),
    (5, Step::AgentKilled),
];

/// A Pod that has a device.
struct Life<'n> {
    pod: Pod<'n>,
    /// The file of its network namespace.
    namespace: String,
    device: &'static str,
    container: Container<'n>,
    spec: ContainerSpec,
    attempt: u32,
}

/// Stops and removes it.
#[track_caller]
fn remove(pod: &Pod<'_>) {
    pod.stop().expect("a pod can be stopped");
    wait_for("the pod goes", || pod.remove(), Result::is_ok).expect("waited for it");
}

struct Rig<'n> {
    node: &'n Node,
    agent: Option<Agent<'n>>,
    /// By their hardware addresses, which they keep wherever they are.
    addresses: BTreeMap<String, &'static str>,
    lives: Vec<Life<'n>>,
    dice: Dice,
    number: u64,
    refused: u32,
}

/// Where a device is seen: all namespaces that have it, and the sandbox that its record names.
type Places = BTreeMap<&'static str, (Vec<String>, Option<String>)>;

const HOME: &str = "the node";

impl<'n> Rig<'n> {
    fn start_agent(&mut self) {
        let agent = self.node.agent(&["-nri", "-interfaces", "^both[0-9]$"]);
        agent.wait_until_connected();
        agent.wait_until_offered(&DEVICES);
        self.agent = Some(agent);
    }

    fn kill_agent(&mut self) {
        self.agent.take().expect("it runs").kill();
    }

    fn is_free(&self, device: &str) -> bool {
        self.lives.iter().all(|life| life.device != device)
    }

    fn places(&self) -> Places {
        let script = "echo '# the node'; ip -o link
            for file in /run/netns/*; do echo \"# $file\"; nsenter --net=$file ip -o link 2>/dev/null || :; done";
        let mut places: Places = DEVICES.iter().map(|device| (*device, (Vec::new(), self.holder(device)))).collect();
        let mut place = String::new();
        for line in self.node.sh(script).stdout.lines() {
            if let Some(begun) = line.strip_prefix("# ") {
                place = begun.to_owned();
            } else if let Some(device) = line.split_whitespace().find_map(|word| self.addresses.get(word)) {
                places.entry(device).or_default().0.push(place.clone());
            }
        }
        places
    }

    /// The sandbox of a device's record; none without a record.
    fn holder(&self, device: &str) -> Option<String> {
        let text = std::fs::read(self.node.path(&format!("/run/netdevice/{device}.json"))).ok()?;
        let record: Value = serde_json::from_slice(&text).unwrap_or_default();
        let is_whole = record["phase"] == "attached";
        Some(if is_whole { record["holder"]["sandbox"].as_str().unwrap_or("?").to_owned() } else { "half".into() })
    }

    /// Each device is where it should be, and nowhere else.
    #[track_caller]
    fn check(&self, what: &str) {
        let at_home = || (vec![HOME.to_owned()], None);
        let mut wanted: Places = DEVICES.iter().map(|device| (*device, at_home())).collect();
        for life in &self.lives {
            wanted.insert(life.device, (vec![life.namespace.clone()], Some(life.pod.id().to_owned())));
        }
        let log = || self.agent.as_ref().map_or_else(String::new, |agent| agent.output());
        let look = || (self.places(), wanted.clone());
        let found = e2e::eventually(Duration::from_secs(30), || {
            let (places, wanted) = look();
            (places == wanted).then_some(())
        });
        assert!(found.is_some(), "step {} ({what}): {:#?}\nand not {wanted:#?}\n{}", self.number, self.places(), log());
    }

    fn step(&mut self) {
        let mut step = self.dice.weighted(&CHOICES);
        match step {
            Step::End | Step::RestartContainer if self.lives.is_empty() => step = Step::ByPool,
            Step::ByName | Step::ByPool | Step::ByResource | Step::ByNameAgentKilled if self.lives.len() == PODS => {
                step = Step::End;
            }
            _ => {}
        }
        match step {
            Step::ByName => self.by_name(),
            Step::ByPool => self.by_pool(),
            Step::ByResource => self.by_resource(),
            Step::ByNameAgentKilled => self.by_name_agent_killed(),
            Step::End => self.end(),
            Step::RestartContainer => self.restart_container(),
            Step::AgentKilled => {
                self.kill_agent();
                self.start_agent();
            }
        }
        self.check(&format!("{step:?}"));
    }

    fn name(&self) -> String {
        format!("both-{}", self.number)
    }

    /// By its name, with another name inside in half of the cases.
    fn by_name(&mut self) {
        let device = DEVICES[self.dice.position(&DEVICES)];
        let (is_free, more) = (self.is_free(device), if self.dice.in_hundred(50) { ", new_name: net1" } else { "" });
        self.annotated(&format!("[{{name: {device}{more}}}]"), is_free.then_some(device), "it is held by pod default/");
    }

    fn by_pool(&mut self) {
        let free = DEVICES.into_iter().any(|device| self.is_free(device));
        let any = DEVICES.into_iter().find(|device| self.is_free(device));
        self.annotated("[{pool: netdevice}]", free.then_some(any).flatten(), "no device of pool");
    }

    /// A Pod with an annotation that gets a device, if `expected` says that one is free.
    fn annotated(&mut self, annotation: &str, expected: Option<&'static str>, reason: &str) {
        let pod = self.node.run_pod(PodSpec::new(&self.name()).annotation(ANNOTATION, annotation));
        let started = pod.map(|pod| (pod.start(&ContainerSpec::new("c")), pod));
        match (started, expected) {
            (Ok((Ok(container), pod)), Some(_)) => {
                // which one of a pool the injector chose, it says
                let device = DEVICES.into_iter().find(|device| self.holder(device).as_deref() == Some(pod.id()));
                let device = device.unwrap_or_else(|| panic!("step {}: the pod has no device", self.number));
                assert!(self.is_free(device), "step {}: {device} is given twice", self.number);
                self.lives.push(self.life(pod, device, container, ContainerSpec::new("c")));
            }
            (Ok((Err(failure), pod)), None) => {
                self.assert_reason(&failure, reason);
                remove(&pod);
            }
            (Err(failure), None) => self.assert_reason(&failure, reason),
            (Ok((started, _)), _) => panic!("step {}: {started:?}, expected was {expected:?}", self.number),
            (Err(failure), _) => panic!("step {}: {failure}, expected was {expected:?}", self.number),
        }
    }

    fn assert_reason(&mut self, failure: &Failure, reason: &str) {
        assert!(failure.message.contains(reason), "step {}: {failure}", self.number);
        self.refused += 1;
    }

    fn life(&self, pod: Pod<'n>, device: &'static str, container: Container<'n>, spec: ContainerSpec) -> Life<'n> {
        let namespaces = pod.inspect()["info"]["runtimeSpec"]["linux"]["namespaces"].clone();
        let network = namespaces.as_array().into_iter().flatten().find(|namespace| namespace["type"] == "network");
        let path = network.and_then(|network| network["path"].as_str()).expect("a pod has a network");
        let namespace = path.replace("/var/run/", "/run/");
        Life { pod, namespace, device, container, spec, attempt: 0 }
    }

    /// As a container whose device the kubelet has named.
    fn by_resource(&mut self) {
        let device = DEVICES[self.dice.position(&DEVICES)];
        let spec = ContainerSpec::new("c").cdi_device(&format!("networking.k8s.io/netdevice={device}"));
        let pod = self.node.run_pod(PodSpec::new(&self.name())).expect("it asks for nothing");
        match (pod.start(&spec), self.is_free(device)) {
            (Ok(container), true) => self.lives.push(self.life(pod, device, container, spec)),
            (Err(_), false) => {
                self.refused += 1;
                remove(&pod);
            }
            (started, is_free) => panic!("step {}: {started:?}, and {device} is free: {is_free}", self.number),
        }
    }

    /// The agent is killed while it works; the next one finishes or undoes.
    fn by_name_agent_killed(&mut self) {
        let Some(device) = DEVICES.into_iter().find(|device| self.is_free(device)) else { return };
        let pid = self.agent.as_ref().and_then(|agent| Pid::from_raw(agent.pid())).expect("it runs");
        let after = Duration::from_millis(self.dice.below(400));
        let strike = std::thread::spawn(move || {
            std::thread::sleep(after);
            kill_process(pid, Signal::KILL)
        });
        let spec = PodSpec::new(&self.name()).annotation(ANNOTATION, &format!("[{{name: {device}}}]"));
        let pod = self.node.run_pod(spec);
        strike.join().expect("it does not panic").expect("the agent was there");
        self.agent = None;
        self.start_agent();
        // a runtime that fails open has made it, and it has its device by now; one that fails closed has not
        if let Ok(pod) = pod {
            let container = pod.start(&ContainerSpec::new("c")).expect("the device was free");
            self.lives.push(self.life(pod, device, container, ContainerSpec::new("c")));
        } else {
            self.refused += 1;
        }
    }

    fn end(&mut self) {
        let life = self.lives.remove(self.dice.position(&self.lives));
        if self.dice.in_hundred(50) {
            life.container.stop().expect("a running container can be stopped");
        }
        remove(&life.pod);
    }

    fn restart_container(&mut self) {
        let at = self.dice.position(&self.lives);
        let life = &mut self.lives[at];
        life.container.stop().expect("a running container can be stopped");
        life.attempt += 1;
        let spec = life.spec.clone().attempt(life.attempt);
        life.container = life.pod.start(&spec).unwrap_or_else(|failure| panic!("step {}: {failure}", self.number));
    }
}

#[test]
fn each_device_is_in_one_place_whichever_way_it_was_asked_for_and_all_come_home() {
    let (steps, seed) = (setting("NETDEVICE_STEPS", STEPS), setting("NETDEVICE_SEED", SEED));
    let node = Node::start_as("both", Kind::Containerd);
    let mut devices = vec![node.add_rich_device(DEVICES[0])];
    devices.extend(DEVICES[1..].iter().map(|device| node.add_device(device)));
    let address = |device| node.ip(&["link", "show", "dev", device])[0]["address"].as_str().unwrap().to_owned();
    let addresses = DEVICES.into_iter().map(|device| (address(device), device)).collect();
    let dice = Dice::new(seed, 0);
    let mut rig = Rig { node: &node, agent: None, addresses, lives: Vec::new(), dice, number: 0, refused: 0 };
    rig.start_agent();
    println!("seed {seed}, {steps} steps");
    for number in 1..=steps {
        rig.number = number;
        rig.step();
        if number.is_multiple_of(50) {
            println!("step {number}, {} of them refused", rig.refused);
        }
    }
    while !rig.lives.is_empty() {
        rig.end();
    }
    devices.iter().for_each(Device::wait_until_free);
    println!("seed {seed}: {steps} steps, {} of them refused as they had to be", rig.refused);
}
