//! Neighbour tables' settings: `struct ndtmsg`, `NDTA_*` and `NDTPA_*`. What new links get comes first for each family,
//! then the settings of each link, the youngest link first (`neightbl_dump_info` in `net/core/neighbour.c`).

use crate::{
    attribute::attributes,
    message::{flags, kind},
    request::Batch,
};

/// Size of `struct ndtmsg`.
const HEADER: usize = 4;
/// `NDTA_PARMS`.
const PARAMETERS: u16 = 6;
/// `NDTPA_IFINDEX`.
const IFINDEX: u16 = 1;
/// `NDTPA_REFCNT` and `NDTPA_REACHABLE_TIME`, which is drawn by lot: no settings.
const NO_SETTINGS: [u16; 2] = [2, 3];

/// The settings of one link, or of links to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// The link's index; none for what new links get.
    pub link: Option<u32>,
    /// The settings as the kernel wrote them: the number of each (`NDTPA_*`) and its value.
    pub settings: Vec<u8>,
}

/// Reads an `RTM_NEWNEIGHTBL` payload; none if it has no settings.
pub fn parse(payload: &[u8]) -> Option<Parameters> {
    let (head, tail) = payload.split_at_checked(HEADER)?;
    let parameters = attributes(tail).find(|attribute| attribute.kind == PARAMETERS)?;
    let (mut link, mut settings) = (None, Vec::with_capacity(parameters.value.len()));
    for attribute in parameters.nested() {
        match attribute.kind {
            IFINDEX => link = attribute.u32(),
            kind if NO_SETTINGS.contains(&kind) => {}
            kind => {
                settings.extend(kind.to_ne_bytes());
                settings.extend(attribute.value);
            }
        }
    }
    Some(Parameters { family: head[0], link, settings })
}

/// Requests the settings of all tables and links.
pub fn dump(batch: &mut Batch) {
    batch.push(kind::GETNEIGHTBL, flags::DUMP, &[0; HEADER]);
}
