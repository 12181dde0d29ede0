//! The settings of an interface that a Pod may request, below `/proc/sys/net`: those that concern only the interface itself and
//! open nothing that its namespace had closed (no source routing, no routing of 127.0.0.0/8).

use std::ops::RangeInclusive;

/// A setting, and the values that it takes.
type Allowed = (&'static str, RangeInclusive<i32>);

const SWITCH: RangeInclusive<i32> = 0..=1;

/// `net.ipv4.conf.<interface>` (`Documentation/networking/ip-sysctl.rst`).
const IPV4_CONF: [Allowed; 18] = [
    ("accept_local", SWITCH),
    ("accept_redirects", SWITCH),
    ("arp_accept", 0..=2),
    ("arp_announce", 0..=2),
    ("arp_evict_nocarrier", SWITCH),
    ("arp_filter", SWITCH),
    ("arp_ignore", 0..=8),
    ("arp_notify", SWITCH),
    ("drop_gratuitous_arp", SWITCH),
    ("drop_unicast_in_l2_multicast", SWITCH),
    ("forwarding", SWITCH),
    ("ignore_routes_with_linkdown", SWITCH),
    ("log_martians", SWITCH),
    ("promote_secondaries", SWITCH),
    ("proxy_arp", SWITCH),
    ("rp_filter", 0..=2),
    ("send_redirects", SWITCH),
    ("src_valid_mark", SWITCH),
];

/// `net.ipv6.conf.<interface>`.
const IPV6_CONF: [Allowed; 17] = [
    ("accept_dad", 0..=2),
    ("accept_ra", 0..=2),
    ("accept_ra_defrtr", SWITCH),
    ("accept_ra_pinfo", SWITCH),
    ("accept_ra_rt_info_max_plen", 0..=128),
    ("accept_ra_rtr_pref", SWITCH),
    ("accept_redirects", SWITCH),
    ("autoconf", SWITCH),
    ("dad_transmits", 0..=255),
    ("disable_ipv6", SWITCH),
    ("drop_unicast_in_l2_multicast", SWITCH),
    ("drop_unsolicited_na", SWITCH),
    ("forwarding", SWITCH),
    ("hop_limit", 1..=255),
    ("ndisc_notify", SWITCH),
    ("proxy_ndp", SWITCH),
    ("use_tempaddr", 0..=2),
];

/// `net.ipv4.neigh.<interface>` and `net.ipv6.neigh.<interface>`.
const NEIGH: [Allowed; 9] = [
    ("app_solicit", 0..=1000),
    ("base_reachable_time_ms", 1..=i32::MAX),
    ("delay_first_probe_time", 0..=86_400),
    ("gc_stale_time", 0..=31_536_000),
    ("mcast_resolicit", 0..=1000),
    ("mcast_solicit", 0..=1000),
    ("retrans_time_ms", 1..=i32::MAX),
    ("ucast_solicit", 0..=1000),
    ("unres_qlen_bytes", 0..=i32::MAX),
];

const DIRECTORIES: [(&str, &[Allowed]); 4] =
    [("ipv4/conf", &IPV4_CONF), ("ipv6/conf", &IPV6_CONF), ("ipv4/neigh", &NEIGH), ("ipv6/neigh", &NEIGH)];

/// All settings: the name that a Pod uses, the key in a record, and the values.
pub(crate) fn all() -> impl Iterator<Item = (String, String, RangeInclusive<i32>)> {
    DIRECTORIES.into_iter().flat_map(|(directory, allowed)| {
        allowed.iter().map(move |(file, values)| {
            let name = format!("net.{}.{file}", directory.replace('/', "."));
            (name, format!("{directory}/{file}"), values.clone())
        })
    })
}

/// The names of all settings, each with its smallest and largest value.
pub fn names() -> impl Iterator<Item = (String, i32, i32)> {
    all().map(|(name, _, values)| (name, *values.start(), *values.end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysctl::{IPV4_CONF as KERNEL_IPV4, IPV6_CONF as KERNEL_IPV6, Sysctl, Unit};

    #[test]
    fn each_setting_is_one_that_can_be_set_and_compared() {
        for (file, _) in IPV4_CONF {
            assert!(KERNEL_IPV4.contains(&file), "{file}");
        }
        for (file, _) in IPV6_CONF {
            assert!(KERNEL_IPV6.contains(&(file, Unit::Plain)), "{file}");
        }
        for (_, key, values) in all().filter(|(_, key, _)| key.contains("neigh")) {
            assert!(Sysctl::from_key(&key, "1").is_some() && values.start() <= values.end(), "{key}");
        }
    }
}
