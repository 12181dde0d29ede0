//! `netdevctl`: for people on a node. It reads the kernel and the records itself, so it works without the agent.
//!
//! A library, so that the agent's image needs one program only: the agent is `netdevctl` when it is called by that name.

mod arguments;
mod check;
mod explain;
#[cfg(test)]
mod fixture;
pub mod inject;
mod list;
mod node;
mod output;
mod row;
mod table;
mod watch;
mod way;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
pub use arguments::NodeArguments;
use arguments::{Arguments, Command};
use clap::{CommandFactory, Parser};
use netdevice::go_flags;

/// The program's name.
const NETDEVCTL: &str = "netdevctl";

/// Whether a program was called by a name of this one, as its first argument says.
pub fn is_called(program: &OsString) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == NETDEVCTL)
}

/// Runs the program with its command line, its name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = Arguments::command();
    let arguments = go_flags::rewrite(arguments, &arguments::long_flags(&command));
    // prints help or what is wrong, with status 0 or 2
    let arguments = Arguments::try_parse_from(arguments).unwrap_or_else(|error| error.exit());
    let mut out = io::stdout().lock();
    match run(arguments, &mut out).and_then(|()| out.flush().map_err(Into::into)) {
        Ok(()) => ExitCode::SUCCESS,
        // the reader has read enough
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "netdevctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    match arguments.command {
        Command::Ls(list) if list.watch => watch::watch(&list, out),
        Command::Ls(list) => list::list(&list, out),
        Command::Explain { device, node } => explain::explain(&device, &node, out),
        Command::Config { command: arguments::ConfigCommand::Check { file } } => check::check(&file, out),
        Command::Completion { shell } => complete(shell, out),
    }
}

fn complete(shell: clap_complete::Shell, out: &mut impl Write) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), NETDEVCTL, &mut script);
    out.write_all(&script).context("cannot write")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_pipe))
}
