//! The client beside a runtime that speaks the real protocol on a temporary socket.

#![allow(clippy::unwrap_used)] // tests, in functions of their own

use std::{
    fs,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    time::Duration,
};

use cri::{
    Candidates, Client, Deadlines, Endpoint, Error, Origin,
    stand_in::{Call, Fault, RuntimeStandIn, SandboxSpec},
};
use netdevice::sandbox::Network;
use tempfile::TempDir;
use tonic::Status;

/// Long enough for a busy machine, where nothing is expected to time out.
const PATIENT: Deadlines = Deadlines { connect: Duration::from_secs(60), call: Duration::from_secs(60) };
/// Where nothing comes.
const SHORT: Deadlines = Deadlines { connect: Duration::from_millis(50), call: Duration::from_millis(50) };

struct Node {
    directory: TempDir,
    runtime: RuntimeStandIn,
}

impl Node {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = RuntimeStandIn::start(&directory.path().join("runtime.sock")).unwrap();
        Self { directory, runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn connect(&self) -> Client {
        Client::connect(&named(self.runtime.endpoint().path()), PATIENT).await.unwrap()
    }

    /// What `find_sandbox` says of pod default/web.
    async fn refusal(&self) -> String {
        self.connect().await.find_sandbox("default", "web").await.unwrap_err().to_string()
    }
}

fn endpoint(path: &Path) -> Endpoint {
    path.display().to_string().parse().unwrap()
}

fn named(path: &Path) -> Candidates {
    Candidates::One(endpoint(path), Origin::Flag)
}

async fn cannot_connect(path: &Path, deadlines: Deadlines) -> String {
    let error = Client::connect(&named(path), deadlines).await.unwrap_err().to_string();
    let begin = format!("cannot connect to the container runtime at {} (from -runtime-endpoint): ", path.display());
    error.strip_prefix(&begin).unwrap_or_else(|| panic!("{error}")).to_owned()
}

#[tokio::test]
async fn a_runtime_says_what_it_is() {
    let node = Node::start();
    node.runtime.set_runtime("cri-o", "1.36.3");
    let client = node.connect().await;
    assert_eq!((client.runtime().name.as_str(), client.runtime().version.as_str()), ("cri-o", "1.36.3"));
    assert_eq!(client.endpoint(), &node.runtime.endpoint());
}

#[tokio::test]
async fn a_named_socket_that_is_not_a_runtimes_is_refused_with_the_reason() {
    let node = Node::start();
    assert_eq!(cannot_connect(&node.path("absent.sock"), PATIENT).await, "No such file or directory (os error 2)");
    fs::write(node.path("file"), "").unwrap();
    assert_eq!(cannot_connect(&node.path("file"), PATIENT).await, "not a socket");
    assert_eq!(cannot_connect(node.directory.path(), PATIENT).await, "not a socket");
    drop(UnixListener::bind(node.path("stale.sock")).unwrap());
    let stale = cannot_connect(&node.path("stale.sock"), PATIENT).await;
    assert_eq!(stale, "connection refused: no process listens there");
    let _silent = UnixListener::bind(node.path("silent.sock")).unwrap();
    assert_eq!(cannot_connect(&node.path("silent.sock"), SHORT).await, "timed out after 50ms");
    node.runtime.break_call(Call::Version, Fault::Silence);
    assert_eq!(cannot_connect(&node.path("runtime.sock"), SHORT).await, "timed out after 50ms");
    node.runtime
        .break_call(Call::Version, Fault::Error(Status::unimplemented("unknown service runtime.v1.RuntimeService")));
    let no_cri = cannot_connect(&node.path("runtime.sock"), PATIENT).await;
    assert_eq!(no_cri, "does not serve CRI v1: unknown service runtime.v1.RuntimeService");
    node.runtime.break_call(Call::Version, Fault::Error(Status::unknown("server is not initialized yet")));
    assert_eq!(cannot_connect(&node.path("runtime.sock"), PATIENT).await, "server is not initialized yet");
}

#[tokio::test]
async fn a_server_of_another_protocol_is_refused() {
    let node = Node::start();
    let listener = tokio::net::UnixListener::bind(node.path("http.sock")).unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    };
    let path = node.path("http.sock");
    let error = tokio::select! {
        error = cannot_connect(&path, PATIENT) => error,
        () = server => unreachable!(),
    };
    assert!(!error.contains("timed out") && error != "transport error", "{error}");
}

