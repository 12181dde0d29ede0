//! What a runtime writes to the hook's standard input, and the container's `config.json`.

use netdevice::{
    Sandbox,
    oci::{Config, State},
};

pub fn run(bytes: &[u8]) {
    if let Ok(state) = State::from_json(bytes) {
        assert!(!state.id.is_empty());
        assert!(state.pid().is_none_or(|pid| pid > 0));
        let owner = Sandbox::from_oci(&state, None).container(&state.id);
        assert!(owner.is_same_pod(&owner));
        let _ = owner.to_string();
    }
    let _ = Config::network_namespace(bytes);
}
