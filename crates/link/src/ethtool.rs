//! Settings of a driver: features (offloads) of every link, and of hardware its channels, rings, interrupts and line.
//!
//! A table says which bytes of each answer can be set. They are read before a device leaves the host, and written back when
//! they are other ones at its return, for writing may reset the line (`include/uapi/linux/ethtool.h`).

use std::io;

use netdevice::{InterfaceName, LinkState, SandboxConfiguration, state::Attribute};

use crate::{
    error::Error,
    ioctl::{Buffer, Driver, FIXED, ROOM},
    skipped::Skipped,
    socket::RouteSocket,
};

/// One structure of ethtool: how it is asked for, and what of it can be set.
struct Block {
    what: &'static str,
    get: u16,
    set: u16,
    /// What follows the command in the request: of a tunable its number, type and length.
    head: &'static [u32],
    /// First byte and the one behind the last, of each part that can be set.
    parts: &'static [(usize, usize)],
}

const CHANNELS: Block = Block { what: "channels", get: 0x3c, set: 0x3d, head: &[], parts: &[(20, 36)] };
const COALESCE: Block = Block { what: "interrupt coalescing", get: 0x0e, set: 0x0f, head: &[], parts: &[(4, 92)] };
const MESSAGES: Block = Block { what: "message level", get: 0x07, set: 0x08, head: &[], parts: &[(4, 8)] };

const OF_VETH: [Block; 1] = [CHANNELS];
const OF_TUN: [Block; 2] = [COALESCE, MESSAGES];
const OF_HARDWARE: [Block; 11] = [
    CHANNELS,
    Block { what: "rings", get: 0x10, set: 0x11, head: &[], parts: &[(20, 36)] },
    COALESCE,
    MESSAGES,
    Block { what: "private flags", get: 0x27, set: 0x28, head: &[], parts: &[(4, 8)] },
    Block { what: "pause", get: 0x12, set: 0x13, head: &[], parts: &[(4, 16)] },
    Block { what: "wake-on-LAN", get: 0x05, set: 0x06, head: &[], parts: &[(8, 18)] },
    // between them are what the other end advertises, and whether it is in use
    Block { what: "energy-efficient Ethernet", get: 0x44, set: 0x45, head: &[], parts: &[(8, 12), (20, 32)] },
    Block { what: "forward error correction", get: 0x50, set: 0x51, head: &[], parts: &[(8, 12)] },
    Block { what: "receive copybreak", get: 0x48, set: 0x49, head: &[1, 3, 4], parts: &[(16, 20)] },
    Block { what: "transmit copybreak", get: 0x48, set: 0x49, head: &[2, 3, 4], parts: &[(16, 20)] },
];

const FEATURES: (u16, u16) = (0x3a, 0x3b);
const RECEIVE_HASH: (u16, u16) = (0x46, 0x47);
const LINE: (u16, u16) = (0x4c, 0x4d);

/// Words of features that are asked for; the kernel says how many it has.
const FEATURE_WORDS: usize = 8;

impl Block {
    /// By what its value is found in a record: the command, and the number of a tunable.
    fn key(&self) -> u16 {
        let number = self.head.first().and_then(|number| u16::try_from(*number).ok()).unwrap_or(0);
        self.get | number << 8
    }
}

fn blocks(state: &LinkState) -> &'static [Block] {
    match state.kind.as_deref() {
        _ if is_hardware(state) => &OF_HARDWARE,
        Some("veth") => &OF_VETH,
        Some("tun") => &OF_TUN,
        _ => &[],
    }
}

/// Whether a driver of hardware, or one that stands for it, made the link.
pub(crate) fn is_hardware(state: &LinkState) -> bool {
    state.hardware.is_some() || state.parent_device.is_some()
}

/// The settings of a link. What its driver does not have is left out.
pub(crate) fn read(socket: &RouteSocket, state: &LinkState) -> Vec<Attribute> {
    let mut driver = Driver { socket, name: &state.name };
    let mut found = Vec::new();
    let mut add = |kind: u16, value: io::Result<Vec<u8>>| {
        found.extend(value.ok().map(|value| Attribute { kind, value }));
    };
    add(FEATURES.0, features(&mut driver));
    for block in blocks(state) {
        let mut buffer = Buffer::new();
        add(block.key(), get(&mut driver, block, &mut buffer).map(|()| parts(&buffer, block.parts)));
    }
    if is_hardware(state) {
        add(RECEIVE_HASH.0, receive_hash(&mut driver).map(|(value, _)| value));
        add(LINE.0, line(&mut driver).map(|(value, _)| value));
    }
    found
}

