//! All that a namespace's network is, as text that can be compared: links, addresses, routes, neighbours, settings.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// A network namespace at one moment, a fact a line.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Picture(BTreeSet<String>);

impl Picture {
    /// Of the calling thread's namespace.
    pub(crate) fn take() -> Self {
        let mut facts = BTreeSet::new();
        for link in list("-j -d addr show") {
            let name = link["ifname"].as_str().unwrap_or("?").to_owned();
            add(&mut facts, &format!("link {name}"), &without_the_passing(link));
            settings(&mut facts, &name);
            facts.extend(super::driver::facts(&name));
            files(&mut facts, &name);
        }
        for family in ["-4", "-6"] {
            for mut route in list(&format!("{family} -j -d route show table all")) {
                remove(&mut route, &["expires", "cache"]);
                if let Some(hops) = route.get_mut("nexthops").and_then(Value::as_array_mut) {
                    hops.sort_by_key(Value::to_string);
                }
                let text = format!("route {family} {route}");
                // the same route twice is two facts
                let again = (1..).map(|count| format!("{text} #{count}")).find(|fact| !facts.contains(fact));
                facts.extend(again);
            }
        }
        for neighbour in list("-j neigh show nud permanent") {
            facts.insert(format!("neighbour {neighbour}"));
        }
        for (what, arguments) in [
            ("proxy", "-4 neigh show proxy"),
            ("proxy", "-6 neigh show proxy"),
            ("rule", "-4 rule"),
            ("rule", "-6 rule"),
        ] {
            facts.extend(super::show(arguments).lines().map(|line| format!("{what} {}", line.trim())));
        }
        // groups that are no sockets'
        let groups = fs::read("/proc/thread-self/net/dev_mcast").unwrap();
        let groups = String::from_utf8_lossy(&groups);
        let group = |line: &str| {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            (words[3] != "0").then(|| format!("group {} {}", words[1], words[4]))
        };
        facts.extend(groups.lines().filter_map(group));
        let is_group = |line: &str| u8::from_str_radix(&line[..2], 16).unwrap() & 1 != 0 && !line.starts_with("00:");
        let forwarding = super::output("bridge", &["fdb", "show"]);
        facts.extend(
            forwarding.lines().filter(|line| !is_group(line)).map(|line| format!("forwarding {}", line.trim())),
        );
        Self(facts)
    }

    /// Of the calling thread's namespace once nothing is on its way any more: no tentative address, no operational state
    /// to come.
    pub(crate) fn settled() -> Self {
        let mut before = Self::take();
        // what the test sets up itself: how long that takes says nothing of the hook
        super::until_within(super::patience() * 6, "the network settles", || {
            thread::sleep(Duration::from_millis(30));
            let now = Self::take();
            let same = now == before && !now.has("tentative");
            before = now.clone();
            same
        });
        before
    }

    /// What differs in the calling thread's namespace, also after the time in which operational states follow in the
    /// background.
    pub(crate) fn differences_in_the_end(&self) -> String {
        let deadline = Instant::now() + super::patience() * 2 / 3;
        loop {
            let now = Self::take();
            let differences = self.differences(&now);
            if differences.is_empty() || Instant::now() > deadline {
                return differences;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether some fact has these words.
    pub(crate) fn has(&self, words: &str) -> bool {
        self.0.iter().any(|fact| fact.contains(words))
    }

    /// The facts that begin like this.
    pub(crate) fn facts<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(String::as_str).filter(move |fact| fact.starts_with(start))
    }

    /// What is only here and what is only there.
    pub(crate) fn differences(&self, now: &Self) -> String {
        let mut text = String::new();
        for (sign, facts) in [("-", self.0.difference(&now.0)), ("+", now.0.difference(&self.0))] {
            let told = facts.filter(|fact| !self.has_address_set(now, fact));
            told.for_each(|fact| writeln!(text, "{sign} {fact}").unwrap());
        }
        text
    }

    /// Whether a fact is part of this: the link's hardware address counts as set now, and did not before. The kernel has no
    /// request for that, and counts any address as set that is put back (`dev_set_mac_address`). No other change passes.
    fn has_address_set(&self, now: &Self, fact: &str) -> bool {
        const FILE: &str = "/addr_assign_type = ";
        let Some((path, _)) = fact.split_once(FILE) else { return false };
        now.0.contains(&format!("{path}{FILE}3"))
            && self.0.iter().any(|there| there.starts_with(&format!("{path}{FILE}")))
    }
}

fn list(arguments: &str) -> Vec<Value> {
    let text = super::show(arguments);
    if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")) }
}

fn remove(value: &mut Value, keys: &[&str]) {
    if let Some(object) = value.as_object_mut() {
        keys.iter().for_each(|key| drop(object.remove(*key)));
    }
}

/// The link without what time or its being down changes by itself.
fn without_the_passing(mut link: Value) -> Value {
    let up = link["flags"].as_array().is_some_and(|flags| flags.contains(&"UP".into()));
    // of the permanent address a driver says what it likes, and nobody can set it
    remove(&mut link, &["stats64", "stats", "permaddr"]);
    if !up {
        // a link that was moved while it was down has none until it is set up
        remove(&mut link, &["qdisc"]);
    }
    if let Some(names) = link.get_mut("altnames").and_then(Value::as_array_mut) {
        names.sort_by_key(Value::to_string);
    }
    for address in link["addr_info"].as_array_mut().into_iter().flatten() {
        for key in ["valid_life_time", "preferred_life_time"] {
            if address[key].as_u64().is_some_and(|seconds| seconds != u64::from(u32::MAX) && seconds != 0) {
                address[key] = "ends".into();
            }
        }
    }
    link
}

/// Adds a fact for each leaf of a value.
fn add(facts: &mut BTreeSet<String>, path: &str, value: &Value) {
    match value {
        // how long a bridge waits just now
        _ if path.ends_with("_timer") => {}
        Value::Object(members) => members.iter().for_each(|(key, value)| add(facts, &format!("{path} {key}"), value)),
        Value::Array(members) if members.iter().any(Value::is_object) => {
            facts.extend(members.iter().enumerate().map(|(at, value)| format!("{path} {at} {value}")));
        }
        leaf => facts.extend([format!("{path} = {leaf}")]),
    }
}

fn settings(facts: &mut BTreeSet<String>, link: &str) {
    for folder in ["ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh"] {
        let files = fs::read_dir(Path::new("/proc/sys/net").join(folder).join(link));
        for file in files.into_iter().flatten().flatten() {
            // a secret that was not set cannot be read
            if let Ok(text) = fs::read_to_string(file.path()) {
                let name = file.file_name();
                facts.insert(format!("sysctl {link} {folder}/{} = {}", name.to_string_lossy(), text.trim()));
            }
        }
    }
}

/// What sysfs says of a link and of its queues, but counters.
fn files(facts: &mut BTreeSet<String>, link: &str) {
    let mut folders = vec![Path::new("/sys/class/net").join(link)];
    if let Ok(queues) = fs::read_dir(folders[0].join("queues")) {
        folders.extend(queues.flatten().map(|queue| queue.path()));
    }
    for folder in folders {
        for file in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let passes = name.starts_with("carrier_")
                || ["operstate", "name_assign_type", "iflink", "ifindex", "uevent", "speed"].contains(&&*name);
            if let Ok(text) = fs::read_to_string(file.path())
                && !passes
            {
                facts.insert(format!("sysfs {} = {}", file.path().display(), text.trim()));
            }
        }
    }
}
