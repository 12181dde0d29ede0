//! Kills hooks at their work: they are seen in `/proc`, and live for some 25 ms.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::Signal;
use rustix::process::{Pid, kill_process};

use crate::schedule::Verb;

/// Finds the hooks of one node among all processes of the machine.
pub(crate) struct Hunter {
    pid_namespace: PathBuf,
}

impl Hunter {
    /// For the node that this process is in.
    pub(crate) fn new(process: i32) -> Self {
        Self { pid_namespace: fs::read_link(format!("/proc/{process}/ns/pid")).expect("it runs") }
    }

    /// Waits for a hook and kills it `after` it was seen; false when `enough` was said before one came.
    pub(crate) fn kill_one(&self, verb: Verb, after: Duration, enough: &AtomicBool) -> bool {
        while !enough.load(Ordering::Relaxed) {
            let Some(hook) = self.find(verb) else { continue };
            let seen = Instant::now();
            while seen.elapsed() < after {
                std::hint::spin_loop();
            }
            return kill_process(hook, Signal::KILL).is_ok();
        }
        false
    }

    fn find(&self, verb: Verb) -> Option<Pid> {
        let verb: &[u8] = match verb {
            Verb::Attach => b"attach",
            Verb::Detach => b"detach",
        };
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let mut hooks = processes.filter(|process| self.is_hook(process, verb));
        Pid::from_raw(hooks.next()?.file_name()?.to_str()?.parse().ok()?)
    }

    fn is_hook(&self, process: &Path, verb: &[u8]) -> bool {
        fs::read(process.join("comm")).is_ok_and(|name| name == b"netdevice-hook\n")
            && fs::read_link(process.join("ns/pid")).is_ok_and(|namespace| namespace == self.pid_namespace)
            && fs::read(process.join("cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == verb))
    }
}
