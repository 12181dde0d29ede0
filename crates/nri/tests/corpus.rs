//! The inputs of `fuzz/corpus/nri` through `fuzz/cases/nri.rs`, where there is no fuzzer.

#![allow(missing_docs, unreachable_pub)] // the case is another program's

use std::{fs, path::Path};

#[path = "../../../fuzz/cases/nri.rs"]
mod case;

#[test]
fn the_inputs_of_the_fuzz_target_are_read_or_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/nri");
    let inputs: Vec<_> = fs::read_dir(folder).expect("a corpus").flatten().map(|entry| entry.path()).collect();
    assert!(!inputs.is_empty(), "the corpus is empty");
    for input in inputs {
        let bytes = fs::read(&input).expect("an input");
        let result = std::panic::catch_unwind(|| case::run(&bytes));
        assert!(result.is_ok(), "{}", input.display());
    }
}
