//! Input of every kind: names, OCI states, records, state folders.

use std::{fs, os::unix::ffi::OsStrExt, process::Command};

use nix::mount::{MsFlags, mount, umount};

use crate::{
    home::{assert_has, wired},
    support::{Host, finish, on_host},
};

/// Renames `dev0` to any bytes.
fn rename(name: &[u8]) {
    let arguments = ["link", "set", "dev", "dev0", "name"];
    let name = std::ffi::OsStr::from_bytes(name);
    let done = Command::new("ip").args(arguments).arg(name).status().unwrap();
    assert!(done.success(), "{name:?}");
}

#[test]
fn every_legal_name_goes_and_comes_home() {
    let names: [(&[u8], &str); 11] = [
        (b"eth0.100", "eth0.100"),
        (b"-a", "x:-a"),
        (b"a_", "x:a:5f"),
        (b".a", "x:.a"),
        ("é".as_bytes(), "x::c3:a9"),
        (b"\xff\xfe", "x::ff:fe"),
        (b"123456789012345", "123456789012345"),
        (b"a,b", "x:a:2cb"),
        (b"0a", "0a"),
        (b"a=b", "x:a:3db"),
        (b"lock", "lock"),
    ];
    for (name, id) in names {
        on_host(|host| {
            wired(host, "addr add 10.1.0.5/24 dev dev0\naddr add 2001:db8::5/64 dev dev0");
            host.write("/proc/sys/net/ipv4/conf/dev0/rp_filter", "2");
            host.write("/proc/sys/net/ipv6/conf/dev0/hop_limit", "33");
            host.ip("link set dev0 down");
            rename(name);
            Command::new("ip")
                .args(["link", "set", "up", "dev"])
                .arg(std::ffi::OsStr::from_bytes(name))
                .status()
                .unwrap();
            let sandbox = host.sandbox("web");
            let before = host.settled();
            host.attach(&sandbox, "c1", id).succeeds();
            assert_eq!(host.records(), [format!("{id}.json"), format!("netns/{id}")]);
            assert!(sandbox.show("addr show").contains("10.1.0.5/24"), "{id}");
            host.attach(&sandbox, "c1", id).succeeds();
            host.detach("c1", id).succeeds();
            host.assert_same(&before);
        });
    }
}

#[test]
fn oci_states_that_cannot_be_used_are_refused() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        let huge = format!("{{\"id\":\"{}\"}}", "x".repeat(5 << 20));
        let states = [
            ("", "no OCI state on standard input"),
            ("{\"id\":\"c1\",\"pi", "invalid OCI state on standard input: EOF"),
            (&huge, "is too long"),
            ("{\"id\":\"c1\",\"pid\":0}", "the container has no process"),
            ("{\"id\":\"c1\"}", "the container has no process"),
            ("{\"id\":\"c1\",\"pid\":4194303}", "cannot open the pod's network namespace /proc/4194303/ns/net"),
            ("{\"id\":\"c1\",\"pid\":\"1\"}", "invalid type: string"),
            ("\u{0}\u{1}", "invalid OCI state"),
        ];
        for (state, words) in states {
            let ending = host.hook("attach", &["dev0"], state);
            ending.fails_with(words);
            assert_has(&ending.line, &["netdevice-hook attach: device dev0: "]);
        }
        host.hook("detach", &["dev0"], "").fails_with("no OCI state");
        host.assert_same(&before);
        assert_eq!(host.journal().lines().count(), states.len() + 1, "each is in the journal");
    });
}

#[test]
fn the_state_of_crun_is_understood() {
    on_host(|host| {
        wired(host, "");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        let pid = sandbox.pid();
        let state = format!(
            "{{\n  \"ociVersion\": \"1.0\",\n  \"id\": \"c1\",\n  \"pid\": {pid},\n  \"bundle\": \"\\/x\"\n}}\n"
        );
        host.hook("attach", &["dev0"], &state).succeeds();
        assert!(sandbox.has_link("dev0"));
        host.hook("detach", &["dev0"], "{\"id\":\"c1\",\"pid\":0,\"bundle\":\"\"}").succeeds();
        host.assert_same(&before);
    });
}

