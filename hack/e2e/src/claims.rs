//! Devices by claim: the agent with `-dra` on a node of a cluster, and what the API server has of it.

use std::fs;

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::node::{Action, Node};
use crate::process::Process;
use crate::program;
use crate::wait::{wait_for, wait_for_object};

/// Name of the driver and of its DeviceClass, and domain of the attributes.
pub const DRIVER: &str = "netdevice.networking.k8s.io";
/// The driver's own socket.
pub const DRIVER_SOCKETS: &str = "/var/lib/kubelet/plugins/netdevice.networking.k8s.io";
/// Where the kubelet finds the sockets of drivers.
pub const REGISTRY: &str = "/var/lib/kubelet/plugins_registry";

const SECRETS: &str = "/run/secrets/kubernetes.io/serviceaccount";
const ACCOUNT: &str = "system:serviceaccount:kube-system:netdevice-agent";
/// The Service of the API server, see `hack/cluster/cluster`.
const API_SERVER_HOST: &str = "KUBERNETES_SERVICE_HOST=10.96.0.1";
const API_SERVER_PORT: u16 = 443;
/// A failed preparation is tried again after this and up to half of it more; by default that is a minute.
const KUBELET: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
syncFrequency: 3s
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
";

impl Node {
    /// Prepares a cluster for the driver: the objects of install-dra.yaml without its DaemonSet, the credentials of its
    /// ServiceAccount as a container has them, and a kubelet that tries again soon.
    ///
    /// # Panics
    /// When the API server refuses.
    #[track_caller]
    pub fn prepare_claims(&self) {
        let mut settings = KUBELET.to_owned();
        if self.kubernetes_minor() < 35 {
            // else it refuses the last of them
            settings += "featureGates: {KubeletCrashLoopBackOffMax: true}\n";
        }
        self.write("/etc/kubernetes/kubelet.d/10-claims.conf", &settings);
        self.kubelet(Action::Restart);
        self.apply(&self.claims_objects());
        self.wait_for_policies();
        self.write_agent_token(self.agent_token(self.name()).as_str());
        let authority = self.run(["cat", "/etc/kubernetes/pki/ca.crt"]);
        self.write(&format!("{SECRETS}/ca.crt"), authority.text());
    }

