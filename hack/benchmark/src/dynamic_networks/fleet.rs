//! What many such nodes ask of an API server, computed from what was measured on one.

use super::{edits::Edit, idle::Idle, lives::Lives, watcher::Traffic};
use crate::row::Row;

const NODES: f64 = 5_000.0;
/// Kubernetes is made for 150,000 Pods at most on 5,000 Nodes.
const PODS_OF_NODE: f64 = 30.0;
const DEFINITIONS: f64 = 100.0;
/// Each Pod lives for a day.
const STARTS_AN_HOUR: f64 = PODS_OF_NODE / 24.0;
/// Pods with networks from their start.
const NETWORKED: f64 = 0.2;
const EDITS_AN_HOUR: f64 = 2.0;
/// Of each node, in an hour where that makes sense.
const ASSUMED: &str =
    "30 Pods, 2 edits/h, 1.25 Pods/h that start and end, 1 in 5 of them with networks; 100 definitions";

/// What was measured.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) edit: Edit,
    pub(super) lives: Lives,
    pub(super) idle: Idle,
}

/// What all nodes ask, in a second.
#[derive(Debug, Default, PartialEq)]
struct Load {
    renewals: f64,
    patches: f64,
    events: f64,
    requests: f64,
    watched: f64,
    bytes: f64,
}

pub(super) fn rows(measured: &Measured) -> Vec<Row> {
    let load = load(measured);
    let Idle { start, bytes_of_pod, bytes_of_definition, definition, .. } = &measured.idle;
    let lists = PODS_OF_NODE * bytes_of_pod + DEFINITIONS * bytes_of_definition;
    let watches = measured.idle.watches.len() as f64;
    // the Pods of such a node are in one answer
    let requests_of_start = start.sum() - start.of("list pods") + 1.0;
    vec![
        Row::one(format!("5,000 nodes, each {ASSUMED}: watches"), "", NODES * watches),
        Row::one("5,000 nodes: requests, of which", "1/s", load.requests),
        Row::one("5,000 nodes: watches begun anew", "1/s", load.renewals),
        Row::one("5,000 nodes: patches of pods/status", "1/s", load.patches),
        Row::one("5,000 nodes: Events created", "1/s", load.events),
        Row::one("5,000 nodes: events of watches, bookmarks included", "1/s", load.watched),
        Row::one("5,000 nodes: the same", "kB/s", load.bytes / 1e3),
        Row::one("5,000 nodes: events of watches for one changed definition", "", NODES * definition.events),
        Row::one("5,000 nodes: the same", "MB", NODES * definition.bytes / 1e6),
        Row::one("5,000 nodes: requests when all agents start", "", NODES * requests_of_start),
        Row::one("5,000 nodes: answers to them, not compressed", "MB", NODES * lists / 1e6),
    ]
}

fn load(Measured { edit, lives, idle }: &Measured) -> Load {
    let renewals: f64 = idle.watches.iter().map(|seconds| NODES / seconds).sum();
    let mut load = Load { renewals, requests: renewals, ..Load::default() };
    load.watch(idle.watched, NODES / 60.0);
    for (requests, watched, an_hour) in [
        (&edit.requests, edit.watched, EDITS_AN_HOUR),
        (&lives.plain.requests, lives.plain.watched, STARTS_AN_HOUR * (1.0 - NETWORKED)),
        (&lives.networked.requests, lives.networked.watched, STARTS_AN_HOUR * NETWORKED),
    ] {
        let a_second = NODES * an_hour / 3600.0;
        load.patches += requests.of("patch pods/status") * a_second;
        load.events += requests.of("create events") * a_second;
        load.requests += requests.sum() * a_second;
        load.watch(watched, a_second);
    }
    load
}

impl Load {
    fn watch(&mut self, traffic: Traffic, a_second: f64) {
        self.watched += traffic.events * a_second;
        self.bytes += traffic.bytes * a_second;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{audit::Requests, lives::Life},
        *,
    };

    #[test]
    fn the_load_is_that_of_one_node_times_their_number() {
        let requests = |counts: &[(&str, f64)]| Requests {
            counts: counts.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            ..Requests::default()
        };
        let traffic = |events| Traffic { events, bytes: 1000.0 * events };
        let written = [("patch pods/status", 1.0), ("create events", 1.0)];
        let measured = Measured {
            edit: Edit { requests: requests(&written), watched: traffic(2.0) },
            lives: Lives {
                plain: Life { requests: requests(&[]), watched: traffic(8.0) },
                networked: Life { requests: requests(&written), watched: traffic(10.0) },
            },
            idle: Idle {
                start: requests(&[("list pods", 5.0), ("watch pods", 1.0)]),
                bytes_of_pod: 2000.0,
                bytes_of_definition: 1000.0,
                watches: vec![250.0, 250.0],
                watched: traffic(1.0),
                definition: traffic(1.0),
            },
        };
        let load = load(&measured);
        let near = |is: f64, wanted: f64| assert!((is - wanted).abs() < 1e-9, "{is} is not {wanted}");
        near(load.renewals, 40.0);
        // 2 edits and a quarter of a Pod with networks on each of 5,000 nodes in an hour
        near(load.patches, 3.125);
        near(load.events, 3.125);
        near(load.requests, 46.25);
        near(load.watched, 5000.0 / 60.0 + 5000.0 / 3600.0 * (2.0 * 2.0 + 8.0 + 0.25 * 10.0));
        near(load.bytes, 1000.0 * load.watched);
        let rows = rows(&measured);
        let value = |name: &str| rows.iter().find(|row| row.measure.ends_with(name)).map(|row| row.median);
        assert_eq!(value("watches"), Some(10_000.0));
        assert_eq!(value("when all agents start"), Some(10_000.0));
    }

    #[test]
    fn the_text_says_what_is_assumed() {
        let share = 1.0 / NETWORKED;
        for part in [
            format!("{PODS_OF_NODE} Pods, {EDITS_AN_HOUR} edits/h, {STARTS_AN_HOUR} Pods/h"),
            format!("1 in {share} of them"),
            format!("{DEFINITIONS} definitions"),
        ] {
            assert!(ASSUMED.contains(&part), "{part}");
        }
    }
}
