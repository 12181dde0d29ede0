//! Networks of running Pods by annotation: the controller on a node, definitions of networks, and Pods with them.

use serde_json::{Value, json};

use crate::agent::{Agent, agent_as};
use crate::claims::repository_text;
use crate::inject::PodNetwork;
use crate::node::Node;
use crate::process::Process;
use crate::wait::wait_for;
use crate::{BUSYBOX_IMAGE, program};

/// The annotation with the networks that a Pod requests.
pub const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// The annotation with the networks that a Pod has.
pub const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// The annotation with the devices that a running Pod requests.
const ATTACH: &str = "netdevice.networking.k8s.io/attach";
/// Where the controller finds plugins of a test, before those of the node.
pub const PLUGINS: &str = "/run/rig/plugins";

const CONTROLLER: &str = "dynamic-networks-controller";
const CONFIG: &str = "/run/rig/dynamic-networks-config.json";
const SECRETS: &str = "/run/secrets/kubernetes.io/serviceaccount";
/// The Service of the API server, see `hack/cluster/cluster`.
const API_SERVER: [&str; 2] = ["KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443"];

impl Node {
    /// Prepares a cluster for the controller: the resource NetworkAttachmentDefinition, the objects of
    /// install-dynamic-networks.yaml without its DaemonSet, and the credentials of its ServiceAccount as a container has them.
    ///
    /// # Panics
    /// When the API server refuses.
    #[track_caller]
    pub fn prepare_networks(&self) {
        self.apply(&repository_text("hack/samples/network-attachment-definition-crd.yaml"));
        let established = "crd/network-attachment-definitions.k8s.cni.cncf.io";
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", established]).text();
        let install = repository_text("install-dynamic-networks.yaml");
        let objects: Vec<&str> = install.split("\n---\n").filter(|text| !text.contains("kind: DaemonSet")).collect();
        self.apply(&objects.join("\n---\n"));
        let token = self.kubectl(&["create", "token", "--namespace=kube-system", "--duration=24h", CONTROLLER]);
        self.write(&format!("{SECRETS}/token"), token.text());
        let authority = self.run(["cat", "/etc/kubernetes/pki/ca.crt"]);
        self.write(&format!("{SECRETS}/ca.crt"), authority.text());
    }

    /// Starts the agent with `-dynamic-networks`. It offers no device, unless the arguments have -config.
    #[must_use]
    pub fn networks_agent(&self, args: &[&str]) -> Agent<'_> {
        let plugins = format!("{PLUGINS}:/opt/cni/bin");
        let selection: &[&str] = if args.contains(&"-config") { &[] } else { &["-interfaces", "^no-device$"] };
        let own = [&["-dynamic-networks", "-cni-path", &plugins, "-v=4"], selection].concat();
        let node = format!("NODE_NAME={}", self.name());
        let environment = [&API_SERVER[..], &[&node]].concat();
        self.start_agent_with(&environment, &program("netdevice-agent"), 9780, &[&own[..], args].concat())
    }

    /// Starts the controller by its name, with a configuration file as in the ConfigMap of install-dynamic-networks.yaml.
    #[must_use]
    pub fn networks_controller(&self, configuration: &Value) -> Agent<'_> {
        self.write(CONFIG, &configuration.to_string());
        let config = format!("-config={CONFIG}");
        let node = format!("NODE_NAME={}", self.name());
        let environment = [&API_SERVER[..], &[&node]].concat();
        self.start_agent_with(&environment, &agent_as(CONTROLLER), 9782, &[&config, "-v=5"])
    }

    /// Starts another agent than that of the tests in the same environment: where the API server is, and the Node's name.
    #[must_use]
    pub fn spawn_networks_agent(&self, node: &str, argv: &[&str]) -> Process {
        let node = format!("NODE_NAME={node}");
        self.spawn([&["env"], &API_SERVER[..], &[&node], argv].concat())
    }

    /// Makes or changes a NetworkAttachmentDefinition in the namespace `default`.
    ///
    /// # Panics
    /// When the API server refuses.
    #[track_caller]
    pub fn define_network(&self, name: &str, configuration: &Value) {
        self.define_network_in("default", name, configuration);
    }

    /// Makes or changes a NetworkAttachmentDefinition in a namespace, which is made, too.
    ///
    /// # Panics
    /// When the API server refuses.
    #[track_caller]
    pub fn define_network_in(&self, namespace: &str, name: &str, configuration: &Value) {
        if namespace != "default" {
            self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}).to_string());
        }
        let definition = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name, "namespace": namespace}, "spec": {"config": configuration.to_string()}});
        self.apply(&definition.to_string());
    }

    /// A Pod that is there already.
    #[must_use]
    pub fn known_pod(&self, name: &str) -> NetworkedPod<'_> {
        NetworkedPod { node: self, name: name.to_owned() }
    }

    /// Starts a Pod and waits until it is ready. `networks` is its annotation, empty for none.
    ///
    /// # Panics
    /// When it is not ready within 30 seconds.
    #[track_caller]
    pub fn networked_pod(&self, name: &str, networks: &str) -> NetworkedPod<'_> {
        self.begin_networked_pod(name, networks, &json!({}));
        self.wait_until_ready(name);
        NetworkedPod { node: self, name: name.to_owned() }
    }

    /// Makes a Pod and does not wait for it. `more` is added to its specification.
    ///
    /// # Panics
    /// When the API server refuses.
    #[track_caller]
    pub fn begin_networked_pod(&self, name: &str, networks: &str, more: &Value) -> NetworkedPod<'_> {
        let annotations = if networks.is_empty() { json!({}) } else { json!({NETWORKS: networks}) };
        self.begin_annotated_pod(name, &annotations, more)
    }

    /// Makes a Pod with the annotation of devices, and does not wait for it.
    ///
    /// # Panics
    /// When the API server refuses.
    #[track_caller]
    pub fn begin_listing_pod(&self, name: &str, devices: &str) -> NetworkedPod<'_> {
        self.begin_annotated_pod(name, &json!({ATTACH: devices}), &json!({}))
    }

    #[track_caller]
    fn begin_annotated_pod(&self, name: &str, annotations: &Value, more: &Value) -> NetworkedPod<'_> {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": "c", "image": BUSYBOX_IMAGE, "command": ["sh", "-c", "ip -o link; exec sleep 1000000"]}]}});
        for (key, value) in more.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        self.apply(&pod.to_string());
        NetworkedPod { node: self, name: name.to_owned() }
    }
}

