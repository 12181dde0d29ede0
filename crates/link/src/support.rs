//! What this kernel has of what devices need. Nothing is created on the host.

use std::io;

use netdevice::acquisition::ChildKind;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use crate::{inside::run_in_new_namespace, socket::RouteSocket};

/// `RTNLGRP_NSID` (`include/uapi/linux/rtnetlink.h`).
const GROUP_OF_NAMESPACES: u32 = 28;

/// Whether the kernel can create links of these kinds, in their order. It loads the module of a kind where it has one.
///
/// In a network namespace of its own, each kind is asked for on a parent that does not exist. A kernel without the kind says
/// EOPNOTSUPP, before it looks for the parent (`__rtnl_newlink` in `net/core/rtnetlink.c`).
///
/// # Errors
///
/// Without `CAP_SYS_ADMIN`, or when there is no socket.
pub fn supported_kinds(kinds: &[ChildKind]) -> io::Result<Vec<bool>> {
    let is_supported = |socket: &mut RouteSocket, kind: ChildKind| {
        let refused = socket.change_one(move |batch| _ = rtnl::link::create(batch, 0, NO_PARENT, kind))?;
        Ok(refused.err().is_none_or(|error| error.errno != libc::EOPNOTSUPP))
    };
    run_in_new_namespace(|| {
        let mut socket = RouteSocket::open()?;
        kinds.iter().map(|kind| is_supported(&mut socket, *kind)).collect()
    })?
}

/// Index of no link: a new namespace has `lo` and what modules add, such as tunnels.
const NO_PARENT: u32 = i32::MAX as u32;

/// Joins the group that reports the end of namespaces, and leaves it.
///
/// # Errors
///
/// When the kernel has none.
pub fn follow_namespaces() -> io::Result<()> {
    Socket::new(NETLINK_ROUTE)?.add_membership(GROUP_OF_NAMESPACES)
}

#[cfg(test)]
mod tests {
    use netdevice::acquisition::MacvlanMode;

    use super::*;

    #[test]
    fn a_kind_that_the_kernel_has_is_told_from_one_that_it_has_not_and_none_is_created() {
        // every kernel that these tests run on has macvlan; see hack/README.md
        let macvlan = ChildKind::Macvlan { mode: MacvlanMode::Bridge };
        assert_eq!(supported_kinds(&[macvlan]).unwrap(), [true]);
        follow_namespaces().unwrap();
    }
}
