//! `/proc/net/tcp`, and the file by which the agent tells hooks what the node is known by.

use netdevice::node_address::{MAX_NODE_ADDRESSES, from_text, is_telling, of_connection, to_text};

pub fn run(bytes: &[u8]) {
    let read = from_text(bytes);
    let text = to_text(&read);
    assert!(text.len() <= MAX_NODE_ADDRESSES);
    assert!(from_text(text.as_bytes()).is_subset(&read));
    for line in String::from_utf8_lossy(bytes).lines() {
        assert!(of_connection(line, "10.96.0.1:443".parse().ok()).is_none_or(is_telling));
    }
}