    /// Waits until both admission policies are in force: the API server reads them some time after they were written.
    #[track_caller]
    fn wait_for_policies(&self) {
        let unknown = json!({"apiVersion": format!("{DRIVER}/v1alpha1"), "kind": "DeviceConfiguration", "unknown": 1});
        let configuration = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass",
            "metadata": {"name": "unknown.example.com"},
            "spec": {"config": [{"opaque": {"driver": DRIVER, "parameters": unknown}}]}});
        let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "elsewhere"},
            "spec": {"driver": DRIVER, "nodeName": "elsewhere", "devices": [{"name": "eth9"}],
                "pool": {"name": "elsewhere", "generation": 1, "resourceSliceCount": 1}}});
        let user = format!("--as={}", self.agent_user());
        for (manifest, by) in [(configuration, None), (slice, Some(user.as_str()))] {
            let args: Vec<&str> = ["create", "--dry-run=server", "--filename=-"].into_iter().chain(by).collect();
            let create = || self.kubectl_with(&args, &manifest.to_string());
            wait_for("the admission policy is in force", create, |said| !said.success());
        }
    }

    /// The objects of install-dra.yaml that are not the DaemonSet.
    ///
    /// # Panics
    /// When the file cannot be read.
    #[must_use]
    #[track_caller]
    pub fn claims_objects(&self) -> String {
        let install = repository_text("install-dra.yaml");
        let objects: Vec<&str> = install.split("\n---\n").filter(|text| !text.contains("kind: DaemonSet")).collect();
        objects.join("\n---\n")
    }

    /// A token of the agent's ServiceAccount that is bound to a Node, as a Pod's token is.
    ///
    /// # Panics
    /// When there is no such Node.
    #[must_use]
    #[track_caller]
    pub fn agent_token(&self, node: &str) -> String {
        let bound = ["--bound-object-kind=Node", "--bound-object-name", node];
        let args = ["create", "token", "--namespace=kube-system", "--duration=24h", "netdevice-agent"];
        self.kubectl(&[&args[..], &bound].concat()).text().to_owned()
    }

    /// Gives the agent another token; it reads it again by itself.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[track_caller]
    pub fn write_agent_token(&self, token: &str) {
        self.write(&format!("{SECRETS}/token"), token);
    }

    /// `kubectl` with a token of the agent's ServiceAccount in place of the administrator's.
    #[must_use]
    pub fn kubectl_as_agent(&self, token: &str, args: &[&str], input: &str) -> crate::Output {
        let own = ["kubectl", "--kubeconfig=/dev/null", "--server=https://10.96.0.1:443"];
        let authority = format!("--certificate-authority={SECRETS}/ca.crt");
        let token = format!("--token={token}");
        self.run_with(
            own.iter().copied().chain([authority.as_str(), token.as_str()]).chain(args.iter().copied()),
            input,
        )
    }

    /// Name of the agent's user, as the API server knows it.
    #[must_use]
    pub fn agent_user(&self) -> &'static str {
        ACCOUNT
    }

    /// Starts the agent with `-dra -nri`.
    #[must_use]
    pub fn claims_agent(&self, args: &[&str]) -> Agent<'_> {
        self.claims_agent_by(API_SERVER_PORT, args)
    }

    /// The same, with the API server at another port of its address.
    #[must_use]
    pub fn claims_agent_by(&self, port: u16, args: &[&str]) -> Agent<'_> {
        let (node, port) = (format!("NODE_NAME={}", self.name()), format!("KUBERNETES_SERVICE_PORT={port}"));
        let environment = [API_SERVER_HOST, &port, &node];
        let own = ["-dra", "-nri", "-v=4"];
        self.start_agent_with(&environment, &program("netdevice-agent"), 9780, &[&own[..], args].concat())
    }

    /// A way to the API server at this port of the node, on which each piece takes `delay` milliseconds.
    #[must_use]
    #[track_caller]
    pub fn slow_api_server(&self, port: u16, delay: u32) -> Process {
        let relay = program("slow-relay").to_string_lossy().into_owned();
        let relay = self.spawn([relay, port.to_string(), format!("10.96.0.1:{API_SERVER_PORT}"), delay.to_string()]);
        relay.wait_for_output("listening");
        relay
    }

    /// The ResourceSlices of the driver on this node.
    ///
    /// # Panics
    /// When the API server refuses.
    #[must_use]
    #[track_caller]
    pub fn slices(&self) -> Vec<Value> {
        let selector = format!("--field-selector=spec.driver={DRIVER},spec.nodeName={}", self.name());
        self.get(&["resourceslices", &selector])["items"].as_array().cloned().unwrap_or_default()
    }

    /// All devices of these slices.
    ///
    /// # Panics
    /// As [`Node::slices`].
    #[must_use]
    #[track_caller]
    pub fn sliced_devices(&self) -> Vec<Value> {
        let of = |slice: Value| slice["spec"]["devices"].as_array().cloned().unwrap_or_default();
        self.slices().into_iter().flat_map(of).collect()
    }

    /// Waits until a device is in a slice, without a taint, and returns it.
    ///
    /// # Panics
    /// When it is not within 30 seconds.
    #[track_caller]
    pub fn wait_until_sliced(&self, name: &str) -> Value {
        self.wait_for_sliced(name, "is in a slice, without a taint", |device| device["taints"].is_null())
    }

    /// Waits until a device is in a slice and as wanted, and returns it.
    ///
    /// # Panics
    /// When it is not within 30 seconds.
    #[track_caller]
    pub fn wait_for_sliced(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let look = || self.sliced_devices();
        let seen = wait_for_object(&format!("device {name} {what}"), look, |devices| {
            devices.iter().any(|device| device["name"] == name && wanted(device))
        });
        seen.into_iter().find(|device| device["name"] == name).unwrap_or_default()
    }

    /// Waits until a device is in no slice.
    ///
    /// # Panics
    /// When it still is after 30 seconds.
    #[track_caller]
    pub fn wait_until_not_sliced(&self, name: &str) {
        let look = || self.sliced_devices();
        wait_for_object(&format!("device {name} is in no slice"), look, |all| {
            all.iter().all(|device| device["name"] != name)
        });
    }

    /// Waits until the API server has these conditions of a claim's device: type, status, and a part of the message.
    ///
    /// # Panics
    /// When it has not within 30 seconds.
    #[track_caller]
    pub fn wait_for_condition(&self, claim: &str, status: &str, text: &str) -> Value {
        let look = || self.get(&["resourceclaim", claim])["status"]["devices"].clone();
        let has = |device: &Value| {
            device["conditions"].as_array().into_iter().flatten().any(|it| {
                let message = it["message"].as_str().unwrap_or_default();
                it["type"] == "Ready" && it["status"] == status && message.contains(text)
            })
        };
        wait_for_object(&format!("claim {claim} has Ready={status} {text}"), look, |devices| {
            devices.as_array().into_iter().flatten().any(has)
        })
    }

    /// The claim that the template of a Pod made.
    ///
    /// # Panics
    /// When there is none within 30 seconds.
    #[track_caller]
    pub fn claim_of(&self, pod: &str, claim: &str) -> String {
        let look = || self.get(&["pod", pod])["status"]["resourceClaimStatuses"].clone();
        let name = |statuses: &Value| {
            let status = statuses.as_array()?.iter().find(|status| status["name"] == claim)?;
            status["resourceClaimName"].as_str().map(str::to_owned)
        };
        let seen = wait_for_object("the claim is made", look, |statuses| name(statuses).is_some());
        name(&seen).unwrap_or_default()
    }

    /// Events of a Pod as text, without the quotation that they get on their way.
    #[must_use]
    pub fn pod_events(&self, pod: &str) -> String {
        let of_pod = format!("--field-selector=involvedObject.kind=Pod,involvedObject.name={pod}");
        let list = self.get(&["events", &of_pod]);
        let events = list["items"].as_array().cloned().unwrap_or_default().into_iter();
        let line = |event: Value| {
            let text = |field: &str| event[field].as_str().unwrap_or_default().replace("\\\"", "\"");
            format!("{} {}: {}\n", text("type"), text("reason"), text("message"))
        };
        events.map(line).collect()
    }

    /// Waits for a line of a Pod's Events.
    ///
    /// # Panics
    /// When it does not come within 90 seconds: the driver waits inside a preparation for what may pass by itself.
    #[track_caller]
    pub fn wait_for_pod_event(&self, pod: &str, text: &str) -> String {
        let what = format!("pod {pod} has an event {text:?}");
        let seen = wait_for_object(&what, || self.pod_events(pod), |events| events.contains(text));
        seen.lines().find(|line| line.contains(text)).unwrap_or_default().to_owned()
    }

    /// The id of the Pod's sandbox that is ready, empty if none is.
    ///
    /// # Panics
    /// When the runtime does not answer.
    #[must_use]
    #[track_caller]
    pub fn sandbox_of(&self, pod: &str) -> String {
        let name = format!("--name=^{pod}$");
        let pods = self.crictl(&["pods", &name, "--state=ready", "--output=json"]).json();
        pods["items"][0]["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Kills the first process of a sandbox.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn kill_sandbox(&self, sandbox: &str) {
        let template = "--output go-template --template '{{.info.pid}}'";
        self.sh(&format!("kill -KILL $(crictl inspectp {template} {sandbox})"));
    }

    /// The CDI files of claims that are prepared, by their names.
    #[must_use]
    pub fn claim_files(&self) -> Vec<String> {
        let files = fs::read_dir(self.path("/run/cdi")).into_iter().flatten().filter_map(Result::ok);
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(&format!("{DRIVER}-claim_")) && name.ends_with(".json")).collect()
    }

    /// Waits until a Pod is Ready, longer than a preparation that fails may take.
    ///
    /// # Panics
    /// When it is not within two minutes.
    #[track_caller]
    pub fn wait_long_until_ready(&self, pod: &str) -> Value {
        let ready = self.kubectl(&["wait", "--for=condition=Ready", "--timeout=120s", &format!("pod/{pod}")]);
        assert!(ready.success(), "{ready}\n{}", self.kubectl(&["describe", "pod", pod]));
        self.get(&["pod", pod])
    }
}

/// A file of the repository.
///
/// # Panics
/// When it cannot be read.
#[must_use]
#[track_caller]
pub fn repository_text(file: &str) -> String {
    let path = crate::command::hack("..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
