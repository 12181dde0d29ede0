//! Addresses as Go reads them, written in one form.

use std::{fmt::Write as _, net::IpAddr};

/// An IP address with or without a prefix length (Go's `ParseIP` and `ParseCIDR`), in its usual form.
pub(super) fn ip(text: &str) -> Option<String> {
    let Some((address, length)) = text.split_once('/') else { return Some(text.parse::<IpAddr>().ok()?.to_string()) };
    let address: IpAddr = address.parse().ok()?;
    let is_number = (1..=3).contains(&length.len()) && length.bytes().all(|byte| byte.is_ascii_digit());
    let length: u8 = is_number.then(|| length.parse().ok()).flatten()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (length <= longest).then(|| format!("{address}/{length}"))
}

/// A hardware address in one of the forms of Go's `ParseMAC` (pairs with `:` or `-`, groups of four with `.`), as pairs with
/// `:` in lower case. `lengths` are the allowed numbers of bytes.
pub(super) fn hardware(text: &str, lengths: &[usize]) -> Option<String> {
    let (separator, digits) = match text.as_bytes().get(2)? {
        b':' => (':', 2),
        b'-' => ('-', 2),
        _ => ('.', 4),
    };
    let mut address = String::new();
    let mut count = 0;
    for group in text.split(separator) {
        if group.len() != digits || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for pair in [group.get(..2), group.get(2..4)].into_iter().flatten() {
            let colon = if count == 0 { "" } else { ":" };
            write!(address, "{colon}{}", pair.to_ascii_lowercase()).ok()?;
            count += 1;
        }
    }
    lengths.contains(&count).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_go_reads_them() {
        let read = [
            ("10.1.2.3", Some("10.1.2.3")),
            ("10.1.2.3/24", Some("10.1.2.3/24")),
            ("2001:DB8:0::1/64", Some("2001:db8::1/64")),
            ("10.1.2.3/33", None),
            ("::1/129", None),
            ("10.1.2.3/", None),
            ("10.1.2.3/+4", None),
            ("10.1.2.3/24/24", None),
            ("010.1.2.3", None),
            ("fe80::1%eth0", None),
            (" 10.1.2.3", None),
            ("", None),
        ];
        for (text, address) in read {
            assert_eq!(ip(text).as_deref(), address, "{text}");
        }
    }

    #[test]
    fn hardware_addresses_are_read_as_go_reads_them() {
        let read = [
            ("02:00:00:00:00:AB", Some("02:00:00:00:00:ab")),
            ("02-00-00-00-00-ab", Some("02:00:00:00:00:ab")),
            ("0200.0000.00ab", Some("02:00:00:00:00:ab")),
            ("02:00:00:00:00", None),
            ("02:00:00:00:00:ab:cd", None),
            ("02:00-00:00:00:ab", None),
            ("2:0:0:0:0:ab", None),
            ("020000.0000ab", None),
            ("02:00:00:00:00:ag", None),
            ("02:00:00:00:00:é", None),
            ("é", None),
            ("", None),
        ];
        for (text, address) in read {
            assert_eq!(hardware(text, &[6]).as_deref(), address, "{text}");
        }
        assert!(hardware("00:11:22:33:44:55:66:77", &[6, 8, 20]).is_some());
        assert!(hardware("0011.2233.4455.6677", &[8]).is_some());
    }
}
