//! From rtnetlink messages to snapshots: values in, values out.
//!
//! The kernel reports in two ways, in the words of kube-runtime's watcher: a part that is listed goes through *init*,
//! *init apply* for each object and *init done*; between lists each notification is *applied*. Some things cannot be
//! known from notifications (the kernel removes IPv4 routes without a notification when their link or address is removed):
//! then the part is *stale* until it was listed again. [`State::next_snapshot`] makes a snapshot of what is known, if it differs
//! from the one before.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt, mem,
    net::IpAddr,
    sync::Arc,
};

use netdevice::{
    Link, Snapshot,
    link::{Hardware, flags},
    snapshot::{DefaultRoute, Family},
};
use rtnl::{
    Message, action, address, link,
    message::{flags as message_flags, kind},
    nexthop::{self, NextHopObject},
    route::{self, DefaultRouteByObject},
    rule,
};

/// How often redirects are listed after one may have been removed: with the pause between lists that keep changing, for a
/// second or two.
const REDIRECT_LISTS: u32 = 20;

/// What the kernel lists as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// All links.
    Links,
    /// All addresses, of which those are kept that the node is known by.
    Addresses,
    /// All routes of a family.
    Routes(Family),
    /// All next-hop objects.
    NextHops,
    /// All actions of filters that send packets to a link.
    Redirects,
    /// All routing rules of a family.
    Rules(Family),
}

impl Part {
    /// All parts. Rules come last: until they are known, every table counts.
    pub(crate) const ALL: [Self; 8] = [
        Self::Links,
        Self::Addresses,
        Self::Routes(Family::V4),
        Self::Routes(Family::V6),
        Self::NextHops,
        Self::Redirects,
        Self::Rules(Family::V4),
        Self::Rules(Family::V6),
    ];
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Links => "links",
            Self::Addresses => "addresses",
            Self::Routes(Family::V4) => "IPv4 routes",
            Self::Routes(Family::V6) => "IPv6 routes",
            Self::NextHops => "next hops",
            Self::Rules(Family::V4) => "IPv4 routing rules",
            Self::Rules(Family::V6) => "IPv6 routing rules",
            Self::Redirects => "traffic control actions",
        })
    }
}

/// What notifications said about a link since the last snapshot.
#[derive(Debug)]
struct PendingLink {
    /// As it is now; none if it was removed.
    link: Option<Link>,
    /// Whether it was removed in between: another device may have its index.
    was_gone: bool,
}

/// What is known, and what of it is in a snapshot already.
#[derive(Debug, Default)]
pub(crate) struct State {
    snapshot: Snapshot,
    pending: HashMap<u32, PendingLink>,
    routes: BTreeSet<DefaultRoute>,
    /// Default routes that name a next-hop object; the kernel may or may not name its links too.
    routes_by_object: BTreeSet<DefaultRouteByObject>,
    objects: HashMap<u32, NextHopObject>,
    /// Tables that rules lead to; table 0 stands for the tables of VRFs (`FRA_L3MDEV`).
    rules: BTreeSet<(Family, u32)>,
    /// Addresses that the node is known by.
    node_addresses: BTreeSet<IpAddr>,
    /// The links that have them.
    node_links: BTreeSet<(u32, IpAddr)>,
    /// The links that filters send packets to.
    redirects: BTreeSet<u32>,
    /// How often they are still to be listed: the kernel removes an action some time after its filter.
    redirects_due: u32,
    /// What the snapshot says of [`State::reached`].
    reached: BTreeSet<(Family, u32)>,
    stale: BTreeSet<Part>,
    listed: Listed,
    /// Whether hardware is read again although nothing indicates a change.
    reads_again: bool,
}

/// What the list so far has.
#[derive(Debug, Default)]
struct Listed {
    links: HashSet<u32>,
    routes: BTreeSet<DefaultRoute>,
    routes_by_object: BTreeSet<DefaultRouteByObject>,
    objects: HashMap<u32, NextHopObject>,
    rules: BTreeSet<(Family, u32)>,
    node_links: BTreeSet<(u32, IpAddr)>,
    redirects: BTreeSet<u32>,
}

impl State {
    /// Knows nothing: every part is stale.
    pub(crate) fn new() -> Self {
        let mut state = Self::default();
        state.lose_all();
        state
    }

    /// The parts that have to be listed before the next snapshot; addresses only if any are searched for.
    pub(crate) fn stale(&self) -> Vec<Part> {
        let is_asked_for = |part: &&Part| **part != Part::Addresses || !self.node_addresses.is_empty();
        self.stale.iter().filter(is_asked_for).copied().collect()
    }