/// Writes back what is another value than the record's.
pub(crate) fn restore(socket: &RouteSocket, name: &InterfaceName, host: &LinkState) -> Vec<Skipped> {
    let mut driver = Driver { socket, name };
    let mut skipped = Vec::new();
    for wanted in &host.ethtool {
        let (what, done) = match wanted.kind {
            kind if kind == FEATURES.0 => ("offloads", set_features(&mut driver, &wanted.value)),
            kind if kind == RECEIVE_HASH.0 => ("receive hash", set_receive_hash(&mut driver, &wanted.value)),
            kind if kind == LINE.0 => ("speed and negotiation", set_line(&mut driver, &wanted.value)),
            kind => match OF_HARDWARE.iter().find(|block| block.key() == kind) {
                Some(block) => (block.what, set(&mut driver, block, &wanted.value)),
                None => continue,
            },
        };
        if let Err(error) = done {
            skipped.push(Skipped { what: what.to_owned(), reason: error.to_string() });
        }
    }
    skipped
}

fn get(driver: &mut Driver<'_>, block: &Block, buffer: &mut Buffer) -> io::Result<()> {
    buffer.set_u32(0, u32::from(block.get));
    for (at, word) in block.head.iter().enumerate() {
        buffer.set_u32(4 + 4 * at, *word);
    }
    driver.ask(buffer)
}

fn set(driver: &mut Driver<'_>, block: &Block, wanted: &[u8]) -> io::Result<()> {
    let mut buffer = Buffer::new();
    get(driver, block, &mut buffer)?;
    if parts(&buffer, block.parts) == wanted {
        return Ok(());
    }
    let mut rest = wanted;
    for (from, to) in block.parts {
        let Some((part, others)) = rest.split_at_checked(to - from) else { return Ok(()) };
        buffer.bytes_mut()[*from..*to].copy_from_slice(part);
        rest = others;
    }
    buffer.set_u32(0, u32::from(block.set));
    driver.ask(&mut buffer)
}

fn parts(buffer: &Buffer, parts: &[(usize, usize)]) -> Vec<u8> {
    parts.iter().flat_map(|(from, to)| &buffer.bytes()[*from..*to]).copied().collect()
}

/// Of each word two numbers: features that can be changed, and those that are asked for.
fn features(driver: &mut Driver<'_>) -> io::Result<Vec<u8>> {
    let buffer = all_features(driver)?;
    let words = (buffer.u32(4) as usize).min(FEATURE_WORDS);
    let mut value = Vec::with_capacity(8 * words);
    for word in 0..words {
        // available, requested, active, never changed (`struct ethtool_get_features_block`)
        let at = 8 + 16 * word;
        let changeable = buffer.u32(at) & !buffer.u32(at + 12);
        value.extend(changeable.to_ne_bytes());
        value.extend((buffer.u32(at + 4) & changeable).to_ne_bytes());
    }
    Ok(value)
}

/// In one request, without asking before: what does not change costs nothing.
fn set_features(driver: &mut Driver<'_>, wanted: &[u8]) -> io::Result<()> {
    let wanted = wanted.get(..8 * FEATURE_WORDS).unwrap_or(wanted);
    let mut buffer = Buffer::<FIXED>::new();
    buffer.set_u32(0, u32::from(FEATURES.1));
    buffer.set_u32(4, (wanted.len() / 8) as u32);
    buffer.bytes_mut()[8..8 + wanted.len()].copy_from_slice(wanted);
    driver.ask(&mut buffer)
}