#[tokio::test]
async fn the_first_known_socket_that_is_a_runtimes_is_taken() {
    let node = Node::start();
    let (absent, other_absent) = (endpoint(&node.path("absent.sock")), endpoint(&node.path("crio.sock")));
    drop(UnixListener::bind(node.path("stale.sock")).unwrap());
    let stale = endpoint(&node.path("stale.sock"));
    let docker = RuntimeStandIn::start(&node.path("docker.sock")).unwrap();
    docker.break_call(Call::Version, Fault::Error(Status::unimplemented("unknown service")));
    let sockets = [absent, stale, other_absent, docker.endpoint()];

    let error = Client::connect(&Candidates::Known(sockets.to_vec()), PATIENT).await.unwrap_err().to_string();
    let directory = node.directory.path().display();
    let expected = format!(
        "found no container runtime on this node: {directory}/stale.sock: connection refused: no process listens there; \
         {directory}/docker.sock: does not serve CRI v1: unknown service; \
         {directory}/absent.sock, {directory}/crio.sock not found: pass -runtime-endpoint"
    );
    assert_eq!(error, expected);

    let known = Candidates::Known([&sockets[..], &[node.runtime.endpoint()]].concat());
    assert_eq!(Client::connect(&known, PATIENT).await.unwrap().endpoint(), &node.runtime.endpoint());
}

#[tokio::test]
async fn the_running_sandbox_of_a_pod_is_found_on_containerd_and_on_crio() {
    let node = Node::start();
    node.runtime.add(SandboxSpec::new("other", "other").as_containerd("/run/netns/x", 5));
    node.runtime.add(SandboxSpec::new("s1", "web").as_containerd("/var/run/netns/cni-1", 7));
    node.runtime.add(SandboxSpec::new("s2", "api").as_crio("/var/run/netns/2"));
    let client = node.connect().await;

    let found = client.find_sandbox("default", "web").await.unwrap();
    assert_eq!((found.id(), found.pod().uid.as_str(), found.namespace()), ("s1", "uid-web", "/var/run/netns/cni-1"));
    let network = Network::AtPath { path: "/var/run/netns/cni-1".into(), pid: Some(7) };
    assert_eq!(found.sandbox().network(), &network);
    assert_eq!(found.sandbox().id(), Some("s1"));

    let found = client.find_sandbox("default", "api").await.unwrap();
    assert_eq!(found.sandbox().network(), &Network::AtPath { path: "/var/run/netns/2".into(), pid: None });
}

#[tokio::test]
async fn of_two_sandboxes_of_a_pod_the_running_one_counts() {
    let node = Node::start();
    node.runtime.add(SandboxSpec::new("s1", "web").as_containerd("/run/netns/1", 7));
    node.runtime.stop("s1");
    let restarted = SandboxSpec { attempt: 1, created_at: 2, ..SandboxSpec::new("s2", "web") };
    node.runtime.add(restarted.as_containerd("/run/netns/2", 8));
    let client = node.connect().await;
    assert_eq!(client.find_sandbox("default", "web").await.unwrap().id(), "s2");

    let both_run = SandboxSpec { attempt: 2, created_at: 1, ..SandboxSpec::new("s3", "web") };
    node.runtime.add(both_run.as_containerd("/run/netns/3", 9));
    assert_eq!(client.find_sandbox("default", "web").await.unwrap().id(), "s3", "the later attempt");
}

