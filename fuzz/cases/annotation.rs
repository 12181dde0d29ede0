//! The annotation of a Pod: read or refused with a short line that does not repeat it; what is taken is written for the
//! record and read again the same.

use netdevice::{SandboxConfiguration, annotation::parse};

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse(text) {
        Ok(requests) => {
            for request in requests {
                let json = serde_json::to_vec(&request.configuration).expect("it is written");
                let again: SandboxConfiguration = serde_json::from_slice(&json).expect("it is read");
                assert_eq!(again, request.configuration);
            }
        }
        Err(error) => {
            let line = error.to_string();
            assert!(line.len() < 1000 && line.lines().count() == 1, "{line}");
        }
    }
}