/// `ETHTOOL_GSSET_INFO` and `ETHTOOL_GSTRINGS`: how many names a set has, and the names.
const SET_SIZE: u32 = 0x37;
const NAMES: u32 = 0x1b;
/// `ETH_SS_FEATURES` and `ETH_SS_PRIV_FLAGS`.
const FEATURE_NAMES: u32 = 4;
const FLAG_NAMES: u32 = 2;
/// `ETH_GSTRING_LEN`.
const NAME_LENGTH: usize = 32;
/// `ETHTOOL_GPFLAGS` and `ETHTOOL_SPFLAGS`.
const PRIVATE_FLAGS: (u32, u32) = (0x27, 0x28);

/// What ethtool(8) calls several features at once, or calls otherwise than the kernel: the beginning and the end of their names.
const GROUPS: [(&str, &str, &str); 22] = [
    ("rx-checksumming", "rx-checksum", ""),
    ("rx", "rx-checksum", ""),
    ("tx-checksumming", "tx-checksum-", ""),
    ("tx", "tx-checksum-", ""),
    ("scatter-gather", "tx-scatter-gather", ""),
    ("sg", "tx-scatter-gather", ""),
    ("tcp-segmentation-offload", "tx-tcp", "-segmentation"),
    ("tso", "tx-tcp", "-segmentation"),
    ("generic-segmentation-offload", "tx-generic-segmentation", ""),
    ("gso", "tx-generic-segmentation", ""),
    ("generic-receive-offload", "rx-gro", "rx-gro"),
    ("gro", "rx-gro", "rx-gro"),
    ("large-receive-offload", "rx-lro", ""),
    ("lro", "rx-lro", ""),
    ("rx-vlan-offload", "rx-vlan-hw-parse", ""),
    ("rxvlan", "rx-vlan-hw-parse", ""),
    ("tx-vlan-offload", "tx-vlan-hw-insert", ""),
    ("txvlan", "tx-vlan-hw-insert", ""),
    ("ntuple-filters", "rx-ntuple-filter", ""),
    ("ntuple", "rx-ntuple-filter", ""),
    ("receive-hashing", "rx-hashing", ""),
    ("rxhash", "rx-hashing", ""),
];

/// Gives a device in its sandbox the features and private flags that its Pod requests. What is so already is not written.
pub(crate) fn apply(
    socket: &RouteSocket,
    name: &InterfaceName,
    configuration: &SandboxConfiguration,
) -> Result<(), Error> {
    let mut driver = Driver { socket, name };
    for (feature, value) in &configuration.features {
        let done = switch_feature(&mut driver, feature, value == "on");
        done.map_err(|reason| Error::NotApplied { what: format!("ethtool feature {feature}"), reason })?;
    }
    for (flag, value) in &configuration.private_flags {
        let done = switch_flag(&mut driver, flag, value == "on");
        done.map_err(|reason| Error::NotApplied { what: format!("ethtool private flag {flag}"), reason })?;
    }
    Ok(())
}

/// The numbers of the names of a set that `is_meant`.
#[inline(never)] // as of `receive_hash`
fn numbers(driver: &mut Driver<'_>, set: u32, is_meant: &dyn Fn(&[u8]) -> bool) -> io::Result<Vec<usize>> {
    let mut buffer = Buffer::<ROOM>::new();
    buffer.set_u32(0, SET_SIZE);
    buffer.bytes_mut()[8..16].copy_from_slice(&(1u64 << set).to_ne_bytes());
    driver.ask(&mut buffer)?;
    let has_set = buffer.bytes()[8..16] != [0; 8];
    let count = if has_set { buffer.u32(16) as usize } else { 0 };
    if count == 0 || 12 + NAME_LENGTH * count > ROOM {
        return Ok(Vec::new());
    }
    let mut buffer = Buffer::<ROOM>::new();
    buffer.set_u32(0, NAMES);
    buffer.set_u32(4, set);
    buffer.set_u32(8, count as u32);
    driver.ask(&mut buffer)?;
    let names = buffer.bytes()[12..].chunks(NAME_LENGTH).take(count);
    let name = |name: &[u8]| name.split(|byte| *byte == 0).next().is_some_and(is_meant);
    Ok(names.enumerate().filter(|(_, chunk)| name(chunk)).map(|(number, _)| number).collect())
}

