//! `netdevctl`: for people on a node. It reads the kernel and the records itself, so it works without the agent.
//!
//! A library, so that the agent's image needs one program only: the agent is `netdevctl` when it is called by that name.

mod arguments;
mod check;
mod check_node;
mod explain;
#[cfg(test)]
mod fixture;
mod forget;
pub mod inject;
mod list;
mod node;
mod node_arguments;
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
use arguments::{Arguments, Command, ReadCommand};
use clap::{CommandFactory, FromArgMatches};
use netdevice::go_flags;
pub use node_arguments::NodeArguments;

/// The program's name.
const NETDEVCTL: &str = "netdevctl";

/// Whether a program was called by a name of this one, as its first argument says.
pub fn is_called(program: &OsString) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == NETDEVCTL || name == inject::IF_INJECT)
}

/// Runs the program with its command line, its name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter().peekable();
    if arguments.peek().is_some_and(|program| Path::new(program).file_name() == Some(inject::IF_INJECT.as_ref())) {
        return inject::main(arguments);
    }
    let mut command = Arguments::command();
    let arguments = go_flags::rewrite(arguments, &arguments::long_flags(&command));
    // prints help or what is wrong, with status 0 or 2
    let matches = command.try_get_matches_from_mut(arguments).unwrap_or_else(|error| error.exit());
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let read = match arguments.command {
        Command::Inject(arguments) => {
            let matches = matches.subcommand_matches("inject").unwrap_or(&matches);
            let command = command.find_subcommand("inject").unwrap_or(&command);
            return inject::run(&arguments, matches, command);
        }
        Command::Forget(arguments) => return finish(|out| forget::forget(&arguments, out)),
        Command::Read(command) => command,
    };
    finish(|out| run(read, out))
}

/// Runs a command that prints, and reports its error.
fn finish(command: impl FnOnce(&mut io::StdoutLock<'static>) -> anyhow::Result<()>) -> ExitCode {
    let mut out = io::stdout().lock();
    match command(&mut out).and_then(|()| out.flush().map_err(Into::into)) {
        Ok(()) => ExitCode::SUCCESS,
        // the reader has read enough
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "netdevctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: ReadCommand, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        ReadCommand::Ls(list) if list.watch => watch::watch(&list, out),
        ReadCommand::Ls(list) => list::list(&list, out),
        ReadCommand::Explain { device, node } => explain::explain(&device, &node, out),
        ReadCommand::CheckNode(arguments) => check_node::check_node(&arguments, out),
        ReadCommand::Config { command: arguments::ConfigCommand::Check { file } } => check::check(&file, out),
        ReadCommand::Completion { shell } => complete(shell, out),
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
