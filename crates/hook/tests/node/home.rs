//! A device goes and comes home, with all that can be on it.

use crate::support::{Host, on_host};

/// A veth whose other end is up.
fn wired(host: &Host, lines: &str) {
    host.ip("link add dev0 type veth peer name wire\nlink set wire up\nlink set dev0 up");
    host.ip(lines);
}

/// Attaches, looks inside, detaches, and compares.
fn there_and_back(host: &Host, inside: impl FnOnce(&crate::support::Sandbox)) {
    let before = host.settled();
    let sandbox = host.sandbox("web");
    host.attach(&sandbox, "c1", "dev0").succeeds();
    assert!(!host.has_link("dev0") && sandbox.has_link("dev0"));
    inside(&sandbox);
    host.detach("c1", "dev0").succeeds();
    host.assert_same(&before);
}

#[test]
fn a_plain_device_goes_and_comes_home() {
    on_host(|host| {
        wired(host, "");
        there_and_back(host, |sandbox| assert!(sandbox.show("link show dev0").contains("UP")));
    });
}
