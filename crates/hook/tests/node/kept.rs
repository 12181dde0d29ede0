//! What the kernel keeps of a device besides its addresses and routes: `docs/device-state.md` names the test of each row.

use serde_json::json;

use crate::{
    home::{assert_has, there_and_back, wired},
    support::{
        Host, Sandbox,
        driver::{SET_GSO, SET_TSO, set_channels, switch},
        inject::Order,
        on_host, output, run,
    },
};

/// A macvlan whose parent is up.
fn macvlan(host: &Host, mode: &str) {
    host.ip(&format!(
        "link add wire type veth peer name far\nlink set wire up\nlink set far up
         link add dev0 link wire type macvlan mode {mode}\nlink set dev0 up"
    ));
}

fn vxlan(host: &Host) {
    host.ip(
        "link add wire type veth peer name far\nlink set wire up addrgenmode none\nlink set far up addrgenmode none
         link add dev0 type vxlan id 7 dev wire dstport 4789 remote 10.1.1.1 ttl 5\nlink set dev0 up",
    );
}

/// Two Pods, one after the other: the first changes the device, the second finds it as it was on the node.
fn the_next_pod_finds_none_of_it(host: &Host, change: impl Fn() + Send + Sync) {
    let before = host.settled();
    let (first, second) = (host.sandbox("web"), host.sandbox("next"));
    host.attach(&first, "c1", "dev0").succeeds();
    host.detach("c1", "dev0").succeeds();
    host.assert_same(&before);
    host.attach(&second, "c2", "dev0").succeeds();
    let expected = second.settled();
    host.detach("c2", "dev0").succeeds();
    host.attach(&first, "c3", "dev0").succeeds();
    first.run(&change);
    host.detach("c3", "dev0").succeeds();
    host.assert_same(&before);
    host.attach(&second, "c4", "dev0").succeeds();
    second.assert_same(&expected);
    host.detach("c4", "dev0").succeeds();
    host.assert_same(&before);
    assert!(!host.journal().contains("left out"), "{}", host.journal());
}

#[test]
fn a_link_mode_that_a_container_set_is_gone() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        the_next_pod_finds_none_of_it(host, || run("ip link set dev0 mode dormant"));
    });
}

#[test]
fn protodown_and_its_reasons_that_a_container_set_are_gone() {
    on_host(|host| {
        macvlan(host, "bridge");
        the_next_pod_finds_none_of_it(host, || run("ip link set dev0 protodown on protodown_reason 3 on"));
    });
}

#[test]
fn a_link_mode_and_protodown_of_the_node_stay() {
    on_host(|host| {
        macvlan(host, "bridge");
        host.ip("link set dev0 down mode dormant protodown on protodown_reason 3 on\nlink set dev0 up");
        the_next_pod_finds_none_of_it(host, || {
            run("ip link set dev0 protodown_reason 3 off protodown_reason 5 on");
            run("ip link set dev0 mode default");
        });
    });
}

#[test]
fn flags_and_the_broadcast_address_that_a_container_set_are_gone() {
    on_host(|host| {
        wired(host, "link set dev0 dynamic on");
        the_next_pod_finds_none_of_it(host, || {
            run("ip link set dev0 dynamic off trailers off promisc on allmulticast on multicast off arp off");
            run("ip link set dev0 broadcast 02:00:00:00:00:77");
        });
    });
}

#[test]
fn a_token_comes_back() {
    on_host(|host| {
        wired(host, "token set ::5 dev dev0");
        there_and_back(host, |_| {});
        assert_has(&host.show("token get dev dev0"), &["::5"]);
    });
}

#[test]
fn proxy_entries_come_back_and_are_the_nodes() {
    on_host(|host| {
        wired(host, "neigh add proxy 10.99.0.1 dev dev0\nneigh add proxy fd99::1 dev dev0 router");
        there_and_back(host, |sandbox| {
            assert_eq!(sandbox.show("neigh show proxy") + &sandbox.show("-6 neigh show proxy"), "");
        });
    });
}

