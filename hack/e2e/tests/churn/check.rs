//! Everything that a node is, as facts that are compared: what was there before is there, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{Node, eventually};
use serde_json::Value;

/// A line of what is told in JSON begins with `#json`, all else is a fact itself.
const LOOK: &str = r##"
json() { echo "#json $1"; shift; ip -j "$@"; echo; }
json link -d address show
json route4 -d -4 route show table all
json route6 -d -6 route show table all
json neighbour neighbour show nud permanent
json rule4 -4 rule
json rule6 -6 rule
echo '#lines setting'
for family in ipv4 ipv6; do for kind in conf neigh; do grep -s '' /proc/sys/net/$family/$kind/*/* </dev/null; done; done
echo '#lines record'
# half a record that a killed hook left beside goes with the next look of the agent, or the next record
ls -A /run/netdevice | grep -v -e '^hook\.log' -e '^lock$' -e '^netns$' -e '\.new$'
echo '#lines pin'
ls -A /run/netdevice/netns 2>/dev/null
echo '#lines lock'
# a killed hook leaves the file of its lock, and nobody holds it
for lock in /run/netdevice/lock/*; do [ ! -e "$lock" ] || flock --nonblock "$lock" true || echo "$lock"; done
echo '#lines cdi'
ls -A /run/cdi
echo '#lines namespace'
ls -A /run/netns
readlink /proc/[0-9]*/ns/net 2>/dev/null | sort -u
echo '#lines kept'
ls -l /proc/[0-9]*/fd 2>/dev/null | grep -o 'net:\[.*' | sort | uniq -c
echo '#lines mount'
grep -e nsfs -e /run/containerd/ /proc/self/mountinfo | cut -d' ' -f5-
echo '#lines process'
for process in /proc/[0-9]*; do
  read -r name 2>/dev/null < $process/comm || continue
  case $name in netdevice-hook | runc* | crun* | sleep | pause | busybox | crictl) echo "$name" ;; esac
done | sort | uniq -c
exit 0
"##;

/// A node at one moment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Picture(BTreeSet<String>);

/// Shims that are there. containerd forgets one at times whose pause process was killed under it (seen with 2.1 and
/// crun): it has no Pod any more and stays for good.
pub(crate) fn shims(node: &Node) -> usize {
    node.sh("pgrep containerd-shim || :").stdout.lines().count()
}

impl Picture {
    #[track_caller]
    pub(crate) fn take(node: &Node) -> Self {
        let said = node.run(["sh", "-c", LOOK]);
        let mut facts = BTreeSet::new();
        let (mut kind, mut is_json) = ("", false);
        for line in said.text().lines() {
            if let Some(begun) = line.strip_prefix("#json ") {
                (kind, is_json) = (begun, true);
            } else if let Some(begun) = line.strip_prefix("#lines ") {
                (kind, is_json) = (begun, false);
            } else if is_json && !line.is_empty() {
                let values: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                values.as_array().into_iter().flatten().for_each(|value| add_object(&mut facts, kind, value));
            } else if !line.is_empty() {
                facts.insert(format!("{kind} {}", line.trim()));
            }
        }
        Self(facts)
    }

    /// Once nothing is on its way any more.
    #[track_caller]
    pub(crate) fn settled(node: &Node) -> Self {
        let mut last = Self::take(node);
        e2e::wait_for("the node settles", || std::mem::replace(&mut last, Self::take(node)) == last, |same| *same);
        last
    }

    /// Waits until the node is as it was; else what differs.
    pub(crate) fn wait_for_return(&self, node: &Node, patience: Duration) -> Result<(), String> {
        let mut now = Self(BTreeSet::new());
        let same = eventually(patience, || {
            now = Self::take(node);
            (now == *self).then_some(())
        });
        same.ok_or_else(|| self.differences(&now))
    }

    fn differences(&self, now: &Self) -> String {
        let lines = |sign: &str, facts: &mut dyn Iterator<Item = &String>| {
            facts.map(|fact| format!("{sign} {fact}\n")).collect::<String>()
        };
        lines("-", &mut self.0.difference(&now.0)) + &lines("+", &mut now.0.difference(&self.0))
    }
}

/// Links are a fact for each member, all else is one fact.
fn add_object(facts: &mut BTreeSet<String>, kind: &str, object: &Value) {
    if kind == "link" {
        let name = object["ifname"].as_str().unwrap_or("?");
        add(facts, &format!("link {name}"), object);
        return;
    }
    // the same route twice is two facts
    let text = format!("{kind} {object}");
    let free = (1..).map(|count| format!("{text} #{count}")).find(|fact| !facts.contains(fact));
    facts.extend(free);
}

fn add(facts: &mut BTreeSet<String>, path: &str, value: &Value) {
    match value {
        // how long a bridge waits just now
        _ if path.ends_with("_timer") => {}
        Value::Object(members) => members.iter().for_each(|(key, value)| add(facts, &format!("{path} {key}"), value)),
        Value::Array(members) if path.ends_with("altnames") => {
            facts.extend(members.iter().map(|member| format!("{path} {member}")));
        }
        Value::Array(members) if members.iter().any(Value::is_object) => {
            members.iter().enumerate().for_each(|(at, member)| add(facts, &format!("{path} {at}"), member));
        }
        leaf => facts.extend([format!("{path} = {leaf}")]),
    }
}
