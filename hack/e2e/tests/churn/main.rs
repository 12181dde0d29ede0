//! Every device comes home, whatever dies: Pods come and go on a real node, with devices of many shapes, while agents,
//! containerd, shims, hooks, containers and pause processes are killed, as a seed says.
//!
//! `hack/churn [CYCLES] [SEED]` runs it for long; in between it is short. A cycle is a Pod's life.

#![allow(clippy::print_stdout, clippy::print_stderr)] // figures, and how to see a failure again

mod agents;
mod check;
mod dice;
mod fleet;
mod hunter;
mod life;
mod round;
mod schedule;
mod tally;

use e2e::{Kind, Node};

use round::Churn;
use schedule::{Fault, Round};

/// Pods in a run that nobody asked to be longer.
const CYCLES: u64 = 40;
const SEED: u64 = 1;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// Says how to see a failure again.
struct Repeat {
    seed: u64,
    round: u32,
    pods: usize,
}

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, round, pods } = self;
            let set =
                |name: &str| std::env::var(name).map_or_else(|_| String::new(), |value| format!("{name}='{value}' "));
            let also = set("NETDEVICE_RUNTIME") + &set("NETDEVICE_FAULT");
            eprintln!("seed {seed}, round {round}, cycle {pods}: again with `{also}hack/churn {pods} {seed}`,");
            eprintln!("or from this round on with `{also}NETDEVICE_ROUND={round} hack/churn 1 {seed}`");
        }
    }
}

#[test]
fn every_device_comes_home_whatever_dies() {
    let (cycles, seed) = (setting("NETDEVICE_CHURN", CYCLES), setting("NETDEVICE_SEED", SEED));
    let first = u32::try_from(setting("NETDEVICE_ROUND", 0)).expect("a round's number");
    let fault = std::env::var("NETDEVICE_FAULT").unwrap_or_default();
    assert!(Fault::is_known(&fault), "NETDEVICE_FAULT={fault}: there is no such fault");
    let node = Node::start_as("churn", Kind::Containerd);
    let mut churn = Churn::begin(&node);
    let mut repeat = Repeat { seed, round: first, pods: 0 };
    for number in first.. {
        let mut round = Round::draw(seed, number, fleet::SHAPES.len());
        if !round.fault.kind().contains(&fault) {
            continue;
        }
        (repeat.round, repeat.pods) = (number, churn.tally.pods + round.pods.len());
        let is_last = repeat.pods as u64 >= cycles;
        round.hurried &= !is_last;
        churn.run(&round);
        if is_last {
            break;
        }
        if churn.tally.rounds.is_multiple_of(50) {
            println!("seed {seed}, round {number}:\n{}", churn.tally);
        }
    }
    println!("seed {seed}:\n{}", churn.finish());
    node.down();
}