/// A feature as the driver has it: whether it can be changed, is asked for, and is in use.
fn feature(buffer: &Buffer, number: usize) -> (bool, bool, bool) {
    // available, requested, active, never changed (`struct ethtool_get_features_block`)
    let at = 8 + 16 * (number / 32);
    let bit = |at: usize| buffer.u32(at) >> (number % 32) & 1 != 0;
    (bit(at) && !bit(at + 12), bit(at + 4), bit(at + 8))
}

fn switch_feature(driver: &mut Driver<'_>, name: &str, on: bool) -> Result<(), String> {
    let group = GROUPS.iter().find(|(group, ..)| *group == name);
    let is_meant = |feature: &[u8]| match group {
        Some((_, begin, end)) => feature.starts_with(begin.as_bytes()) && feature.ends_with(end.as_bytes()),
        None => feature == name.as_bytes(),
    };
    let numbers = numbers(driver, FEATURE_NAMES, &is_meant).map_err(|error| error.to_string())?;
    let numbers: Vec<usize> = numbers.into_iter().filter(|number| *number < 32 * FEATURE_WORDS).collect();
    if numbers.is_empty() {
        return Err("the kernel has no such feature".into());
    }
    let there = all_features(driver).map_err(|error| error.to_string())?;
    let (changeable, fixed): (Vec<usize>, Vec<usize>) =
        numbers.into_iter().partition(|number| feature(&there, *number).0);
    if changeable.is_empty() && fixed.iter().any(|number| feature(&there, *number).2 != on) {
        return Err(format!("the driver has it fixed to {}", if on { "off" } else { "on" }));
    }
    if changeable.iter().all(|number| feature(&there, *number).1 == on) {
        return Ok(());
    }
    // of each word what is to be changed, and to what (`struct ethtool_set_features_block`)
    let mut wanted = vec![0u32; 2 * FEATURE_WORDS];
    for number in &changeable {
        let (word, bit) = (number / 32, 1 << (number % 32));
        wanted[2 * word] |= bit;
        wanted[2 * word + 1] |= if on { bit } else { 0 };
    }
    wanted.truncate(2 * (there.u32(4) as usize).min(FEATURE_WORDS));
    let wanted: Vec<u8> = wanted.into_iter().flat_map(u32::to_ne_bytes).collect();
    set_features(driver, &wanted).map_err(|error| error.to_string())?;
    let now = all_features(driver).map_err(|error| error.to_string())?;
    let is_done = |number: &usize| feature(&now, *number).1 == on;
    if changeable.iter().all(is_done) { Ok(()) } else { Err("the driver does not change it".into()) }
}

fn all_features(driver: &mut Driver<'_>) -> io::Result<Buffer> {
    let mut buffer = Buffer::<FIXED>::new();
    buffer.set_u32(0, u32::from(FEATURES.0));
    buffer.set_u32(4, FEATURE_WORDS as u32);
    driver.ask(&mut buffer)?;
    Ok(buffer)
}

fn switch_flag(driver: &mut Driver<'_>, name: &str, on: bool) -> Result<(), String> {
    let found = numbers(driver, FLAG_NAMES, &|flag| flag == name.as_bytes()).unwrap_or_default();
    let Some(number) = found.first().filter(|number| **number < 32) else {
        return Err("the driver has no such flag".into());
    };
    let mut buffer = Buffer::<FIXED>::new();
    buffer.set_u32(0, PRIVATE_FLAGS.0);
    driver.ask(&mut buffer).map_err(|error| error.to_string())?;
    let there = buffer.u32(4);
    let wanted = if on { there | 1 << number } else { there & !(1 << number) };
    if wanted == there {
        return Ok(());
    }
    buffer.set_u32(0, PRIVATE_FLAGS.1);
    buffer.set_u32(4, wanted);
    driver.ask(&mut buffer).map_err(|error| error.to_string())
}

/// Offset of `rss_config` in `struct ethtool_rxfh`.
const RSS_CONFIG: usize = 24;
/// Entries of a table, and bytes of a key, that are kept.
const MAX_RSS: (usize, usize) = (1024, 256);

