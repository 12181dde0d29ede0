//! What a runtime adds to the CRI status of a sandbox.

use netdevice::{
    Sandbox,
    owner::{Pod, Request},
    sandbox::Network,
};

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let pod = Pod { namespace: "default".into(), name: "web".into(), uid: "u1".into() };
    let Ok(sandbox) = Sandbox::from_cri("s1", pod, text) else { return };
    match sandbox.network() {
        Network::AtPath { path, pid } => assert!(!path.is_empty() && pid.is_none_or(|pid| pid > 0)),
        Network::Unnamed { pid } => assert!(pid.is_none_or(|pid| pid > 0)),
        Network::OfProcess { .. } => unreachable!("a CRI status names a sandbox, not a container"),
    }
    assert!(sandbox.owner(Request::Command).is_some());
}