#[test]
fn records_that_nobody_can_follow_are_put_aside_and_their_device_is_refused_until_they_are_removed() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0\nlink add dev1 type ifb");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev1").succeeds();
        let text = fs::read_to_string(host.record_path("dev1")).unwrap();
        host.detach("c1", "dev1").succeeds();
        let own = text.replace("\"dev1\"", "\"dev0\"");
        let records = [
            (own[..own.len() / 2].to_owned(), "EOF while parsing"),
            (String::new(), "EOF while parsing"),
            ("\u{7}garbage".into(), "expected value"),
            (text.clone(), "the record belongs to device dev1"),
            (own.replace("\"index\":", "\"index\":-"), "invalid value"),
            ("x".repeat(9 << 20), "too long"),
            (own.replace("\"name\":\"dev0\"", "\"name\":\"a/b\""), "does not encode an interface name"),
        ];
        let aside = host.state_dir().join("quarantine/dev0.1.json");
        for (text, words) in records {
            host.write(host.record_path("dev0"), &text);
            host.attach(&sandbox, "c1", "dev0").fails_with(words);
            assert!(!host.record_path("dev0").exists());
            assert_eq!(fs::read_to_string(&aside).unwrap(), text, "it is put aside as it was");
            // whoever comes next knows no more
            for ending in [host.attach(&sandbox, "c1", "dev0"), host.detach("c1", "dev0")] {
                ending.fails_with(words);
                ending.fails_with("then remove that file");
            }
            assert!(host.has_link("dev0"), "it was not moved");
            host.attach(&sandbox, "c1", "dev1").succeeds();
            host.detach("c1", "dev1").succeeds();
            fs::remove_file(&aside).unwrap();
            host.attach(&sandbox, "c1", "dev0").succeeds();
            host.detach("c1", "dev0").succeeds();
        }
        fs::remove_dir(aside.parent().unwrap()).unwrap();
        host.assert_same(&before);
    });
}

#[test]
fn a_record_of_a_newer_version_is_left_where_it_is() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        fs::create_dir_all(host.state_dir()).unwrap();
        let text = "{\"version\":4,\"all\":\"else\"}";
        host.write(host.record_path("dev0"), text);
        host.attach(&sandbox, "c1", "dev0").fails_with("written by a newer netdevice");
        host.detach("c1", "dev0").fails_with("written by a newer netdevice");
        assert_eq!(fs::read_to_string(host.record_path("dev0")).unwrap(), text);
        fs::remove_file(host.record_path("dev0")).unwrap();
        host.assert_same(&before);
    });
}

#[test]
fn a_record_that_breaks_while_its_device_is_away_is_put_aside_by_detach_and_a_second_one_beside_it() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let sandbox = host.sandbox("web");
        host.attach(&sandbox, "c1", "dev0").succeeds();
        let text = fs::read_to_string(host.record_path("dev0")).unwrap();
        for number in 1..=2 {
            host.write(host.record_path("dev0"), &text[..text.len() - number]);
            host.detach("c1", "dev0").fails_with(&format!("quarantine/dev0.{number}.json"));
            assert!(sandbox.has_link("dev0"), "nothing is guessed");
        }
        // an administrator who knows better puts the record back
        host.write(host.record_path("dev0"), &text);
        host.detach("c1", "dev0").succeeds();
        assert!(host.has_link("dev0"));
        host.attach(&sandbox, "c1", "dev0").fails_with("then remove that file");
    });
}

#[test]
fn a_record_that_cannot_be_put_aside_is_left_and_told() {
    on_host(|host| {
        wired(host, "");
        let sandbox = host.sandbox("web");
        fs::create_dir_all(host.state_dir()).unwrap();
        host.write(host.state_dir().join("quarantine"), "");
        host.write(host.record_path("dev0"), "rubbish");
        host.attach(&sandbox, "c1", "dev0").fails_with("cannot be used (invalid record");
        assert!(host.record_path("dev0").exists());
    });
}

/// Puts a small file system in the place of the state folder.
fn mount_state(host: &Host, options: &str, flags: MsFlags) {
    fs::create_dir_all(host.state_dir()).unwrap();
    mount(Some("tmpfs"), &host.state_dir(), Some("tmpfs"), flags, Some(options)).unwrap();
}

fn fill(host: &Host) {
    let full = fs::write(host.state_dir().join("ballast"), vec![0; 1 << 20]);
    assert_eq!(full.unwrap_err().raw_os_error(), Some(nix::libc::ENOSPC));
}

