//! Whoever is killed, in whichever order: the device comes home as it was, by a hook or by the agent's repair.

use e2e::{Action, Agent, Container, ContainerSpec, Device, Kind, Node, Pod, PodSpec, SharedNode, wait_for};

static NODE: SharedNode = SharedNode::new("killed", Kind::Containerd);

const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// A Pod with one container that has the device, and nobody who would end by himself.
struct Victim<'n> {
    node: &'n Node,
    pod: Pod<'n>,
    container: Container<'n>,
    handler: &'static str,
}

impl<'n> Victim<'n> {
    #[track_caller]
    fn start(node: &'n Node, handler: &'static str, device: &str) -> Victim<'n> {
        let pod = node.run_pod(PodSpec::new(&format!("{device}-{handler}")).handler(handler)).expect("a Pod");
        let spec = ContainerSpec::new("c").cdi_device(&format!("networking.k8s.io/netdevice={device}"));
        let container = pod.start(&spec.argv(&["sleep", "1000000"])).expect("a container");
        Victim { node, pod, container, handler }
    }

    fn process(&self) -> u64 {
        self.container.inspect()["info"]["pid"].as_u64().expect("it runs")
    }

    /// Kills processes and waits until they have ended.
    #[track_caller]
    fn kill(&self, pids: &[u64]) {
        for pid in pids {
            // containerd may have been first, after its shim's end
            self.node.sh(&format!("kill -KILL {pid} 2>/dev/null || :"));
        }
        for pid in pids {
            let ended = || {
                self.node.sh(&format!("grep -q '^State:.[^ZX]' /proc/{pid}/status 2>/dev/null || echo ended")).stdout
            };
            wait_for("it ends", ended, |said| !said.is_empty());
        }
    }

    #[track_caller]
    fn kill_shim(&self) {
        self.node.sh(&format!("kill -KILL $(pgrep -f '[c]ontainerd-shim.* -id {}')", self.pod.id()));
        let state = || self.container.state();
        wait_for("the container counts as exited", state, |state| state == "CONTAINER_EXITED");
    }

    /// A process that is in the Pod's network and nothing of the Pod's: it outlives the Pod.
    #[track_caller]
    fn leak(&self) -> u64 {
        let network = format!("/proc/{}/ns/net", self.pod.pid());
        let script = format!("nsenter --net={network} setsid sleep 1000000 </dev/null >/dev/null 2>&1 & echo $!");
        let pid = self.node.sh(&script).text().parse().expect("a pid");
        let name = || self.node.sh(&format!("cat /proc/{pid}/comm")).stdout;
        wait_for("it is in the Pod's network", name, |name| name == "sleep\n");
        pid
    }

    fn clean_up(self) {
        self.node.remove_all_pods();
    }
}

fn offering<'n>(node: &'n Node, name: &str) -> Agent<'n> {
    let agent = node.agent(&["-interfaces", &format!("^{name}$")]);
    agent.wait_until_offered(&[name]);
    agent
}

/// The agent has seen the attachment: from now on it looks after the device.
#[track_caller]
fn looked_after(agent: &Agent<'_>) {
    let attached = r#"netdevice_devices{resource="networking.k8s.io/netdevice",state="attached"}"#;
    wait_for("the agent knows of the attachment", || agent.metric(attached), |count| *count == Some(1));
}

#[track_caller]
fn assert_repaired(agent: &Agent<'_>, device: &Device<'_>, handler: &str) {
    device.wait_until_free();
    let repairs = || agent.metric(r#"netdevice_repairs_total{result="ok"}"#);
    wait_for(&format!("{handler}: the agent counts the repair"), repairs, |count| *count == Some(1));
    agent.wait_for_output("returned to the host: no hook had done so");
}

#[test]
fn the_shim_and_then_the_container_are_killed() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        let device = node.add_device("shimk0");
        let agent = offering(&node, "shimk0");
        let victim = Victim::start(&node, handler, "shimk0");
        looked_after(&agent);
        let process = victim.process();
        victim.kill_shim();
        // the container's process lives on, and what it has is its own
        assert!(!device.is_on_node());
        victim.kill(&[process]);
        assert_repaired(&agent, &device, victim.handler);
        victim.clean_up();
        device.wait_until_free();
    }
}

#[test]
fn the_pause_process_is_killed_first() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        let device = node.add_rich_device("pause0");
        let agent = offering(&node, "pause0");
        let victim = Victim::start(&node, handler, "pause0");
        looked_after(&agent);
        victim.kill(&[victim.pod.pid()]);
        victim.kill(&[victim.process()]);
        // the hook finds the namespace where the agent holds it, or the agent is first
        device.wait_until_free();
        victim.clean_up();
        device.wait_until_free();
        drop(agent);
    }
}

#[test]
fn the_shim_the_pause_process_and_the_container_are_killed() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        let device = node.add_device("all0");
        let agent = offering(&node, "all0");
        let victim = Victim::start(&node, handler, "all0");
        looked_after(&agent);
        let (pause, process) = (victim.pod.pid(), victim.process());
        victim.kill_shim();
        victim.kill(&[pause, process]);
        assert_repaired(&agent, &device, handler);
        victim.clean_up();
        device.wait_until_free();
    }
}

