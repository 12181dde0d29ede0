//! What is on disk in the state directory, `/run/netdevice`: who has a right to which device, and where each one is.
//!
//! | path | what |
//! |---|---|
//! | `<id>.json` | record of an attachment |
//! | `reservations/<id>.json` | a right to a device that has not moved yet |
//! | `lock/<id>`, `lock/sandbox <id>`, `lock/claim <uid>`, `injector.lock`, `networks.lock` | locks: one actor at a time works on a device, a sandbox or a claim, or chooses, or cleans networks |
//! | `netns/<id>` | pin of the network namespace that a virtual device is in |
//! | `quarantine/<id>.<n>.json` | a record that cannot be used |
//! | `waiting/<id>.<index>.json` | a device that is on the host under another name |
//! | `hook.log`, `hook.log.1` | the journal |
//! | `node-addresses`, `problems`, `config.yaml`, `agent.lock` | what the agent writes for hooks and for people |
//!
//! `/run` is memory: a reboot clears all of it, and rightly, for then every namespace is gone. Every file is replaced as a
//! whole; a file that is being written is called `.<name>.new`.

mod error;
mod init_mounts;
pub mod journal;
mod lock;
mod mounts;
mod namespace;
mod pin;
mod problems;
mod quarantine;
mod read_limited;
mod reader;
mod records;
mod replace;
mod reservation;
mod waiting;

pub use error::{Error, is_shortage};
pub use init_mounts::{is_in_mounts_of_init, run_in_mounts_of_init};
pub use lock::{Lock, LockMode, NamedLock};
pub use namespace::Namespace;
pub use read_limited::{read_limited, read_text_limited};
pub use reader::Reader;
pub use records::{DEFAULT_STATE_DIR, RecordDirectory, Records, Unreadable, Written};
pub use replace::replace;
pub use waiting::Waiting;