#[test]
fn a_read_only_state_folder_keeps_the_device_at_home() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        mount_state(host, "size=64k", MsFlags::MS_RDONLY);
        host.attach(&sandbox, "c1", "dev0").fails_with("device dev0: cannot read or write its record");
        umount(&host.state_dir()).unwrap();
        host.assert_same(&before);
    });
}

#[test]
fn a_full_state_folder_keeps_the_device_at_home() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        mount_state(host, "size=64k", MsFlags::empty());
        fill(host);
        host.attach(&sandbox, "c1", "dev0").fails_with("No space left on device");
        umount(&host.state_dir()).unwrap();
        host.assert_same(&before);
    });
}

#[test]
fn a_state_folder_that_filled_up_meanwhile_lets_the_device_come_home() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0\nlink set dev0 mtu 1400");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        mount_state(host, "size=64k", MsFlags::empty());
        host.attach(&sandbox, "c1", "dev0").succeeds();
        fill(host);
        host.attach(&sandbox, "c2", "dev0").fails_with("No space left on device");
        assert!(sandbox.has_link("dev0"), "a repetition that cannot be written down changes nothing");
        host.detach("c1", "dev0").succeeds();
        fs::remove_file(host.state_dir().join("ballast")).unwrap();
        host.assert_same(&before);
        umount(&host.state_dir()).unwrap();
    });
}

#[test]
fn a_state_folder_that_is_a_file_keeps_the_device_at_home() {
    on_host(|host| {
        wired(host, "");
        let before = host.settled();
        let sandbox = host.sandbox("web");
        host.write(host.state_dir(), "");
        host.attach(&sandbox, "c1", "dev0").fails_with("device dev0: cannot read or write its record");
        fs::remove_file(host.state_dir()).unwrap();
        host.assert_same(&before);
    });
}

#[test]
fn two_hooks_at_once_for_one_device_end_with_one_holder() {
    on_host(|host| {
        wired(host, "addr add 10.1.0.5/24 dev dev0");
        let before = host.settled();
        for _ in 0..5 {
            let sandboxes = [host.sandbox("one"), host.sandbox("two")];
            let hooks: Vec<_> = (0..2).map(|_| host.command("attach", &["dev0"]).spawn().unwrap()).collect();
            let ends = std::thread::scope(|scope| {
                let run = |(child, sandbox): (_, &crate::support::Sandbox)| {
                    let state = sandbox.state(if std::ptr::eq(sandbox, &sandboxes[0]) { "c0" } else { "c1" });
                    scope.spawn(move || finish(child, &state))
                };
                let threads: Vec<_> = hooks.into_iter().zip(&sandboxes).map(run).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            let winners: Vec<_> = (0..2).filter(|at| ends[*at].code == Some(0)).collect();
            assert_eq!(winners.len(), 1, "{ends:?}");
            ends[1 - winners[0]].fails_with("it is held by pod default/");
            assert!(sandboxes[winners[0]].has_link("dev0"));
            host.detach(&format!("c{}", winners[0]), "dev0").succeeds();
            host.assert_same(&before);
        }
    });
}

#[test]
fn eight_hooks_at_once_for_eight_devices_all_succeed() {
    on_host(|host| {
        for at in 0..8 {
            host.ip(&format!(
                "link add dev{at} type ifb\nlink set dev{at} up\naddr add 10.{at}.0.5/24 dev dev{at}
                 addr add 2001:db8:{at}::5/64 dev dev{at}\nroute add 10.5{at}.0.0/16 via 10.{at}.0.1"
            ));
        }
        let before = host.settled();
        let sandboxes: Vec<_> = (0..8).map(|at| host.sandbox(&format!("pod{at}"))).collect();
        for verb in ["attach", "detach"] {
            let hooks = (0..8).map(|at| host.command(verb, &[&format!("dev{at}")]).spawn().unwrap());
            let hooks: Vec<_> = hooks.collect();
            std::thread::scope(|scope| {
                for (at, child) in hooks.into_iter().enumerate() {
                    let state = sandboxes[at].state(&format!("c{at}"));
                    scope.spawn(move || finish(child, &state).succeeds());
                }
            });
            for (at, sandbox) in sandboxes.iter().enumerate() {
                assert_eq!(sandbox.has_link(&format!("dev{at}")), verb == "attach");
            }
        }
        host.assert_same(&before);
    });
}
