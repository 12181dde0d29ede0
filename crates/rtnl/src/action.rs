//! Actions of traffic control filters: `struct tcamsg`, `TCA_ACT_*` and `struct tc_mirred`
//! (`include/uapi/linux/tc_act/tc_mirred.h`).

use crate::{
    attribute::attributes,
    field::number,
    message::{flags, kind},
    request::Batch,
};

/// Size of `struct tcamsg`.
const HEADER: usize = 4;
/// `TCA_ACT_TAB`.
const TABLE: u16 = 1;
/// In a request the first of the table's entries names the requested kind.
const FIRST: u16 = 1;
/// `TCA_ACT_KIND`, `TCA_ACT_OPTIONS`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_MIRRED_PARMS`.
const PARAMETERS: u16 = 2;
/// Where `struct tc_mirred` has the index of the link.
const LINK: usize = 24;
/// The kind of action that sends or copies packets to another link.
const MIRRED: &[u8] = b"mirred";

/// Requests all actions that send packets to another link, of whichever filter.
pub fn dump_mirred(batch: &mut Batch) {
    batch.push(kind::GETACTION, flags::DUMP, &[0; HEADER]).nest(TABLE, |table| {
        table.nest(FIRST, |action| {
            action.string(KIND, MIRRED);
        });
    });
}

/// The links that the actions of an answer send to; an answer is of the kind of the request.
pub fn redirect_targets(payload: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let tables = attributes(payload.get(HEADER..).unwrap_or_default()).filter(|attribute| attribute.kind == TABLE);
    let actions = tables.flat_map(|table| table.nested());
    let options = actions.flat_map(|action| action.nested()).filter(|attribute| attribute.kind == OPTIONS);
    let parameters = options.flat_map(|options| options.nested()).filter(|attribute| attribute.kind == PARAMETERS);
    parameters.filter_map(|mirred| number(mirred.value, LINK).map(u32::from_ne_bytes)).filter(|link| *link != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// As the kernel writes it (`tca_dump_walker`): one action after the other, counted from 0.
    fn action(number: u16, link: u32) -> Vec<u8> {
        let mut mirred = [0u8; 28];
        mirred[LINK..].copy_from_slice(&link.to_ne_bytes());
        let options = attribute(OPTIONS, &[attribute(1, &[0; 32]), attribute(PARAMETERS, &mirred)].concat());
        attribute(number, &[attribute(KIND, b"mirred\0"), attribute(4, &[0; 8]), options].concat())
    }

    #[test]
    fn the_links_that_actions_send_to_are_read() {
        let table = attribute(TABLE, &[action(0, 7), action(1, 9), action(2, 0)].concat());
        let payload = [vec![0; HEADER], attribute(4, &[3, 0, 0, 0]), table].concat();
        assert_eq!(redirect_targets(&payload).collect::<Vec<_>>(), [7, 9], "0 is a link that went");
        assert_eq!(redirect_targets(&[]).count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            redirect_targets(&bytes).count();
        }
    }
}
