#![no_main]
#[path = "../cases/go_flags.rs"]
mod case;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| case::run(bytes));
