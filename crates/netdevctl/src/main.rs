//! The program `netdevctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    netdevctl::main(std::env::args_os())
}
