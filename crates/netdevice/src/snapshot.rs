//! The inventory at one moment.
//!
//! Maps are persistent: a new snapshot shares everything that did not change with the one before. So one event among 10,000
//! links costs as much as one link, and only the parts that two snapshots do not share are compared.

#[cfg(not(feature = "selection"))]
// a hook has one snapshot, of a few links
use std::collections::{BTreeMap as OrdMap, BTreeSet as OrdSet};
use std::{net::IpAddr, sync::Arc};

#[cfg(feature = "selection")]
use imbl::{OrdMap, OrdSet, ordmap, ordset};

use crate::{link::Link, name::InterfaceName};

/// Address family of a route or rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

/// One next hop of a route to everywhere (prefix length 0, type unicast).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DefaultRoute {
    /// Family of the route.
    pub family: Family,
    /// `RTA_TABLE`.
    pub table: u32,
    /// `RTA_PRIORITY`: several default routes with different metrics are all kept.
    pub metric: u32,
    /// The link that the next hop is on.
    pub link: u32,
}

/// Host links, and what exclusion needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    links: OrdMap<u32, Arc<Link>>,
    by_name: OrdMap<InterfaceName, u32>,
    /// `(lower, upper, reporter)`: a port and its master, a parent and a link that is stacked on it. A pair is removed with the
    /// link that reported it; the other one may report it too.
    uppers: OrdSet<(u32, u32, u32)>,
    /// The same in the other direction.
    lowers: OrdSet<(u32, u32, u32)>,
    default_routes: OrdSet<DefaultRoute>,
    /// Tables that a routing rule refers to.
    reached_tables: OrdSet<(Family, u32)>,
    /// Addresses that the node is known by.
    node_addresses: OrdSet<IpAddr>,
    /// Links with one of these addresses. Other addresses are not stored: with 10,000 links they would be most of the memory.
    node_links: OrdSet<(u32, IpAddr)>,
    /// Links that a filter of the node sends packets out through.
    redirect_targets: OrdSet<u32>,
    /// Links that a link of another namespace is built on, and the kind of that.
    built_on_elsewhere: OrdMap<u32, Box<str>>,
}

impl Snapshot {
    /// Adds a link, or replaces the one with its index.
    pub fn insert_link(&mut self, link: Arc<Link>) {
        let is_where_it_was = |known: &Link| {
            (&known.name, known.master, known.parent) == (&link.name, link.master, link.parent)
                && self.by_name.get(&link.name) == Some(&link.index)
        };
        // most changes are of flags: a map that does not change is not copied
        if self.link(link.index).is_some_and(|known| is_where_it_was(known)) {
            self.links.insert(link.index, link);
            return;
        }
        self.remove_link(link.index);
        // the name of a link that was renamed meanwhile belongs to the newer link
        self.by_name.insert(link.name.clone(), link.index);
        for (lower, upper) in lowers_and_uppers(&link) {
            self.uppers.insert((lower, upper, link.index));
            self.lowers.insert((upper, lower, link.index));
        }
        self.links.insert(link.index, link);
    }

    /// Removes a link and its stacking; routes have events of their own.
    pub fn remove_link(&mut self, index: u32) -> Option<Arc<Link>> {
        let link = self.links.remove(&index)?;
        if self.by_name.get(&link.name) == Some(&index) {
            self.by_name.remove(&link.name);
        }
        for (lower, upper) in lowers_and_uppers(&link) {
            self.uppers.remove(&(lower, upper, index));
            self.lowers.remove(&(upper, lower, index));
        }
        Some(link)
    }

    /// Adds a default route; returns whether it is new.
    pub fn insert_default_route(&mut self, route: DefaultRoute) -> bool {
        let is_new = !self.default_routes.contains(&route);
        self.default_routes.insert(route);
        is_new
    }

    /// Removes a default route; returns whether it existed.
    pub fn remove_default_route(&mut self, route: &DefaultRoute) -> bool {
        let was_there = self.default_routes.contains(route);
        self.default_routes.remove(route);
        was_there
    }

    /// Replaces the default routes of all links.
    pub fn set_default_routes(&mut self, routes: impl IntoIterator<Item = DefaultRoute>) {
        self.default_routes = routes.into_iter().collect();
    }

    /// Replaces the tables that rules refer to.
    pub fn set_reached_tables(&mut self, tables: impl IntoIterator<Item = (Family, u32)>) {
        self.reached_tables = tables.into_iter().collect();
    }

