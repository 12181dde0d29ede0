//! Names of the per-link settings that the kernel reports as a list of numbers.

use std::ffi::CStr;

/// A setting of a link below `/proc/sys/net`: `ipv6/conf/<link>/accept_ra` or `ipv4/neigh/<link>/gc_stale_time`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// `conf` or `neigh`.
    pub folder: &'static str,
    /// Name of the file.
    pub file: String,
    /// What to write.
    pub value: String,
}

/// `/proc/sys/net/ipv4/conf/<link>` by index of `IFLA_INET_CONF`, which is `IPV4_DEVCONF_*` less one
/// (`include/uapi/linux/ip.h`, `net/ipv4/devinet.c`).
pub const IPV4_CONF: [&str; 33] = [
    "forwarding",
    "mc_forwarding",
    "proxy_arp",
    "accept_redirects",
    "secure_redirects",
    "send_redirects",
    "shared_media",
    "rp_filter",
    "accept_source_route",
    "bootp_relay",
    "log_martians",
    "tag",
    "arp_filter",
    "medium_id",
    "disable_xfrm",
    "disable_policy",
    "force_igmp_version",
    "arp_announce",
    "arp_ignore",
    "promote_secondaries",
    "arp_accept",
    "arp_notify",
    "accept_local",
    "src_valid_mark",
    "proxy_arp_pvlan",
    "route_localnet",
    "igmpv2_unsolicited_report_interval",
    "igmpv3_unsolicited_report_interval",
    "ignore_routes_with_linkdown",
    "drop_unicast_in_l2_multicast",
    "drop_gratuitous_arp",
    "bc_forwarding",
    "arp_evict_nocarrier",
];

/// Index of the IPv4 setting that only a multicast router changes.
pub const IPV4_MC_FORWARDING: usize = 1;

/// The unit of a number in `IFLA_INET6_CONF`, compared with its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// The same number.
    Plain,
    /// Reported in milliseconds, written in seconds.
    Seconds,
    /// Not written: read-only, a secret, or a size that depends on the MTU.
    Kept,
}

/// `/proc/sys/net/ipv6/conf/<link>` by index of `IFLA_INET6_CONF`, which is `DEVCONF_*` (`include/uapi/linux/ipv6.h`,
/// `ipv6_store_devconf` in `net/ipv6/addrconf.c`).
pub const IPV6_CONF: [(&str, Unit); 60] = [
    ("forwarding", Unit::Plain),
    ("hop_limit", Unit::Plain),
    ("mtu", Unit::Kept),
    ("accept_ra", Unit::Plain),
    ("accept_redirects", Unit::Plain),
    ("autoconf", Unit::Plain),
    ("dad_transmits", Unit::Plain),
    ("router_solicitations", Unit::Plain),
    ("router_solicitation_interval", Unit::Seconds),
    ("router_solicitation_delay", Unit::Seconds),
    ("use_tempaddr", Unit::Plain),
    ("temp_valid_lft", Unit::Plain),
    ("temp_prefered_lft", Unit::Plain),
    ("regen_max_retry", Unit::Plain),
    ("max_desync_factor", Unit::Plain),
    ("max_addresses", Unit::Plain),
    ("force_mld_version", Unit::Plain),
    ("accept_ra_defrtr", Unit::Plain),
    ("accept_ra_pinfo", Unit::Plain),
    ("accept_ra_rtr_pref", Unit::Plain),
    ("router_probe_interval", Unit::Seconds),
    ("accept_ra_rt_info_max_plen", Unit::Plain),
    ("proxy_ndp", Unit::Plain),
    ("optimistic_dad", Unit::Plain),
    ("accept_source_route", Unit::Plain),
    ("mc_forwarding", Unit::Kept),
    ("disable_ipv6", Unit::Plain),
    ("accept_dad", Unit::Plain),
    ("force_tllao", Unit::Plain),
    ("ndisc_notify", Unit::Plain),
    ("mldv1_unsolicited_report_interval", Unit::Plain),
    ("mldv2_unsolicited_report_interval", Unit::Plain),
    ("suppress_frag_ndisc", Unit::Plain),
    ("accept_ra_from_local", Unit::Plain),
    ("use_optimistic", Unit::Plain),
    ("accept_ra_mtu", Unit::Plain),
    ("stable_secret", Unit::Kept),
    ("use_oif_addrs_only", Unit::Plain),
    ("accept_ra_min_hop_limit", Unit::Plain),
    ("ignore_routes_with_linkdown", Unit::Plain),
    ("drop_unicast_in_l2_multicast", Unit::Plain),
    ("drop_unsolicited_na", Unit::Plain),
    ("keep_addr_on_down", Unit::Plain),
    ("router_solicitation_max_interval", Unit::Seconds),
    ("seg6_enabled", Unit::Plain),
    ("seg6_require_hmac", Unit::Plain),
    ("enhanced_dad", Unit::Plain),
    ("addr_gen_mode", Unit::Plain),
    ("disable_policy", Unit::Plain),
    ("accept_ra_rt_info_min_plen", Unit::Plain),
    ("ndisc_tclass", Unit::Plain),
    ("rpl_seg_enabled", Unit::Plain),
    ("ra_defrtr_metric", Unit::Plain),
    ("ioam6_enabled", Unit::Plain),
    ("ioam6_id", Unit::Plain),
    ("ioam6_id_wide", Unit::Kept),
    ("ndisc_evict_nocarrier", Unit::Plain),
    ("accept_untracked_na", Unit::Plain),
    ("accept_ra_min_lft", Unit::Plain),
    ("force_forwarding", Unit::Plain),
];

/// Files below `/proc/sys/net/ipv6/conf/<link>` that `IFLA_INET6_CONF` does not contain.
pub const IPV6_CONF_UNTOLD: [&CStr; 3] = [c"regen_min_advance", c"ra_honor_pio_life", c"ra_honor_pio_pflag"];

impl Sysctl {
    /// Reads the key of a record, `ipv4/neigh/gc_stale_time`: a file in one of three directories. A key with any other path is
    /// refused: records are read from a disk.
    pub fn from_key(key: &str, value: &str) -> Option<Self> {
        const FOLDERS: [(&str, &str); 3] = [("ipv4", "neigh"), ("ipv6", "neigh"), ("ipv6", "conf")];
        let mut parts = key.splitn(3, '/');
        let (family, folder, file) = (parts.next()?, parts.next()?, parts.next()?);
        let (family, folder) = FOLDERS.into_iter().find(|known| *known == (family, folder))?;
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let plain = !file.is_empty() && file.bytes().all(letter);
        plain.then(|| Self { family, folder, file: file.to_owned(), value: value.to_owned() })
    }
}

/// Index of `disable_ipv6`.
pub const IPV6_DISABLE: usize = 26;

/// The text of an IPv6 setting's file; none for one that is not written.
pub fn ipv6_setting(index: usize, value: i32) -> Option<Sysctl> {
    let (file, unit) = IPV6_CONF.get(index)?;
    let value = match unit {
        Unit::Kept => return None,
        Unit::Plain => value,
        // a negative number means "no limit", not a time
        Unit::Seconds => {
            if value > 0 {
                value / 1000
            } else {
                value
            }
        }
    };
    Some(Sysctl { family: "ipv6", folder: "conf", file: (*file).to_owned(), value: value.to_string() })
}
