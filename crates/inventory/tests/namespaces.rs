//! The inventory against a real kernel: each test has a network namespace of its own and changes it with `ip`.

#![allow(clippy::unwrap_used)] // tests, in functions of their own

use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use inventory::{Config, Inventory, Stats};
use netdevice::{
    InterfaceName, Link, Snapshot,
    exclusion::Exclusions,
    snapshot::{DefaultRoute, Family},
};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);
const MAIN: u32 = 254;

/// Runs a test on a thread in a new namespace; the thread ends afterwards, and the namespace with it.
fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: only the network namespace of this thread is replaced, no file descriptor table.
        #[allow(unsafe_code)]
        let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
        unshared.expect("this test makes network namespaces: run it as root");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` commands, one a line, in the namespace of this thread.
fn ip(commands: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("iproute2 is there");
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{commands}");
}

/// An inventory that is being followed.
struct Followed {
    snapshots: watch::Receiver<Snapshot>,
    namespaces_ended: watch::Receiver<u64>,
    stats: Arc<Stats>,
}

impl Followed {
    /// Waits for a snapshot of which `is_right` holds.
    async fn until(&mut self, what: &str, is_right: impl FnMut(&Snapshot) -> bool) -> Snapshot {
        let found = timeout(DEADLINE, self.snapshots.wait_for(is_right)).await;
        let found = found.map(|snapshot| snapshot.expect("the inventory runs").clone());
        found.unwrap_or_else(|_| panic!("not seen: {what}; last was {:#?}", self.snapshots.borrow()))
    }

    /// Waits until everything that happened so far is in the snapshot: a link that is made now is last.
    async fn settled(&mut self) -> Snapshot {
        ip("link add name mark type ifb");
        self.until("the mark", |snapshot| has(snapshot, "mark")).await;
        ip("link del dev mark");
        self.until("the mark's end", |snapshot| !has(snapshot, "mark")).await
    }
}

/// Follows a new namespace while `test` runs, after the `setup` commands.
fn follow(config: Config, setup: &'static str, test: impl AsyncFnOnce(Followed) + Send + 'static) {
    in_a_namespace(move || {
        ip(setup);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let inventory = Inventory::open(config).unwrap();
            let followed = Followed {
                snapshots: inventory.subscribe(),
                namespaces_ended: inventory.subscribe_namespaces_ended(),
                stats: inventory.stats(),
            };
            let shutdown = CancellationToken::new();
            let running = inventory.run(shutdown.clone());
            tokio::pin!(running);
            tokio::select! {
                result = &mut running => panic!("the inventory ended: {result:?}"),
                () = test(followed) => shutdown.cancel(),
            }
            timeout(DEADLINE, running).await.expect("it stops when told").unwrap();
        });
    });
}

fn config() -> Config {
    // no refresh: what these tests wait for comes by notifications alone
    Config { refresh: Duration::from_secs(3600), ..Config::default() }
}

fn link<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a Arc<Link>> {
    snapshot.link_named(&name.parse::<InterfaceName>().unwrap())
}

fn has(snapshot: &Snapshot, name: &str) -> bool {
    link(snapshot, name).is_some()
}

/// Names of the links with a default route, by family and table.
fn uplinks(snapshot: &Snapshot) -> Vec<(Family, u32, String)> {
    let name = |route: &DefaultRoute| match snapshot.link(route.link) {
        Some(link) => link.name.to_string(),
        None => format!("link {}", route.link),
    };
    snapshot.default_routes().iter().map(|route| (route.family, route.table, name(route))).collect()
}

fn v4(names: &[&str]) -> Vec<(Family, u32, String)> {
    names.iter().map(|name| (Family::V4, MAIN, (*name).to_owned())).collect()
}

/// What the kernel says now, read on its own.
fn read() -> Snapshot {
    inventory::read_once(Path::new("/nonexistent"), BTreeSet::new()).unwrap()
}

#[test]
fn links_are_seen_to_come_change_and_go() {
    follow(config(), "link add name a type veth peer name b", async |mut followed| {
        let first = followed.snapshots.borrow().clone();
        assert!(has(&first, "lo") && has(&first, "a"));
        assert_eq!(link(&first, "a").unwrap().kind.as_deref(), Some("veth"));
        ip("link set dev a up");
        followed.until("a up", |now| link(now, "a").is_some_and(|a| a.is_up() && !a.has_carrier())).await;
        ip("link set dev b up");
        followed.until("a's carrier", |now| link(now, "a").is_some_and(|a| a.has_carrier())).await;
        ip("link set dev a down\nlink set dev a name c mtu 1400");
        followed.until("a renamed", |now| !has(now, "a") && link(now, "c").is_some_and(|c| c.mtu == 1400)).await;
        ip("link set dev c alias hello\nlink property add dev c altname another-name\nlink set dev c up");
        let now = followed.until("c up", |now| link(now, "c").is_some_and(|c| c.is_up())).await;
        let c = link(&now, "c").unwrap();
        assert_eq!(c.alias.as_ref().unwrap().to_string(), "hello");
        assert_eq!(c.altnames[0].to_string(), "another-name");
        ip("link del dev c");
        followed.until("both ends gone", |now| now.links().len() == 1).await;
        assert_eq!(followed.stats.resyncs(), 0);
    });
}

#[test]
fn what_the_kernel_does_not_tell_is_seen_at_the_next_refresh() {
    let config = Config { refresh: Duration::from_millis(50), ..config() };
    follow(config, "link add name a type ifb", async |mut followed| {
        ip("link set dev a alias silent\nlink property add dev a altname a-silent-name");
        let now = followed.until("the alias", |now| link(now, "a").is_some_and(|a| !a.altnames.is_empty())).await;
        assert_eq!(link(&now, "a").unwrap().alias.as_ref().unwrap().to_string(), "silent");
    });
}

#[test]
fn a_link_that_swaps_its_name_with_another_is_found_under_the_new_one() {
    follow(config(), "link add name a type ifb\nlink add name b type ifb", async |mut followed| {
        let first = followed.snapshots.borrow().clone();
        let (a, b) = (link(&first, "a").unwrap().index, link(&first, "b").unwrap().index);
        ip("link set dev a name tmp\nlink set dev b name a\nlink set dev tmp name b");
        let is = |now: &Snapshot, name, index| link(now, name).is_some_and(|link| link.index == index);
        let now = followed.until("swapped", |now| is(now, "a", b) && is(now, "b", a)).await;
        assert_eq!(now, read());
    });
}

#[test]
fn a_link_that_is_moved_away_is_gone() {
    follow(config(), "link add name a type ifb", async |mut followed| {
        let mut holder = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
        let mine = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", holder.id());
        while std::fs::read_link(&theirs).unwrap() == mine {
            tokio::task::yield_now().await;
        }
        ip(&format!("link set dev a netns {}", holder.id()));
        followed.until("a gone", |now| !has(now, "a")).await;
        holder.kill().unwrap();
        holder.wait().unwrap();
    });
}

#[test]
fn a_port_of_a_bridge_has_a_master_until_it_leaves() {
    follow(config(), "link add name br type bridge\nlink add name a type ifb", async |mut followed| {
        ip("link set dev a master br");
        let now = followed.until("enslaved", |now| link(now, "a").is_some_and(|a| a.master.is_some())).await;
        let a = link(&now, "a").unwrap();
        let excluded = Exclusions::find(&now).of(a, &now).unwrap();
        assert_eq!(excluded.to_string(), "it is a port of bridge br");
        ip("link set dev a nomaster");
        followed.until("free", |now| link(now, "a").is_some_and(|a| a.master.is_none())).await;
        let now = followed.settled().await;
        assert!(has(&now, "a"), "the bridge's own DELLINK is not the link's end");
    });
}

/// Why the link is not offered.
fn exclusion(snapshot: &Snapshot, name: &str) -> Option<String> {
    let link = link(snapshot, name)?;
    Exclusions::find(snapshot).of(link, snapshot).map(|exclusion| exclusion.to_string())
}

#[test]
fn what_is_built_on_a_link_keeps_it_from_being_offered_while_it_is_there() {
    follow(config(), "link add name a type veth peer name b", async |mut followed| {
        let first = followed.snapshots.borrow().clone();
        assert_eq!((exclusion(&first, "a"), exclusion(&first, "b")), (None, None), "a pair is not built on itself");
        for kind in ["vxlan id 7 dev a dstport 8472", "macvlan"] {
            let word = kind.split(' ').next().unwrap();
            let below = if word == "vxlan" { "" } else { "link a" };
            ip(&format!("link add name top {below} type {kind}"));
            let now = followed.until(word, |now| has(now, "top")).await;
            assert_eq!(exclusion(&now, "a"), Some(format!("the node's {word} top is built on it")));
            assert_eq!((exclusion(&now, "b"), exclusion(&now, "top")), (None, None));
            ip("link delete top");
            let now = followed.until("its end", |now| !has(now, "top")).await;
            assert_eq!(exclusion(&now, "a"), None);
        }
        ip("link add name top type vxlan id 7 local 10.1.0.1 dstport 8473");
        let now = followed.until("a vxlan on no link", |now| has(now, "top")).await;
        assert_eq!(exclusion(&now, "a"), None);
    });
}

#[test]
fn a_filter_that_redirects_to_a_link_keeps_it_from_being_offered_while_it_is_there() {
    let tc = |arguments: &str| {
        let status = Command::new("tc").args(arguments.split(' ')).status().expect("iproute2 is there");
        assert!(status.success(), "tc {arguments}");
    };
    let setup = "link add name a type veth peer name b\nlink add name from type ifb\nlink set from up";
    follow(config(), setup, async move |mut followed| {
        let redirect = "filter add dev from ingress protocol all u32 match u32 0 0 action mirred egress redirect dev a";
        let words = Some("a traffic control filter of the node redirects packets to it (mirred)".to_owned());
        for end in ["filter del dev from ingress", "qdisc del dev from ingress"] {
            if exclusion(&followed.snapshots.borrow(), "a").is_none() {
                tc("qdisc replace dev from ingress");
            }
            tc(redirect);
            followed.until("the filter", |now| exclusion(now, "a") == words).await;
            assert_eq!(exclusion(&read(), "a"), words);
            tc(end);
            followed.until("its end", |now| exclusion(now, "a").is_none()).await;
        }
        tc("qdisc replace dev from ingress");
        tc(redirect);
        followed.until("the filter", |now| exclusion(now, "a") == words).await;
        ip("link delete from");
        followed.until("the end of its link", |now| exclusion(now, "a").is_none()).await;
    });
}

#[test]
fn the_kernel_says_which_links_it_does_not_move() {
    in_a_namespace(|| {
        ip("link add name br type bridge\nlink add name a type ifb");
        let now = read();
        let immutable = |name| link(&now, name).unwrap().netns_immutable;
        // none before Linux 6.15
        if immutable("lo").is_some() {
            assert_eq!((immutable("lo"), immutable("br"), immutable("a")), (Some(true), Some(true), Some(false)));
        }
        assert_eq!(exclusion(&now, "br").unwrap(), "the kernel does not move links of kind bridge");
        assert_eq!(exclusion(&now, "a"), None);
    });
}

const TWO_UPLINKS: &str = "link add name a type ifb\nlink add name b type ifb\nlink set dev a up\nlink set dev b up\n\
     addr add 10.1.0.1/24 dev a\naddr add 10.2.0.1/24 dev b\naddr add fd01::1/64 dev a\naddr add fd02::1/64 dev b\n";

#[test]
fn default_routes_are_seen_to_come_move_and_go() {
    follow(config(), TWO_UPLINKS, async |mut followed| {
        ip("route add default via 10.1.0.2");
        followed.until("through a", |now| uplinks(now) == v4(&["a"])).await;
        ip("route replace default via 10.2.0.2");
        followed.until("moved to b", |now| uplinks(now) == v4(&["b"])).await;
        ip("route add default via 10.1.0.2 metric 7");
        followed.until("both", |now| uplinks(now) == v4(&["b", "a"])).await;
        ip("route del default via 10.2.0.2\nroute del default via 10.1.0.2");
        followed.until("none", |now| uplinks(now).is_empty()).await;
        ip("route add default nexthop via 10.1.0.2 nexthop via 10.2.0.2");
        followed.until("multipath", |now| uplinks(now) == v4(&["a", "b"])).await;
        ip("route del default");
        followed.until("no multipath", |now| uplinks(now).is_empty()).await;
        assert_eq!(followed.settled().await, read());
    });
}

#[test]
fn ipv6_default_routes_are_seen_to_come_move_and_go() {
    follow(config(), TWO_UPLINKS, async |mut followed| {
        let v6 =
            |names: &[&str]| -> Vec<_> { names.iter().map(|name| (Family::V6, MAIN, (*name).to_owned())).collect() };
        ip("route add ::/0 via fd01::2");
        followed.until("through a", |now| uplinks(now) == v6(&["a"])).await;
        ip("route append ::/0 via fd02::2");
        followed.until("multipath", |now| uplinks(now) == v6(&["a", "b"])).await;
        ip("route del ::/0 via fd01::2");
        followed.until("b alone", |now| uplinks(now) == v6(&["b"])).await;
        ip("route replace ::/0 via fd01::2");
        followed.until("a again", |now| uplinks(now) == v6(&["a"])).await;
        ip("link set dev a down");
        followed.until("none", |now| uplinks(now).is_empty()).await;
        assert_eq!(followed.settled().await, read());
    });
}

#[test]
fn routes_that_go_without_a_word_are_missed() {
    let ways = ["link set dev a down", "link del dev a", "addr del 10.1.0.1/24 dev a"];
    for way in ways {
        follow(config(), TWO_UPLINKS, async move |mut followed| {
            ip("route add default via 10.1.0.2 src 10.1.0.1\nroute add default via 10.2.0.2 metric 9");
            followed.until("both", |now| uplinks(now) == v4(&["a", "b"])).await;
            ip(way);
            followed.until(way, |now| uplinks(now) == v4(&["b"])).await;
        });
    }
}

#[test]
fn default_routes_through_next_hop_objects_are_followed() {
    for compatible in ["0", "1"] {
        follow(config(), TWO_UPLINKS, async move |mut followed| {
            std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", compatible).unwrap();
            ip("nexthop add id 1 via 10.1.0.2 dev a\nnexthop add id 2 via 10.2.0.2 dev b\n\
                nexthop add id 3 group 1/2\nroute add default nhid 3");
            followed.until("both", |now| uplinks(now) == v4(&["a", "b"])).await;
            ip("nexthop replace id 1 via 10.2.0.3 dev b");
            followed.until("b alone", |now| uplinks(now) == v4(&["b"])).await;
            ip("nexthop del id 3");
            followed.until("none", |now| uplinks(now).is_empty()).await;
            ip("route add default nhid 2\nlink set dev b down");
            assert_eq!(uplinks(&followed.settled().await), []);
            assert_eq!(followed.settled().await, read());
        });
    }
}

#[test]
fn a_route_that_another_looks_like_leaves_that_one() {
    follow(config(), TWO_UPLINKS, async |mut followed| {
        ip("route add default via 10.1.0.2\nroute add default tos 4 via 10.1.0.3");
        followed.until("both", |now| uplinks(now) == v4(&["a"])).await;
        ip("route del default tos 4 via 10.1.0.3");
        assert_eq!(uplinks(&followed.settled().await), v4(&["a"]));
    });
}

#[test]
fn a_table_counts_while_a_rule_leads_there() {
    follow(config(), TWO_UPLINKS, async |mut followed| {
        ip("route add default via 10.1.0.2 table 777");
        let now = followed.until("the route", |now| !uplinks(now).is_empty()).await;
        assert!(!now.is_reached(Family::V4, 777) && now.is_reached(Family::V4, MAIN));
        ip("rule add from 10.1.0.0/24 table 777\nrule add from 10.3.0.0/24 table 777");
        followed.until("reached", |now| now.is_reached(Family::V4, 777)).await;
        ip("rule del from 10.1.0.0/24 table 777");
        assert!(followed.settled().await.is_reached(Family::V4, 777), "the other rule leads there");
        ip("rule del from 10.3.0.0/24 table 777");
        followed.until("not reached", |now| !now.is_reached(Family::V4, 777)).await;
    });
}

#[test]
fn the_end_of_a_namespace_is_an_event() {
    follow(config(), "", async |mut followed| {
        let mut holder = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
        let mine = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        while std::fs::read_link(format!("/proc/{}/ns/net", holder.id())).unwrap() == mine {
            tokio::task::yield_now().await;
        }
        // a pair across gives each namespace an id in the other
        ip(&format!("link add name a type veth peer name b netns {}", holder.id()));
        followed.until("a", |now| link(now, "a").is_some_and(|a| a.link_netnsid.is_some())).await;
        holder.kill().unwrap();
        holder.wait().unwrap();
        timeout(DEADLINE, followed.namespaces_ended.changed()).await.expect("told").unwrap();
    });
}

#[test]
fn an_overrun_ends_with_the_right_state() {
    let config = Config { receive_buffer: 4096, ..config() };
    follow(config, "link add name a type ifb\nlink add name b type ifb", async |mut followed| {
        let mut commands = String::new();
        for number in 0..300 {
            commands += &format!("link add name x{number} type ifb\nlink set dev a mtu {}\n", 1000 + number);
            if number % 3 != 0 {
                commands += &format!("link del dev x{number}\n");
            }
        }
        ip(&commands);
        let now = followed.settled().await;
        assert!(followed.stats.resyncs() > 0, "nothing was lost: this test tests nothing");
        assert_eq!(now, read());
        assert_eq!(now.links().len(), 3 + 100);
        assert_eq!(link(&now, "a").unwrap().mtu, 1299);
    });
}

#[test]
fn ten_thousand_links_at_once_cost_few_snapshots() {
    follow(config(), "", async |mut followed| {
        let begun = Instant::now();
        let commands: String = (0..5000)
            .map(|number| format!("link add name a{number} group 7 type veth peer name b{number} group 7\n"))
            .collect();
        // a new thread is in the namespace of the one that made it
        let making = std::thread::spawn(move || {
            ip(&commands);
            ip("link del group 7\nlink add name last type ifb");
        });
        let deadline = Instant::now() + Duration::from_secs(120);
        timeout_at(deadline, followed.snapshots.wait_for(|now| has(now, "last")))
            .await
            .expect("the end is seen")
            .unwrap();
        making.join().unwrap();
        let (publishes, events) = (followed.stats.publishes(), followed.stats.events());
        let most = u64::try_from(begun.elapsed().as_millis()).unwrap() / 3 + 2;
        assert!(publishes <= most, "{publishes} snapshots of {events} notifications, at most {most} were expected");
        assert_eq!(followed.settled().await, read());
    });
}

#[test]
fn the_inventory_stops_when_nobody_waits_for_it() {
    in_a_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let inventory = Inventory::open(config()).unwrap();
            let mut snapshots = inventory.subscribe();
            let shutdown = CancellationToken::new();
            let mut running = Box::pin(inventory.run(shutdown));
            assert!(timeout(Duration::from_millis(10), &mut running).await.is_err(), "it runs until it is stopped");
            drop(running);
            let closed = async { while snapshots.changed().await.is_ok() {} };
            timeout(DEADLINE, closed).await.expect("its thread ends and closes the channel");
        });
    });
}

#[test]
fn the_link_of_an_address_that_the_node_is_known_by_is_followed() {
    let node_addresses = ["10.0.0.5", "2001:db8::5"].map(|address| address.parse().unwrap()).into();
    let config = Config { node_addresses, ..config() };
    let setup = "link set lo up\nlink add eth0 type ifb\nlink add eth1 type ifb\nlink set eth0 up\nlink set eth1 up
        addr add 10.0.0.5/24 dev eth0";
    let excluded = |snapshot: &Snapshot| -> Vec<String> {
        let exclusions = Exclusions::find(snapshot);
        let links = snapshot.links().values().filter(|link| !link.is_loopback());
        links.filter_map(|link| Some(format!("{}: {}", link.name, exclusions.of(link, snapshot)?))).collect()
    };
    follow(config, setup, async move |mut followed| {
        followed.until("where it is", |now| excluded(now) == ["eth0: it has the node's own address 10.0.0.5"]).await;
        ip("addr del 10.0.0.5/24 dev eth0\naddr add 10.0.0.5/16 dev eth1");
        followed.until("where it went", |now| excluded(now) == ["eth1: it has the node's own address 10.0.0.5"]).await;
        ip("addr add 2001:db8::5/64 dev eth0 nodad\nlink del dev eth1");
        followed
            .until("the other family's", |now| excluded(now) == ["eth0: it has the node's own address 2001:db8::5"])
            .await;
    });
}

#[test]
fn the_address_of_a_connection_to_an_api_server_is_learned() {
    in_a_namespace(|| {
        ip("link set lo up\nlink add eth0 type ifb\nlink set eth0 up\naddr add 10.0.0.5/24 dev eth0");
        let server = std::net::TcpListener::bind("10.0.0.5:6443").unwrap();
        let before = Inventory::open(config()).unwrap();
        assert!(before.subscribe().borrow().node_links().is_empty(), "nobody is connected");
        let client = std::net::TcpStream::connect("10.0.0.5:6443").unwrap();
        let inventory = Inventory::open(config()).unwrap();
        let snapshot = inventory.subscribe().borrow().clone();
        assert_eq!(snapshot.node_addresses().iter().collect::<Vec<_>>(), [&client.local_addr().unwrap().ip()]);
        assert_eq!(snapshot.node_links().len(), 1);
        drop(server);
    });
}
