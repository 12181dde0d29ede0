//! `netdevctl check-node`: is this node ready for each way to give a device to a Pod, and what to do where it is not.
//!
//! [`collect`] looks, [`rows`] decides, and here it is printed.

pub(crate) mod arguments;
mod collect;
mod facts;
mod rows;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, io::Write};

use anyhow::{Context, bail};

use arguments::{CheckNodeArguments, CheckNodeFormat};
use facts::WayIn;
use rows::{Row, Section, Verdict};

use crate::table::table;

/// The ways that this version of netdevice has.
const WAYS: [WayIn; 3] = [WayIn::ExtendedResource, WayIn::Annotation, WayIn::Command];

/// Prints what each way needs, and fails when one is not ready.
pub(crate) fn check_node(arguments: &CheckNodeArguments, out: &mut impl Write) -> anyhow::Result<()> {
    let ways: BTreeSet<WayIn> = arguments.ways.iter().copied().collect();
    let ways: Vec<WayIn> = if ways.is_empty() { WAYS.to_vec() } else { ways.into_iter().collect() };
    let sections = rows::sections(&collect::facts(arguments)?, arguments, &ways);
    out.write_all(text(&sections, arguments.output)?.as_bytes())?;
    out.flush()?;
    let not_ready = sections.iter().filter(|section| section.ready != Verdict::Yes).filter_map(|section| section.way);
    let not_ready: Vec<&str> = not_ready.map(WayIn::name).collect();
    if !not_ready.is_empty() {
        bail!("this node is not ready for: {}", not_ready.join(", "));
    }
    Ok(())
}

fn text(sections: &[Section], format: CheckNodeFormat) -> anyhow::Result<String> {
    match format {
        CheckNodeFormat::Table => Ok(table(&lines(sections))),
        CheckNodeFormat::Json => Ok(serde_json::to_string_pretty(sections).context("cannot write JSON")? + "\n"),
    }
}

/// A line for each check, and below it what to do; after the checks of a way, whether it is ready.
fn lines(sections: &[Section]) -> Vec<[Option<String>; 4]> {
    let mut lines = vec![["WAY", "CHECK", "READY", "FOUND, AND WHAT TO DO"].map(|name| Some(name.to_owned()))];
    for section in sections {
        let way = section.way.map_or("every way", WayIn::name);
        for row in &section.checks {
            lines.push([way, row.check, &ready(row), &row.found].map(|cell| Some(cell.to_owned())));
            let below = row
                .action
                .iter()
                .map(|action| [" ", " ", " ", &format!("do: {action}")].map(|cell| Some(cell.to_owned())));
            lines.extend(below);
        }
        if section.way.is_some() {
            lines.push([way, "all", word(section.ready), " "].map(|cell| Some(cell.to_owned())));
        }
    }
    lines
}

fn ready(row: &Row) -> String {
    let is_optional = row.optional && row.ready != Verdict::Yes;
    word(row.ready).to_owned() + if is_optional { ", optional" } else { "" }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Yes => "yes",
        Verdict::No => "no",
        Verdict::Unknown => "unknown",
    }
}
