//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use netdevice::go_flags::Flag;

use crate::{check_node::arguments::CheckNodeArguments, node_arguments::NodeArguments};

/// Shows the network devices of this node: which are offered to Pods, which are in a Pod, and why.
#[derive(Debug, Parser)]
#[command(name = "netdevctl", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Read(ReadCommand),
    /// Ends a claim that nobody unprepares: its devices, reservations and CDI file
    Forget(crate::forget::ForgetArguments),
    /// Adds, removes and checks interfaces of Pods that run, as if-inject does
    Inject(Box<crate::inject::arguments::InjectArguments>),
}

/// Commands that change nothing.
#[derive(Debug, Subcommand)]
pub(crate) enum ReadCommand {
    /// Lists devices
    #[command(after_help = STATES)]
    Ls(ListArguments),
    /// Explains, rule by rule, why a device is or is not offered
    Explain {
        /// A device id, or the name or an alternative name of an interface
        device: String,
        #[command(flatten)]
        node: NodeArguments,
    },
    /// Checks whether this node is ready for each way to give a device to a Pod
    CheckNode(CheckNodeArguments),
    /// Checks configuration files
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Prints the completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints the pools of a configuration file, or what is wrong with it
    Check {
        /// The file, as for the agent's -config
        file: PathBuf,
    },
}

const STATES: &str = "\
States:
  offered      on the host, and free
  reserved     on the host, and reserved for a Pod or a claim; not attached yet
  unhealthy    on the host, and not healthy by the rule of its pool
  attaching    moving into a Pod
  attached     in a Pod
  detaching    moving to the host
  orphaned     attached, but its container or the Pod's network namespace is gone
  renamed      on the host under another name, until its own name is free
  unreadable   its record cannot be read
  quarantined  its record cannot be used: an administrator must decide
With --all, or if no pools are known:
  excluded     never offered
  unselected   selected by no pool
  parent       devices that are created on it are offered
With --watch:
  gone         no longer there";

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    /// Lists the devices, then shows a device again each time it changes
    #[arg(long)]
    pub(crate) watch: bool,
    /// Also lists interfaces that are not offered
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) node: NodeArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns
    Table,
    /// More columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// The long flags of all commands, which are also accepted with one dash.
pub(crate) fn long_flags(command: &clap::Command) -> Vec<Flag<'_>> {
    let own = command.get_arguments().filter_map(|argument| {
        let name = argument.get_long()?;
        let is_switch = matches!(argument.get_action(), ArgAction::SetTrue | ArgAction::Help | ArgAction::Version);
        Some(if is_switch { Flag::Switch(name) } else { Flag::Valued(name) })
    });
    let common = [Flag::Switch("help"), Flag::Switch("version")];
    own.chain(common).chain(command.get_subcommands().flat_map(long_flags)).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &str) -> Result<Arguments, clap::Error> {
        let command = Arguments::command();
        let arguments = format!("netdevctl {arguments}");
        let arguments = arguments.split_whitespace().map(OsString::from);
        Arguments::try_parse_from(netdevice::go_flags::rewrite(arguments, &long_flags(&command)))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_are_taken_as_go_programs_and_as_others_write_them() {
        let same = [
            "ls -o json -interfaces ^dummy -state-dir /x -watch",
            "ls --output=json --interfaces=^dummy --state-dir=/x --watch",
            "ls -output json --interfaces ^dummy -state-dir=/x -watch",
        ];
        for arguments in same {
            let Command::Read(ReadCommand::Ls(list)) = parse(arguments).unwrap().command else { panic!("{arguments}") };
            assert_eq!((list.output, list.watch, list.all), (Format::Json, true, false), "{arguments}");
            assert_eq!(list.node.interfaces.unwrap().as_str(), "^dummy");
            assert_eq!(list.node.state_dir, PathBuf::from("/x"));
        }
    }

    #[test]
    fn wrong_command_lines_are_refused_with_status_2() {
        let wrong = [
            "",
            "lss",
            "ls -interfaces (",
            "ls -interfaces a -config b",
            "ls -o xml",
            "explain",
            "check-node -for nothing",
            "ls -nonsense",
        ];
        for arguments in wrong {
            assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments}");
        }
        assert_eq!(parse("ls -help").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn the_reference_has_every_command_and_flag() {
        let page = [include_str!("../../../docs/netdevctl.md"), include_str!("../../../docs/if-inject.md")].concat();
        let command = Arguments::command();
        for name in command.get_subcommands().map(clap::Command::get_name) {
            assert!(page.contains(&format!("## netdevctl {name}")), "docs/netdevctl.md has no command {name}");
        }
        for flag in long_flags(&command) {
            let (Flag::Valued(name) | Flag::Switch(name)) = flag;
            let is_common = ["help", "version"].contains(&name);
            assert!(is_common || page.contains(&format!("`-{name}")), "docs/netdevctl.md has no flag -{name}");
        }
    }

    #[test]
    fn the_help_is_complete() {
        let help = |name: &str| {
            let mut command = Arguments::command();
            command.build();
            command.find_subcommand_mut(name).unwrap().clone().term_width(100).render_long_help().to_string()
        };
        for state in crate::row::RowState::ALL {
            let (state, page) = (state.to_string(), include_str!("../../../docs/netdevctl.md"));
            assert!(STATES.lines().any(|line| line.starts_with(&format!("  {state} "))), "--help has no state {state}");
            assert!(page.contains(&format!("`{state}`")), "docs/netdevctl.md has no state {state}");
        }
        insta::assert_snapshot!("help_ls", help("ls"));
        insta::assert_snapshot!("help_explain", help("explain"));
    }
}
