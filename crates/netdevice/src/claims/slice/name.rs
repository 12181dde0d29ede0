//! Names of devices in ResourceSlices: DNS labels.
//!
//! A device id that is a DNS label is its own name, unless it begins with `x-`: `eth0` stays `eth0`. Any other becomes `x-` and
//! its bytes; each byte that is not a lower-case letter or digit is `-` and two hexadecimal digits. A device that is created on
//! an interface has the interface's name in that form, `-n` and its number. So names are unique, and decoding is exact:
//!
//! | interface or device | name |
//! |---|---|
//! | `eth0`, `enp59s0f0`, `tap-1` | the same |
//! | `eth0.100` | `x-eth0-2e100` |
//! | `wlan_A` | `x-wlan-5f-41` |
//! | `é` | `x--c3-a9` |
//! | child 2 of `eth0` | `x-eth0-n2` |

use std::{fmt, fmt::Write as _, num::NonZeroU16, str::FromStr, sync::Arc};

use serde::Serialize;

use crate::{id::DeviceId, name::InterfaceName, pool::Offer, projection::View};

/// How a name begins that is not the interface's own.
const ESCAPED: &str = "x-";

/// Between the name of an interface and the number of a device that is created on it. No byte is written so.
const CHILD: &str = "-n";

/// The name of a device in ResourceSlices: a DNS label, at most 54 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct DeviceName(Arc<str>);

/// A text that is not the name of any device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a device of this driver")]
pub struct DeviceNameError(String);

impl DeviceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The device that has this name.
    pub fn device(&self) -> DeviceId {
        decode(&self.0).expect("a name is checked when it is made")
    }
}

/// The name of a device. It depends on the id alone.
pub fn device_name(device: &DeviceId) -> DeviceName {
    let interface = device.to_name();
    if let (None, Some(text)) = (device.child(), interface.to_str().filter(|text| is_plain(text))) {
        return DeviceName(text.into());
    }
    let mut name = String::from(ESCAPED);
    for byte in interface.as_bytes() {
        // writing to a string does not fail
        let _ = match byte {
            b'a'..=b'z' | b'0'..=b'9' => write!(name, "{}", char::from(*byte)),
            _ => write!(name, "-{byte:02x}"),
        };
    }
    if let Some(number) = device.child() {
        let _ = write!(name, "{CHILD}{number}");
    }
    DeviceName(name.into())
}

/// The device with that name, if it is offered by claims.
pub fn find(view: &View, name: &str) -> Option<DeviceId> {
    let device = name.parse::<DeviceName>().ok()?.device();
    view.devices().get(&device).filter(|device| device.offer == Offer::Claims).map(|device| device.id.clone())
}

/// Whether it is a DNS label (RFC 1123, in lower case) that needs no escape.
fn is_plain(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.bytes().all(is_allowed) && !text.starts_with('-') && !text.ends_with('-') && !text.starts_with(ESCAPED)
}

fn decode(name: &str) -> Option<DeviceId> {
    let device = match name.strip_prefix(ESCAPED) {
        None => DeviceId::from(&InterfaceName::new(name.as_bytes()).ok()?),
        Some(escaped) => match escaped.split_once(CHILD) {
            None => DeviceId::from(&interface(escaped)?),
            Some((parent, number)) => DeviceId::child_of(&interface(parent)?, number.parse::<NonZeroU16>().ok()?),
        },
    };
    // each device has one name
    (device_name(&device).as_str() == name).then_some(device)
}

fn interface(escaped: &str) -> Option<InterfaceName> {
    let mut bytes = escaped.bytes();
    let mut name = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'-' {
            name.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        name.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    InterfaceName::new(&name).ok()
}

impl FromStr for DeviceName {
    type Err = DeviceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode(text).map(|_| Self(text.into())).ok_or_else(|| DeviceNameError(text.into()))
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.as_str().into()
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Pools, Projector, Snapshot, fixture};

    fn name(interface: &[u8]) -> DeviceName {
        device_name(&DeviceId::from(&InterfaceName::new(interface).unwrap()))
    }

    #[test]
    fn names_stay_readable() {
        let table: [(&[u8], &str); 15] = [
            (b"eth0", "eth0"),
            (b"enp59s0f0np0", "enp59s0f0np0"),
            (b"tap-1", "tap-1"),
            (b"0", "0"),
            (b"123456789012345", "123456789012345"),
            (b"x", "x"),
            (b"eth0.100", "x-eth0-2e100"),
            (b"x-ray", "x-x-2dray"),
            (b"-a", "x--2da"),
            (b"a-", "x-a-2d"),
            (b"wlan_A", "x-wlan-5f-41"),
            ("é".as_bytes(), "x--c3-a9"),
            (b"\xff\xfe", "x--ff-fe"),
            (b"...", "x--2e-2e-2e"),
            (b"x--2da", "x-x-2d-2d2da"),
        ];
        for (interface, expected) in table {
            assert_eq!(name(interface).as_str(), expected);
        }
        let parent = InterfaceName::try_from("eth0").unwrap();
        let child = device_name(&DeviceId::child_of(&parent, NonZeroU16::new(2).unwrap()));
        assert_eq!(child.as_str(), "x-eth0-n2");
    }

    #[test]
    fn what_is_no_name_of_a_device_is_refused() {
        for text in [
            "",
            "x-",
            "x-eth0",
            "x-eth0-2",
            "x-eth0-zz",
            "x-eth0-n",
            "x-eth0-n0",
            "x-eth0-n01",
            "x-eth0-2E100",
            "Eth0",
            "eth0.1",
            "-a",
            "a-",
            "x-a-2f",
            "a:1",
            "1234567890123456",
            "x-\u{e9}",
            "x-eth0-n1-n2",
        ] {
            assert!(text.parse::<DeviceName>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_devices_that_are_offered_by_claims_are_found() {
        let view = |pools: Pools| {
            let mut projector = Projector::new();
            projector.set_pools(Arc::new(pools));
            let mut snapshot = Snapshot::default();
            snapshot.insert_link(Arc::new(fixture::link(3, "dummy.0")));
            snapshot.insert_link(Arc::new(fixture::link(4, "eth0")));
            projector.set_snapshot(snapshot);
            projector.view().clone()
        };
        let by_name = || Pools::by_name("dummy".parse().unwrap());
        let claims = view(by_name().offered_by_claims());
        assert_eq!(find(&claims, "x-dummy-2e0"), Some("dummy.0".parse().unwrap()));
        assert_eq!((find(&claims, "eth0"), find(&claims, "dummy.0"), find(&claims, "dummy1")), (None, None, None));
        assert_eq!(find(&view(by_name()), "x-dummy-2e0"), None);
    }

    proptest! {
        #[test]
        fn every_device_has_a_label_of_its_own(bytes in prop::collection::vec(any::<u8>(), 1..=15), child: Option<u16>) {
            if let Ok(interface) = InterfaceName::new(&bytes) {
                let child = child.and_then(NonZeroU16::new);
                let id = child.map_or_else(|| DeviceId::from(&interface), |number| DeviceId::child_of(&interface, number));
                let name = device_name(&id);
                let text = name.as_str();
                prop_assert!((1..=63).contains(&text.len()));
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
                prop_assert!(!text.starts_with('-') && !text.ends_with('-'));
                prop_assert_eq!(text.parse::<DeviceName>().unwrap().device(), id);
            }
        }

        #[test]
        fn a_text_names_at_most_one_device(text in "(x-)?[a-z0-9n-]{0,20}") {
            if let Ok(name) = text.parse::<DeviceName>() {
                prop_assert_eq!(device_name(&name.device()), name);
            }
        }
    }
}
