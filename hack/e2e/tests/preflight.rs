//! What the programs below `hack/` need is looked for before anything is done, and no step of them fails without its reason.
//!
//! A machine that lacks something is this machine with another `PATH`: links to all its programs but some, and stand-ins for
//! others.

#![allow(clippy::unwrap_used)] // tests, in functions of their own

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Machine {
    programs: PathBuf,
}

impl Machine {
    fn without(test: &str, missing: &[&str]) -> Machine {
        let programs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("preflight").join(test).join("bin");
        let _ = fs::remove_dir_all(programs.parent().unwrap());
        fs::create_dir_all(&programs).unwrap();
        let mut seen: HashSet<_> = missing.iter().map(Into::into).collect();
        for directory in std::env::split_paths(&std::env::var_os("PATH").unwrap()) {
            for program in fs::read_dir(directory).into_iter().flatten().flatten() {
                if seen.insert(program.file_name()) {
                    symlink(program.path(), programs.join(program.file_name())).unwrap();
                }
            }
        }
        Machine { programs }
    }

    /// A directory that the stand-ins write to.
    fn dir(&self) -> &Path {
        self.programs.parent().unwrap()
    }

    fn with(self, program: &str, script: &str) -> Machine {
        let path = self.programs.join(program);
        let _ = fs::remove_file(&path);
        fs::write(&path, format!("#!/bin/bash\nDIR='{}'\n{script}\n", self.dir().display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// Rust that has no library for static programs until rustup adds one.
    fn with_rust(self) -> Machine {
        self.with("cargo", "exit 0").with(
            "rustc",
            "case $* in
               --version) echo 'rustc 1.95.0 (0000000 2026-01-01)' ;;
               '--print sysroot') echo \"$DIR/rustup/toolchains/1.95.0\" ;;
               *target-libdir*) echo \"$DIR/lib\" ;;
             esac",
        )
    }

    fn with_rustup(self) -> Machine {
        self.with(
            "rustup",
            "case $* in
               'show home') echo \"$DIR/rustup\" ;;
               *) echo \"$*\" >> \"$DIR/asked\"; mkdir -p \"$DIR/lib\"; : > \"$DIR/lib/libstd-0.rlib\" ;;
             esac",
        )
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.dir().join("asked")).unwrap_or_default()
    }

    fn run(&self, program: &str, args: &[&str]) -> Said {
        let hack = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        self.command(Command::new(hack.join(program)).args(args))
    }

    /// A program of the rig's with this text.
    fn script(&self, text: &str) -> Said {
        let rig = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("rig.sh");
        let path = self.dir().join("program");
        fs::write(&path, format!(". '{}'\n{text}\n", rig.display())).unwrap();
        self.command(Command::new("bash").arg(path))
    }

    fn command(&self, command: &mut Command) -> Said {
        let output = command
            .env("PATH", &self.programs)
            .env("NETDEVICE_RIG", self.dir().join("rig"))
            .env_remove("NETDEVICE_PREFLIGHT")
            .output()
            .unwrap();
        Said(output)
    }
}

struct Said(Output);

impl Said {
    #[track_caller]
    fn exits(&self, code: i32) -> &Said {
        assert_eq!(self.0.status.code(), Some(code), "{}", self.text());
        self
    }

    #[track_caller]
    fn says(&self, words: &str) -> &Said {
        assert!(self.text().contains(words), "not said: {words}\n{}", self.text());
        self
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned() + &String::from_utf8_lossy(&self.0.stderr)
    }
}

#[test]
fn a_missing_go_is_named_and_some_programs_can_do_without() {
    let machine = Machine::without("no-go", &["go"]);
    machine.run("preflight", &["go"]).exits(3).says("preflight: Go 1.26.0 or later is missing: install Go");
    machine.run("preflight", &["go?"]).exits(0).says("MISSING");
    machine.run("cluster/cluster", &["build"]).exits(3).says("cluster: Go 1.26.0 or later is missing");
}

#[test]
fn a_go_that_is_too_old_to_fetch_a_newer_one_is_missing() {
    let machine = Machine::without("old-go", &[]).with("go", "echo go1.19.8");
    machine.run("preflight", &["go"]).exits(3).says("Go 1.26.0 or later is missing (this is 1.19.8)");
}

#[test]
fn a_kernel_that_is_too_old_is_named() {
    let machine =
        Machine::without("old-kernel", &[]).with("uname", "[[ $1 == -r ]] && echo 5.10.0-28-amd64 || echo x86_64");
    let said = machine.run("preflight", &["kernel", "rust"]);
    said.exits(3).says("preflight: Linux 5.14 or later is missing (this is 5.10.0-28-amd64)");
}

#[test]
fn everything_that_is_missing_is_named_in_one_table() {
    let machine = Machine::without("bare", &["go", "cargo", "rustc", "rustup", "apt-get"]);
    let said = machine.run("demo", &[]);
    said.exits(3)
        .says("demo: Rust 1.89 or later is missing: install Rust with rustup")
        .says("demo: Debian with apt-get and dpkg is missing");
}

