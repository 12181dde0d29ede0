//! Neighbours that knew an address of a device under another hardware address learn the new one when the device arrives.

use link::Announcement;
use serde_json::json;
use store::Records;

use crate::support::{Host, Sandbox, inject::Order, on_host, until};

const MAC: &str = "02:00:00:00:00:05";
const ADDRESSES: [&str; 2] = ["10.1.0.5", "2001:db8::5"];

/// A device `dev0` of the host, and its neighbour at the other end of the cable in a namespace of its own.
fn wired(host: &Host) -> Sandbox {
    let neighbour = host.sandbox("neighbour");
    host.ip(&format!(
        "link add dev0 address {MAC} type veth peer name far\nlink set far netns {}\nlink set dev0 up",
        neighbour.pid()
    ));
    // when the device moves, the cable is without a carrier for a moment, and the kernel forgets what it knew there
    neighbour.write("/proc/sys/net/ipv4/conf/far/arp_accept", "1");
    neighbour.write("/proc/sys/net/ipv6/conf/far/accept_untracked_na", "1");
    // without it the one before has no effect (RFC 9131)
    neighbour.write("/proc/sys/net/ipv6/conf/far/forwarding", "1");
    neighbour.ip("link set far up\naddr add 10.1.0.1/24 dev far\naddr add 2001:db8::1/64 dev far nodad");
    neighbour
}

/// The neighbour believes that another device has these addresses.
fn mislead(neighbour: &Sandbox, addresses: &[&str]) {
    for address in addresses {
        neighbour.ip(&format!("neigh replace {address} lladdr 02:00:00:00:00:bb dev far nud stale"));
    }
}

#[track_caller]
fn learns(neighbour: &Sandbox, addresses: &[&str], mac: &str) {
    for address in addresses {
        let knows = || neighbour.show(&format!("neigh show {address} dev far")).contains(mac);
        until(&format!("the neighbour knows {address} at {mac}"), knows);
    }
}

#[test]
fn addresses_of_a_device_are_announced_in_the_pod_and_on_the_host() {
    on_host(|host| {
        let neighbour = wired(host);
        host.ip("addr add 10.1.0.5/24 dev dev0\naddr add 2001:db8::5/64 dev dev0");
        let sandbox = host.sandbox("web");
        mislead(&neighbour, &ADDRESSES);
        host.attach(&sandbox, "c1", "dev0").succeeds();
        learns(&neighbour, &ADDRESSES, MAC);
        mislead(&neighbour, &ADDRESSES);
        host.detach("c1", "dev0").succeeds();
        learns(&neighbour, &ADDRESSES, MAC);
    });
}

#[test]
fn addresses_that_a_pod_asked_for_are_announced_with_the_hardware_address_that_it_asked_for() {
    on_host(|host| {
        let neighbour = wired(host);
        let sandbox = host.sandbox("web");
        mislead(&neighbour, &ADDRESSES);
        let mac = "02:00:00:00:00:77";
        let asked = json!({"name": "net1", "addresses": ["10.1.0.5/24", "2001:db8::5/64"], "mac": mac});
        Order::new(host, &sandbox, &json!([["dev0", asked]])).attach().unwrap();
        learns(&neighbour, &ADDRESSES, mac);
    });
}

/// What the agent does a moment later: every address again, those included that the kernel has no word for.
#[test]
fn the_agent_announces_every_address_again_once_there_is_a_carrier() {
    on_host(|host| {
        let all = ["10.1.0.5", "10.1.0.6", "2001:db8::5", "2001:db8::6"];
        let neighbour = wired(host);
        for address in all {
            let len = if address.contains(':') { 64 } else { 24 };
            host.ip(&format!("addr add {address}/{len} dev dev0"));
        }
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let records = Records::new(host.state_dir());
        let record = records.list().unwrap().0.into_values().next().unwrap();
        neighbour.ip("link set far down");
        assert_eq!(link::announce_in_sandbox(&records, &record).unwrap(), Announcement::NoCarrier);
        neighbour.ip("link set far up");
        mislead(&neighbour, &all);
        let announced = || link::announce_in_sandbox(&records, &record).unwrap() == Announcement::Done;
        until("a carrier", announced);
        learns(&neighbour, &all, MAC);
        host.detach("c1", "dev0").succeeds();
        mislead(&neighbour, &all);
        assert_eq!(link::announce_on_host(&"dev0".parse().unwrap()).unwrap(), Announcement::Done);
        learns(&neighbour, &all, MAC);
    });
}

#[test]
fn a_device_that_resolves_no_addresses_or_is_down_is_not_announced() {
    on_host(|host| {
        let _neighbour = wired(host);
        host.ip("addr add 10.1.0.5/24 dev dev0\nlink set dev0 down");
        let name = "dev0".parse().unwrap();
        assert_eq!(link::announce_on_host(&name).unwrap(), Announcement::Done);
        host.ip("link set dev0 arp off up");
        assert_eq!(link::announce_on_host(&name).unwrap(), Announcement::Done);
        assert_eq!(link::announce_on_host(&"lo".parse().unwrap()).unwrap(), Announcement::Done);
        assert_eq!(link::announce_on_host(&"gone".parse().unwrap()).unwrap(), Announcement::Done);
    });
}
