//! Calls of the kubelet: Allocate and GetPreferredAllocation, and what it sees when it was restarted itself.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tokio::time::sleep;

use crate::{
    agent::{Node, RESOURCE},
    bench::Bench,
    kernel::Kernel,
    process::{block_on, ms},
    row::{Budget, Row},
    samples::Samples,
};

const DEVICES: usize = 1_024;

pub(crate) fn allocations(bench: &Bench) -> Result<Vec<Row>> {
    let kernel = Kernel::open()?;
    kernel.add_ifbs((0..DEVICES).map(|number| format!("d{number}")))?;
    block_on(async {
        let node = Node::new()?;
        let agent = node.start_agent(bench, "^d")?;
        node.until_listed(DEVICES).await?;
        let ids: Vec<String> = (0..DEVICES).map(|number| format!("d{number}")).collect();
        let (mut allocate, mut prefer, mut options) = (Samples::default(), Samples::default(), Samples::default());
        for run in 0..bench.runs(1_000, 200) {
            let began = Instant::now();
            let answer = node.kubelet.allocate(RESOURCE, &[&ids[run * 7 % DEVICES]]).await;
            allocate.push(ms(began.elapsed()));
            answer.map_err(|status| anyhow!("Allocate: {}", status.message()))?;
            let available = ids.clone();
            let began = Instant::now();
            let answer = node.kubelet.prefer(RESOURCE, available, Vec::new(), 4).await;
            prefer.push(ms(began.elapsed()));
            answer.map_err(|status| anyhow!("GetPreferredAllocation: {}", status.message()))?;
            // a call that does nothing: what the protocol costs
            let began = Instant::now();
            let answer = node.kubelet.prefer(RESOURCE, Vec::new(), Vec::new(), 0).await;
            options.push(ms(began.elapsed()));
            answer.map_err(|status| anyhow!("GetPreferredAllocation: {}", status.message()))?;
        }
        agent.stop()?;
        let row = |name: &str, samples: &Samples| {
            let row = Row::new(format!("{name}, 1,024 devices"), "ms", samples).beside("empty call", &options);
            row.budget(Budget::P99(1.0))
        };
        Ok(vec![row("Allocate", &allocate), row("GetPreferredAllocation of 4", &prefer)])
    })
}

/// The stand-in ends and starts again.
pub(crate) fn restarts(bench: &Bench) -> Result<Vec<Row>> {
    let kernel = Kernel::open()?;
    kernel.add_ifbs((0..8).map(|number| format!("d{number}")))?;
    block_on(async {
        let mut node = Node::new()?;
        let agent = node.start_agent(bench, "^d")?;
        node.until_listed(8).await?;
        let mut listed = Samples::default();
        for _ in 0..bench.runs(100, 20) {
            node.kubelet.stop();
            sleep(Duration::from_millis(50)).await;
            node.kubelet.start_again()?;
            let began = Instant::now();
            listed.push(ms(node.until_listed(8).await? - began));
            sleep(Duration::from_millis(100)).await;
        }
        agent.stop()?;
        let row = Row::new("kubelet (stand-in) restarted → listed again", "ms", &listed).budget(Budget::P99(50.0));
        Ok(vec![row.quoted("original 10,000–57,000 or never, SDP 2,400, DRANET no gap seen")])
    })
}
