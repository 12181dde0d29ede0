#![no_main]
#[path = "../cases/cdi_document.rs"]
mod case;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| case::run(bytes));
