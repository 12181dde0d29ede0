//! A CNI configuration or list.

use cni::NetworkList;

pub fn run(bytes: &[u8]) {
    let Ok(list) = NetworkList::from_json(bytes) else { return };
    assert!(!list.plugins().is_empty() && !list.versions().is_empty());
    assert!(list.versions().is_sorted_by(|newer, older| newer > older));
    for plugin in list.plugins() {
        assert!(!plugin.kind().is_empty() && !plugin.kind().contains('/'));
    }
}
