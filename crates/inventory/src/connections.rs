//! Connections of this namespace to the API server and the kubelet, from `/proc/net`.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
};

use netdevice::node_address::of_connection;

/// Tables of TCP sockets of the calling thread's namespace; `/proc/net` is that of the process's first thread.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];

/// The node's own addresses of these connections. A table that cannot be read yields none: what the administrator or
/// the kubelet names is known without it.
pub(crate) fn read_node_addresses(api_server: Option<SocketAddr>) -> BTreeSet<IpAddr> {
    let tables = TABLES.iter().filter_map(|path| File::open(path).ok());
    // a line at a time: a node may have tens of thousands of connections
    let lines = tables.flat_map(|table| BufReader::new(table).lines().map_while(Result::ok));
    lines.filter_map(|line| of_connection(&line, api_server)).collect()
}
