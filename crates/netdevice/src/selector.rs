//! Selectors: which links belong to a pool.
//!
//! Each condition is a list, and one entry of it must match. All conditions that are set must match. A selector without
//! conditions selects nothing: `names: [""]` selects every link.

use std::{
    fmt,
    str::{FromStr, Utf8Chunk},
};

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    link::{Hardware, Link},
    name::InterfaceName,
};

/// A regular expression over the bytes of a name, unanchored: `dummy` matches `dummy0` and `my-dummy`.
///
/// It matches as Go's `regexp` does: a byte that is not part of valid UTF-8 is one character, U+FFFD (so `.` and `[^a]`
/// match it), and `\w`, `\d`, `\s` and `\b` mean ASCII. In addition, `(?-u)\xff` matches the byte itself.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Box<str>,
    regex: Regex,
}

/// Most memory of a compiled pattern in bytes. Names have at most 15 bytes, and a configuration may have many patterns.
const MAX_COMPILED: usize = 1 << 20;

/// A text that is not a regular expression.
#[derive(Debug, Clone, thiserror::Error)]
#[error("invalid regular expression {pattern:?}: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

impl Pattern {
    /// Whether the pattern matches anywhere in the bytes.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.regex.is_match(bytes)
            || std::str::from_utf8(bytes).is_err() && self.regex.is_match(as_go_reads(bytes).as_bytes())
    }

    /// The text of the pattern.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// The bytes as Go decodes them: each byte that is not part of valid UTF-8 is a U+FFFD.
fn as_go_reads(bytes: &[u8]) -> String {
    let replaced = |chunk: Utf8Chunk<'_>| {
        let invalid = std::iter::repeat_n(char::REPLACEMENT_CHARACTER, chunk.invalid().len());
        chunk.valid().chars().chain(invalid).collect::<String>()
    };
    bytes.utf8_chunks().map(replaced).collect()
}

/// The pattern with the classes of Go: ASCII only, but over characters and not over bytes.
fn with_classes_of_go(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        text.push(character);
        if character != '\\' {
            continue;
        }
        let escaped = characters.next();
        let class = match escaped {
            Some('d') => "[0-9]",
            Some('D') => "[^0-9]",
            Some('w') => "[0-9A-Za-z_]",
            Some('W') => "[^0-9A-Za-z_]",
            Some('s') => r"[\t\n\f\r ]",
            Some('S') => r"[^\t\n\f\r ]",
            // Go has no `\b{start}`
            Some('b') if !characters.as_str().starts_with('{') => r"(?-u:\b)",
            Some('B') => r"(?-u:\B)",
            _ => {
                text.extend(escaped);
                continue;
            }
        };
        text.pop();
        text.push_str(class);
    }
    text
}

/// The text; in quotes if it is empty or contains a space.
impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_str() {
            text if text.is_empty() || text.contains(char::is_whitespace) => write!(out, "{text:?}"),
            text => out.write_str(text),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(pattern: &str) -> Result<Self, Self::Err> {
        // the crate shows the position of an error over several lines; the last line is the reason
        let reason = |error: regex::Error| {
            let text = error.to_string();
            text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        };
        let error = |error| PatternError { pattern: pattern.into(), reason: reason(error) };
        let builder = &mut RegexBuilder::new(&with_classes_of_go(pattern));
        let regex = builder.size_limit(MAX_COMPILED).build().map_err(error)?;
        Ok(Self { text: pattern.into(), regex })
    }
}

/// PCI vendor and device id, `8086:1521`; `8086:*` is every device of the vendor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciId {
    vendor: u16,
    device: Option<u16>,
}

impl fmt::Display for PciId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:04x}:", self.vendor)?;
        match self.device {
            Some(device) => write!(out, "{device:04x}"),
            None => out.write_str("*"),
        }
    }
}

/// A text that is not a PCI id.
#[derive(Debug, Clone, thiserror::Error)]
#[error("invalid PCI id {0:?}: write vendor:device in hex, as in 8086:1521 or 8086:*")]
pub struct PciIdError(String);

