//! The annotation of a Pod that requests devices: which one is used, and what it contains.
//!
//! The Pod's author wrote its text. No error repeats it: an error has the position in the list, and at most the beginning of
//! an unknown field's name.

pub mod attach;
mod entry;

use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::{
    acquisition::Acquisition,
    configuration::{FieldError, SandboxConfiguration},
    name::InterfaceName,
    pool::{Pool, Pools},
    yaml::{self, Limits, YamlError, YamlProblem},
};

/// The keys, in the order of priority: those that the network-device-injector of containerd/nri reads, in its order, and then
/// the plural form that only its README has.
pub const KEYS: [&str; 6] = [
    "netdevice.noderesource.dev/pod",
    "netdevices.nri.containerd.io/pod",
    "netdevice.noderesource.dev",
    "netdevices.nri.containerd.io",
    "netdevices.noderesource.dev/pod",
    "netdevices.noderesource.dev",
];

/// Longest annotation in bytes.
pub const MAX_ANNOTATION: usize = 64 << 10;

/// The limits of the expanded text: enough for 64 devices with all fields, and 60 routes each.
const UNFOLDED: Limits = Limits { nodes: 16 << 10, scalar_bytes: 4 * MAX_ANNOTATION };

/// Maximum number of devices of one Pod.
pub const MAX_DEVICES: usize = 64;

/// The annotation that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected<'a> {
    /// Its key, one of [`KEYS`].
    pub key: &'static str,
    /// Its text.
    pub value: &'a str,
    /// Keys of other annotations of the Pod, which are not used.
    pub others: Vec<&'static str>,
}

/// Finds the annotation that is used. `annotation` returns the text of the Pod for a key.
pub fn select<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> Option<Selected<'a>> {
    let mut there = KEYS.into_iter().filter_map(|key| Some((key, annotation(key)?)));
    let (key, value) = there.next()?;
    Some(Selected { key, value, others: there.map(|(key, _)| key).collect() })
}

/// A device that a Pod requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRequest {
    /// The device, by name or by pool.
    pub device: Wanted,
    /// How it comes into the sandbox: it moves, or something is created on it.
    pub acquisition: Acquisition,
    /// Its configuration in the sandbox.
    pub configuration: SandboxConfiguration,
}

impl DeviceRequest {
    /// The device's name in the Pod; none if that is the own name of a device of a pool.
    pub fn interface(&self) -> Option<&InterfaceName> {
        let host = match &self.device {
            Wanted::Name(name) => Some(name),
            Wanted::Pool(_) => None,
        };
        self.configuration.name.as_ref().map(|name| name.as_interface_name()).or(host)
    }
}

/// How a Pod selects a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// By its name on the host.
    Name(InterfaceName),
    /// Any device of a pool.
    Pool(PoolName),
}

/// The name of a pool in an annotation: the full resource name, or the part after its slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolName(Box<str>);

/// Why no pool is found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolNameError {
    /// Neither a resource name nor the part after its slash.
    #[error("invalid pool name")]
    Form,
    /// No pool matches.
    #[error("this node has no pool {0}")]
    Unknown(PoolName),
    /// Several pools match.
    #[error("several pools of this node match {0}: write the full resource name")]
    Ambiguous(PoolName),
}

/// Longest name of a resource: a DNS subdomain, a slash and a class.
const MAX_POOL_NAME: usize = 253 + 1 + 63;

impl PoolName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one pool of that name.
    ///
    /// # Errors
    ///
    /// When there is none, or more than one.
    pub fn find<'a>(&self, pools: &'a Pools) -> Result<&'a Pool, PoolNameError> {
        let is_named = |pool: &&Pool| *self.0 == *pool.resource.as_str() || *self.0 == *pool.resource.class();
        let mut named = pools.iter().filter(is_named);
        let pool = named.next().ok_or_else(|| PoolNameError::Unknown(self.clone()))?;
        if named.next().is_some() { Err(PoolNameError::Ambiguous(self.clone())) } else { Ok(pool) }
    }
}

