//! How the linker lays out our static programs; the build scripts of the agent and of netdevctl are this one too.
//!
//! All have their relocations packed: half a megabyte of the agent. The hook, which is started for every container, is
//! mapped in one piece, aligned to what the kernel maps at a time (64 KiB, `fault_around_bytes`): seven page faults less.
//! So is what it is measured beside.

use std::{env, process::Command};

/// From this 1.x on, Rust comes with a musl (1.2.5; 1.2.4 would do) whose programs can unpack them. Others die at once.
const UNPACKS: u32 = 93;

fn main() {
    println!("cargo::rerun-if-env-changed=RUSTC");
    let says = |variable: &str, value: &str| env::var(variable).is_ok_and(|it| it == value);
    if !says("CARGO_CFG_TARGET_ENV", "musl") {
        return;
    }
    if rust().is_some_and(|minor| minor >= UNPACKS) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    if says("CARGO_PKG_NAME", "hook") || says("CARGO_PKG_NAME", "bare-move") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,max-page-size=65536,-z,noseparate-code");
    }
    if says("CARGO_PKG_NAME", "hook") {
        // read-only relocations end at such a boundary in the file too: up to 64 KiB of nothing
        println!("cargo::rustc-link-arg-bins=-Wl,-z,norelro");
    }
    if says("CARGO_PKG_NAME", "hook") && says("PROFILE", "release") {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/without-unwind-tables.ld");
        println!("cargo::rerun-if-changed={script}");
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{script}");
    }
}

/// The `95` of a `rustc 1.95.0 (...)`.
fn rust() -> Option<u32> {
    let version = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    String::from_utf8(version.stdout).ok()?.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}