impl FromStr for PciId {
    type Err = PciIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = |part: &str| {
            let digits = part.len() == 4 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u16::from_str_radix(part, 16).ok()).flatten()
        };
        let parse = || {
            let (vendor, device) = text.split_once(':')?;
            let device = if device == "*" { None } else { Some(id(device)?) };
            Some(Self { vendor: id(vendor)?, device })
        };
        parse().ok_or_else(|| PciIdError(text.into()))
    }
}

/// Virtual functions of one physical function: its interface name or PCI address, then `#` and the indexes, as in
/// `enp59s0f0#0-3,7`. Without indexes: all virtual functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualFunctions {
    physical_function: Box<str>,
    ranges: Vec<(u32, u32)>,
}

/// A text that is not a list of virtual functions.
#[derive(Debug, Clone, thiserror::Error)]
#[error("invalid virtual functions {0:?}: write PF or PF#FIRST-LAST,..., as in enp59s0f0#0-3,7")]
pub struct VirtualFunctionsError(String);

impl FromStr for VirtualFunctions {
    type Err = VirtualFunctionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let range = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some((first, last))
        };
        let parse = || {
            let (physical_function, ranges) = match text.split_once('#') {
                None => (text, Some(vec![])),
                Some((name, ranges)) => (name, ranges.split(',').map(range).collect()),
            };
            let ranges: Vec<(u32, u32)> = ranges?;
            (!physical_function.is_empty()).then(|| Self { physical_function: physical_function.into(), ranges })
        };
        parse().ok_or_else(|| VirtualFunctionsError(text.into()))
    }
}

impl fmt::Display for VirtualFunctions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.physical_function)?;
        for (at, (first, last)) in self.ranges.iter().enumerate() {
            write!(out, "{}{first}", if at == 0 { '#' } else { ',' })?;
            if first != last {
                write!(out, "-{last}")?;
            }
        }
        Ok(())
    }
}

impl VirtualFunctions {
    fn matches(&self, hardware: &Hardware) -> bool {
        let Some(function) = &hardware.virtual_function else { return false };
        let name = function.physical_function_name.as_ref().map(InterfaceName::as_bytes);
        let is_parent =
            *function.physical_function == *self.physical_function || name == Some(self.physical_function.as_bytes());
        let in_range = |(first, last): &(u32, u32)| (*first..=*last).contains(&function.index);
        is_parent && (self.ranges.is_empty() || self.ranges.iter().any(in_range))
    }
}

/// Minimum and maximum link speed in Mb/s, inclusive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// Minimum speed in Mb/s.
    pub min: Option<u32>,
    /// Maximum speed in Mb/s.
    pub max: Option<u32>,
}

/// Conditions on a link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Selector {
    /// Regular expressions over the interface name.
    pub names: Vec<Pattern>,
    /// Regular expressions over the alternative names.
    pub altnames: Vec<Pattern>,
    /// Regular expressions over the alias.
    pub aliases: Vec<Pattern>,
    /// Kinds of virtual link (`dummy`, `vlan`, …); `physical` for a physical device.
    pub kinds: Vec<String>,
    /// Names of drivers.
    pub drivers: Vec<String>,
    /// PCI vendor and device ids.
    pub pci_ids: Vec<PciId>,
    /// PCI addresses, `0000:3b:00.0`.
    pub pci_addresses: Vec<String>,
    /// Virtual functions by their physical function.
    pub virtual_functions: Vec<VirtualFunctions>,
    /// NUMA nodes.
    pub numa_nodes: Vec<u32>,
    /// Link speed.
    pub speed: Option<Speed>,
}

/// The word for a link without a kind, in `kinds`.
pub const PHYSICAL: &str = "physical";

impl Selector {
    /// The selector of `-interfaces`: one pattern over the name.
    pub fn by_name(pattern: Pattern) -> Self {
        Self { names: vec![pattern], ..Self::default() }
    }

