//! The page `docs/claims-conformance.md` names each test of this suite, and no other but tests in the guest of `hack/vm-test`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use e2e::repository_text;

const PAGE: &str = "docs/claims-conformance.md";

#[test]
fn the_page_of_conformance_names_each_test_of_this_suite_and_no_other() {
    let tests = tests_in("tests/claims");
    let of_guest = tests_in("../../crates/hook/tests/node/devices");
    let page = repository_text(PAGE);
    // names of tests are the only words between backquotes that have as many underscores
    let named: BTreeSet<String> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.matches('_').count() >= 2 && !word.contains('/'))
        .map(str::to_owned)
        .collect();
    let missing: Vec<_> = tests.difference(&named).collect();
    let unknown: Vec<_> = named.difference(&tests).filter(|name| !of_guest.contains(*name)).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "{PAGE}: missing {missing:#?}, no such test {unknown:#?}");
}

/// The tests of a directory, but for those of this file.
fn tests_in(directory: &str) -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let files = fs::read_dir(&directory).expect("the repository has it").filter_map(Result::ok);
    let own = file!().rsplit('/').next().unwrap_or_default();
    let texts =
        files.filter(|file| file.file_name() != own).map(|file| fs::read_to_string(file.path()).expect("it is text"));
    texts.flat_map(|text| tests_of(&text)).collect()
}

fn tests_of(text: &str) -> Vec<String> {
    let functions = text.split("#[test]").skip(1).filter_map(|after| after.split_once("fn "));
    functions.filter_map(|(_, name)| Some(name.split_once('(')?.0.to_owned())).collect()
}
