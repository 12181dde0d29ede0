//! Ten thousand ends of veth pairs come and go as fast as the kernel takes it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    agent::Node,
    bench::Bench,
    kernel::Kernel,
    listener::BareReader,
    process::{block_on, ms},
    row::{Budget, Row},
    samples::Samples,
};

const ENDS: usize = 10_000;
/// Device group of the veth pairs.
const CROWD: u32 = 78;
/// One of so many pairs is a device.
const OFFERED: usize = 50;

pub(crate) fn storm(bench: &Bench) -> Result<Vec<Row>> {
    let kernel = Kernel::open()?;
    kernel.add_ifbs((0..8).map(|number| format!("d{number}")))?;
    block_on(async {
        let node = Node::new()?;
        let agent = node.start_agent(bench, "^d")?;
        node.until_listed(8).await?;
        let (mut cpu, mut bare, mut lists, mut took) =
            (Samples::default(), Samples::default(), Samples::default(), Samples::default());
        for round in 0..bench.runs(3, 1) {
            let (reader, before) = (BareReader::start()?, agent.cpu()?);
            let known = node.lists();
            let began = Instant::now();
            spawn_blocking(come_and_go).await??;
            took.push(ms(began.elapsed()));
            // the list is right when the last link of all is in it and none of the others
            let last = format!("dlast{round}");
            let name = last.clone();
            spawn_blocking(move || Kernel::open()?.add_ifbs([name])).await??;
            let what = "the list is right at the end";
            node.until(what, |state| crate::agent::health(state, &last).is_some()).await?;
            sleep(Duration::from_millis(200)).await;
            let count = node.kubelet.with_state(crate::agent::listed);
            ensure!(count == Some(9 + round), "there are {count:?} devices in the list");
            let (heard, reading) = reader.stop()?;
            ensure!(heard > ENDS as u64, "the bare reader heard of {heard} events");
            cpu.push(ms(agent.cpu()? - before));
            bare.push(ms(reading));
            lists.push((node.lists() - known) as f64);
        }
        agent.stop()?;
        let bound = (took.max() / 15.0).ceil();
        Ok(vec![
            Row::new("storm of 10,000 veth ends, CPU of the agent", "ms", &cpu)
                .beside("bare reader", &bare)
                .budget(Budget::MedianAndRatio(300.0, 3.0))
                .quoted("original 290, hardly reading; DRANET 5,700"),
            Row::new("storm, lists sent to the kubelet", "", &lists).budget(Budget::Most(bound)),
        ])
    })
}

fn come_and_go() -> Result<()> {
    let kernel = Kernel::open()?;
    kernel.add_veths(
        (0..ENDS / 2).map(|pair| {
            let kind = if pair % OFFERED == 0 { 'd' } else { 'x' };
            (format!("{kind}veth{pair}"), format!("y{pair}"))
        }),
        CROWD,
    )?;
    kernel.delete_group(CROWD)
}