#[tokio::test]
async fn a_pod_without_a_running_sandbox_is_refused_with_the_reason() {
    let node = Node::start();
    let none = "found no pod default/web on this node: it does not exist, or runs on another node";
    assert_eq!(node.refusal().await, none);
    let mut namesake = SandboxSpec::new("s0", "web").as_containerd("/run/netns/0", 6);
    namesake.pod.namespace = "kube-system".into();
    node.runtime.add(namesake);
    assert_eq!(node.refusal().await, none, "a pod of another namespace");

    node.runtime.add(SandboxSpec::new("s1", "web").as_containerd("/run/netns/1", 7));
    node.runtime.stop("s1");
    let stopped = "pod default/web has no running sandbox on this node: only a stopped one";
    assert_eq!(node.refusal().await, stopped);
    node.runtime.remove("s1");
    assert_eq!(node.refusal().await, none);
}

#[tokio::test]
async fn a_sandbox_that_is_removed_while_it_is_asked_for_does_not_run() {
    let node = Node::start();
    node.runtime.add(SandboxSpec::new("s1", "web").as_containerd("/run/netns/1", 7));
    node.runtime.break_call(Call::SandboxStatus, Fault::Error(Status::not_found("not found")));
    let client = node.connect().await;
    assert!(matches!(client.find_sandbox("default", "web").await, Err(Error::NotRunning { .. })));

    // it is listed, and stopped before its status is read
    node.runtime.break_call(Call::SandboxStatus, Fault::Silence);
    let (found, ()) = tokio::join!(client.find_sandbox("default", "web"), async {
        node.runtime.asked(Call::SandboxStatus).await;
        node.runtime.stop("s1");
        node.runtime.repair(Call::SandboxStatus);
    });
    assert!(matches!(found, Err(Error::NotRunning { .. })));
}

#[tokio::test]
async fn a_pod_in_the_hosts_network_is_refused_on_containerd_and_on_crio() {
    let refused = "pod default/web uses the host's network (hostNetwork: true): it has no network namespace of its own";
    for info in [
        r#"{"pid":7,"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"}]}}}"#,
        r#"{"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"/var/run/netns/pinned"}]}}}"#,
    ] {
        let node = Node::start();
        node.runtime.add(SandboxSpec { is_host_network: true, ..SandboxSpec::new("s1", "web") }.info(info));
        assert_eq!(node.refusal().await, refused);
    }
}

