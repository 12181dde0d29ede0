//! What a runtime sends to its plugin: the multiplexer, ttrpc and the requests in it, the same in whatever pieces it comes.

pub fn run(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = nri::stand_in::understood(bytes, bytes.len().max(1));
    let in_pieces = nri::stand_in::understood(bytes, usize::from(*piece).max(1));
    assert_eq!(whole, in_pieces);
}
