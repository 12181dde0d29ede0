//! The addresses that the node is known by: the kubelet's, and the local address of connections to the API server. The link
//! with such an address carries the node's traffic, with or without a default route.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The file in the state directory with these addresses, one on each line. The agent writes it for hooks and `netdevctl`.
pub const NODE_ADDRESSES: &str = "node-addresses";

/// Longest such file in bytes: one read is enough.
pub const MAX_NODE_ADDRESSES: usize = 4 << 10;

/// Default port of the kubelet's API (`KubeletPort`, kubernetes/pkg/cluster/ports).
const KUBELET: u16 = 10250;

/// Default port of an API server (`--secure-port` of kube-apiserver).
const API_SERVER: u16 = 6443;

/// `TCP_ESTABLISHED` in `/proc/net/tcp` (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";

/// Whether the address can identify a node: not an address that every machine or link has.
pub fn is_telling(address: IpAddr) -> bool {
    let of_one_cable = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(of_one_cable || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// The node's own address of a Kubernetes connection, from a line of `/proc/net/tcp` or `tcp6`: one to the kubelet's port on
/// this node, to an API server's port, or to `api_server` (`KUBERNETES_SERVICE_HOST` and `_PORT`).
pub fn of_connection(line: &str, api_server: Option<SocketAddr>) -> Option<IpAddr> {
    let (local, remote) = connection(line)?;
    let makes_a_node = local.port() == KUBELET || remote.port() == API_SERVER || Some(remote) == api_server;
    (makes_a_node && is_telling(local.ip())).then_some(local.ip())
}

/// Both ends of an established connection: the second, third and fourth field of a line.
fn connection(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    (state == ESTABLISHED).then_some(())?;
    Some((end(local)?, end(remote)?))
}

/// `0100007F:1F90`: the address as numbers of 32 bits, each in the machine's byte order, and the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    // a socket of both families has IPv4 addresses as ::ffff:a.b.c.d
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// The text of the file. If it would be too long, the greatest addresses are omitted.
pub fn to_text<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> String {
    let mut text = String::new();
    for address in addresses {
        let before = text.len();
        let _ = writeln!(text, "{address}");
        if text.len() > MAX_NODE_ADDRESSES {
            text.truncate(before);
            break;
        }
    }
    text
}

/// Reads the text of the file. A line that is not an address is ignored.
pub fn from_text(text: &[u8]) -> BTreeSet<IpAddr> {
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter_map(|line| line.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines as Linux writes them on a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn connections_of_the_kubelet_and_to_the_api_server_tell_the_nodes_addresses() {
        let line = |local: &str, remote: &str, state: &str| {
            format!("   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 1 1 0")
        };
        // 10.0.0.5, 10.0.0.9 and 10.96.0.1
        let (node, peer, service) = ("0500000A", "0900000A", "0100600A");
        let table = [
            (line(&format!("{node}:280A"), &format!("{peer}:C350"), "01"), Some("10.0.0.5")), // port 10250 here
            (line(&format!("{node}:C350"), &format!("{peer}:192B"), "01"), Some("10.0.0.5")), // port 6443 there
            (line(&format!("{node}:C350"), &format!("{service}:01BB"), "01"), Some("10.0.0.5")),
            (line(&format!("{node}:C350"), &format!("{peer}:01BB"), "01"), None), // any server's port 443
            (line(&format!("{node}:C350"), &format!("{peer}:280A"), "01"), None), // another node's kubelet
            (line(&format!("{node}:280A"), "00000000:0000", "0A"), None),         // listens
            (line("0100007F:C350", "0100007F:192B", "01"), None),                 // loopback
            (
                line("0000000000000000FFFF00000500000A:280A", "0000000000000000FFFF00000900000A:C350", "01"),
                Some("10.0.0.5"),
            ),
            (
                line("B80D0120000000000000000005000000:C350", "B80D0120000000000000000009000000:192B", "01"),
                Some("2001:db8::5"),
            ),
            (line("000080FE000000000000000005000000:C350", "000080FE000000000000000009000000:192B", "01"), None),
        ];
        for (text, address) in table {
            let found = of_connection(&text, Some("10.96.0.1:443".parse().unwrap()));
            assert_eq!(found, address.map(|address| address.parse().unwrap()), "{text}");
        }
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid";
        assert_eq!(of_connection(head, None), None);
    }

    #[test]
    fn addresses_of_every_machine_are_none_of_a_node() {
        for address in ["127.0.0.1", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "224.0.0.1", "ff02::1"] {
            assert!(!is_telling(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.5", "192.0.2.1", "2001:db8::5", "fd00::1"] {
            assert!(is_telling(address.parse().unwrap()), "{address}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_far_as_it_fits(addresses in prop::collection::btree_set(any::<IpAddr>(), 0..300)) {
            let text = to_text(&addresses);
            prop_assert!(text.len() <= MAX_NODE_ADDRESSES);
            let read = from_text(text.as_bytes());
            prop_assert!(read.iter().eq(addresses.iter().take(read.len())));
            prop_assert!(read.len() == addresses.len() || read.len() > 90);
        }

        #[test]
        fn any_text_is_read(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (of_connection(&text, None), from_text(&bytes));
        }
    }
}