/// A Pod of the cluster whose networks change.
#[derive(Debug)]
pub struct NetworkedPod<'n> {
    node: &'n Node,
    name: String,
}

impl NetworkedPod<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace, as it is now.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    #[track_caller]
    pub fn network(&self) -> PodNetwork<'_> {
        self.node.pod_network(&self.name)
    }

    /// Writes the annotation; the empty text removes it.
    ///
    /// # Panics
    /// When the API server refuses.
    #[track_caller]
    pub fn request_text(&self, networks: &str) {
        self.annotate(NETWORKS, networks);
    }

    /// Writes the annotation with devices; the empty text removes it.
    ///
    /// # Panics
    /// When the API server refuses.
    #[track_caller]
    pub fn attach(&self, devices: &str) {
        self.annotate(ATTACH, devices);
    }

    #[track_caller]
    fn annotate(&self, key: &str, text: &str) {
        let change = if text.is_empty() { format!("{key}-") } else { format!("{key}={text}") };
        self.node.kubectl(&["annotate", "--overwrite", "pod", &self.name, &change]).text();
    }

    /// Writes the annotation as JSON.
    ///
    /// # Panics
    /// As [`NetworkedPod::request_text`].
    #[track_caller]
    pub fn request(&self, elements: &Value) {
        self.request_text(&elements.to_string());
    }

    /// The entries of its network-status, in order.
    #[must_use]
    pub fn status(&self) -> Vec<Value> {
        let pod = self.node.get(&["pod", &self.name]);
        let text = pod["metadata"]["annotations"][NETWORK_STATUS].as_str().unwrap_or("[]").to_owned();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("network-status: {error}: {text}"))
    }

    /// Network and interface of each entry of its network-status that is not the default network's, in order.
    #[must_use]
    pub fn plugged(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let others = self.status().into_iter().filter(|entry| entry["default"] != true);
        others.map(|entry| (text(&entry["name"]), text(&entry["interface"]))).collect()
    }

    /// The entry of one interface in its network-status; `Null` if there is none.
    #[must_use]
    pub fn status_of(&self, interface: &str) -> Value {
        self.status().into_iter().find(|entry| entry["interface"] == interface).unwrap_or_default()
    }

    /// Its Events by the controller: reason, text, and how often.
    #[must_use]
    pub fn events(&self) -> Vec<(String, String, u64)> {
        let of_pod = format!("--field-selector=involvedObject.kind=Pod,involvedObject.name={}", self.name);
        let list = self.node.get(&["events", &of_pod]);
        let events = list["items"].as_array().cloned().unwrap_or_default().into_iter();
        let ours = events.filter(|event| event["reportingComponent"] == "pod-networks-updates");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        ours.map(|event| {
            let count = event["series"]["count"].as_u64().or(event["count"].as_u64()).unwrap_or(1);
            (text(&event["reason"]), text(&event["message"]), count.max(1))
        })
        .collect()
    }

    /// Waits for an Event.
    ///
    /// # Panics
    /// When it does not come within 30 seconds.
    #[track_caller]
    pub fn wait_for_event(&self, reason: &str, text: &str) {
        let has = |events: &Vec<(String, String, u64)>| events.iter().any(|it| it.0 == reason && it.1.contains(text));
        wait_for(&format!("event {reason}: {text}"), || self.events(), has);
    }

    /// Waits until it has exactly these interfaces besides lo and eth0.
    ///
    /// # Panics
    /// When it has not within 30 seconds.
    #[track_caller]
    pub fn wait_for_interfaces(&self, names: &[&str]) {
        wait_for(&format!("{} has {names:?}", self.name), || self.interfaces(), |seen| *seen == names);
    }

    /// Its interfaces besides lo and eth0, sorted.
    #[must_use]
    pub fn interfaces(&self) -> Vec<String> {
        let mut names = self.network().interfaces();
        names.retain(|name| name != "lo" && name != "eth0");
        names.sort();
        names
    }

    /// Waits until its network-status has exactly these networks and interfaces, besides the default one, in this order.
    ///
    /// # Panics
    /// When it has not within 30 seconds.
    #[track_caller]
    pub fn wait_for_status(&self, entries: &[(&str, &str)]) {
        let wanted: Vec<(String, String)> = entries.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let look = || (self.plugged(), self.events());
        wait_for(&format!("the status of {} has {entries:?}", self.name), look, |(seen, _)| *seen == wanted);
    }

    /// Deletes it and waits until it is gone.
    ///
    /// # Panics
    /// When that takes more than a minute.
    #[track_caller]
    pub fn delete(self) {
        self.node.delete(&[&format!("pod/{}", self.name)]);
    }
}
