//! Routing rules: `struct fib_rule_hdr` and `FRA_*`. Only the table that a rule leads to is read.

use std::net::IpAddr;

use netdevice::{
    configuration::{IpPrefix, SandboxRule},
    snapshot::Family,
};

use crate::{
    attribute::attributes,
    message::{flags, kind},
    request::Batch,
    route::{IPV4, IPV6},
};

/// Size of `struct fib_rule_hdr`.
const HEADER: usize = 12;
/// `FRA_DST`, `FRA_SRC`, `FRA_PRIORITY`, `FRA_TABLE`, `FRA_PROTOCOL`.
const DESTINATION: u16 = 1;
const SOURCE: u16 = 2;
const PRIORITY: u16 = 6;
const TABLE: u16 = 15;
const PROTOCOL: u16 = 21;
/// Who made a rule (`FRA_PROTOCOL`): a number of our own, which no other program is known to use. The kernel compares it when a
/// rule is added and removed (`rule_exists`, `rule_find` in `net/core/fib_rules.c`), so that a rule of the Pod stays as it is.
const OURS: u8 = 78;
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

/// Adds a rule of ours, unless it is there (`EEXIST`).
pub fn add(batch: &mut Batch, rule: &SandboxRule) {
    change(batch, kind::NEWRULE, flags::CREATE | flags::EXCL, rule);
}

/// Removes a rule of ours.
pub fn remove(batch: &mut Batch, rule: &SandboxRule) {
    change(batch, kind::DELRULE, 0, rule);
}

fn change(batch: &mut Batch, message: u16, message_flags: u16, rule: &SandboxRule) {
    let length = |prefix: Option<IpPrefix>| prefix.map_or(0, |prefix| prefix.prefix_len());
    let mut header = [0; HEADER];
    header[0] = if rule.is_ipv6() { IPV6 } else { IPV4 };
    header[1] = length(rule.to);
    header[2] = length(rule.from);
    header[4] = u8::try_from(rule.table).unwrap_or(0);
    header[7] = TO_TABLE;
    let mut request = batch.push(message, flags::ACK | message_flags, &header);
    for (kind, prefix) in [(DESTINATION, rule.to), (SOURCE, rule.from)] {
        match prefix.map(|prefix| prefix.address()) {
            Some(IpAddr::V4(address)) => _ = request.attribute(kind, &address.octets()),
            Some(IpAddr::V6(address)) => _ = request.attribute(kind, &address.octets()),
            None => {}
        }
    }
    request.u32(PRIORITY, rule.priority).u32(TABLE, rule.table).attribute(PROTOCOL, &[OURS]);
}
