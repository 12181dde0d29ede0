//! Routing rules: `struct fib_rule_hdr` and `FRA_*`. Only the table that a rule leads to is read.

use netdevice::snapshot::Family;

use crate::{
    attribute::attributes,
    message::{flags, kind},
    request::Batch,
    route::{IPV4, IPV6},
};

/// Size of `struct fib_rule_hdr`.
const HEADER: usize = 12;
/// `FRA_TABLE`.
const TABLE: u16 = 15;
/// `FR_ACT_TO_TBL`.
const TO_TABLE: u8 = 1;

/// The table that an `RTM_NEWRULE` leads to; none for a rule that does something else.
pub fn reached_table(payload: &[u8]) -> Option<(Family, u32)> {
    let (head, tail) = payload.split_at_checked(HEADER)?;
    let family = match head[0] {
        IPV4 => Family::V4,
        IPV6 => Family::V6,
        _ => return None,
    };
    let named = attributes(tail).find(|attribute| attribute.kind == TABLE).and_then(|table| table.u32());
    (head[7] == TO_TABLE).then(|| (family, named.unwrap_or_else(|| u32::from(head[4]))))
}

/// Requests the rules of one family.
pub fn dump(batch: &mut Batch, family: u8) {
    let mut header = [0; HEADER];
    header[0] = family;
    batch.push(kind::GETRULE, flags::DUMP, &header);
}