    /// Whether no condition is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether all conditions match the link. False if no condition is set.
    pub fn matches(&self, link: &Link) -> bool {
        !self.is_empty() && self.conditions(link).all(|condition| condition.holds)
    }

    /// Each condition that is set, with the value of the link.
    pub fn conditions<'a>(&'a self, link: &'a Link) -> impl Iterator<Item = Condition> + 'a {
        let none = Hardware::default();
        let hardware = link.hardware.as_deref().cloned().unwrap_or(none);
        let kind = link.kind.as_deref().unwrap_or(PHYSICAL);
        let any = |patterns: &[Pattern], bytes: &[u8]| patterns.iter().any(|pattern| pattern.matches(bytes));
        let text = |value: Option<&str>| value.unwrap_or("none").to_owned();
        let driver = hardware.driver.as_deref();
        let address = hardware.pci_address.as_deref();
        let numa = hardware.numa_node;
        let id_matches = |(vendor, device): (u16, u16)| {
            self.pci_ids.iter().any(|id| id.vendor == vendor && id.device.is_none_or(|wanted| wanted == device))
        };
        let in_speed = |wanted: &Speed| {
            hardware
                .speed
                .is_some_and(|is| wanted.min.is_none_or(|min| is >= min) && wanted.max.is_none_or(|max| is <= max))
        };
        let altnames = || link.altnames.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let function = || match &hardware.virtual_function {
            None => "no virtual function".into(),
            Some(function) => format!("{}#{}", function.physical_function, function.index),
        };
        let conditions = [
            (!self.names.is_empty())
                .then(|| Condition::new("name", &link.name, any(&self.names, link.name.as_bytes()))),
            (!self.altnames.is_empty()).then(|| {
                let holds = link.altnames.iter().any(|altname| any(&self.altnames, altname.as_bytes()));
                Condition::new("altname", &altnames(), holds)
            }),
            (!self.aliases.is_empty()).then(|| {
                let holds = link.alias.as_ref().is_some_and(|alias| any(&self.aliases, alias.as_bytes()));
                Condition::new("alias", &text(link.alias.as_ref().map(ToString::to_string).as_deref()), holds)
            }),
            (!self.kinds.is_empty())
                .then(|| Condition::new("kind", &kind, self.kinds.iter().any(|wanted| wanted == kind))),
            (!self.drivers.is_empty()).then(|| {
                Condition::new(
                    "driver",
                    &text(driver),
                    self.drivers.iter().any(|wanted| Some(wanted.as_str()) == driver),
                )
            }),
            (!self.pci_ids.is_empty()).then(|| {
                let shown = hardware.pci_id.map(|(vendor, device)| format!("{vendor:04x}:{device:04x}"));
                Condition::new("PCI id", &text(shown.as_deref()), hardware.pci_id.is_some_and(id_matches))
            }),
            (!self.pci_addresses.is_empty()).then(|| {
                let holds = self.pci_addresses.iter().any(|wanted| Some(wanted.as_str()) == address);
                Condition::new("PCI address", &text(address), holds)
            }),
            (!self.virtual_functions.is_empty()).then(|| {
                let holds = self.virtual_functions.iter().any(|functions| functions.matches(&hardware));
                Condition::new("virtual function", &function(), holds)
            }),
            (!self.numa_nodes.is_empty()).then(|| {
                let shown = numa.map(|node| node.to_string());
                Condition::new(
                    "NUMA node",
                    &text(shown.as_deref()),
                    numa.is_some_and(|node| self.numa_nodes.contains(&node)),
                )
            }),
            self.speed.as_ref().map(|wanted| {
                let shown = hardware.speed.map(|speed| format!("{speed} Mb/s"));
                Condition::new("speed", &text(shown.as_deref()), in_speed(wanted))
            }),
        ];
        conditions.into_iter().flatten()
    }
}

