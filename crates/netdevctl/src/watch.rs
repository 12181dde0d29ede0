//! `netdevctl ls --watch`: the list, then each device again when it changes.

use std::{collections::BTreeMap, io::Write, time::Duration};

use anyhow::Context;
use inventory::{Config, Inventory};
use tokio_util::sync::CancellationToken;

use crate::{
    arguments::ListArguments,
    list::{rows_of, warn_without_pools},
    node::{Node, node_addresses},
    output::Output,
    row::Row,
};

/// How often the records are read again.
const PERIOD: Duration = Duration::from_secs(1);

/// Lists the devices and follows them until the output is closed.
pub(crate) fn watch(list: &ListArguments, out: &mut impl Write) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().context("cannot start")?;
    runtime.block_on(async {
        let node_addresses = node_addresses(&list.node)?;
        let config = Config { sysfs: list.node.sysfs.clone(), node_addresses, ..Config::default() };
        let inventory = Inventory::open(config).context("cannot read the interfaces of this node")?;
        let mut snapshots = inventory.subscribe();
        let snapshot = snapshots.borrow_and_update().clone();
        let mut node = Node::with_snapshot(&list.node, snapshot)?;
        warn_without_pools(&node, list.output);
        let mut shown = rows_of(&node, list);
        let mut output = Output::new(list.output);
        print(&output.first(&shown.values().cloned().collect::<Vec<_>>())?, out)?;
        let following = inventory.run(CancellationToken::new());
        tokio::pin!(following);
        let mut tick = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                ended = &mut following => return ended.context("cannot follow the interfaces of this node"),
                changed = snapshots.changed() => {
                    changed.context("cannot follow the interfaces of this node")?;
                    node.projector.set_snapshot(snapshots.borrow_and_update().clone());
                }
                _ = tick.tick() => {}
            }
            node.refresh(&list.node)?;
            let now = rows_of(&node, list);
            print(&output.more(&differences(&shown, &now))?, out)?;
            shown = now;
        }
    })
}

fn print(text: &str, out: &mut impl Write) -> anyhow::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// The rows that are new or differ, and those of devices that are gone.
fn differences(before: &BTreeMap<String, Row>, now: &BTreeMap<String, Row>) -> Vec<Row> {
    let gone = before.keys().filter(|device| !now.contains_key(*device)).map(|device| Row::gone(device));
    let changed = now.iter().filter(|(device, row)| before.get(*device) != Some(row)).map(|(_, row)| row.clone());
    gone.chain(changed).collect()
}
