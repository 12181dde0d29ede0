//! Capability arguments from flags, in the form of the CNI project's CONVENTIONS.md.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use cni::CapabilityArguments;
use netdevice::HardwareAddress;
use serde_json::{Map, Value, json};

use super::arguments::InjectArguments;

/// The keys of `bandwidth`: a burst needs its rate.
const BANDWIDTH: [(&str, Option<&str>); 4] = [
    ("ingressRate", None),
    ("ingressBurst", Some("ingressRate")),
    ("egressRate", None),
    ("egressBurst", Some("egressRate")),
];

/// The arguments that the flags ask for.
///
/// # Errors
///
/// When a value is not valid.
pub(crate) fn capabilities(arguments: &InjectArguments) -> Result<CapabilityArguments> {
    let mut all = CapabilityArguments::new();
    let ips = split(&arguments.device.ips).map(ip).collect::<Result<Vec<_>>>().context("-ips")?;
    if !ips.is_empty() {
        all.insert("ips".into(), json!(ips));
    }
    if let Some(mac) = &arguments.device.mac {
        all.insert("mac".into(), hardware_address(mac).context("-mac")?.into());
    }
    let ports = split(&arguments.network.portmap).map(port_mapping).collect::<Result<Vec<_>>>().context("-portmap")?;
    if !ports.is_empty() {
        all.insert("portMappings".into(), ports.into());
    }
    if let Some(limits) = &arguments.network.bandwidth {
        all.insert("bandwidth".into(), bandwidth(limits).context("-bandwidth")?.into());
    }
    Ok(all)
}

/// The arguments of `-cni-args`.
///
/// # Errors
///
/// When one is not of the form `KEY=VALUE`, or would be read as two.
pub(crate) fn cni_arguments(arguments: &InjectArguments) -> Result<Vec<(String, String)>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !text.contains(';') && !value.contains('=') => {
            Ok((key.into(), value.into()))
        }
        _ => bail!("-cni-args: {text:?} must be KEY=VALUE, without another \"=\" and without \";\""),
    };
    arguments.network.cni_args.iter().map(pair).collect()
}

fn split(values: &[String]) -> impl Iterator<Item = &str> {
    values.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

/// An address, with or without a prefix length.
fn ip(text: &str) -> Result<&str> {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().ok().with_context(|| format!("invalid address {text:?}"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if length.is_some_and(|length| !length.parse::<u8>().is_ok_and(|length| length <= most)) {
        bail!("invalid prefix length in {text:?}: it must be between 0 and {most}");
    }
    Ok(text)
}

fn hardware_address(text: &str) -> Result<&str> {
    let address: Option<HardwareAddress> = text.parse().ok();
    match address.filter(|address| address.as_bytes().len() == 6) {
        Some(_) => Ok(text),
        None => bail!("invalid hardware address {text:?}: it must be six pairs of hex digits separated by colons"),
    }
}

/// `HOST:CONTAINER[/PROTOCOL]`.
fn port_mapping(text: &str) -> Result<Value> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !["tcp", "udp", "sctp"].contains(&protocol) {
        bail!("{text:?}: the protocol must be tcp, udp or sctp");
    }
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (host, container) = ports.split_once(':').unwrap_or((ports, ""));
    match (port(host), port(container)) {
        (Some(host), Some(container)) => {
            Ok(json!({"hostPort": host, "containerPort": container, "protocol": protocol}))
        }
        _ => bail!("{text:?} must be HOST:CONTAINER or HOST:CONTAINER/PROTOCOL, with ports between 1 and 65535"),
    }
}

fn bandwidth(text: &str) -> Result<Map<String, Value>> {
    let mut limits = Map::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        if !BANDWIDTH.iter().any(|(known, _)| *known == key) {
            bail!("{key:?} is none of ingressRate, ingressBurst, egressRate, egressBurst");
        }
        let value: u64 = value.parse().ok().with_context(|| format!("{key} must be a number, in bit/s or bits"))?;
        limits.insert(key.into(), value.into());
    }
    let lacks_rate = |(burst, rate): &(&str, Option<&'static str>)| {
        rate.filter(|rate| limits.contains_key(*burst) && !limits.contains_key(*rate))
    };
    if let Some(rate) = BANDWIDTH.iter().find_map(lacks_rate) {
        bail!("a burst needs {rate}");
    }
    if limits.is_empty() {
        bail!("no limits");
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_limits_are_read_or_refused() {
        assert_eq!(port_mapping("8080:80").unwrap(), json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}));
        assert_eq!(port_mapping("53:53/udp").unwrap()["protocol"], "udp");
        for wrong in ["", "80", "0:80", "80:0", "80:65536", "80:80/icmp", "a:b"] {
            assert!(port_mapping(wrong).is_err(), "{wrong}");
        }
        let limits = bandwidth("ingressRate=1000, ingressBurst=2000").unwrap();
        assert_eq!(Value::Object(limits), json!({"ingressRate": 1000, "ingressBurst": 2000}));
        for wrong in ["", "x=1", "ingressRate=", "egressBurst=1", "ingressBurst=1,egressRate=1", "ingressRate=-1"] {
            assert!(bandwidth(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_are_read_or_refused() {
        for good in ["10.0.0.2", "10.0.0.2/24", "fd00::2/64"] {
            assert_eq!(ip(good).unwrap(), good);
        }
        for wrong in ["", "10.0.0", "10.0.0.2/33", "fd00::2/129", "10.0.0.2/", "x/24"] {
            assert!(ip(wrong).is_err(), "{wrong}");
        }
        assert!(hardware_address("02:00:00:00:00:01").is_ok());
        assert!(hardware_address("02:00:00:00:00").is_err());
    }
}