#[test]
fn a_leaked_process_keeps_the_pods_network_and_not_the_device() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        let device = node.add_rich_device("leak0");
        let agent = offering(&node, "leak0");
        let victim = Victim::start(&node, handler, "leak0");
        looked_after(&agent);
        let leaked = victim.leak();
        victim.clean_up();
        device.wait_until_free();
        let links = node.sh(&format!("nsenter --net=/proc/{leaked}/ns/net ip -o link")).stdout;
        assert!(links.contains("lo:") && !links.contains("leak0"), "{handler}: {links}");
        node.sh(&format!("kill -KILL {leaked}"));
    }
}

#[test]
fn a_device_comes_home_from_a_network_that_only_a_leaked_process_keeps() {
    let node = NODE.lock();
    for (handler, is_there) in RUNTIMES.into_iter().flat_map(|handler| [(handler, true), (handler, false)]) {
        let device = node.add_device("leak1");
        let mut agent = Some(offering(&node, "leak1"));
        let victim = Victim::start(&node, handler, "leak1");
        agent.iter().for_each(looked_after);
        if !is_there {
            agent.take().expect("it was begun").kill();
        }
        let (pause, process, leaked) = (victim.pod.pid(), victim.process(), victim.leak());
        // no hook will run, and the namespace has no name any more once the Pod is removed
        victim.kill_shim();
        victim.kill(&[pause, process]);
        victim.clean_up();
        let agent = agent.unwrap_or_else(|| offering(&node, "leak1"));
        assert_repaired(&agent, &device, handler);
        assert!(node.sh(&format!("kill -KILL {leaked}")).success(), "{handler}: it was alive all the while");
    }
}

#[test]
fn containerd_is_stopped_the_pods_processes_are_killed_and_containerd_is_started() {
    let node = NODE.lock();
    for (handler, is_there) in RUNTIMES.into_iter().flat_map(|handler| [(handler, true), (handler, false)]) {
        let device = node.add_device("stop0");
        let mut agent = Some(offering(&node, "stop0"));
        let victim = Victim::start(&node, handler, "stop0");
        if !is_there {
            agent.take().expect("it was begun").kill();
        }
        let (pause, process) = (victim.pod.pid(), victim.process());
        node.containerd(Action::Stop);
        victim.kill(&[process, pause]);
        if is_there {
            // without containerd no hook runs
            device.wait_until_free();
        }
        node.containerd(Action::Start);
        // the hook finds the namespace where CNI mounted it
        device.wait_until_free();
        victim.clean_up();
        device.wait_until_free();
    }
}

#[test]
fn an_agent_that_starts_later_brings_home_what_was_left() {
    let node = NODE.lock();
    for handler in RUNTIMES {
        let device = node.add_device("later0");
        offering(&node, "later0").kill();
        let victim = Victim::start(&node, handler, "later0");
        let process = victim.process();
        victim.kill_shim();
        victim.kill(&[process]);
        // the pause process keeps the namespace, and nobody is there to look
        assert!(!device.is_on_node());
        let agent = offering(&node, "later0");
        assert_repaired(&agent, &device, handler);
        victim.clean_up();
        device.wait_until_free();
    }
}

#[test]
fn a_virtual_device_returns_after_everybody_died_and_its_pod_is_gone() {
    let node = NODE.lock();
    let device = node.add_device("gone0");
    offering(&node, "gone0").kill();
    let victim = Victim::start(&node, "runc", "gone0");
    let (pause, process) = (victim.pod.pid(), victim.process());
    victim.kill_shim();
    victim.kill(&[pause, process]);
    victim.clean_up();
    assert!(!device.is_on_node(), "nobody is there to return it");
    let agent = offering(&node, "gone0");
    assert_repaired(&agent, &device, "runc");
    device.wait_until_free();
}

#[test]
fn a_virtual_device_that_was_deleted_in_its_pod_is_told_of_and_its_record_ends() {
    let node = NODE.lock();
    let device = node.add_device("lost0");
    offering(&node, "lost0").kill();
    let victim = Victim::start(&node, "runc", "lost0");
    let (pause, process) = (victim.pod.pid(), victim.process());
    node.sh(&format!("nsenter --net=/proc/{pause}/ns/net ip link delete lost0"));
    victim.kill_shim();
    victim.kill(&[pause, process]);
    victim.clean_up();
    let other_end = || node.has_link("lost0-p");
    wait_for("the kernel deletes the pair", other_end, |there| !there);
    let agent = node.agent(&["-interfaces", "^lost0$"]);
    agent.wait_for_output("lost: the virtual link was deleted with its sandbox");
    wait_for("its record ends", || node.path("/run/netdevice/lost0.json").exists(), |there| !there);
    wait_for("it is counted", || agent.metric(r#"netdevice_repairs_total{result="lost"}"#), |count| *count == Some(1));
    // one of the same name is a new device
    drop(device);
    let device = node.add_device("lost0");
    let healthy = r#"netdevice_devices{resource="networking.k8s.io/netdevice",state="healthy"}"#;
    wait_for("it is offered", || agent.metric(healthy), |count| *count == Some(1));
    device.wait_until_home();
}
