//! Numbers at an offset, and the padding between messages and between attributes.

/// Rounds up to `NLMSG_ALIGNTO`, which is `NLA_ALIGNTO` too.
pub(crate) fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// The bytes of a number at an offset.
pub(crate) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
