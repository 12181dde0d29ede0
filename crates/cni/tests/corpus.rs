//! What fuzzing started from and what it found, see `/fuzz`.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)] // tests, and the cases are another program's

#[path = "../../../fuzz/cases/cni_cache.rs"]
mod cni_cache;
#[path = "../../../fuzz/cases/cni_configuration.rs"]
mod cni_configuration;
#[path = "../../../fuzz/cases/cni_result.rs"]
mod cni_result;

fn replay(target: &str, run: fn(&[u8])) {
    let directory = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for input in std::fs::read_dir(directory).unwrap() {
        run(&std::fs::read(input.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "{target} has inputs");
}

#[test]
fn every_input_of_the_corpus_is_read_or_refused() {
    replay("cni_cache", cni_cache::run);
    replay("cni_configuration", cni_configuration::run);
    replay("cni_result", cni_result::run);
}
