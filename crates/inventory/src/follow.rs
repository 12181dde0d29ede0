//! Following the kernel, on a thread of its own: lists and sysfs wait for RTNL, which any move of a link holds for 20 ms,
//! and neither the kubelet nor a Pod should wait for that.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use netdevice::Snapshot;
use rtnl::messages;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    connections::read_node_addresses,
    error::Error,
    hardware::Reader,
    socket::{Events, Listed, Received, Requests, ends_a_namespace},
    state::State,
};

/// How long notifications are collected before they are read: a storm wakes the thread at most 300 times a second.
const STEP: Duration = Duration::from_millis(3);

/// A refresh takes at most one part in so many of the time: on a node of 10,000 links it takes 60 ms.
const REFRESH_SHARE: u32 = 5_000;
/// But there is one at least every so many times [`Config::refresh`].
const RAREST_REFRESH: u32 = 10;

/// By how much the interval of snapshots grows while notifications keep arriving: each snapshot causes work in the agent
/// and in the kubelet.
const LONGEST_BOUND: u32 = 8;

/// When a list that kept changing while it was written is requested again.
const RETRY: Duration = Duration::from_millis(100);

/// How the kernel is followed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where sysfs is mounted.
    pub sysfs: PathBuf,
    /// Bytes of kernel memory for queued notifications. Without `CAP_NET_ADMIN` `net.core.rmem_max` is the limit.
    pub receive_buffer: usize,
    /// A snapshot is published when nothing arrived for so long,
    pub quiet: Duration,
    /// or so long after the first notification, whatever still arrives; up to eight times as long while notifications never
    /// pause between two snapshots.
    pub bound: Duration,
    /// How often at most links are listed again for what the kernel does not announce: alias and alternative names of a link
    /// that is down, and what sysfs says.
    pub refresh: Duration,
    /// Addresses that the node is known by. More are learned from connections, at the start and at each refresh; what
    /// was learned once stays known: a lost connection is expected to return.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The address of the API server, from the environment of every container.
    pub api_server: Option<SocketAddr>,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Stats {
    resyncs: AtomicU64,
    events: AtomicU64,
    publishes: AtomicU64,
}

impl Stats {
    /// How often notifications were lost and everything was listed again.
    pub fn resyncs(&self) -> u64 {
        self.resyncs.load(Relaxed)
    }

    /// Notifications that were read.
    pub fn events(&self) -> u64 {
        self.events.load(Relaxed)
    }

    /// Snapshots that were published.
    pub fn publishes(&self) -> u64 {
        self.publishes.load(Relaxed)
    }
}

/// The links of one namespace, read and ready to be followed.
#[derive(Debug)]
pub struct Inventory {
    config: Config,
    events: Events,
    requests: Requests,
    state: State,
    snapshots: watch::Sender<Snapshot>,
    namespaces_ended: watch::Sender<u64>,
    a_namespace_ended: bool,
    /// How often [`Config::bound`] the next snapshot may take.
    patience: u32,
    stats: Arc<Stats>,
}

impl Inventory {
    /// Subscribes in the namespace of the calling thread, then reads everything once.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer.
    pub fn open(config: Config) -> Result<Self, Error> {
        let events = Events::open(config.receive_buffer)?;
        let mut inventory = Self {
            config,
            events,
            requests: Requests::open()?,
            state: State::new(),
            snapshots: watch::Sender::default(),
            namespaces_ended: watch::Sender::default(),
            a_namespace_ended: false,
            patience: 1,
            stats: Arc::default(),
        };
        inventory.learn_node_addresses();
        inventory.update()?;
        Ok(inventory)
    }

