//! Next-hop objects: `struct nhmsg` and `NHA_*` (`include/uapi/linux/nexthop.h`). Routes name them by id.

use crate::{
    attribute::attributes,
    field::number,
    message::{Malformed, flags, kind},
    request::Batch,
};

/// Size of `struct nhmsg`.
const HEADER: usize = 8;
/// Size of `struct nexthop_grp`.
const MEMBER: usize = 8;
/// `NHA_ID`.
const ID: u16 = 1;
/// `NHA_GROUP`.
const GROUP: u16 = 2;
/// `NHA_OIF`.
const OIF: u16 = 5;

/// A next hop, or a group of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHopObject {
    /// Its id, unique in its namespace.
    pub id: u32,
    /// The link of a next hop; a group and a blackhole have none.
    pub link: Option<u32>,
    /// Ids of a group's members.
    pub members: Box<[u32]>,
}

/// Reads an `RTM_NEWNEXTHOP` or `RTM_DELNEXTHOP` payload.
///
/// # Errors
///
/// When it is too short or has no id.
pub fn parse(payload: &[u8]) -> Result<NextHopObject, Malformed> {
    let tail = payload.get(HEADER..).ok_or(Malformed("a next hop's message is too short"))?;
    let (mut id, mut link, mut members) = (None, None, Box::default());
    for attribute in attributes(tail) {
        match attribute.kind {
            ID => id = attribute.u32(),
            OIF => link = attribute.u32(),
            GROUP => {
                let entries = attribute.value.chunks_exact(MEMBER);
                members = entries.filter_map(|entry| number(entry, 0).map(u32::from_ne_bytes)).collect();
            }
            _ => {}
        }
    }
    Ok(NextHopObject { id: id.ok_or(Malformed("a next hop's message has no id"))?, link, members })
}

/// Requests all next hops.
pub fn dump(batch: &mut Batch) {
    batch.push(kind::GETNEXTHOP, flags::DUMP, &[0; HEADER]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::messages;

    fn read(fill: impl FnOnce(&mut crate::Request<'_>)) -> Result<NextHopObject, Malformed> {
        let mut batch = Batch::new();
        fill(&mut batch.push(kind::NEWNEXTHOP, 0, &[2, 0, 0, 0, 0, 0, 0, 0]));
        let bytes = batch.into_bytes(0);
        parse(messages(&bytes).next().unwrap()?.payload)
    }

    #[test]
    fn a_next_hop_has_a_link_and_a_group_has_members() {
        let hop = read(|request| _ = request.u32(ID, 5).u32(OIF, 3));
        assert_eq!(hop, Ok(NextHopObject { id: 5, link: Some(3), members: Box::default() }));
        let entries = [7u32, 0, 8, 0].map(u32::to_ne_bytes).concat();
        let group = read(|request| _ = request.u32(ID, 6).attribute(GROUP, &entries));
        assert_eq!(group, Ok(NextHopObject { id: 6, link: None, members: [7, 8].into() }));
        assert!(read(|_| ()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
