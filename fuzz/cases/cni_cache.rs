//! An entry of libcni's cache, which other programs write.

use cni::CacheEntry;

pub fn run(bytes: &[u8]) {
    let Ok(entry) = serde_json::from_slice::<CacheEntry>(bytes) else { return };
    let _ = (entry.list(), entry.target(), entry.is_of_runtime());
    let text = serde_json::to_vec(&entry).expect("an entry is JSON");
    assert_eq!(serde_json::from_slice::<CacheEntry>(&text).expect("what was written is read"), entry);
}