    /// Replaces the addresses that the node is known by.
    pub fn set_node_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.node_addresses = addresses.into_iter().collect();
    }

    /// Replaces the links that have an address which the node is known by.
    pub fn set_node_links(&mut self, links: impl IntoIterator<Item = (u32, IpAddr)>) {
        self.node_links = links.into_iter().collect();
    }

    /// Replaces the links that a filter of the node sends packets out through (`tc ... action mirred`).
    pub fn set_redirect_targets(&mut self, links: impl IntoIterator<Item = u32>) {
        self.redirect_targets = links.into_iter().collect();
    }

    /// Replaces the links that a link of another network namespace is built on, each with the kind of that.
    pub fn set_built_on_elsewhere(&mut self, links: impl IntoIterator<Item = (u32, Box<str>)>) {
        self.built_on_elsewhere = links.into_iter().collect();
    }

    /// All links, by index.
    pub fn links(&self) -> &OrdMap<u32, Arc<Link>> {
        &self.links
    }

    /// The link with that index.
    pub fn link(&self, index: u32) -> Option<&Arc<Link>> {
        self.links.get(&index)
    }

    /// The link with that name; not with that alternative name.
    pub fn link_named(&self, name: &InterfaceName) -> Option<&Arc<Link>> {
        self.link(*self.by_name.get(name)?)
    }

    /// The default routes of every table.
    pub fn default_routes(&self) -> &OrdSet<DefaultRoute> {
        &self.default_routes
    }

    /// Addresses that the node is known by, whether a link has them or not.
    pub fn node_addresses(&self) -> &OrdSet<IpAddr> {
        &self.node_addresses
    }

    /// The links that have an address which the node is known by.
    pub fn node_links(&self) -> &OrdSet<(u32, IpAddr)> {
        &self.node_links
    }

    /// The links that a filter of the node sends packets out through.
    pub fn redirect_targets(&self) -> &OrdSet<u32> {
        &self.redirect_targets
    }

    /// The links that a link of another network namespace is built on, each with the kind of that.
    pub fn built_on_elsewhere(&self) -> &OrdMap<u32, Box<str>> {
        &self.built_on_elsewhere
    }

    /// Links on which something depends (a filter, or a link in another namespace) in only one of the two snapshots.
    #[cfg(feature = "selection")]
    pub fn differently_used<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let targets = self.redirect_targets.diff(&other.redirect_targets).map(|item| match item {
            ordset::DiffItem::Add(link) | ordset::DiffItem::Remove(link) => *link,
        });
        let built_on = self.built_on_elsewhere.diff(&other.built_on_elsewhere).map(|item| match item {
            ordmap::DiffItem::Add(link, _) | ordmap::DiffItem::Remove(link, _) => *link,
            ordmap::DiffItem::Update { new: (link, _), .. } => *link,
        });
        targets.chain(built_on)
    }

    /// Whether the link may be an uplink: a default route of any table goes through it, or it has an address that the
    /// node is known by.
    pub fn may_be_uplink(&self, link: u32) -> bool {
        self.default_routes.iter().any(|route| route.link == link) || self.node_links.iter().any(|(of, _)| *of == link)
    }

    /// Whether a routing rule refers to that table. True for every table until rules were read: fail closed.
    pub fn is_reached(&self, family: Family, table: u32) -> bool {
        self.reached_tables.is_empty() || self.reached_tables.contains(&(family, table))
    }

    /// Links directly above: the master, and what is stacked on the link.
    pub fn uppers(&self, index: u32) -> impl Iterator<Item = u32> + '_ {
        self.uppers.range((index, 0, 0)..=(index, u32::MAX, u32::MAX)).map(|(_, upper, _)| *upper)
    }

    /// Links directly below: what the link is stacked on, and the ports of a master.
    pub fn lowers(&self, index: u32) -> impl Iterator<Item = u32> + '_ {
        self.lowers.range((index, 0, 0)..=(index, u32::MAX, u32::MAX)).map(|(_, lower, _)| *lower)
    }

    /// Whether only links differ, so that routes and addresses need not be checked again.
    #[cfg(feature = "selection")]
    pub fn has_same_uplinks(&self, other: &Self) -> bool {
        self.default_routes.ptr_eq(&other.default_routes)
            && self.reached_tables.ptr_eq(&other.reached_tables)
            && self.node_links.ptr_eq(&other.node_links)
    }

    /// Whether stacking and masters are the same.
    #[cfg(feature = "selection")]
    pub fn has_same_stacking(&self, other: &Self) -> bool {
        self.uppers.ptr_eq(&other.uppers)
    }
}

fn lowers_and_uppers(link: &Link) -> impl Iterator<Item = (u32, u32)> + use<> {
    let master = link.master.map(|master| (link.index, master));
    let parent = link.parent.map(|parent| (parent, link.index));
    master.into_iter().chain(parent)
}