/// The conditions that are set, on one line: `names: dummy ^eth; numaNodes: 0`; `nothing` if none is set.
impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(values: &[T]) -> Option<String> {
            let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
            (!texts.is_empty()).then(|| texts.join(" "))
        }
        let speed = |speed: &Speed| match (speed.min, speed.max) {
            (None, None) => "any".to_owned(),
            (Some(min), None) => format!("at least {min} Mb/s"),
            (None, Some(max)) => format!("at most {max} Mb/s"),
            (Some(min), Some(max)) => format!("{min} to {max} Mb/s"),
        };
        let conditions = [
            ("names", list(&self.names)),
            ("altnames", list(&self.altnames)),
            ("aliases", list(&self.aliases)),
            ("kinds", list(&self.kinds)),
            ("drivers", list(&self.drivers)),
            ("pciIds", list(&self.pci_ids)),
            ("pciAddresses", list(&self.pci_addresses)),
            ("virtualFunctions", list(&self.virtual_functions)),
            ("numaNodes", list(&self.numa_nodes)),
            ("speed", self.speed.as_ref().map(speed)),
        ];
        let given: Vec<String> =
            conditions.iter().filter_map(|(name, given)| Some(format!("{name}: {}", given.as_ref()?))).collect();
        out.write_str(if given.is_empty() { "nothing" } else { "" })?;
        out.write_str(&given.join("; "))
    }
}

/// One condition of a selector, applied to one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The property that it is about: `name`, `driver`, …
    pub property: &'static str,
    /// The value of the link.
    pub value: String,
    /// Whether the condition matches the value.
    pub holds: bool,
}

impl Condition {
    fn new(property: &'static str, value: &dyn fmt::Display, holds: bool) -> Self {
        Self { property, value: value.to_string(), holds }
    }
}