    /// The snapshots; there is one from the beginning.
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.snapshots.subscribe()
    }

    /// A number that grows when a namespace that has an id here ended, or may have: a sandbox has ended. The kernel announces
    /// only namespaces that were given an id (`RTM_NEWNSID`).
    pub fn subscribe_namespaces_ended(&self) -> watch::Receiver<u64> {
        self.namespaces_ended.subscribe()
    }

    /// The counters.
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Follows the kernel until `shutdown`.
    ///
    /// # Errors
    ///
    /// When notifications cannot be received any more.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| Error::Thread(error.into()))?);
        let (ended, end) = oneshot::channel();
        let theirs = stop.clone();
        let follow = move || _ = ended.send(self.follow(&theirs));
        thread::Builder::new().name("inventory".into()).spawn(follow).map_err(Error::Thread)?;
        // also when this future is dropped
        let stop = StopOnDrop(stop);
        tokio::pin!(end);
        tokio::select! {
            () = shutdown.cancelled() => drop(stop),
            result = &mut end => return result.unwrap_or(Err(Error::Ended)),
        }
        end.await.unwrap_or(Err(Error::Ended))
    }

    fn follow(mut self, stop: &OwnedFd) -> Result<(), Error> {
        let mut refresh_at = Instant::now() + self.config.refresh;
        loop {
            let mut until = refresh_at;
            if !self.state.stale().is_empty() {
                until = until.min(Instant::now() + RETRY);
            }
            match wait(stop, Some(&self.events), until)? {
                Woken::ToStop => return Ok(()),
                Woken::ByEvents if self.gather(stop)? == Gathered::ToStop => return Ok(()),
                Woken::ByEvents | Woken::ByTime => {}
            }
            let began = Instant::now();
            let is_refresh = began >= refresh_at;
            if is_refresh {
                self.state.refresh();
                self.learn_node_addresses();
            }
            self.update()?;
            if is_refresh {
                let refresh = self.config.refresh;
                let pause = (began.elapsed() * REFRESH_SHARE).clamp(refresh, refresh * RAREST_REFRESH);
                refresh_at = Instant::now() + pause;
            }
        }
    }

    fn learn_node_addresses(&mut self) {
        self.config.node_addresses.extend(read_node_addresses(self.config.api_server));
        self.state.set_node_addresses(self.config.node_addresses.clone());
    }

    /// Applies notifications until none arrive, or for as long as is allowed.
    fn gather(&mut self, stop: &OwnedFd) -> Result<Gathered, Error> {
        let bound = Instant::now() + self.config.bound * self.patience;
        self.receive(bound)?;
        let mut quiet = Instant::now() + self.config.quiet;
        loop {
            let now = Instant::now();
            if now >= quiet {
                self.patience = 1;
                return Ok(Gathered::All);
            }
            if now >= bound {
                self.patience = (self.patience * 2).min(LONGEST_BOUND);
                return Ok(Gathered::All);
            }
            if wait(stop, None, (now + STEP).min(bound))? == Woken::ToStop {
                return Ok(Gathered::ToStop);
            }
            if self.receive(bound)? > 0 {
                quiet = Instant::now() + self.config.quiet;
            }
        }
    }

    /// Applies what is queued; returns how many notifications that were. Ends at `bound` even if more keep arriving.
    fn receive(&mut self, bound: Instant) -> Result<u64, Error> {
        let mut count = 0;
        loop {
            match self.events.receive()? {
                Received::Nothing => break,
                Received::Lost => {
                    self.events.discard()?;
                    self.state.lose_all();
                    self.a_namespace_ended = true;
                    self.stats.resyncs.fetch_add(1, Relaxed);
                }
                Received::Bytes(bytes) => {
                    for message in messages(bytes).flatten() {
                        count += 1;
                        self.a_namespace_ended |= ends_a_namespace(&message);
                        self.state.apply(&message);
                    }
                }
            }
            if count % 64 == 63 && Instant::now() >= bound {
                break;
            }
        }
        self.stats.events.fetch_add(count, Relaxed);
        Ok(count)
    }

    /// Lists what notifications did not say, and publishes what is known then.
    fn update(&mut self) -> Result<(), Error> {
        list_stale(&mut self.requests, &mut self.state)?;
        let mut reader = Reader::new(&self.config.sysfs);
        if let Some(snapshot) = self.state.next_snapshot(|link| reader.read(link)) {
            self.stats.publishes.fetch_add(1, Relaxed);
            self.snapshots.send_replace(snapshot);
        }
        if std::mem::take(&mut self.a_namespace_ended) {
            self.namespaces_ended.send_modify(|count| *count += 1);
        }
        Ok(())
    }
}

/// Lists all stale parts. One that keeps changing meanwhile stays stale.
pub(crate) fn list_stale(requests: &mut Requests, state: &mut State) -> Result<(), Error> {
    for part in state.stale() {
        let listed = requests.list(part, state, State::init, |state, message| state.init_apply(part, message))?;
        match listed {
            Listed::Whole => state.init_done(part),
            Listed::Interrupted => state.init_interrupted(),
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Gathered {
    All,
    ToStop,
}

#[derive(Debug, PartialEq, Eq)]
enum Woken {
    ToStop,
    ByEvents,
    ByTime,
}

/// Waits for the stop, for events, if any are requested, or until it is time.
fn wait(stop: &OwnedFd, events: Option<&Events>, until: Instant) -> Result<Woken, Error> {
    let descriptor = events.map(Events::descriptor);
    let mut polled = vec![PollFd::new(stop, PollFlags::IN)];
    polled.extend(descriptor.iter().map(|events| PollFd::new(events, PollFlags::IN)));
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).ok();
    match poll(&mut polled, timeout.as_ref()) {
        Ok(0) | Err(Errno::INTR) => Ok(Woken::ByTime),
        Ok(_) if polled[0].revents().is_empty() => Ok(Woken::ByEvents),
        Ok(_) => Ok(Woken::ToStop),
        Err(error) => Err(Error::Receive(error.into())),
    }
}

/// Ends the thread when it is dropped.
struct StopOnDrop(Arc<OwnedFd>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // fails only when the counter is full, and then it was signalled already
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}
