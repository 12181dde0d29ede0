//! Host interfaces of a test, and everything that the kernel reports about one.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::command::Output;
use crate::node::Node;
use crate::wait::eventually;

/// Everything that must be the same after a device has returned, one fact on each line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState(BTreeSet<String>);

const READ: &str = r#"
d=$0
ip -d -o address show dev "$d" | sed 's/^/address /'
for family in 4 6; do ip -d -N -$family route show table all dev "$d" | sed "s/^/route$family /"; done
ip -N neighbour show dev "$d" nud permanent | sed 's/^/neighbour /'
for family in ipv4 ipv6; do
  for kind in conf neigh; do grep -s '' "/proc/sys/net/$family/$kind/$d"/* </dev/null; done
done
exit 0
"#;

/// The name is `$0`.
const RICH: &str = "ip link set $0 down
ip link set $0 address 02:00:5e:10:20:30 mtu 1400 txqueuelen 500 alias 'front door' multicast on
ip link property add dev $0 altname $0-other
ip link set $0 up
echo 2 > /proc/sys/net/ipv4/conf/$0/rp_filter
echo 1 > /proc/sys/net/ipv4/conf/$0/arp_ignore
echo 0 > /proc/sys/net/ipv6/conf/$0/accept_ra
echo 77 > /proc/sys/net/ipv4/neigh/$0/gc_stale_time
ip address add 192.0.2.5/24 dev $0
ip address add 192.0.2.6/24 dev $0 label $0:b
ip address add 10.9.8.7 peer 10.9.8.1 dev $0 scope link
ip address add 2001:db8:1::5/64 dev $0
ip address add 2001:db8:1::6/64 dev $0 preferred_lft 0
ip route add 198.51.100.0/24 via 192.0.2.1 dev $0 metric 7
ip route add 203.0.113.0/24 dev $0 table 100 src 192.0.2.6
ip route add 2001:db8:2::/64 via 2001:db8:1::1 dev $0
ip neighbour add 192.0.2.1 lladdr 02:00:5e:00:00:01 nud permanent dev $0
ip neighbour add 2001:db8:1::1 lladdr 02:00:5e:00:00:01 nud permanent dev $0";

impl Node {
    /// Runs a script in the node.
    ///
    /// # Panics
    /// When it fails, with what it said.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        let done = self.run(["sh", "-ec", script]);
        assert!(done.success(), "{done}");
        done
    }

    /// Makes a device that is up and has 192.0.2.5/24: one end of a veth pair, whose other end is up too and called
    /// `NAME-p`.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn add_device(&self, name: &str) -> Device<'_> {
        // without an IPv6 address, which would be tentative for a second
        self.make_device(name, "addrgenmode none", "ip address add 192.0.2.5/24 dev $0")
    }

    /// As [`Node::add_device`] with another address: for devices that are there at the same time.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn add_device_at(&self, name: &str, address: &str) -> Device<'_> {
        self.make_device(name, "addrgenmode none", &format!("ip address add {address} dev $0"))
    }

    /// Makes a device with all that a link can have; there is room for one of them at a time.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn add_rich_device(&self, name: &str) -> Device<'_> {
        self.make_device(name, "", RICH)
    }

    #[track_caller]
    fn make_device(&self, name: &str, mode: &str, more: &str) -> Device<'_> {
        let pair = format!("ip link add {name} type veth peer name {name}-p");
        let peer = format!("ip link set {name}-p addrgenmode none; ip link set {name}-p up");
        let mode = if mode.is_empty() { String::new() } else { format!("ip link set {name} {mode}") };
        let more = more.replace("$0", name);
        self.sh(&[pair, peer, mode, format!("ip link set {name} up"), more].join("\n"));
        let tentative = || self.sh(&format!("ip -6 address show dev {name} tentative")).stdout;
        crate::wait_for("addresses are not tentative any more", tentative, String::is_empty);
        let before = self.device_state(name).expect("it was just made");
        Device { node: self, name: name.to_owned(), before }
    }

    /// All that is known of a device on the node; `None` where there is none.
    #[must_use]
    pub fn device_state(&self, name: &str) -> Option<DeviceState> {
        let said = self.run(["sh", "-c", READ, name]);
        let lines: BTreeSet<String> = said.stdout.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.iter().any(|line| line.starts_with("address ")).then_some(DeviceState(lines))
    }

    /// Whether the node's own network has a link of that name.
    #[must_use]
    pub fn has_link(&self, name: &str) -> bool {
        self.run(["ip", "link", "show", "dev", name]).success()
    }
}

/// A device that a test made on a node; it goes with this.
#[derive(Debug)]
pub struct Device<'n> {
    node: &'n Node,
    name: String,
    before: DeviceState,
}

impl Device<'_> {
    /// The same device; what it is now is what it must be when it has returned.
    ///
    /// # Panics
    /// When it is not on the node.
    #[must_use]
    #[track_caller]
    pub fn as_it_is_now(mut self) -> Self {
        self.before = self.node.device_state(&self.name).expect("it is on the node");
        self
    }

    /// Whether the node's own network has it.
    #[must_use]
    pub fn is_on_node(&self) -> bool {
        self.node.has_link(&self.name)
    }

    /// Waits until it is on the node and as it was when it was made.
    ///
    /// # Panics
    /// When it is not within ten seconds, with what differs.
    #[track_caller]
    pub fn wait_until_home(&self) {
        let mut last = None;
        let found = eventually(Duration::from_secs(10), || {
            last = self.node.device_state(&self.name);
            (last.as_ref() == Some(&self.before)).then_some(())
        });
        if found.is_some() {
            return;
        }
        let journal = std::fs::read_to_string(self.node.path(crate::HOOK_LOG)).unwrap_or_default();
        let journal: Vec<&str> = journal.lines().rev().take(6).collect();
        let (name, DeviceState(before)) = (&self.name, &self.before);
        let Some(DeviceState(now)) = last else { panic!("{name} is not on the node\n{journal:#?}") };
        let (missing, new): (Vec<_>, Vec<_>) = (before.difference(&now).collect(), now.difference(before).collect());
        panic!("{name} is not as it was: missing {missing:#?}, new {new:#?}\n{journal:#?}");
    }

    /// Waits until it is as it was, and that no record of it is left.
    ///
    /// # Panics
    /// As [`Device::wait_until_home`].
    #[track_caller]
    pub fn wait_until_free(&self) {
        self.wait_until_home();
        let record = self.node.path(&format!("/run/netdevice/{}.json", self.name));
        crate::wait_for("its record goes", || record.exists(), |there| !there);
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        // the other end takes it along, from wherever it is
        self.node.run(["ip", "link", "delete", "dev", &format!("{}-p", self.name)]);
    }
}