impl FromStr for PoolName {
    type Err = PoolNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
        let is_name = (1..=MAX_POOL_NAME).contains(&text.len()) && text.bytes().all(letter);
        if is_name { Ok(Self(text.into())) } else { Err(PoolNameError::Form) }
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Why an annotation is invalid. One line, without the text of the annotation except the beginning of an unknown field's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// A text longer than the limit.
    #[error("too long: {0} bytes, the limit is {MAX_ANNOTATION}")]
    TooLong(usize),
    /// Neither YAML nor JSON.
    #[error("invalid YAML at line {line}, column {column}")]
    Yaml {
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
    },
    /// It is nested too deeply, or its aliases expand to too much.
    #[error("too many values or too deeply nested at line {line}, column {column}")]
    TooLarge {
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
    },
    /// Not a list.
    #[error("not a list: write a list of devices, each with a name")]
    NoList,
    /// More devices than the limit.
    #[error("too many devices: {0}, the limit is {MAX_DEVICES} for a pod")]
    TooMany(usize),
    /// A problem of one device of the list.
    #[error("device {number} of the list: {problem}")]
    Device {
        /// Counted from 1.
        number: usize,
        /// The problem.
        problem: Problem,
    },
}

/// The problem of one device of the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A field, or the fields of a mapping.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Neither `name` nor `pool`.
    #[error("name or pool is missing")]
    NoName,
    /// `name` and `pool`.
    #[error("name and pool are both set: set only one of them")]
    NameAndPool,
    /// Two entries of one device.
    #[error("requested twice: it is also device {0} of the list")]
    SameDevice(usize),
    /// One entry that moves a device, and one that creates another one on it.
    #[error("device {0} of the list is the same interface: either move it or create devices on it")]
    MovedParent(usize),
    /// Two devices that would have one name inside.
    #[error("device {0} of the list has the same name in the pod: set another new_name")]
    SameName(usize),
}

/// Reads the text of an annotation: YAML or JSON, a list of devices. An empty text, `null` and an empty list request no device.
///
/// # Errors
///
/// The first problem, with its position.
pub fn parse(text: &str) -> Result<Vec<DeviceRequest>, AnnotationError> {
    if text.len() > MAX_ANNOTATION {
        return Err(AnnotationError::TooLong(text.len()));
    }
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let value: serde_json::Value =
        yaml::read(text, UNFOLDED).map_err(|YamlError { line, column, problem }| match problem {
            YamlProblem::Invalid(_) => AnnotationError::Yaml { line, column },
            YamlProblem::TooLarge => AnnotationError::TooLarge { line, column },
        })?;
    let list = match value {
        serde_json::Value::Null => return Ok(Vec::new()),
        serde_json::Value::Array(list) => list,
        _ => return Err(AnnotationError::NoList),
    };
    if list.len() > MAX_DEVICES {
        return Err(AnnotationError::TooMany(list.len()));
    }
    let mut devices = Vec::with_capacity(list.len());
    for (at, value) in list.iter().enumerate() {
        let device = entry::device(value).map_err(|problem| AnnotationError::Device { number: at + 1, problem })?;
        devices.push(device);
    }
    check_names(&devices)?;
    Ok(devices)
}

/// Reads the configuration of one device by the rules of the annotation: a mapping of the fields `new_name`, `address`, `prefix`,
/// `addresses`, `routes`, `mtu`, `mac` and `inherit`, each of which may be missing or `null`.
///
/// # Errors
///
/// The first problem.
pub fn configuration(fields: &serde_json::Value) -> Result<SandboxConfiguration, Problem> {
    entry::configuration(fields)
}

/// No device is requested twice, unless all of its entries create devices on it, and no two have the same name in the Pod.
fn check_names(devices: &[DeviceRequest]) -> Result<(), AnnotationError> {
    let (mut on_host, mut inside) = (BTreeMap::new(), BTreeMap::new());
    for (number, request) in (1..).zip(devices) {
        let refuse = |problem| Err(AnnotationError::Device { number, problem });
        let host = match &request.device {
            Wanted::Name(name) => Some(name),
            Wanted::Pool(_) => None,
        };
        let moves = request.acquisition == Acquisition::Move;
        match host.and_then(|name| on_host.insert(name, (number, moves))) {
            Some((first, true)) if moves => return refuse(Problem::SameDevice(first)),
            Some((first, moved)) if moved != moves => return refuse(Problem::MovedParent(first)),
            _ => {}
        }
        if let Some(first) = request.interface().and_then(|name| inside.insert(name, number)) {
            return refuse(Problem::SameName(first));
        }
    }
    Ok(())
}
