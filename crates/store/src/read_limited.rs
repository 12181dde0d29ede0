//! Reading with a limit: what others wrote may be too large, or grow while it is read.

use std::io::{self, Read};

/// Reads up to `limit` bytes and one more, so that a content that is too long is recognised. Few calls read what has room in
/// `usual` bytes.
///
/// # Errors
///
/// Those of the reader.
pub fn read_limited(from: impl Read, usual: usize, limit: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(usual);
    limited(from, limit).read_to_end(&mut content)?;
    Ok(content)
}

/// Reads up to `limit` bytes of UTF-8 and one more, so that a text that is too long is recognised.
///
/// # Errors
///
/// Those of the reader, and that the text is not UTF-8.
pub fn read_text_limited(from: impl Read, limit: usize) -> io::Result<String> {
    let mut text = String::new();
    limited(from, limit).read_to_string(&mut text)?;
    Ok(text)
}

fn limited(from: impl Read, limit: usize) -> impl Read {
    from.take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1))
}
