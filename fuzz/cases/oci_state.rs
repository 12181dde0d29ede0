//! What a runtime writes to the hook's standard input, and the container's `config.json`.

use netdevice::oci::{Config, State};

pub fn run(bytes: &[u8]) {
    if let Ok(state) = State::from_json(bytes) {
        assert!(!state.id.is_empty());
        assert!(state.pid().is_ok_and(|pid| pid > 0) || state.pid().is_err());
        let owner = state.owner();
        assert!(owner.is_same_pod(&owner));
        let _ = owner.to_string();
    }
    let _ = Config::network_namespace(bytes);
}
