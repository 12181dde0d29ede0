//! The inputs of `fuzz/corpus` through the functions of `fuzz/cases`, so that what a fuzzer found once stays found where
//! there is no fuzzer.

#![allow(missing_docs, unreachable_pub)] // the cases are another program's

use std::{fs, path::Path};

#[path = "../../../fuzz/cases/annotation.rs"]
mod annotation;
#[path = "../../../fuzz/cases/cdi_document.rs"]
mod cdi_document;
#[path = "../../../fuzz/cases/configuration.rs"]
mod configuration;
#[path = "../../../fuzz/cases/cri_info.rs"]
mod cri_info;
#[path = "../../../fuzz/cases/go_flags.rs"]
mod go_flags;
#[path = "../../../fuzz/cases/names.rs"]
mod names;
#[path = "../../../fuzz/cases/networks_annotation.rs"]
mod networks_annotation;
#[path = "../../../fuzz/cases/node_address.rs"]
mod node_address;
#[path = "../../../fuzz/cases/oci_state.rs"]
mod oci_state;
#[path = "../../../fuzz/cases/parameters.rs"]
mod parameters;
#[path = "../../../fuzz/cases/record.rs"]
mod record;

fn replay(target: &str, case: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let inputs: Vec<_> = fs::read_dir(&folder).expect("a corpus").flatten().map(|entry| entry.path()).collect();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        let bytes = fs::read(&input).expect("an input");
        let result = std::panic::catch_unwind(|| case(&bytes));
        assert!(result.is_ok(), "{}", input.display());
    }
}

#[test]
fn the_inputs_of_each_fuzz_target_are_read_or_refused() {
    for (target, case) in [
        ("annotation", annotation::run as fn(&[u8])),
        ("cdi_document", cdi_document::run),
        ("configuration", configuration::run),
        ("cri_info", cri_info::run),
        ("go_flags", go_flags::run),
        ("names", names::run),
        ("networks_annotation", networks_annotation::run),
        ("node_address", node_address::run),
        ("oci_state", oci_state::run),
        ("parameters", parameters::run),
        ("record", record::run),
    ] {
        replay(target, case);
    }
}
