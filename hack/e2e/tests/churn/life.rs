//! A Pod of a round: started, restarted, ended.

use e2e::{Container, ContainerSpec, Failure, Node, Output, Pod, PodSpec, eventually, wait_for};

use crate::fleet::{SHAPES, script};
use crate::schedule::{ContainerPlan, Deed, PodPlan};

/// A Pod and its containers.
pub(crate) struct Life<'n> {
    node: &'n Node,
    pub(crate) pod: Pod<'n>,
    /// Pid of its first process.
    pub(crate) pause: u64,
    pub(crate) gently: bool,
    pub(crate) members: Vec<Member<'n>>,
}

/// A container, which may be started again.
pub(crate) struct Member<'n> {
    pub(crate) plan: ContainerPlan,
    spec: ContainerSpec,
    attempt: u32,
    container: Option<Container<'n>>,
}

impl<'n> Life<'n> {
    /// Runs the sandbox.
    #[track_caller]
    pub(crate) fn begin(node: &'n Node, name: &str, plan: &PodPlan) -> Self {
        let pod = node.run_pod(PodSpec::new(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let members = plan.containers.iter().enumerate();
        let members = members.map(|(at, plan)| Member::new(&format!("c{at}"), plan.clone())).collect();
        Self { node, pause: pod.pid(), pod, gently: plan.gently, members }
    }

    /// Starts all containers that do not run; the first refusal ends it.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        let pod = &self.pod;
        self.members.iter_mut().filter(|member| member.container.is_none()).try_for_each(|member| member.start(pod))
    }

    /// Ends and starts again the containers that are to.
    pub(crate) fn restart(&mut self) -> Result<(), Failure> {
        for member in self.members.iter_mut().filter(|member| member.plan.restarts) {
            if let Some(container) = member.container.take() {
                wait_for("it ends", || container.stop(), Result::is_ok)?;
            }
            member.start(&self.pod)?;
        }
        Ok(())
    }

    /// What the containers do to their devices, as those with NET_ADMIN may.
    #[track_caller]
    pub(crate) fn act(&self) {
        for member in self.running().filter(|member| member.plan.deed != Deed::Nothing) {
            for device in member.devices() {
                // what one kind of link does not let a container do, another one does
                self.inside(&script(member.plan.deed, device));
            }
        }
    }

    /// Every device is in the Pod with its addresses.
    #[track_caller]
    pub(crate) fn assert_complete(&self) {
        for device in self.running().flat_map(|member| &member.plan.devices) {
            let shape = &SHAPES[*device];
            let said = self.inside(&format!("ip address show dev {}", shape.name)).stdout;
            for words in shape.inside.iter().chain(&["UP"]) {
                assert!(said.contains(words), "{words} is not in the Pod's\n{said}");
            }
        }
    }

    fn running(&self) -> impl Iterator<Item = &Member<'n>> {
        self.members.iter().filter(|member| member.container.is_some())
    }

    fn inside(&self, script: &str) -> Output {
        let network = format!("--net=/proc/{}/ns/net", self.pause);
        self.node.run(["nsenter", &network, "sh", "-c", script])
    }

    /// Pids of the containers that run, and the pause process's at the end.
    pub(crate) fn processes(&self) -> Vec<u64> {
        let containers = self.running().filter_map(|member| member.container.as_ref());
        let pids = containers.filter_map(|container| container.inspect()["info"]["pid"].as_u64());
        pids.filter(|pid| *pid != 0).chain([self.pause]).collect()
    }

    /// Stops and removes the Pod, again while the runtime refuses, as a kubelet does.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        if self.gently {
            // one that was killed before is no matter
            let _ = self.members.iter().filter_map(|member| member.container.as_ref()).try_for_each(Container::stop);
        }
        for (what, act) in [("stops", Pod::stop as fn(&Pod<'n>) -> Result<(), Failure>), ("goes", Pod::remove)] {
            let mut last = None;
            let done = eventually(std::time::Duration::from_secs(60), || {
                last = act(&self.pod).err();
                // somebody else may have removed it at the second try
                last.as_ref().is_none_or(|error| error.message.contains("not found")).then_some(())
            });
            assert!(done.is_some(), "the Pod never {what}: {last:?}");
        }
    }
}

impl<'n> Member<'n> {
    fn new(name: &str, plan: ContainerPlan) -> Self {
        let spec = plan.devices.iter().fold(ContainerSpec::new(name), |spec, device| {
            spec.cdi_device(&format!("networking.k8s.io/netdevice={}", SHAPES[*device].name))
        });
        Self { plan, spec, attempt: 0, container: None }
    }

    fn devices(&self) -> impl Iterator<Item = &'static str> {
        self.plan.devices.iter().map(|device| SHAPES[*device].name)
    }

    fn start(&mut self, pod: &Pod<'n>) -> Result<(), Failure> {
        let spec = self.spec.clone().attempt(self.attempt);
        self.attempt += 1;
        self.container = Some(pod.start(&spec)?);
        Ok(())
    }
}
