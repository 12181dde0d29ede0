//! The program `hack/nri-adaptation`, built and driven.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
};

use serde::{Deserialize, Deserializer};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::rig::within;

/// The versions of the library: containerd 2.0 and 2.1, containerd 2.2, and the newest.
pub(crate) const VERSIONS: [&str; 3] = ["v0.8.0", "v0.11.0", "newest"];

/// Programs that are built already, by version.
static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// Something that the program told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Event {
    pub(crate) what: String,
    pub(crate) of: String,
    #[serde(deserialize_with = "base64")]
    pub(crate) answer: Vec<u8>,
    pub(crate) code: u32,
    pub(crate) error: String,
}

/// The program; it is killed when this is dropped, as a runtime that crashes.
#[derive(Debug)]
pub(crate) struct Adaptation {
    _child: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    events: Vec<Event>,
}

impl Adaptation {
    /// Returns when it listens.
    pub(crate) async fn start(version: &str, socket: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(build(version));
        command.arg("-socket").arg(socket).args(arguments).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let orders = child.stdin.take().unwrap();
        let mut started = Self { _child: child, orders, lines, events: Vec::new() };
        started.until(|event| event.what == "listening").await;
        started
    }

    /// The next event of that kind; all are kept.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let line = within(self.lines.next_line()).await.unwrap().expect("the program runs");
            let event: Event = serde_json::from_str(&line).unwrap();
            self.events.push(event.clone());
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Has it do something, and returns what a container runtime would make of it.
    pub(crate) async fn order(&mut self, order: &str) -> Event {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
        self.until(|event| event.what == "done").await
    }

    /// The last call of this method that was answered, or the next.
    pub(crate) async fn called(&mut self, method: &str) -> Event {
        let is_wanted = |event: &Event| event.what == "called" && event.of == method;
        match self.events.iter().rfind(|event| is_wanted(event)) {
            Some(event) => event.clone(),
            None => self.until(is_wanted).await,
        }
    }

    /// All methods that were called.
    pub(crate) fn calls(&self) -> impl Iterator<Item = &str> {
        self.events.iter().filter(|event| event.what == "called").map(|event| &event.of[..])
    }
}

/// Builds the program with one version of the library, once for all tests.
fn build(version: &str) -> PathBuf {
    let mut built = BUILT.lock().unwrap();
    let program = built.entry(version.to_owned()).or_insert_with(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/nri-adaptation");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nri-adaptation-{version}"));
        let mut go = std::process::Command::new("go");
        go.current_dir(folder).arg("build").arg("-o").arg(&program);
        if version != "newest" {
            go.arg(format!("-modfile={version}.mod")).args(["-tags", "statechange"]);
        }
        let status = go.arg(".").status().expect("Go is not installed: these tests need it");
        assert!(status.success(), "the adaptation of {version} does not build");
        program
    });
    program.clone()
}

fn base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(digit).collect();
    let bits = |group: &[u8]| group.iter().fold(0u32, |bits, digit| bits << 6 | u32::from(*digit));
    let bytes = |group: &[u8]| (bits(group) << (6 * (4 - group.len()) + 8)).to_be_bytes()[..group.len() - 1].to_vec();
    Ok(digits.chunks(4).flat_map(bytes).collect())
}
