//! Sizes of what is shipped, and instruction counts, which repeat exactly where times do not.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    hook::Device,
    kernel::ip,
    node::is_there,
    row::{Budget, Row},
    sections::Context,
};

pub(crate) fn sizes(bench: &Context) -> Result<Vec<Row>> {
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
    pack.args([&programs.agent, &programs.hook, &programs.netdevctl]).stdout(Stdio::null());
    ensure!(pack.status()?.success(), "hack/image pack failed");
    rows.push(Row::one("size of the image, not compressed", "MB", size(&image)?).budget(Budget::Most(15.0)));
    Ok(rows)
}

/// Instructions of the hook in user space.
pub(crate) fn instructions(bench: &Context) -> Result<Vec<Row>> {
    ensure!(is_there("valgrind"), "valgrind is missing: install it to have instructions counted");
    let folder = crate::hook::temporary()?;
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
    Ok(rows)
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
