//! Links in a sandbox that are not ours: CNI plugins make them.

use std::collections::BTreeSet;

use netdevice::{InterfaceName, LinkState};
use rtnl::Message;
use store::Namespace;

use crate::{
    error::{Error, WithSubject},
    inside::run_inside,
    read::{Which, read_bare},
    socket::RouteSocket,
};

/// Kinds of links that CNI plugins create in a sandbox, and do not move there.
const CREATED_BY_PLUGINS: [&str; 5] = ["macvlan", "macvtap", "ipvlan", "ipvtap", "veth"];

/// Most names of links that are read of a sandbox.
const MAX_NAMES: usize = 4096;

/// Whether a sandbox has a link of that name, or with that alternative name.
///
/// # Errors
///
/// When the namespace cannot be entered or read.
pub fn has_link(namespace: &Namespace, name: &InterfaceName) -> Result<bool, Error> {
    with_link(namespace, name, |_, link| Ok(link.is_some()))
}

/// The names of the links in a sandbox, at most some thousand: a Pod can make as many as it likes.
///
/// # Errors
///
/// When the namespace cannot be entered or read.
pub fn link_names(namespace: &Namespace) -> Result<BTreeSet<InterfaceName>, Error> {
    let inside = || {
        let mut socket = RouteSocket::open().subject("the kernel's network configuration")?;
        let mut names = BTreeSet::new();
        let mut look = |message: &Message<'_>| {
            let link = rtnl::link::parse(message.payload).ok().and_then(|link| link.to_link());
            if let Some(link) = link.filter(|_| names.len() < MAX_NAMES) {
                names.extend([link.name]);
            }
        };
        let listed = socket.each(&rtnl::link::dump, &mut look);
        listed.subject("the list of links")?.map_err(|error| Error::Read { what: "the list of links", error })?;
        Ok(names)
    };
    run_inside(namespace, inside).subject("the pod's network namespace")?
}

/// Deletes a link that a plugin created in a sandbox and cannot delete itself. A link of another kind stays: it may have been
/// moved there.
///
/// # Errors
///
/// When the namespace cannot be entered, or the kernel refuses.
pub fn delete_created(namespace: &Namespace, name: &InterfaceName) -> Result<(), Error> {
    with_link(namespace, name, |socket, link| {
        let is_created = |link: &LinkState| link.kind.as_deref().is_some_and(|kind| CREATED_BY_PLUGINS.contains(&kind));
        let Some(index) = link.filter(is_created).filter(|link| link.name == *name).map(|link| link.index) else {
            return Ok(());
        };
        let deleted = socket.change_one(move |batch| rtnl::link::delete(batch, index));
        deleted.subject("the kernel's network configuration")?.map_err(Error::Delete)
    })
}

fn with_link<T: Send>(
    namespace: &Namespace,
    name: &InterfaceName,
    work: impl FnOnce(&mut RouteSocket, Option<LinkState>) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let inside = || {
        let mut socket = RouteSocket::open().subject("the kernel's network configuration")?;
        // the kernel finds a link by an alternative name, too
        let link = read_bare(&mut socket, Which::Name(name))?;
        work(&mut socket, link)
    };
    run_inside(namespace, inside).subject("the pod's network namespace")?
}
