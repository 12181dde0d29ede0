//! The output formats.

use anyhow::Context;

use crate::{arguments::Format, row::Row, table::Columns};

/// Writes rows in one format, all at once or as they change.
#[derive(Debug)]
pub(crate) enum Output {
    /// Columns.
    Table(Columns<8>),
    /// More columns.
    Wide(Columns<15>),
    /// A list, or a line for each row.
    Json,
    /// A list, or a document for each row.
    Yaml,
}

impl Output {
    /// Nothing written yet.
    pub(crate) fn new(format: Format) -> Self {
        match format {
            Format::Table => Self::Table(Columns::new()),
            Format::Wide => Self::Wide(Columns::new()),
            Format::Json => Self::Json,
            Format::Yaml => Self::Yaml,
        }
    }

    /// All rows, and nothing follows.
    pub(crate) fn all(&mut self, rows: &[Row]) -> anyhow::Result<String> {
        match self {
            Self::Table(_) | Self::Wide(_) => self.first(rows),
            Self::Json => Ok(serde_json::to_string_pretty(rows).context("cannot write JSON")? + "\n"),
            Self::Yaml => serde_saphyr::to_string(&rows).context("cannot write YAML"),
        }
    }

    /// The first rows, and more may follow.
    pub(crate) fn first(&mut self, rows: &[Row]) -> anyhow::Result<String> {
        match self {
            Self::Table(columns) => Ok(columns.lines(&with_head(short_head(), rows.iter().map(short)))),
            Self::Wide(columns) => Ok(columns.lines(&with_head(wide_head(), rows.iter().map(wide)))),
            Self::Json | Self::Yaml => self.more(rows),
        }
    }

    /// Rows after the first.
    pub(crate) fn more(&mut self, rows: &[Row]) -> anyhow::Result<String> {
        match self {
            Self::Table(columns) => Ok(columns.lines(&rows.iter().map(short).collect::<Vec<_>>())),
            Self::Wide(columns) => Ok(columns.lines(&rows.iter().map(wide).collect::<Vec<_>>())),
            Self::Json => {
                let line = |row| Ok(serde_json::to_string(row).context("cannot write JSON")? + "\n");
                rows.iter().map(line).collect()
            }
            Self::Yaml => {
                let document =
                    |row| Ok("---\n".to_owned() + &serde_saphyr::to_string(row).context("cannot write YAML")?);
                rows.iter().map(document).collect()
            }
        }
    }
}

fn with_head<T>(head: T, rows: impl Iterator<Item = T>) -> Vec<T> {
    std::iter::once(head).chain(rows).collect()
}

fn short_head() -> [Option<String>; 8] {
    ["DEVICE", "POOL", "STATE", "DRIVER", "NUMA", "SPEED", "POD/CONTAINER", "NAME INSIDE"].map(|name| Some(name.into()))
}

fn short(row: &Row) -> [Option<String>; 8] {
    [
        Some(row.device.clone()),
        row.pool.clone(),
        Some(row.state.to_string()),
        row.driver.clone(),
        row.numa_node.map(|node| node.to_string()),
        row.speed.map(speed),
        row.holder(),
        row.name_inside.clone(),
    ]
}

fn wide_head() -> [Option<String>; 15] {
    let [device, pool, state, driver, numa, speed, holder, inside] = short_head();
    let [by, kind, index, mac, mtu, pci, reason] =
        ["BY", "KIND", "INDEX", "MAC", "MTU", "PCI", "REASON"].map(|name| Some(name.into()));
    [device, pool, state, driver, numa, speed, holder, inside, by, kind, index, mac, mtu, pci, reason]
}

fn wide(row: &Row) -> [Option<String>; 15] {
    let [device, pool, state, driver, numa, speed, holder, inside] = short(row);
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let (by, index, mtu) = (row.by.map(|by| by.to_string()), number(row.index), number(row.mtu));
    let (kind, mac, pci, reason) = (row.kind.clone(), row.mac.clone(), row.pci_address.clone(), row.reason.clone());
    [device, pool, state, driver, numa, speed, holder, inside, by, kind, index, mac, mtu, pci, reason]
}

/// A speed in Mb/s, for people.
fn speed(megabits: u32) -> String {
    match megabits {
        fast if fast >= 1000 && fast % 1000 == 0 => format!("{} Gb/s", fast / 1000),
        fast if fast >= 1000 && fast % 100 == 0 => format!("{}.{} Gb/s", fast / 1000, fast % 1000 / 100),
        other => format!("{other} Mb/s"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn speeds_have_the_usual_units() {
        let table = [(10, "10 Mb/s"), (1000, "1 Gb/s"), (2500, "2.5 Gb/s"), (100_000, "100 Gb/s"), (1250, "1250 Mb/s")];
        for (megabits, expected) in table {
            assert_eq!(super::speed(megabits), expected);
        }
    }
}
