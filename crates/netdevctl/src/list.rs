//! `netdevctl ls`.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use crate::{
    arguments::{Format, ListArguments},
    node::{Node, is_orphan},
    output::Output,
    row::{Row, Scope, add_reserved, add_waiting, rows},
};

/// Lists the devices once.
pub(crate) fn list(list: &ListArguments, out: &mut impl Write) -> anyhow::Result<()> {
    let node = Node::read(&list.node)?;
    warn_without_pools(&node, list.output);
    let rows: Vec<Row> = rows_of(&node, list).into_values().collect();
    out.write_all(Output::new(list.output).all(&rows)?.as_bytes())?;
    Ok(())
}

/// Explains beside a table why it lists every interface of the node.
pub(crate) fn warn_without_pools(node: &Node, format: Format) {
    if node.selection.pools.is_none() && matches!(format, Format::Table | Format::Wide) {
        // a closed stream is not an error
        let _ = writeln!(
            io::stderr(),
            "no pools are known ({} does not exist): all interfaces are listed; use -interfaces or -config",
            node.selection.source
        );
    }
}

/// The rows that the command line asks for.
pub(crate) fn rows_of(node: &Node, list: &ListArguments) -> BTreeMap<String, Row> {
    let scope = if list.all || node.selection.pools.is_none() { Scope::All } else { Scope::Devices };
    let mut rows = rows(node.projector.view(), &node.unreadable, scope, is_orphan);
    add_reserved(&mut rows, node.projector.view(), &node.reservations);
    add_waiting(&mut rows, node.projector.view(), &node.waiting);
    rows
}

#[cfg(test)]
mod tests;
