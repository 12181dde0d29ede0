//! `netdevctl ls`.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use crate::{
    arguments::{Form, List},
    node::{Node, is_orphan},
    output::Output,
    row::{Row, Scope, add_waiting, rows},
};

/// Lists the devices once.
pub(crate) fn list(list: &List, out: &mut impl Write) -> anyhow::Result<()> {
    let node = Node::read(&list.node)?;
    remark(&node, list.output);
    let rows: Vec<Row> = rows_of(&node, list).into_values().collect();
    out.write_all(Output::new(list.output).all(&rows)?.as_bytes())?;
    Ok(())
}

/// Says beside a table why it has every interface of the node.
pub(crate) fn remark(node: &Node, form: Form) {
    if node.selection.pools.is_none() && matches!(form, Form::Table | Form::Wide) {
        // whoever closed the stream does not miss it
        let _ = writeln!(
            io::stderr(),
            "no pools are known ({} is not there): all interfaces are listed; give -interfaces or -config",
            node.selection.source
        );
    }
}

/// The rows that the command line asks for.
pub(crate) fn rows_of(node: &Node, list: &List) -> BTreeMap<String, Row> {
    let scope = if list.all || node.selection.pools.is_none() { Scope::All } else { Scope::Devices };
    let mut rows = rows(node.projector.view(), &node.unreadable, scope, is_orphan);
    add_waiting(&mut rows, node.projector.view(), &node.waiting);
    rows
}

#[cfg(test)]
mod tests;
