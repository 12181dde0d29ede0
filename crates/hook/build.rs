//! Has the relocations of a static program packed, those of the agent and of netdevctl too: half a megabyte of the agent.

use std::{env, process::Command};

/// From this 1.x on, Rust comes with a musl (1.2.5; 1.2.4 would do) whose programs can unpack them. Others die at once.
const UNPACKS: u32 = 93;

fn main() {
    println!("cargo::rerun-if-changed=../hook/build.rs");
    let is_musl = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|libc| libc == "musl");
    if is_musl && rust().is_some_and(|minor| minor >= UNPACKS) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The `95` of a `rustc 1.95.0 (...)`.
fn rust() -> Option<u32> {
    let version = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    String::from_utf8(version.stdout).ok()?.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}