#[test]
fn a_random_link_local_address_stays_the_only_one() {
    on_host(|host| {
        host.ip("link add dev0 type veth peer name wire\nlink set dev0 addrgenmode random");
        host.ip("link set wire up addrgenmode none\nlink set dev0 up");
        let addresses = |shown: String| shown.matches("inet6 fe80").count();
        for _ in 0..3 {
            there_and_back(host, |sandbox| assert_eq!(addresses(sandbox.show("-6 addr show dev dev0")), 1));
            assert_eq!(addresses(host.show("-6 addr show dev dev0")), 1);
        }
        host.ip("link set dev0 down\nlink set dev0 up");
        assert_eq!(addresses(host.show("-6 addr show dev dev0")), 1);
    });
}

#[test]
fn labels_have_the_name_that_the_device_has() {
    on_host(|host| {
        wired(host, "addr add 10.9.0.2/24 dev dev0\naddr add 10.9.0.3/24 dev dev0 label dev0:1");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let asked = json!({"name": "net1", "addresses": [], "routes": [], "inherit": true});
        let order = Order::new(host, &sandbox, &json!([["dev0", asked]]));
        order.arrives();
        let shown = sandbox.show("-4 addr show dev net1");
        assert_has(&shown, &["10.9.0.2/24 scope global net1\n", "10.9.0.3/24 scope global secondary net1:1\n"]);
        order.comes_home();
        host.assert_same(&before);
    });
}

#[test]
fn hardware_addresses_that_the_node_added_come_back_and_a_containers_are_gone() {
    on_host(|host| {
        wired(host, "maddress add 01:00:5e:7f:00:01 dev dev0\nmaddress add 01:80:c2:00:00:0e dev dev0");
        run("bridge fdb add 02:00:00:00:aa:02 dev dev0 self");
        the_next_pod_finds_none_of_it(host, || {
            run("bridge fdb add 02:00:00:00:aa:03 dev dev0 self");
            run("ip maddress add 01:00:5e:7f:00:02 dev dev0");
        });
    });
}

#[test]
fn settings_of_a_macvlan_that_a_container_changed_are_back() {
    on_host(|host| {
        macvlan(host, "source macaddr add 02:00:00:00:00:01");
        the_next_pod_finds_none_of_it(host, || {
            run("ip link set dev0 type macvlan macaddr set 02:00:00:00:00:02 02:00:00:00:00:03");
            run("ip link set dev0 type macvlan bcqueuelen 500");
        });
    });
}

#[test]
fn settings_and_the_forwarding_of_a_vxlan_that_a_container_changed_are_back() {
    on_host(|host| {
        vxlan(host);
        run("bridge fdb append 00:00:00:00:00:00 dev dev0 dst 10.1.1.2");
        run("bridge fdb append 02:00:00:00:aa:05 dev dev0 dst 10.1.1.2 port 99 vni 5");
        the_next_pod_finds_none_of_it(host, || {
            run("bridge fdb append 00:00:00:00:00:00 dev dev0 dst 10.6.6.6");
            run("bridge fdb del 02:00:00:00:aa:05 dev dev0 dst 10.1.1.2 port 99 vni 5");
            run("bridge fdb append 02:00:00:00:aa:06 dev dev0 dst 10.6.6.6");
            run("ip link set dev0 type vxlan ttl 9 nolearning remote 10.6.6.6");
        });
    });
}

#[test]
fn rules_of_the_node_that_name_the_device_stay() {
    on_host(|host| {
        wired(host, "rule add iif dev0 table 77 pref 77\n-6 rule add oif dev0 table 78 pref 78");
        there_and_back(host, |_| {});
    });
}

/// Writes to files of sysfs as a privileged container does, which mounts one of its own.
fn write_inside(sandbox: &Sandbox, files: &[(&str, &str)]) {
    let lines: String =
        files.iter().map(|(file, value)| format!("echo {value} >/sys/class/net/dev0/{file} && ")).collect();
    let script = format!("mount -t sysfs sysfs /sys && {lines} true");
    sandbox.run(|| run_words(&["unshare", "--mount", "sh", "-ec", &script]));
}

