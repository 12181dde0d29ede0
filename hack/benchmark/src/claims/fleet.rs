//! What many such nodes ask of an API server, computed from what was measured on one.

use super::{lives::Lives, slices::Slices};
use crate::row::Row;

const NODES: f64 = 5_000.0;
/// Kubernetes is made for 150,000 Pods at most on 5,000 Nodes; each Pod lives for a day.
const STARTS_AN_HOUR: f64 = 30.0 / 24.0;
/// Pods with a claim.
const CLAIMING: f64 = 0.2;
/// Changes of links that are seconds apart.
const CHANGES_AN_HOUR: f64 = 4.0;
/// Of each node.
const ASSUMED: &str = "100 devices, 4 link events/h, 1.25 Pods/h that start and end, 1 in 5 of them with a claim";

/// What all nodes ask, in a second.
#[derive(Debug, PartialEq)]
struct Load {
    renewals: f64,
    writes: f64,
    requests: f64,
    /// Bytes to one that watches all slices, as the scheduler does.
    watched: f64,
}

pub(super) fn rows(slices: &Slices, lives: &Lives) -> Vec<Row> {
    let load = load(slices, lives);
    vec![
        Row::one(format!("5,000 nodes, each {ASSUMED}: watches"), "", NODES * slices.watches.len() as f64),
        Row::one("5,000 nodes with claims: requests, of which", "1/s", load.requests),
        Row::one("5,000 nodes with claims: watches begun anew", "1/s", load.renewals),
        Row::one("5,000 nodes with claims: slices written", "1/s", load.writes),
        Row::one("5,000 nodes with claims: slices to one that watches all, as JSON", "kB/s", load.watched / 1e3),
        Row::one("5,000 nodes with claims: requests when all agents start", "", NODES * slices.start.sum()),
        Row::one("5,000 nodes with claims: slices that they write then, as JSON", "MB", NODES * slices.bytes / 1e6),
    ]
}

fn load(slices: &Slices, lives: &Lives) -> Load {
    let renewals: f64 = slices.watches.iter().map(|seconds| NODES / seconds).sum();
    let a_second = |an_hour: f64| NODES * an_hour / 3600.0;
    let changes = a_second(CHANGES_AN_HOUR);
    let requests = renewals
        + changes * slices.change.sum()
        + a_second(STARTS_AN_HOUR * (1.0 - CLAIMING)) * lives.plain.sum()
        + a_second(STARTS_AN_HOUR * CLAIMING) * lives.claiming.sum();
    Load {
        renewals,
        writes: changes * slices.change.of("update resourceslices"),
        requests,
        watched: changes * slices.watched.bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{audit::Requests, watcher::Traffic};

    fn requests(counts: &[(&str, f64)]) -> Requests {
        Requests {
            counts: counts.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            ..Requests::default()
        }
    }

    #[test]
    fn the_load_is_that_of_one_node_times_their_number() {
        let slices = Slices {
            start: requests(&[("create resourceslices", 2.0), ("list resourceslices", 1.0)]),
            change: requests(&[("update resourceslices", 1.0)]),
            watched: Traffic { events: 1.0, bytes: 1000.0 },
            idle: requests(&[]),
            watches: vec![250.0],
            bytes: 100.0,
        };
        let lives = Lives { plain: requests(&[]), claiming: requests(&[("get pods", 4.0)]) };
        let load = load(&slices, &lives);
        let near = |is: f64, wanted: f64| assert!((is - wanted).abs() < 1e-9, "{is} is not {wanted}");
        near(load.renewals, 20.0);
        near(load.writes, 5000.0 * 4.0 / 3600.0);
        near(load.watched, 1000.0 * load.writes);
        near(load.requests, 20.0 + load.writes + 5000.0 * 0.25 / 3600.0 * 4.0);
        let rows = rows(&slices, &lives);
        let value = |name: &str| rows.iter().find(|row| row.measure.ends_with(name)).map(|row| row.median);
        assert_eq!(value("when all agents start"), Some(15_000.0));
    }

    #[test]
    fn the_text_says_what_is_assumed() {
        let share = 1.0 / CLAIMING;
        let text = format!("{CHANGES_AN_HOUR} link events/h, {STARTS_AN_HOUR} Pods/h that start and end, 1 in {share}");
        assert!(ASSUMED.contains(&text), "{text}");
    }
}
