//! Pods by kubectl, and static Pods of a standalone kubelet.

use serde_json::Value;

use crate::command::Output;
use crate::node::Node;

/// As `hack/node/node run` sets them.
const KUBECTL: [&str; 4] =
    ["env", "KUBECONFIG=/etc/kubernetes/admin.conf", "KUBECACHEDIR=/run/rig/kubectl-cache", "kubectl"];
const MANIFESTS: &str = "/etc/kubernetes/manifests";

impl Node {
    /// Runs kubectl as the administrator.
    pub fn kubectl(&self, args: &[&str]) -> Output {
        self.enter(&[&KUBECTL, args].concat(), "")
    }

    /// Runs kubectl as the administrator, with `input` as its standard input.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Output {
        self.enter(&[&KUBECTL, args].concat(), input)
    }

    /// `kubectl apply` of a YAML or JSON text.
    ///
    /// # Panics
    /// When the API server refuses.
    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        let done = self.kubectl_with(&["apply", "--filename=-"], manifest);
        assert!(done.success(), "{done}\n{manifest}");
    }

    /// `kubectl delete`, such as `delete(&["pod/a", "pod/b"])`: waits until the objects are gone; those that are gone
    /// already are no error.
    ///
    /// # Panics
    /// When that takes more than a minute.
    #[track_caller]
    pub fn delete(&self, objects: &[&str]) {
        let args = [&["delete", "--ignore-not-found", "--timeout=60s"], objects].concat();
        let done = self.kubectl(&args);
        assert!(done.success(), "{done}");
    }

    /// `kubectl get ... -o json`; `Null` where there is no such object.
    ///
    /// # Panics
    /// When the API server refuses.
    #[must_use]
    #[track_caller]
    pub fn get(&self, args: &[&str]) -> Value {
        let said = self.kubectl(&[&["get", "--ignore-not-found", "--output=json"], args].concat());
        if said.text().is_empty() { Value::Null } else { said.json() }
    }

    /// `kubectl exec POD -- ARGV`. A kubelet that has just started learns of its Pods one by one: until then it is asked
    /// again.
    ///
    /// # Panics
    /// When the kubelet does not know the Pod within 30 seconds.
    #[track_caller]
    pub fn exec(&self, pod: &str, argv: &[&str]) -> Output {
        let exec = || self.kubectl(&[&["exec", pod, "--"], argv].concat());
        crate::wait_for("the kubelet knows the Pod", exec, |done| !done.stderr.contains("pod does not exist"))
    }

    /// Waits until `kubectl logs ARGS` has all of `texts`: what a container writes reaches its log some time later.
    ///
    /// # Panics
    /// When it has not within 30 seconds.
    #[track_caller]
    pub fn wait_for_logs(&self, args: &[&str], texts: &[&str]) {
        let logs = || self.kubectl(&[&["logs"], args].concat());
        let all = |logs: &Output| texts.iter().all(|text| logs.stdout.contains(text));
        crate::wait_for(&format!("the log has {texts:?}"), logs, all);
    }

    /// Waits for a Pod's phase and returns the Pod.
    ///
    /// # Panics
    /// When it is not reached within 30 seconds, with what `kubectl describe` says.
    #[track_caller]
    pub fn wait_for_phase(&self, pod: &str, phase: &str) -> Value {
        let look = || Some(self.get(&["pod", pod])).filter(|pod| pod["status"]["phase"] == phase);
        let found = crate::eventually(std::time::Duration::from_secs(30), look);
        found.unwrap_or_else(|| panic!("pod {pod} is not {phase}:\n{}", self.kubectl(&["describe", "pod", pod])))
    }

    /// Waits until a Pod is Ready and returns it.
    ///
    /// # Panics
    /// As [`Node::wait_for_phase`].
    #[track_caller]
    pub fn wait_until_ready(&self, pod: &str) -> Value {
        let ready = self.kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", &format!("pod/{pod}")]);
        assert!(ready.success(), "{ready}\n{}", self.kubectl(&["describe", "pod", pod]));
        self.get(&["pod", pod])
    }

    /// Gives the kubelet a static Pod; `manifest` is YAML or JSON.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[track_caller]
    pub fn static_pod(&self, name: &str, manifest: &str) {
        self.write(&format!("{MANIFESTS}/{name}.yaml"), manifest);
    }

    /// Takes a static Pod away.
    ///
    /// # Panics
    /// When there is none of that name.
    #[track_caller]
    pub fn remove_static_pod(&self, name: &str) {
        let path = self.path(&format!("{MANIFESTS}/{name}.yaml"));
        std::fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// A Pod as the kubelet reports it, with or without API server. A static Pod's name is `NAME-NODE`.
    #[must_use]
    pub fn kubelet_pod(&self, name: &str) -> Option<Value> {
        let said = self.run(["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:10255/pods"]);
        let list: Value = serde_json::from_str(&said.stdout).ok()?;
        list["items"].as_array()?.iter().find(|pod| pod["metadata"]["name"] == name).cloned()
    }
}
