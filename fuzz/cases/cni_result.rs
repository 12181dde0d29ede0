//! What a CNI plugin writes to standard output.

use cni::{Addition, Version};

pub fn run(bytes: &[u8]) {
    let Ok(addition) = Addition::from_json(bytes, Version::V0_4_0) else { return };
    for version in Version::ALL {
        let text = serde_json::to_vec(&addition.in_version(version)).expect("a result is JSON");
        let again = Addition::from_json(&text, version).expect("what was written is read");
        assert!(version < Version::V0_3_0 || again.ips == addition.ips);
    }
    let text = serde_json::to_vec(&addition.in_version(Version::NEWEST)).expect("a result is JSON");
    let again = Addition::from_json(&text, Version::NEWEST).expect("what was written is read");
    // not the whole: a number of fifty digits loses its last ones
    let names = |addition: &Addition| addition.interfaces.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    assert_eq!((names(&again), again.routes.len()), (names(&addition), addition.routes.len()));
}