#[tokio::test]
async fn a_status_that_does_not_say_where_the_network_is_is_refused() {
    let node = Node::start();
    node.runtime.add(SandboxSpec::new("s1", "web"));
    let no_info = "the container runtime does not say where the network namespace of sandbox s1 is: its verbose status has no \"info\"";
    assert_eq!(node.refusal().await, no_info);
    let table = [
        (
            "",
            "cannot read the container runtime's verbose status of sandbox s1: EOF while parsing a value at line 1 column 0",
        ),
        (
            "{",
            "cannot read the container runtime's verbose status of sandbox s1: EOF while parsing an object at line 1 column 1",
        ),
        ("[]", "the container runtime names no network namespace of sandbox s1"),
        ("{}", "the container runtime names no network namespace of sandbox s1"),
        (r#"{"pid":7,"runtimeSpec":{"linux":{}}}"#, "the container runtime names no network namespace of sandbox s1"),
        (
            r#"{"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":""}]}}}"#,
            "the container runtime names no network namespace of sandbox s1",
        ),
    ];
    for (info, expected) in table {
        node.runtime.remove("s1");
        node.runtime.add(SandboxSpec::new("s1", "web").info(info));
        assert_eq!(node.refusal().await, expected, "{info}");
    }
}

#[tokio::test]
async fn a_call_that_is_refused_or_not_answered_is_an_error() {
    let node = Node::start();
    node.runtime.add(SandboxSpec::new("s1", "web").as_containerd("/run/netns/1", 7));
    node.runtime.break_call(Call::List, Fault::Error(Status::internal("database is locked")));
    assert_eq!(node.refusal().await, "the container runtime cannot list its sandboxes: database is locked");
    node.runtime.repair(Call::List);
    node.runtime.break_call(Call::SandboxStatus, Fault::Error(Status::internal("disk is full")));
    assert_eq!(node.refusal().await, "the container runtime cannot report the status of a sandbox: disk is full");

    node.runtime.break_call(Call::SandboxStatus, Fault::Silence);
    let deadlines = Deadlines { call: SHORT.call, ..PATIENT };
    let client = Client::connect(&named(node.runtime.endpoint().path()), deadlines).await.unwrap();
    let error = client.find_sandbox("default", "web").await.unwrap_err().to_string();
    assert!(error.starts_with("the container runtime did not answer within 50ms: it was asked to "), "{error}");
}

#[tokio::test]
async fn all_sandboxes_are_listed_with_their_state() {
    let node = Node::start();
    node.runtime.add(SandboxSpec { attempt: 3, created_at: 9, ..SandboxSpec::new("s1", "web") });
    node.runtime.add(SandboxSpec::new("s2", "api"));
    node.runtime.stop("s2");
    let listed = node.connect().await.list_sandboxes().await.unwrap();
    let listed: Vec<_> = listed.iter().map(|one| (one.id.as_str(), one.pod.to_string(), one.is_ready)).collect();
    assert_eq!(listed, [("s1", "default/web".into(), true), ("s2", "default/api".into(), false)]);
}

#[tokio::test]
async fn a_node_with_500_large_pods_is_listed_and_an_endless_answer_is_not() {
    let node = Node::start();
    for number in 0..500 {
        node.runtime.add(SandboxSpec { annotations: 16 << 10, ..SandboxSpec::new(&format!("s{number}"), "web") });
    }
    let client = node.connect().await;
    assert_eq!(client.list_sandboxes().await.unwrap().len(), 500);
    node.runtime.add(SandboxSpec { annotations: 16 << 20, ..SandboxSpec::new("huge", "web") });
    let error = client.list_sandboxes().await.unwrap_err().to_string();
    assert_eq!(error, "the container runtime cannot list its sandboxes: its answer is longer than 16 MiB");
}

#[tokio::test]
async fn a_runtime_says_how_it_is() {
    let node = Node::start();
    node.runtime.set_info("config", r#"{"enableCDI":true}"#);
    let client = node.connect().await;
    let state = client.runtime_state().await.unwrap();
    assert!(state.not_ready.is_empty());
    assert_eq!(state.info["config"], r#"{"enableCDI":true}"#);
    node.runtime.set_not_ready("NetworkReady", "cni plugin not initialized");
    let state = client.runtime_state().await.unwrap();
    assert_eq!(state.not_ready, ["NetworkReady: cni plugin not initialized"]);
}

#[tokio::test]
async fn a_runtime_that_ends_is_an_error_and_one_that_is_back_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("runtime.sock");
    // with a thread of its own, whose end closes its connections too
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let guard = process.enter();
    let _runtime = RuntimeStandIn::start(&socket).unwrap();
    drop(guard);
    let client = Client::connect(&named(&socket), PATIENT).await.unwrap();
    process.shutdown_background();
    fs::remove_file(&socket).unwrap();
    let error = client.list_sandboxes().await.unwrap_err().to_string();
    assert!(error.starts_with("the container runtime cannot list its sandboxes: "), "{error}");
    assert!(!error.contains("transport error"), "{error}");

    let runtime = RuntimeStandIn::start(&socket).unwrap();
    runtime.add(SandboxSpec::new("s1", "web"));
    assert_eq!(client.list_sandboxes().await.unwrap().len(), 1);
}
