//! The program `netdevctl`.

use std::process::ExitCode;

/// musl's own allocator maps and unmaps memory all the time.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    netdevctl::main(std::env::args_os())
}
