//! The parameters of a claim: read or refused with a short line; what is taken resolves or is refused, and is written for the
//! record and read again the same.

use netdevice::{SandboxConfiguration, claims::parameters::parse};

pub fn run(bytes: &[u8]) {
    let Ok(read) = parse(bytes) else { return };
    assert_eq!(read.clone().merged(read.clone()), read);
    match read.resolve() {
        Ok((_, configuration)) => {
            let json = serde_json::to_vec(&configuration).expect("it is written");
            let again: SandboxConfiguration = serde_json::from_slice(&json).expect("it is read");
            assert_eq!(again, configuration);
        }
        Err(error) => {
            let line = error.to_string();
            assert!(line.len() < 1000 && line.lines().count() == 1, "{line}");
        }
    }
}