#[test]
fn a_missing_target_is_added_where_rustup_is() {
    let machine = Machine::without("no-target", &[]).with_rust().with_rustup();
    machine.run("preflight", &["rust", "musl"]).exits(0).says("installed now");
    let target = format!("target add {}-unknown-linux-musl\n", std::env::consts::ARCH);
    assert_eq!(machine.asked(), target);
    let said = machine.run("preflight", &["rust", "musl"]);
    assert!(!said.exits(0).text().contains("installed now"), "{}", said.text());
    assert_eq!(machine.asked(), target);
}

#[test]
fn a_missing_target_is_named_where_rust_is_of_a_distribution() {
    let machine = Machine::without("distribution", &["rustup"]).with_rust();
    let said = machine.run("image", &[]);
    said.exits(3).says("unknown-linux-musl is missing").says("install Rust with rustup");
    // rustup is there, and another Rust comes first in PATH
    let machine = Machine::without("shadowed", &[]).with_rust().with("rustup", "echo /somewhere/else");
    machine.run("image", &[]).exits(3).says("~/.cargo/bin must be first in PATH");
}

#[test]
fn a_missing_toolchain_is_installed_with_all_that_is_needed_of_it() {
    let machine = Machine::without("no-toolchain", &[]).with_rust().with("rustc", "exit 1").with_rustup();
    machine.run("preflight", &["rust", "musl", "lints"]).exits(0);
    let asked = machine.asked();
    assert_eq!(asked.lines().count(), 1, "{asked}");
    for words in ["toolchain install 1.", "--component clippy", "--component rustfmt", "-unknown-linux-musl"] {
        assert!(asked.contains(words), "{asked}");
    }
}

#[test]
fn an_installation_that_fails_says_why() {
    let machine = Machine::without("no-network", &[])
        .with_rust()
        .with("rustc", "exit 1")
        .with("rustup", "echo no route to host; exit 1");
    machine.run("preflight", &["rust"]).exits(3).says("no route to host").says("rustup toolchain install");
}

#[test]
fn a_package_that_cannot_be_installed_is_done_without_where_that_is_possible() {
    let machine = Machine::without("packages", &["shellcheck"])
        .with("apt-get", "echo \"$*\" >> \"$DIR/asked\"; [[ $* != *install* ]]");
    let ask = "preflight_install=yes\npreflight 'shellcheck?'\nis_there shellcheck || echo done without";
    machine.script(ask).exits(0).says("goes on without shellcheck").says("done without");
    assert!(machine.asked().contains("install --no-install-recommends shellcheck"), "{}", machine.asked());
    machine.script("preflight_install=yes\npreflight shellcheck").exits(3).says("shellcheck failed, see above");
    let machine = machine.with("apt-get", "exit 0");
    machine.script(ask).exits(0).says("installed now");
}

#[test]
fn a_failed_command_is_named_with_its_place() {
    let machine = Machine::without("failure", &[]);
    let said = machine.script("inner() { yes | head -n 1 >/dev/null; }\nouter() { inner; }\nouter");
    said.exits(1).says("failed with status 141").says("program:2 (inner)").says("program:3 (outer)");
    // once, and with the status of its kind, also out of a subshell
    let said = machine.script("text=$( (missing \"no such thing\") )");
    said.exits(3).says("program: no such thing");
    assert_eq!(said.text().lines().count(), 1, "{}", said.text());
    let said = machine.script("quiet \"$(dirname \"$0\")/log\" sh -c 'echo the reason; exit 4'");
    said.exits(1).says("the reason").says("failed: sh -c").says("/log)");
    assert_eq!(said.text().lines().count(), 2, "{}", said.text());
}

#[test]
fn a_command_that_writes_more_than_is_read_does_not_fail() {
    let machine = Machine::without("first-line", &[]);
    machine.script("first_line seq 1000000").exits(0).says("1\n");
}

#[test]
fn the_time_that_is_left_is_corrected_by_what_was_taken() {
    let machine = Machine::without("estimate", &[]).with("nproc", "echo 2");
    let said = machine.script("plan 300; plan 300\ntime_left 300 0\ntime_left 300 270\ntime_left 300 600\nfinished=300 taken=60\ntime_left 300 0\ntime_left 300 59");
    let lines: Vec<_> = ["about 10", "about 6", "about 10"].map(|minutes| format!("{minutes} minutes left\n")).to_vec();
    assert_eq!(said.exits(0).text(), lines.concat() + &"less than a minute left\n".repeat(2));
}

#[test]
fn a_section_that_the_benchmark_does_not_have_is_refused_before_anything_is_built() {
    let machine = Machine::without("bench", &["cargo"]);
    machine.run("bench", &["--only", "moves,wrong"]).exits(2).says("no section \"wrong\": moves bursts");
}
