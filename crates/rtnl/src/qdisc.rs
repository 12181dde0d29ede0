//! Queueing disciplines: `struct tcmsg` and `TCA_*`.

use crate::{
    attribute::attributes,
    field::number,
    message::{flags, kind},
    request::Batch,
};

/// Size of `struct tcmsg`.
const HEADER: usize = 20;
/// `TCA_KIND` and `TCA_OPTIONS`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;

/// `TC_H_ROOT`: where a link's packets leave.
pub const ROOT: u32 = 0xffff_ffff;
/// `TC_H_CLSACT`: what a link's filters hang on, `ingress` too.
pub const CLSACT: u32 = 0xffff_fff1;
/// Where its filters are: of packets that come, and that go (`TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`).
pub const FILTERS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];

/// A queueing discipline as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qdisc<'a> {
    /// `TCA_KIND`.
    pub kind: &'a str,
    /// 0 of one that the kernel made itself.
    pub handle: u32,
}

fn header(index: u32, handle: u32, parent: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header
}

/// Requests the discipline at one place of a link. The kernel may not report one that it made itself, so an
/// acknowledgement is requested, too (`tc_qdisc_dump_ignore`). The kernel reports it as a change: only an echo reaches
/// who asked (`qdisc_notify`).
pub fn get(batch: &mut Batch, index: u32, parent: u32) {
    batch.push(kind::GETQDISC, flags::ACK | flags::ECHO, &header(index, 0, parent));
}

/// Requests the filters at one place of a link.
pub fn dump_filters(batch: &mut Batch, index: u32, parent: u32) {
    batch.push(kind::GETTFILTER, flags::DUMP, &header(index, 0, parent));
}

/// Reads an `RTM_NEWQDISC` payload.
pub fn parse(payload: &[u8]) -> Option<Qdisc<'_>> {
    let handle = number(payload, 8).map(u32::from_ne_bytes)?;
    let kind = attributes(payload.get(HEADER..)?).find(|attribute| attribute.kind == KIND)?;
    Some(Qdisc { kind: str::from_utf8(kind.string()).ok()?, handle })
}

/// Makes the discipline of an `RTM_NEWQDISC` payload again.
pub fn add(batch: &mut Batch, index: u32, payload: &[u8]) {
    let field = |at| number(payload, at).map_or(0, u32::from_ne_bytes);
    let header = header(index, field(8), field(12));
    let mut request = batch.push(kind::NEWQDISC, flags::ACK | flags::CREATE | flags::REPLACE, &header);
    for attribute in attributes(payload.get(HEADER..).unwrap_or_default()) {
        if [KIND, OPTIONS].contains(&attribute.kind) {
            request.attribute(attribute.raw_kind, attribute.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_discipline_is_made_again_as_it_was_told() {
        let mut payload = header(7, 0x8001_0000, ROOT).to_vec();
        // how many use it: not to be sent
        payload[16] = 2;
        payload.extend([8, 0, 1, 0, b't', b'b', b'f', 0]);
        payload.extend([6, 0, 2, 0, 9, 9, 0, 0]);
        payload.extend([5, 0, 7, 0, 1, 0, 0, 0]);
        assert_eq!(parse(&payload), Some(Qdisc { kind: "tbf", handle: 0x8001_0000 }));
        let mut batch = Batch::new();
        add(&mut batch, 9, &payload);
        let bytes = batch.into_bytes(0);
        let message = crate::messages(&bytes).next().unwrap().unwrap();
        assert_eq!(message.payload[..HEADER], header(9, 0x8001_0000, ROOT));
        assert_eq!(message.payload[HEADER..], payload[HEADER..HEADER + 16]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
            add(&mut Batch::new(), 1, &bytes);
        }
    }
}