    /// The addresses that the node is known by, as they are now. New ones are searched for on every link.
    pub(crate) fn set_node_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        if addresses != self.node_addresses {
            self.node_links.retain(|(_, address)| addresses.contains(address));
            self.node_addresses = addresses;
            self.stale.insert(Part::Addresses);
        }
    }

    /// Notifications were lost: everything is to be listed again.
    pub(crate) fn lose_all(&mut self) {
        self.stale.extend(Part::ALL);
        self.reads_again = true;
    }

    /// Links and their hardware are to be read again: the kernel does not announce an alias or alternative name that changes
    /// on a link that is down (`netdev_state_change`), nor changes in sysfs.
    pub(crate) fn refresh(&mut self) {
        self.stale.extend([Part::Links, Part::Redirects]);
        self.reads_again = true;
    }

    /// A list begins, or begins again.
    pub(crate) fn init(&mut self) {
        self.listed = Listed::default();
    }

    /// One object of the list.
    pub(crate) fn init_apply(&mut self, part: Part, message: &Message<'_>) {
        match (part, message.kind) {
            (Part::Links, kind::NEWLINK) => {
                let Ok(message) = link::parse(message.payload) else { return };
                if let Some(link) = message.to_link() {
                    self.listed.links.insert(link.index);
                    self.set_pending(link.index, Some(link));
                }
            }
            (Part::Addresses, kind::NEWADDR) => {
                let found = self.node_link(message.payload);
                self.listed.node_links.extend(found);
            }
            (Part::Routes(family), kind::NEWROUTE) => {
                let routes = route::default_routes(message.payload).into_iter();
                self.listed.routes.extend(routes.filter(|route| route.family == family));
                let by_object = route::default_route_by_object(message.payload);
                self.listed.routes_by_object.extend(by_object.filter(|route| route.family == family));
            }
            (Part::NextHops, kind::NEWNEXTHOP) => {
                let object = nexthop::parse(message.payload).ok();
                self.listed.objects.extend(object.map(|object| (object.id, object)));
            }
            (Part::Rules(family), kind::NEWRULE) => {
                let table = rule::reached_table(message.payload);
                self.listed.rules.extend(table.filter(|(of, _)| *of == family));
            }
            (Part::Redirects, kind::GETACTION) => {
                self.listed.redirects.extend(action::redirect_targets(message.payload));
            }
            _ => {}
        }
    }

    /// The list is complete: what it does not have is not there.
    pub(crate) fn init_done(&mut self, part: Part) {
        match part {
            Part::Links => {
                let known = self.snapshot.links().keys().chain(self.pending.keys());
                let gone: Vec<u32> = known.filter(|index| !self.listed.links.contains(index)).copied().collect();
                gone.into_iter().for_each(|index| self.set_pending(index, None));
            }
            Part::Addresses => self.node_links.clear(),
            Part::Routes(family) => {
                self.routes.retain(|route| route.family != family);
                self.routes_by_object.retain(|route| route.family != family);
            }
            Part::NextHops => self.objects.clear(),
            Part::Rules(family) => self.rules.retain(|(of, _)| *of != family),
            Part::Redirects => self.redirects.clear(),
        }
        self.init_interrupted();
        let is_due_again = part == Part::Redirects && self.redirects_due > 0 && !self.redirects.is_empty();
        if is_due_again {
            self.redirects_due -= 1;
        } else {
            self.stale.remove(&part);
        }
    }

    /// The list may be incomplete: what it has exists, and the part stays stale.
    pub(crate) fn init_interrupted(&mut self) {
        let listed = mem::take(&mut self.listed);
        self.routes.extend(listed.routes);
        self.routes_by_object.extend(listed.routes_by_object);
        self.objects.extend(listed.objects);
        self.rules.extend(listed.rules);
        self.node_links.extend(listed.node_links);
        self.redirects.extend(listed.redirects);
    }

    /// One notification.
    pub(crate) fn apply(&mut self, message: &Message<'_>) {
        let payload = message.payload;
        match message.kind {
            kind::NEWLINK | kind::DELLINK => self.apply_link(message),
            // the kernel does not say which route was replaced
            kind::NEWROUTE if message.flags & message_flags::REPLACE != 0 => self.lose_routes_like(payload),
            kind::NEWROUTE => {
                self.routes.extend(route::default_routes(payload));
                self.routes_by_object.extend(route::default_route_by_object(payload));
            }
            // others may have the same fields here: another gateway or type of service
            kind::DELROUTE => self.lose_routes_like(payload),
            kind::NEWADDR => {
                let found = self.node_link(payload);
                self.node_links.extend(found);
            }
            kind::DELADDR => {
                let Ok((index, address)) = address::parse(payload) else { return };
                if self.node_links.contains(&(index, address.local)) {
                    // it may be there a second time, with another prefix length
                    self.stale.insert(Part::Addresses);
                }
                if address.local.is_ipv4() {
                    self.lose_routes_through(index);
                }
            }
            kind::NEWNEXTHOP | kind::DELNEXTHOP => self.apply_next_hop(message),
            kind::NEWRULE => match rule::reached_table(payload) {
                Some(reached) if !self.rules.contains(&reached) => _ = self.stale.insert(Part::Rules(reached.0)),
                _ => {}
            },
            kind::NEWTFILTER | kind::NEWACTION => _ = self.stale.insert(Part::Redirects),
            kind::DELTFILTER | kind::DELACTION | kind::DELQDISC => self.lose_redirects(),
            kind::DELRULE => {
                if let Some((family, _)) = rule::reached_table(payload) {
                    self.stale.insert(Part::Rules(family));
                }
            }
            _ => {}
        }
    }

    fn apply_link(&mut self, message: &Message<'_>) {
        let is_gone = message.kind == kind::DELLINK;
        let Ok(message) = link::parse(message.payload) else {
            self.stale.insert(Part::Links);
            return;
        };
        // a port that leaves its bridge is a DELLINK too, and wireless events are an empty NEWLINK
        if message.family != 0 || message.is_partial() {
            return;
        }
        if is_gone || message.flags & flags::UP == 0 {
            self.lose_routes_through(message.index);
        }
        if is_gone {
            self.lose_redirects();
            self.set_pending(message.index, None);
        } else if let Some(link) = message.to_link() {
            self.set_pending(message.index, Some(link));
        }
    }

    /// The links of a default route change with its next-hop objects, and it may be removed with them without a
    /// notification.
    fn apply_next_hop(&mut self, message: &Message<'_>) {
        let Ok(object) = nexthop::parse(message.payload) else {
            self.stale.insert(Part::NextHops);
            return;
        };
        let names = |route: &&DefaultRouteByObject| {
            let group = self.objects.get(&route.object);
            route.object == object.id || group.is_some_and(|group| group.members.contains(&object.id))
        };
        self.stale.extend(self.routes_by_object.iter().filter(names).map(|route| Part::Routes(route.family)));
        if message.kind == kind::NEWNEXTHOP {
            self.objects.insert(object.id, object);
        } else {
            self.objects.remove(&object.id);
        }
    }

    /// The default routes, those by next-hop objects through each of the objects' links.
    fn all_routes(&self) -> impl Iterator<Item = DefaultRoute> + '_ {
        let by_object = self.routes_by_object.iter().flat_map(|route| {
            let object = self.objects.get(&route.object);
            let members = object.into_iter().flat_map(|group| &group.members).filter_map(|id| self.objects.get(id));
            object.into_iter().chain(members).filter_map(|object| Some(route.through(object.link?)))
        });
        self.routes.iter().copied().chain(by_object)
    }

    /// The link of an address's message, if the node is known by that address.
    fn node_link(&self, payload: &[u8]) -> Option<(u32, IpAddr)> {
        if self.node_addresses.is_empty() {
            return None;
        }
        let (index, address) = address::parse(payload).ok()?;
        self.node_addresses.contains(&address.local).then_some((index, address.local))
    }

    fn set_pending(&mut self, index: u32, link: Option<Link>) {
        let is_gone = link.is_none();
        if is_gone {
            self.node_links.retain(|(of, _)| *of != index);
        }
        let pending = self.pending.entry(index).or_insert(PendingLink { link: None, was_gone: false });
        pending.was_gone |= is_gone;
        pending.link = link;
    }

    /// Default routes of that message's family have to be listed again, if it is about one.
    fn lose_routes_like(&mut self, payload: &[u8]) {
        if let Some(family) = route::family_of_default(payload) {
            self.stale.insert(Part::Routes(family));
        }
    }

    /// Filters are removed with what they are on, without a notification, and actions after their filter
    /// (`tcf_queue_work`).
    fn lose_redirects(&mut self) {
        if !self.redirects.is_empty() {
            self.redirects_due = REDIRECT_LISTS;
            self.stale.insert(Part::Redirects);
        }
    }

    fn lose_routes_through(&mut self, link: u32) {
        let through = self.all_routes().filter(|route| route.link == link);
        let families: Vec<Part> = through.map(|route| Part::Routes(route.family)).collect();
        if !families.is_empty() && !self.routes_by_object.is_empty() {
            self.stale.insert(Part::NextHops);
        }
        self.stale.extend(families);
    }

    /// Makes a snapshot of what is known, if it differs from the one before. `read` reads the hardware of a link; it is
    /// called for physical links that are new, renamed, or changed their carrier, and for virtual functions when
    /// their physical function may have another name.
    pub(crate) fn next_snapshot(&mut self, mut read: impl FnMut(&Link) -> Option<Hardware>) -> Option<Snapshot> {
        let reads_again = mem::take(&mut self.reads_again);
        let mut physical_functions_changed = reads_again;
        let mut changed = false;
        for (index, pending) in mem::take(&mut self.pending) {
            let before = self.snapshot.link(index).cloned();
            let Some(mut link) = pending.link else {
                changed |= before.is_some();
                physical_functions_changed |= before.as_deref().is_some_and(is_physical_function);
                self.snapshot.remove_link(index);
                continue;
            };
            let known = before.as_deref().filter(|before| {
                !pending.was_gone && !reads_again && before.name == link.name && before.kind == link.kind
            });
            let renamed = known.is_none();
            match known.filter(|known| known.has_carrier() == link.has_carrier() && known.is_up() == link.is_up()) {
                Some(known) => link.hardware.clone_from(&known.hardware),
                None => link.hardware = self.read_hardware(&link, &mut read),
            }
            let is_named = self.snapshot.link_named(&link.name).is_some_and(|named| named.index == index);
            if before.as_deref() == Some(&link) && is_named {
                continue;
            }
            physical_functions_changed |= renamed && is_physical_function(&link);
            changed = true;
            self.snapshot.insert_link(Arc::new(link));
        }
        if physical_functions_changed {
            changed |= self.read_virtual_functions(&mut read);
        }
        changed |= self.update_routes();
        changed |= self.update_node_addresses();
        if !self.snapshot.redirect_targets().iter().eq(&self.redirects) {
            self.snapshot.set_redirect_targets(self.redirects.iter().copied());
            changed = true;
        }
        changed.then(|| self.snapshot.clone())
    }

    /// Reads a link's hardware; what has not changed stays shared with the snapshot before.
    fn read_hardware(&self, link: &Link, read: &mut impl FnMut(&Link) -> Option<Hardware>) -> Option<Arc<Hardware>> {
        if link.kind.is_some() || link.is_loopback() {
            return None;
        }
        let found = read(link)?;
        let before = self.snapshot.link(link.index).and_then(|before| before.hardware.clone());
        Some(before.filter(|before| **before == found).unwrap_or_else(|| Arc::new(found)))
    }

    fn read_virtual_functions(&mut self, read: &mut impl FnMut(&Link) -> Option<Hardware>) -> bool {
        let is_function =
            |link: &&Arc<Link>| link.hardware.as_ref().is_some_and(|hardware| hardware.virtual_function.is_some());
        let functions: Vec<Arc<Link>> = self.snapshot.links().values().filter(is_function).cloned().collect();
        let mut changed = false;
        for link in functions {
            let hardware = self.read_hardware(&link, read);
            if hardware != link.hardware {
                self.snapshot.insert_link(Arc::new(Link { hardware, ..Link::clone(&link) }));
                changed = true;
            }
        }
        changed
    }

    fn update_routes(&mut self) -> bool {
        let mut changed = false;
        let routes: BTreeSet<DefaultRoute> = self.all_routes().collect();
        let reached = self.reached(&routes);
        if !self.snapshot.default_routes().iter().eq(&routes) {
            self.snapshot.set_default_routes(routes);
            changed = true;
        }
        if reached != self.reached {
            self.snapshot.set_reached_tables(reached.iter().copied());
            self.reached = reached;
            changed = true;
        }
        changed
    }

    fn update_node_addresses(&mut self) -> bool {
        let mut changed = false;
        if !self.snapshot.node_addresses().iter().eq(&self.node_addresses) {
            self.snapshot.set_node_addresses(self.node_addresses.iter().copied());
            changed = true;
        }
        if !self.snapshot.node_links().iter().eq(&self.node_links) {
            self.snapshot.set_node_links(self.node_links.iter().copied());
            changed = true;
        }
        changed
    }

    /// The tables that a rule leads to. A kernel without rules for a family, and a rule that leads to whichever VRF a
    /// packet belongs to, reach all that have a default route.
    fn reached(&self, routes: &BTreeSet<DefaultRoute>) -> BTreeSet<(Family, u32)> {
        let mut reached = self.rules.clone();
        for family in [Family::V4, Family::V6] {
            let any = !self.rules.iter().any(|(of, _)| *of == family);
            if any || reached.remove(&(family, 0)) {
                let routes = routes.iter().filter(|route| route.family == family);
                reached.extend(routes.map(|route| (family, route.table)));
            }
        }
        reached
    }
}

/// Whether virtual functions may name this link as their physical function.
fn is_physical_function(link: &Link) -> bool {
    link.hardware.as_ref().is_some_and(|hardware| hardware.virtual_function.is_none())
}

#[cfg(test)]
mod tests;
