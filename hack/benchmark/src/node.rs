//! Rows of the agent on a node of few, many and very many links: start, events, memory, rest.

use std::time::{Duration, Instant};

use anyhow::Result;
use kubelet_stand_in::KubeletState;
use rtnl::message::kind;
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    agent::{Agent, Node, RESOURCE, health},
    bench::Bench,
    kernel::{Kernel, index_of, ip},
    listener::{Listener, Notification},
    process::{block_on, ms},
    row::{Budget, Row},
    samples::Samples,
};

/// Device group of the links that fill the node.
const CROWD: u32 = 77;
/// Until everything that an event leads to is over.
const SETTLED: Duration = Duration::from_millis(60);
/// The same for a start.
const STARTED: Duration = Duration::from_millis(500);

pub(crate) fn few(bench: &Bench) -> Result<Vec<Row>> {
    measure(bench, 10, 8)
}

pub(crate) fn thousand(bench: &Bench) -> Result<Vec<Row>> {
    measure(bench, 1_000, 128)
}

pub(crate) fn ten_thousand(bench: &Bench) -> Result<Vec<Row>> {
    measure(bench, 10_000, 128)
}

fn measure(bench: &Bench, links: usize, devices: usize) -> Result<Vec<Row>> {
    let kernel = Kernel::open()?;
    fill(&kernel, links - devices, devices)?;
    let rows = block_on(async {
        let node = Node::new()?;
        let mut rows = starts(bench, &node, &kernel, links, devices).await?;
        let known = node.lists();
        let agent = node.start_agent(bench, "^d")?;
        node.until_listed_since(known, devices - 1).await?;
        // what a start leaves to be done is none of the first event's
        sleep(STARTED).await;
        rows.extend(events(bench, &node, &agent, links, devices).await?);
        rows.extend(memory(&agent, links)?);
        if links != 1_000 {
            rows.extend(rest(bench, &agent, links).await?);
        }
        agent.stop()?;
        Ok(rows)
    });
    kernel.delete_group(CROWD)?;
    rows
}

/// Devices d0, d1, ... that are up, the first with the default route; ends of veth pairs without a name that matters.
fn fill(kernel: &Kernel, others: usize, devices: usize) -> Result<()> {
    kernel.add_ifbs((0..devices).map(|number| format!("d{number}")))?;
    (0..devices).try_for_each(|number| kernel.set_up(&format!("d{number}")))?;
    ip("address add 10.66.0.2/24 dev d0\naddress add 10.67.0.2/24 dev d1\n")?;
    kernel.set_default_route(index_of("d0")?)?;
    kernel.add_veths((0..others / 2).map(|number| (format!("xa{number}"), format!("xb{number}"))), CROWD)
}

fn with_commas(links: usize) -> &'static str {
    match links {
        10 => "10 links",
        1_000 => "1,000 links",
        _ => "10,000 links",
    }
}

/// From the agent's start to the answer of Register, the hook being installed already.
async fn starts(bench: &Bench, node: &Node, kernel: &Kernel, links: usize, devices: usize) -> Result<Vec<Row>> {
    let (mut registered, mut listed, mut lists) = (Samples::default(), Samples::default(), Samples::default());
    for run in 0..=bench.runs(if links == 10 { 40 } else { 15 }, 5) {
        let before = Instant::now();
        kernel.list_links()?;
        let list = before.elapsed();
        let (begun, known) = (node.kubelet.with_state(registrations), node.lists());
        let began = Instant::now();
        let agent = node.start_agent(bench, "^d")?;
        let at = node.until("the agent is registered", |state| registrations(state) > begun).await?;
        let then = node.until_listed_since(known, devices - 1).await?;
        agent.stop()?;
        node.until("the stream ends", |state| state.resources.values().all(|known| !known.is_connected)).await?;
        // the first one installs the hook
        if run > 0 {
            lists.push(ms(list));
            registered.push(ms(at - began));
            listed.push(ms(then - began));
        }
    }
    let budget = if links == 10 { 15.0 } else { 150.0 };
    let mut row = Row::new(format!("start → registered, {}", with_commas(links)), "ms", &registered);
    if links > 10 {
        row = row.beside("a list of links", &lists);
    }
    let row = row.quoted("original 6–18, SDP 17–30, DRANET 2,000");
    Ok(vec![
        if links == 1_000 { row } else { row.budget(Budget::Median(budget)) },
        Row::new(format!("start → listed, {}", with_commas(links)), "ms", &listed),
    ])
}

fn registrations(state: &KubeletState) -> usize {
    state.resources.get(RESOURCE).map_or(0, |known| known.registrations)
}

/// What happens to links, one after the other.
#[derive(Debug, Clone, Copy)]
enum Event {
    Added,
    Up,
    Down,
    Removed,
    DefaultRoute,
}

const EVENTS: [(Event, &str); 5] = [
    (Event::Added, "added"),
    (Event::Up, "up"),
    (Event::Down, "down"),
    (Event::Removed, "removed"),
    (Event::DefaultRoute, "default route moved"),
];

/// A link that comes and goes.
const PROBE: &str = "d999";

impl Event {
    fn make(self, route_to: u32) -> Result<()> {
        let kernel = Kernel::open()?;
        match self {
            Self::Added => kernel.add_ifbs([PROBE.to_owned()]),
            Self::Up => kernel.set_up(PROBE),
            Self::Down => kernel.set_down(PROBE),
            Self::Removed => kernel.delete(PROBE),
            Self::DefaultRoute => kernel.set_default_route(route_to),
        }
    }

