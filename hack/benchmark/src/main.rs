//! netdevice-bench: measures the program against the kernel's floor in the same run; `hack/bench` builds and starts it.
//!
//! Each section is a process of its own in a network and mount namespace of its own, so that the machine is not
//! changed and no section affects another. A section prints its rows as JSON lines; this process collects
//! them, prints the table and writes the file.

#![allow(clippy::print_stdout, clippy::print_stderr)] // it prints a table

mod agent;
mod api;
mod bench;
mod calls;
mod claims;
mod device;
mod dynamic_networks;
mod files;
mod hook;
mod injections;
mod kernel;
mod listener;
mod networks;
mod node;
mod process;
mod rig;
mod row;
mod samples;
mod sections;
mod storm;
mod table;

use std::{
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};
use bench::{Bench, Programs};
use clap::{Parser, Subcommand};
use row::Row;
use sections::{Namespaces, SECTIONS, Section};
use serde_json::{Value, json};

/// Measures netdevice against the kernel's floor
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    programs: Programs,
    /// Few runs, no node and no cluster: minutes
    #[arg(long)]
    quick: bool,
    /// Only these sections
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the rows go as JSON; the last one counts
    #[arg(long, overrides_with = "json")]
    json: Option<PathBuf>,
    /// Where the table goes as a document's (Markdown)
    #[arg(long)]
    markdown: Option<PathBuf>,
    #[command(subcommand)]
    inner: Option<Inner>,
}

/// What this program starts of itself.
#[derive(Debug, Subcommand)]
enum Inner {
    /// One section, here
    Section { name: String },
    /// Follows so many changes of the link d0, here, to have their instructions counted
    Updates { count: usize },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let bench = Bench { programs: arguments.programs.clone(), quick: arguments.quick };
    let done = match &arguments.inner {
        Some(Inner::Section { name }) => run_section(&bench, name).map(|()| true),
        Some(Inner::Updates { count }) => files::follow_updates(*count).map(|()| true),
        None => run_all(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("netdevice-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_section(bench: &Bench, name: &str) -> Result<()> {
    let section = SECTIONS.iter().find(|section| section.name == name).with_context(|| format!("no section {name}"))?;
    if section.namespaces == Namespaces::Own {
        // sysfs shows the network namespace of the process that mounted it
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("bench", "/sys", "sysfs", flags, None::<&std::ffi::CStr>).context("mount sysfs")?;
        kernel::ip("link set dev lo up\n")?;
    }
    for row in (section.run)(bench)? {
        println!("{}", serde_json::to_string(&row)?);
    }
    Ok(())
}

/// Returns whether every section succeeded.
fn run_all(arguments: &Arguments) -> Result<bool> {
    if let Some(name) = arguments.only.iter().find(|name| SECTIONS.iter().all(|section| section.name != **name)) {
        bail!(
            "unknown section {name}: the sections are {}",
            SECTIONS.iter().map(|section| section.name).collect::<Vec<_>>().join(", ")
        );
    }
    let is_wanted = |section: &&Section| match arguments.only.as_slice() {
        [] => !(arguments.quick && section.is_slow),
        only => only.iter().any(|name| name == section.name),
    };
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for section in SECTIONS.iter().filter(is_wanted) {
        eprintln!("bench: {} ...", section.name);
        let began = std::time::Instant::now();
        match start_section(section) {
            Ok(found) => rows.extend(found),
            Err(error) => {
                eprintln!("bench: {}: {error:#}", section.name);
                failed.push(section.name);
            }
        }
        eprintln!("bench: {} took {:.0} s", section.name, began.elapsed().as_secs_f64());
    }
    let machine = machine();
    print!("{}\n{}", describe(&machine), table::format(&rows));
    if !failed.is_empty() {
        println!("not measured, see above: {}", failed.join(", "));
    }
    if let Some(path) = &arguments.json {
        let document = json!({"machine": machine, "quick": arguments.quick, "rows": rows, "failed": failed});
        std::fs::write(path, serde_json::to_string_pretty(&document)?).with_context(|| path.display().to_string())?;
        println!("as JSON: {}", path.display());
    }
    if let Some(path) = &arguments.markdown {
        let document = format!("{}\n{}", describe(&machine), table::markdown(&rows));
        std::fs::write(path, document).with_context(|| path.display().to_string())?;
        println!("as a document: {}", path.display());
    }
    Ok(failed.is_empty())
}

fn start_section(section: &Section) -> Result<Vec<Row>> {
    let program = std::env::current_exe()?;
    let mut command = match section.namespaces {
        Namespaces::Machine => Command::new(&program),
        Namespaces::Own => {
            let mut command = Command::new("unshare");
            command.args(["--net", "--mount", "--propagation", "private", "--"]).arg(&program);
            command
        }
    };
    command.args(std::env::args_os().skip(1)).args(["section", section.name]).stdout(Stdio::piped());
    let done = command.spawn().context("start a section")?.wait_with_output()?;
    if !done.status.success() {
        bail!("the section ended with {}", done.status);
    }
    let text = String::from_utf8(done.stdout)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo").lines().find_map(|line| Some(line.strip_prefix("model name")?.to_owned()));
    json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "processor": processor.unwrap_or_default().trim_start_matches([' ', '\t', ':']),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_kb": read("/proc/meminfo").split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()),
        "load": read("/proc/loadavg").split_whitespace().next().and_then(|load| load.parse::<f64>().ok()),
    })
}

fn describe(machine: &Value) -> String {
    format!(
        "Linux {}, {} × {}, load {} at the end. Ratios are of means of the middle eight tenths.\n",
        machine["kernel"].as_str().unwrap_or_default(),
        machine["processors"],
        machine["processor"].as_str().unwrap_or_default(),
        machine["load"],
    )
}
