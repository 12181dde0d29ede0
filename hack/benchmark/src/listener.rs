//! A minimal reader of rtnetlink: it records when a notification arrived, or measures the cost of only receiving.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ::link::run_inside;
use anyhow::{Context, Result, anyhow};
use rtnl::{
    link::{self, LinkMessage, attribute as ifla},
    message::Message,
    messages,
};
use rustix::{
    io::Errno,
    net::{
        RecvFlags, recv,
        sockopt::{self, Timeout},
    },
};
use store::Namespace;

use crate::{kernel::route_socket, process::cpu_of_this_thread};

/// The group of links.
const LINKS: u32 = 1;
/// How long a link is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Groups of links (1) and of IPv4 routes (7).
const WATCHED: u32 = LINKS | 1 << 6;
/// All groups of the agent's inventory below group 32.
const ALL: u32 = 1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18 | 1 << 27;
const BUFFER: usize = 64 << 10;
/// How long notifications are collected between two reads.
const NAP: Duration = Duration::from_millis(1);

/// A notification.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notification {
    pub(crate) at: Instant,
    pub(crate) kind: u16,
}

/// Records when each notification arrived. Its thread ends with the process.
#[derive(Debug, Clone)]
pub(crate) struct Listener(Arc<Mutex<Vec<Notification>>>);

impl Listener {
    pub(crate) fn start() -> Result<Self> {
        let heard = Arc::default();
        let (socket, notes) = (route_socket(WATCHED)?, Arc::clone(&heard));
        std::thread::Builder::new().name("listener".into()).spawn(move || listen(&socket, &notes))?;
        Ok(Self(heard))
    }

    /// Removes all notifications.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The first notification since the last [`Listener::clear`] of which this holds.
    pub(crate) fn first(&self, is_it: impl Fn(&Notification) -> bool) -> Result<Instant> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = heard.iter().find(|heard| is_it(heard)).map(|heard| heard.at);
        found.ok_or_else(|| anyhow!("the kernel reported something else: {heard:?}"))
    }
}

fn listen(socket: &OwnedFd, notes: &Mutex<Vec<Notification>>) {
    let mut buffer = vec![0; BUFFER];
    while let Ok((length, _)) = recv(socket, &mut buffer[..], RecvFlags::empty()) {
        let at = Instant::now();
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages(&buffer[..length]).flatten() {
            notes.push(Notification { at, kind: message.kind });
        }
    }
}

/// The next report of one link, in a network namespace, received on a thread of its own.
pub(crate) struct LinkEvent(JoinHandle<Result<Instant>>);

impl LinkEvent {
    /// Begins to wait for a message of that kind with that name.
    pub(crate) fn begin(namespace: &Namespace, kind: u16, name: &str) -> Result<Self> {
        let socket = run_inside(namespace, || route_socket(LINKS))??;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        let name = name.to_owned();
        let wait = move || wait_for_link(&socket, kind, name.as_bytes());
        Ok(Self(std::thread::Builder::new().name("link event".into()).spawn(wait)?))
    }

    /// When it was received.
    pub(crate) fn wait(self) -> Result<Instant> {
        self.0.join().map_err(|_| anyhow!("the reader of a link's events panicked"))?
    }
}

fn wait_for_link(socket: &OwnedFd, kind: u16, name: &[u8]) -> Result<Instant> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let received = recv(socket, &mut buffer[..], RecvFlags::empty());
        let at = Instant::now();
        let (length, _) = received.with_context(|| format!("no event of link {}", String::from_utf8_lossy(name)))?;
        let is_named = |link: LinkMessage<'_>| {
            link.attributes().any(|attribute| attribute.kind == ifla::IFNAME && attribute.string() == name)
        };
        let is_it = |message: Message<'_>| message.kind == kind && link::parse(message.payload).is_ok_and(is_named);
        if messages(&buffer[..length]).flatten().any(is_it) {
            return Ok(at);
        }
    }
}

/// Receives everything that the agent receives, as often as the agent, and ignores it.
pub(crate) struct BareReader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(u64, Duration)>>,
}

impl BareReader {
    pub(crate) fn start() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (socket, told) = (route_socket(ALL)?, stop.clone());
        let thread = std::thread::Builder::new().name("bare reader".into()).spawn(move || read(&socket, &told))?;
        Ok(Self { stop, thread })
    }

    /// How many notifications it received, and its processor time.
    pub(crate) fn stop(self) -> Result<(u64, Duration)> {
        self.stop.store(true, Relaxed);
        self.thread.join().map_err(|_| anyhow!("the bare reader panicked"))?
    }
}

fn read(socket: &OwnedFd, stop: &AtomicBool) -> Result<(u64, Duration)> {
    let began = cpu_of_this_thread()?;
    let mut buffer = vec![0; BUFFER];
    let mut count = 0;
    loop {
        let is_last = stop.load(Relaxed);
        loop {
            match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok(_) => count += 1,
                Err(Errno::AGAIN) => break,
                Err(Errno::NOBUFS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if is_last {
            return Ok((count, cpu_of_this_thread()? - began));
        }
        std::thread::sleep(NAP);
    }
}
