//! Sizes of what is shipped, and instruction counts, which repeat exactly where times do not.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use netdevice::{Pools, Projector};
use tokio_util::sync::CancellationToken;

use crate::{
    bench::Bench,
    device::{Device, temporary},
    kernel::{Kernel, ip},
    process::{block_on, is_installed},
    row::{Budget, Row},
};

pub(crate) fn sizes(bench: &Bench) -> Result<Vec<Row>> {
    let programs = &bench.programs;
    let size = |path: &Path| -> Result<f64> {
        let file = fs::metadata(path).with_context(|| path.display().to_string())?;
        Ok((file.len() as f64 / 1e4).round() / 1e2)
    };
    let mut rows = vec![
        Row::one("size of netdevice-hook", "MB", size(&programs.hook)?).budget(Budget::Most(1.0)),
        Row::one("size of netdevice-agent", "MB", size(&programs.agent)?),
        Row::one("size of netdevctl", "MB", size(&programs.netdevctl)?),
    ];
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image.tar");
    let hack = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("image");
    let mut pack = Command::new(hack);
    pack.arg("pack").arg(&image).arg("localhost/netdevice:bench");
    // the image has netdevctl in the agent
    pack.args([&programs.agent, &programs.hook]).stdout(Stdio::null());
    ensure!(pack.status()?.success(), "hack/image pack failed");
    rows.push(Row::one("size of the image, not compressed", "MB", size(&image)?).budget(Budget::Most(15.0)));
    Ok(rows)
}

/// Instructions of the hook in user space.
pub(crate) fn instructions(bench: &Bench) -> Result<Vec<Row>> {
    ensure!(is_installed("valgrind"), "valgrind is missing: install it to have instructions counted");
    let folder = temporary()?;
    ip("link add veth9 type veth peer name peer9\nlink set dev peer9 up\n")?;
    let device = Device::new("veth9", 0, &folder)?;
    let mut rows = Vec::new();
    for (verb, what) in [("attach", "attach"), ("attach", "attach, nothing to do"), ("detach", "detach")] {
        let count = count(&device.hook(bench, &folder, verb)?, Some(device.state()))?;
        rows.push(Row::one(format!("instructions of the hook, {what}"), "thousand", count));
    }
    for verb in ["attach", "detach"] {
        let count = count(&device.bare(bench, verb), None)?;
        rows.push(Row::one(format!("instructions of the bare program, {verb}"), "thousand", count));
    }
    let kernel = Kernel::open()?;
    kernel.add_ifbs((0..LINKS).map(|number| format!("d{number}")))?;
    let updates = |updates: usize| -> Result<f64> {
        let mut command = Command::new(std::env::current_exe()?);
        for (flag, path) in [
            ("--hook", &bench.programs.hook),
            ("--bare-move", &bench.programs.bare_move),
            ("--agent", &bench.programs.agent),
            ("--netdevctl", &bench.programs.netdevctl),
        ] {
            command.arg(flag).arg(path);
        }
        count(command.args(["updates", &updates.to_string()]), None)
    };
    let one = ((updates(120)? - updates(20)?) / 100.0).round();
    rows.push(Row::one("instructions of one update of inventory and view, 1,000 links", "thousand", one));
    Ok(rows)
}

const LINKS: usize = 1_000;

/// Sets a link up and down, and waits each time for the view in which it is so.
pub(crate) fn follow_updates(count: usize) -> Result<()> {
    let kernel = Kernel::open()?;
    let pattern: netdevice::selector::Pattern = "^d".parse()?;
    block_on(async {
        let inventory = inventory::Inventory::open(inventory::Config::default())?;
        let mut snapshots = inventory.subscribe();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(inventory.run(shutdown.clone()));
        let mut projector = Projector::new();
        projector.set_pools(Arc::new(Pools::by_name(pattern)));
        let id: netdevice::DeviceId = "d0".parse()?;
        for number in 0..count {
            let is_up = number % 2 == 0;
            if is_up {
                kernel.set_up("d0")?
            } else {
                kernel.set_down("d0")?
            }
            loop {
                projector.set_snapshot(snapshots.borrow_and_update().clone());
                if projector.view().devices().get(&id).is_some_and(|device| device.is_healthy() == is_up) {
                    break;
                }
                snapshots.changed().await?;
            }
        }
        shutdown.cancel();
        Ok(running.await??)
    })
}

/// Runs a command under callgrind, with the same input.
fn count(command: &Command, input: Option<&Path>) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("callgrind.out");
    let mut counted = Command::new("valgrind");
    counted.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.display()));
    counted.arg(command.get_program()).args(command.get_args());
    counted.stdin(fs::File::open(input.unwrap_or(Path::new("/dev/null")))?);
    let done = counted.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    ensure!(done.status.success(), "valgrind: {}", String::from_utf8_lossy(&done.stderr));
    let text = fs::read_to_string(&out)?;
    let sum = text.lines().find_map(|line| line.strip_prefix("summary:").or_else(|| line.strip_prefix("totals:")));
    Ok((sum.context("callgrind tells no sum")?.trim().parse::<f64>()? / 1e3).round())
}