    fn is_listed(self, state: &KubeletState, route_to: &str) -> bool {
        match self {
            Self::Added => health(state, PROBE).is_some(),
            Self::Up => health(state, PROBE) == Some("Healthy"),
            Self::Down => health(state, PROBE) == Some("Unhealthy"),
            Self::Removed => health(state, PROBE).is_none(),
            Self::DefaultRoute => health(state, route_to).is_none(),
        }
    }

    /// Whether this notification is the kernel's word of it.
    fn is_reported_by(self, notification: &Notification) -> bool {
        match self {
            Self::Added | Self::Up | Self::Down => notification.kind == kind::NEWLINK,
            Self::Removed => notification.kind == kind::DELLINK,
            Self::DefaultRoute => notification.kind == kind::NEWROUTE,
        }
    }
}

async fn events(bench: &Bench, node: &Node, agent: &Agent, links: usize, devices: usize) -> Result<Vec<Row>> {
    let listener = Listener::start()?;
    let uplinks = [index_of("d0")?, index_of("d1")?];
    let mut times = EVENTS.map(|_| Samples::default());
    let (mut all, mut cpu) = (Samples::default(), Samples::default());
    let rounds = bench.runs(60, 10);
    for round in 1..=rounds {
        for (times, (event, _)) in times.iter_mut().zip(EVENTS) {
            let (route_to, uplink) = (uplinks[round % 2], ["d0", "d1"][round % 2]);
            sleep(SETTLED).await;
            listener.clear();
            let before = agent.cpu()?;
            let making = spawn_blocking(move || event.make(route_to));
            let at = node.until(&format!("{event:?}"), |state| event.is_listed(state, uplink)).await?;
            making.await??;
            sleep(SETTLED).await;
            let took = at.saturating_duration_since(listener.first(|heard| event.is_reported_by(heard))?);
            times.push(ms(took));
            all.push(ms(took));
            cpu.push(ms(agent.cpu()?.saturating_sub(before)));
        }
    }
    node.until_listed(devices - 1).await?;
    let title = |what: &str| format!("{what} → update, {}", with_commas(links));
    let mut rows: Vec<Row> = times
        .iter()
        .zip(EVENTS)
        .map(|(times, (_, name))| {
            Row::new(title(&format!("link {name}").replace("link default", "default")), "ms", times)
        })
        .collect();
    rows.push(Row::new(title("all these events"), "ms", &all).budget(Budget::P99(20.0)).quoted(match links {
        10 => "original 2,000, SDP never, DRANET 700",
        1_000 => "original 2,200",
        _ => "original 10,700",
    }));
    rows.push(
        Row::new(format!("CPU of the agent for an event, {}", with_commas(links)), "ms", &cpu)
            .budget(Budget::Median(1.0))
            .quoted(match links {
                10 => "original 7",
                1_000 => "original 230, DRANET 16 % of a core",
                _ => "original 8,700, DRANET a whole core",
            }),
    );
    Ok(rows)
}

fn memory(agent: &Agent, links: usize) -> Result<Vec<Row>> {
    let [rss, pss, anonymous] = agent.memory()?;
    let title = |what: &str| format!("memory, {what}, {}", with_commas(links));
    let most = if links == 10 { 8.0 } else { 15.0 };
    let anonymous = Row::one(title("anonymous"), "MB", anonymous);
    Ok(vec![
        Row::one(title("RSS"), "MB", rss).budget(Budget::Most(most)).quoted(match links {
            10 => "original 14, SDP 31, DRANET 75",
            1_000 => "original 18, SDP 31, DRANET 97",
            _ => "original 81, SDP 31, DRANET 279",
        }),
        Row::one(title("PSS"), "MB", pss),
        if links == 10 { anonymous.budget(Budget::Most(2.0)) } else { anonymous }.quoted(match links {
            10 => "original 3, SDP 6.5, DRANET 29",
            1_000 => "original 8, DRANET 50",
            _ => "original 70, DRANET 232",
        }),
    ])
}

/// What the agent does while nothing happens.
async fn rest(bench: &Bench, agent: &Agent, links: usize) -> Result<Vec<Row>> {
    let time = Duration::from_secs(bench.runs(60, 20) as u64);
    // threads that waited for more work end
    sleep(Duration::from_secs(11)).await;
    let (known, cpu) = (agent.sleeps()?, agent.cpu()?);
    sleep(time).await;
    let (now, cpu) = (agent.sleeps()?, agent.cpu()? - cpu);
    // a thread that began meanwhile counts as a whole, and one that ended ended once
    let sleeps: u64 = now.iter().map(|(thread, sleeps)| sleeps - known.get(thread).unwrap_or(&0)).sum();
    let sleeps = sleeps + known.keys().filter(|thread| !now.contains_key(*thread)).count() as u64;
    let title = |what: &str| format!("idle for {} s, {what}, {}", time.as_secs(), with_commas(links));
    let share = 1e2 * cpu.as_secs_f64() / time.as_secs_f64();
    Ok(vec![
        Row::one(title("wake-ups"), "", sleeps as f64).budget(Budget::Most((time.as_secs() / 5 + 1) as f64)),
        Row::one(title("CPU"), "% of a core", (share * 1e3).round() / 1e3).budget(Budget::Most(0.02)),
    ])
}