/// Hash function and transformation, then the table and the key; and the whole answer.
#[inline(never)] // for its stack, whose pages most devices do not need
fn receive_hash(driver: &mut Driver<'_>) -> io::Result<(Vec<u8>, Buffer<ROOM>)> {
    let mut buffer = Buffer::<ROOM>::new();
    buffer.set_u32(0, u32::from(RECEIVE_HASH.0));
    // without room it returns the sizes
    driver.ask(&mut buffer)?;
    let (entries, key) = (buffer.u32(8) as usize, buffer.u32(12) as usize);
    if entries > MAX_RSS.0 || key > MAX_RSS.1 || entries + key == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    driver.ask(&mut buffer)?;
    let config = &buffer.bytes()[RSS_CONFIG..RSS_CONFIG + 4 * entries + key];
    let value = [&buffer.bytes()[16..18], config].concat();
    Ok((value, buffer))
}

#[inline(never)] // as of `receive_hash`
fn set_receive_hash(driver: &mut Driver<'_>, wanted: &[u8]) -> io::Result<()> {
    let (there, mut buffer) = receive_hash(driver)?;
    if there == wanted {
        return Ok(());
    }
    if there.len() != wanted.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    buffer.set_u32(0, u32::from(RECEIVE_HASH.1));
    buffer.bytes_mut()[16..18].copy_from_slice(&wanted[..2]);
    buffer.bytes_mut()[RSS_CONFIG..RSS_CONFIG + wanted.len() - 2].copy_from_slice(&wanted[2..]);
    driver.ask(&mut buffer)
}

/// Of `struct ethtool_link_settings`, what can be set besides speed and duplex: port, negotiation, crossover, and which end
/// leads.
const LINE_BYTES: [usize; 4] = [9, 11, 14, 17];
/// Of these, negotiation.
const AUTONEG: usize = 11;
/// Speed and duplex, which are set where nothing is negotiated.
const SPEED: std::ops::Range<usize> = 4..9;
/// Offset of the masks.
const MASKS: usize = 48;

/// The settings of the line that differ from the driver's; and the whole answer.
#[inline(never)] // as of `receive_hash`
fn line(driver: &mut Driver<'_>) -> io::Result<(Vec<u8>, Buffer<ROOM>)> {
    let mut buffer = Buffer::<ROOM>::new();
    buffer.set_u32(0, u32::from(LINE.0));
    // without room for masks it returns how many words each has, as a negative number
    driver.ask(&mut buffer)?;
    let words = buffer.bytes()[15].cast_signed().checked_neg().filter(|words| *words > 0);
    let words = words.ok_or(io::ErrorKind::Unsupported)?;
    buffer.bytes_mut()[15] = words.cast_unsigned();
    driver.ask(&mut buffer)?;
    let length = 4 * usize::from(words.cast_unsigned());
    let bytes = buffer.bytes();
    let mut value: Vec<u8> = LINE_BYTES.iter().map(|at| bytes[*at]).collect();
    value.extend(if bytes[AUTONEG] == 0 { &bytes[SPEED] } else { &[0; 5] });
    // behind the supported modes
    value.extend(&bytes[MASKS + length..MASKS + 2 * length]);
    Ok((value, buffer))
}

#[inline(never)] // as of `receive_hash`
fn set_line(driver: &mut Driver<'_>, wanted: &[u8]) -> io::Result<()> {
    let (there, mut buffer) = line(driver)?;
    if there == wanted {
        return Ok(());
    }
    if there.len() != wanted.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let (settings, modes) = wanted.split_at(LINE_BYTES.len() + SPEED.len());
    let bytes = buffer.bytes_mut();
    for (at, byte) in LINE_BYTES.iter().zip(settings) {
        bytes[*at] = *byte;
    }
    if bytes[AUTONEG] == 0 {
        bytes[SPEED].copy_from_slice(&settings[LINE_BYTES.len()..]);
    }
    bytes[MASKS + modes.len()..MASKS + 2 * modes.len()].copy_from_slice(modes);
    buffer.set_u32(0, u32::from(LINE.1));
    driver.ask(&mut buffer)
}

// the largest answers: features, and a table and a key of the receive hash
const _: () = assert!(8 + 16 * FEATURE_WORDS <= FIXED && RSS_CONFIG + 4 * MAX_RSS.0 + MAX_RSS.1 <= ROOM);