/// Reads a value through its [`FromStr`], so that the position of an invalid value in the file is reported.
macro_rules! deserialize_from_str {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}
deserialize_from_str!(Pattern, PciId, VirtualFunctions);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{bytes::KernelString, link::VirtualFunction};

    fn card() -> Link {
        let function = VirtualFunction {
            physical_function: "0000:3b:00.0".into(),
            physical_function_name: Some("enp59s0f0".try_into().unwrap()),
            index: 5,
        };
        Link {
            index: 7,
            name: "enp59s0f0v5".try_into().unwrap(),
            altnames: [KernelString::new(b"fast-5")].into(),
            alias: Some(KernelString::new(b"rack 7 port 3")),
            kind: None,
            mac: None,
            flags: 0,
            mtu: 1500,
            master: None,
            parent: None,
            link_netnsid: None,
            netns_immutable: None,
            hardware: Some(Arc::new(Hardware {
                driver: Some("igbvf".into()),
                pci_address: Some("0000:3b:10.5".into()),
                pcie_root: Some("pci0000:3a".into()),
                pci_id: Some((0x8086, 0x1520)),
                numa_node: Some(1),
                virtual_function: Some(function),
                speed: Some(10_000),
            })),
        }
    }

    fn selects(yaml: &str) -> bool {
        serde_saphyr::from_str::<Selector>(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}")).matches(&card())
    }

    #[test]
    fn each_condition_selects_and_rejects() {
        let table = [
            ("names: [f0v]", "names: [^f0v]"),
            ("altnames: [fast]", "altnames: [slow]"),
            ("aliases: ['port 3$']", "aliases: [port 4]"),
            ("kinds: [dummy, physical]", "kinds: [dummy]"),
            ("drivers: [igb, igbvf]", "drivers: [igb]"),
            ("pciIds: ['8086:*']", "pciIds: ['8086:1521', '15b3:*']"),
            ("pciIds: ['8086:1520']", "pciIds: ['15b3:1520']"),
            ("pciAddresses: ['0000:3b:10.5']", "pciAddresses: ['0000:3b:10.4']"),
            ("virtualFunctions: ['enp59s0f0#0-3,5']", "virtualFunctions: ['enp59s0f0#0-4']"),
            ("virtualFunctions: ['0000:3b:00.0']", "virtualFunctions: [enp59s0f1]"),
            ("numaNodes: [0, 1]", "numaNodes: [0]"),
            ("speed: {min: 10000}", "speed: {min: 1000, max: 9999}"),
        ];
        for (yes, no) in table {
            assert!(selects(yes), "{yes}");
            assert!(!selects(no), "{no}");
        }
    }

    #[test]
    fn all_given_conditions_must_hold_and_none_selects_nothing() {
        assert!(selects("{names: [enp], drivers: [igbvf]}"));
        assert!(!selects("{names: [enp], drivers: [mlx5_core]}"));
        assert!(!selects("{}"));
        assert!(selects("names: ['']"));
    }

    #[test]
    fn wrong_values_are_refused_with_their_line() {
        let table = [
            ("drivers: [a]\nnames: ['(']", "invalid regular expression \"(\": unclosed group"),
            ("pciIds: ['8086']", "invalid PCI id \"8086\""),
            ("virtualFunctions: ['pf#3-1']", "invalid virtual functions"),
            ("name: [a]", "unknown field `name`"),
        ];
        for (yaml, message) in table {
            let error = serde_saphyr::from_str::<Selector>(yaml).unwrap_err().to_string();
            assert!(error.contains(message) && error.contains("line"), "{yaml}: {error}");
        }
    }

    #[test]
    fn a_selector_is_shown_as_it_was_written() {
        let yaml = "{names: [enp, ''], pciIds: ['8086:1520', '15b3:*'], virtualFunctions: ['pf#0-3,5', pf1],\
                    numaNodes: [1], speed: {min: 1000}}";
        let shown = serde_saphyr::from_str::<Selector>(yaml).unwrap().to_string();
        assert_eq!(
            shown,
            "names: enp \"\"; pciIds: 8086:1520 15b3:*; virtualFunctions: pf#0-3,5 pf1; numaNodes: 1; \
             speed: at least 1000 Mb/s"
        );
        assert_eq!(Selector::default().to_string(), "nothing");
    }

    #[test]
    fn names_that_are_not_utf8_are_matched_as_go_and_as_bytes() {
        // what Go 1.26 says of regexp.MustCompile(pattern).Match(name)
        let table: [(&str, &[u8], bool); 24] = [
            (".", b"\xff", true),
            ("^.$", b"\xff", true),
            ("^..$", b"\xc3\xc3", true),
            // two of the three bytes of a character are two, not one
            ("^..$", b"\xe2\x82", true),
            ("^.$", b"\xe2\x82", false),
            ("^.$", "é".as_bytes(), true),
            ("^a.b$", b"a\xffb", true),
            ("^a..b$", b"a\xffb", false),
            ("^[^a]$", b"\xff", true),
            ("^[^0-9]+$", b"x\xff\xfe", true),
            (r"^\x{fffd}$", b"\xff", true),
            ("\u{fffd}", b"a\xff", true),
            (r"^\W$", b"\xff", true),
            (r"^\w$", b"\xff", false),
            (r"^\w$", "é".as_bytes(), false),
            (r"^\W$", "é".as_bytes(), true),
            (r"^[\W]$", "é".as_bytes(), true),
            (r"^[\da]\D$", "3é".as_bytes(), true),
            (r"^\d$", "٣".as_bytes(), false),
            (r"a\b", b"a\xff", true),
            (r"a\b", "aé".as_bytes(), true),
            (r"^\\w$", b"\\w", true),
            ("^eth", b"eth\xff", true),
            ("ff", b"\xff", false),
        ];
        for (pattern, name, matches) in table {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(name), matches, "{pattern} of {}", name.escape_ascii());
            assert_eq!(parsed.as_str(), pattern);
        }
        let byte: Pattern = r"(?-u)\xff".parse().unwrap();
        assert!(byte.matches(b"a\xffb") && !byte.matches(b"a\xfeb"));
    }
}
