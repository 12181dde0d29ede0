#![no_main]
#[path = "../cases/networks_annotation.rs"]
mod case;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| case::run(bytes));
