//! Rows of the hook: each beside the bare program on the same link, one after the other, over and over.

use std::process::{Command, Stdio};

use anyhow::Result;
use tempfile::TempDir;

use crate::{
    bench::Bench,
    device::{Device, temporary},
    kernel::ip,
    process::{Run, ms, start, timed},
    row::{Budget, Row},
    samples::Samples,
};

#[derive(Default)]
struct Pair {
    hook: Samples,
    bare: Samples,
}

/// Attach and detach of each kind of link, and their processor time.
pub(crate) fn moves(bench: &Bench) -> Result<Vec<Row>> {
    let folder = temporary()?;
    ip("link add ifb9 type ifb\nlink add veth9 type veth peer name peer9\nlink add lower9 type ifb\n\
        link set dev lower9 up\nlink set dev peer9 up\nlink add macvlan9 link lower9 type macvlan mode bridge\n")?;
    let devices = ["ifb9", "veth9", "macvlan9"].iter().enumerate();
    let devices: Vec<Device> = devices.map(|(at, name)| Device::new(name, at, &folder)).collect::<Result<_>>()?;
    let mut rows = Vec::new();
    let (mut attach_cpu, mut detach_cpu) = (Pair::default(), Pair::default());
    for device in &devices {
        let (mut attach, mut detach) = (Pair::default(), Pair::default());
        for round in 0..bench.runs(100, 12) {
            for turn in [round % 2, 1 - round % 2] {
                let (there, back) = if turn == 0 {
                    let there = timed(&mut device.hook(bench, &folder, "attach")?)?;
                    (there, timed(&mut device.hook(bench, &folder, "detach")?)?)
                } else {
                    (timed(&mut device.bare(bench, "attach"))?, timed(&mut device.bare(bench, "detach"))?)
                };
                let put =
                    |pair: &mut Pair, value: f64| if turn == 0 { &mut pair.hook } else { &mut pair.bare }.push(value);
                put(&mut attach, ms(there.wall));
                put(&mut detach, ms(back.wall));
                put(&mut attach_cpu, ms(there.cpu));
                put(&mut detach_cpu, ms(back.cpu));
            }
        }
        let kind = device.name.trim_end_matches('9');
        let row = |verb: &str, pair: &Pair, budget: f64| {
            let row = Row::new(format!("hook {verb}, {kind}"), "ms", &pair.hook).beside("bare", &pair.bare);
            row.budget(Budget::Ratio(budget))
        };
        rows.push(row("attach", &attach, 1.10).quoted("plugin with 2 Go hooks 1.2×, DRANET 1.0×"));
        rows.push(row("detach", &detach, 1.15));
    }
    for (verb, cpu) in [("attach", &attach_cpu), ("detach", &detach_cpu)] {
        let row = Row::new(format!("hook {verb}, CPU"), "ms", &cpu.hook).beside("bare", &cpu.bare);
        rows.push(row.budget(Budget::Median(1.5)).quoted("2 Go hooks 5.2; bare C 1.15"));
    }
    rows.push(nothing(bench, &devices[0], &folder)?);
    Ok(rows)
}

/// An attach that finds its work done.
fn nothing(bench: &Bench, device: &Device, folder: &TempDir) -> Result<Row> {
    timed(&mut device.hook(bench, folder, "attach")?)?;
    let mut pair = Pair::default();
    for _ in 0..bench.runs(200, 40) {
        pair.hook.push(ms(timed(&mut device.hook(bench, folder, "attach")?)?.wall));
        let mut start = Command::new(&bench.programs.hook);
        pair.bare.push(ms(timed(start.arg("-version").env_clear().stdout(Stdio::null()))?.wall));
    }
    timed(&mut device.hook(bench, folder, "detach")?)?;
    let row = Row::new("hook attach, nothing to do", "ms", &pair.hook).beside("its start", &pair.bare);
    Ok(row.budget(Budget::Median(2.0)))
}

/// Many hooks at once, beside as many bare programs one after another.
pub(crate) fn bursts(bench: &Bench) -> Result<Vec<Row>> {
    let folder = temporary()?;
    let mut devices = Vec::new();
    for number in 0..32 {
        let name = format!("ifb{number}");
        ip(&format!("link add {name} type ifb\n"))?;
        devices.push(Device::new(&name, number, &folder)?);
    }
    let mut rows = Vec::new();
    for (count, rounds) in [(8, bench.runs(12, 3)), (32, bench.runs(8, 1))] {
        let devices = &devices[..count];
        let (mut attach, mut detach) = (Pair::default(), Pair::default());
        for round in 0..rounds {
            for turn in [round % 2, 1 - round % 2] {
                if turn == 0 {
                    attach.hook.push(at_once(bench, devices, &folder, "attach")?);
                    detach.hook.push(at_once(bench, devices, &folder, "detach")?);
                } else {
                    attach.bare.push(in_sequence(bench, devices, "attach")?);
                    detach.bare.push(in_sequence(bench, devices, "detach")?);
                }
            }
        }
        for (verb, pair) in [("attach", &attach), ("detach", &detach)] {
            let row = Row::new(format!("{count} hooks at once, {verb}"), "ms", &pair.hook);
            rows.push(row.beside("bare in turn", &pair.bare).budget(Budget::Ratio(1.15)));
        }
    }
    Ok(rows)
}

fn at_once(bench: &Bench, devices: &[Device], folder: &TempDir, verb: &str) -> Result<f64> {
    let mut commands: Vec<Command> =
        devices.iter().map(|device| device.hook(bench, folder, verb)).collect::<Result<_>>()?;
    let began = std::time::Instant::now();
    let started: Vec<_> = commands.iter_mut().map(start).collect::<Result<_>>()?;
    started.into_iter().try_for_each(|hook| hook.wait().map(drop))?;
    Ok(ms(began.elapsed()))
}

fn in_sequence(bench: &Bench, devices: &[Device], verb: &str) -> Result<f64> {
    let began = std::time::Instant::now();
    for device in devices {
        let Run { .. } = timed(&mut device.bare(bench, verb))?;
    }
    Ok(ms(began.elapsed()))
}