fn run_words(words: &[&str]) {
    let done = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn offloads_channels_and_settings_of_queues_that_a_container_changed_are_back() {
    on_host(|host| {
        host.ip("link add dev0 numtxqueues 4 numrxqueues 4 type veth peer name wire numtxqueues 4 numrxqueues 4");
        host.ip("link set wire up addrgenmode none\nlink set dev0 up");
        host.write("/sys/class/net/dev0/queues/rx-1/rps_cpus", "2");
        host.write("/sys/class/net/dev0/queues/tx-2/xps_cpus", "1");
        host.write("/sys/class/net/dev0/napi_defer_hard_irqs", "3");
        switch_off(SET_GSO);
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        sandbox.run(|| switch_off(SET_TSO));
        write_inside(
            &sandbox,
            &[
                ("queues/rx-0/rps_cpus", "1"),
                ("queues/rx-1/rps_cpus", "0"),
                ("queues/rx-3/rps_flow_cnt", "64"),
                ("queues/tx-2/xps_cpus", "3"),
                ("queues/tx-3/xps_cpus", "1"),
                ("queues/tx-0/xps_rxqs", "1"),
                ("gro_flush_timeout", "20000"),
                ("napi_defer_hard_irqs", "0"),
            ],
        );
        host.detach("c1", "dev0").succeeds();
        host.assert_same(&before);
        host.attach(&sandbox, "c2", "dev0").succeeds();
        sandbox.run(|| {
            set_channels("dev0", 1);
            switch("dev0", SET_GSO, 1);
        });
        host.detach("c2", "dev0").succeeds();
        host.assert_same(&before);
        assert!(!host.journal().contains("left out"), "{}", host.journal());
    });
}

fn switch_off(command: u32) {
    switch("dev0", command, 0);
}

#[test]
fn the_agent_restores_queue_settings_through_the_nodes_sysfs_where_its_own_is_read_only() {
    on_host(|host| {
        use nix::mount::{MsFlags, mount};
        wired(host, "");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        write_inside(&sandbox, &[("gro_flush_timeout", "20000"), ("queues/rx-0/rps_cpus", "1")]);
        let none = None::<&str>;
        mount(none, "/sys", none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, none).unwrap();
        host.detach("c1", "dev0").succeeds();
        let journal = host.journal();
        assert_has(&journal, &["gro_flush_timeout is left out", "queues/rx-0/rps_cpus is left out"]);
        // with the mount of install.yaml
        std::fs::create_dir_all("/host/sys").unwrap();
        mount(Some("sysfs"), "/host/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
        host.write("/host/sys/class/net/dev0/gro_flush_timeout", "0");
        host.write("/host/sys/class/net/dev0/queues/rx-0/rps_cpus", "0");
        host.attach(&sandbox, "c2", "dev0").succeeds();
        mount(none, "/sys", none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND, none).unwrap();
        write_inside(&sandbox, &[("gro_flush_timeout", "20000"), ("queues/rx-0/rps_cpus", "1")]);
        mount(none, "/sys", none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, none).unwrap();
        host.detach("c2", "dev0").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn a_queueing_discipline_of_the_node_is_back_and_what_has_classes_or_filters_is_reported() {
    let shown = || output("tc", &["qdisc", "show", "dev", "dev0"]);
    for (qdisc, reported) in [
        ("root handle 7: tbf rate 1mbit burst 10kb latency 50ms", None),
        ("root handle 7: fq_codel limit 100 flows 16", None),
        ("root handle 7: sfq perturb 10", None),
        ("root handle 7: netem delay 5ms", None),
        ("clsact", None),
        ("root handle 7: htb default 1", Some("qdisc htb is left out")),
    ] {
        on_host(|host| {
            wired(host, "");
            // a kernel need not have all kinds
            let add = format!("qdisc add dev dev0 {qdisc}");
            output("tc", &add.split(' ').collect::<Vec<_>>());
            let before = shown();
            let sandbox = host.sandbox("web");
            host.attach(&sandbox, "c1", "dev0").succeeds();
            sandbox.run(|| run("tc qdisc add dev dev0 root handle 9: pfifo limit 3"));
            host.detach("c1", "dev0").succeeds();
            match reported {
                None => {
                    assert_eq!(shown(), before);
                    assert!(!host.journal().contains("left out"), "{}", host.journal());
                }
                Some(words) if before.contains("htb") => assert_has(&host.journal(), &[words]),
                Some(_) => {}
            }
        });
    }
    on_host(|host| {
        wired(host, "");
        run("tc qdisc add dev dev0 clsact");
        run("tc filter add dev dev0 egress protocol ip u32 match u32 0 0");
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        host.detach("c1", "dev0").succeeds();
        assert_has(&host.journal(), &["tc filters is left out"]);
        assert_has(&shown(), &["clsact"]);
    });
}
