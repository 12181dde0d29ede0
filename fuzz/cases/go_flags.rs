//! Arguments, one a line.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use netdevice::go_flags::{Flag, rewrite};

const FLAGS: [Flag<'_>; 3] = [Flag::Valued("interfaces"), Flag::Valued("config"), Flag::Switch("version")];

pub fn run(bytes: &[u8]) {
    let arguments: Vec<OsString> =
        bytes.split(|byte| *byte == b'\n').map(|line| OsString::from_vec(line.into())).collect();
    let once = rewrite(arguments.clone(), &FLAGS);
    assert!(once.len() <= arguments.len());
    let is_plain = |argument: &OsString| !argument.as_encoded_bytes().starts_with(b"-");
    if arguments.iter().all(is_plain) {
        assert_eq!(once, arguments);
    }
}
