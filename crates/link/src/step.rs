//! Carries out the steps of a plan in one namespace, in few sends.

use std::net::IpAddr;

use netdevice::{
    InterfaceName,
    link::flags,
    plan::{LinkChange, Location, Step, address_request},
    state::{Address, ROUTE_BY_KERNEL, Route, route_attribute},
};
use rtnl::{
    address::Existing as ExistingAddress,
    link::attribute as ifla,
    route::{Existing as ExistingRoute, IPV6, next_hops, with_links},
};

use crate::{
    error::{Error, WithSubject},
    ioctl,
    kept::is_group,
    skipped::Skipped,
    socket::{Change, KernelError, RouteSocket},
    sysctl,
};

/// Where steps are carried out. The calling thread must be in the socket's namespace.
pub(crate) struct StepTarget<'a> {
    pub(crate) socket: &'a mut RouteSocket,
    pub(crate) location: Location,
    pub(crate) name: &'a InterfaceName,
    pub(crate) index: u32,
    /// Index of the link on the host: routes are written down with it.
    pub(crate) host_index: u32,
    /// Routes of the sandbox's own, which none of ours may stand in for.
    pub(crate) own_routes: &'a [Route],
}

/// A route, what to do beside another one to the same place, and its name in a report.
type NamedRoute = (String, (Route, ExistingRoute));

/// A route of another link, which has not moved.
fn as_they_were(route: &Route) -> NamedRoute {
    let mut again = route.clone();
    again.attributes.retain(|attribute| attribute.kind != route_attribute::CACHEINFO);
    (route.to_string(), (again, ExistingRoute::Join))
}

/// A request, and what it is about.
struct Pending {
    what: String,
    change: Change,
}

/// Announces an IPv4 address to the link's neighbours, in the send that adds it ([`crate::announce`]).
fn announcement(index: u32, address: &Address) -> Option<Pending> {
    let IpAddr::V4(address) = address.local else { return None };
    let change: Change = Box::new(move |batch| rtnl::neighbour::probe(batch, index, address));
    Some(Pending { what: ANNOUNCEMENT.to_owned(), change })
}

/// An address that is there is there; an alternative name that is there is another link's, and whatever else answers
/// `EEXIST` has not been done.
fn may_be_there(what: &str) -> bool {
    [ADDRESS, NEIGHBOUR].iter().any(|kind| what.starts_with(kind))
}

const ALTNAME: &str = "altname";
const ADDRESS: &str = "address";
const NEIGHBOUR: &str = "neighbour";
const ANNOUNCEMENT: &str = "announcement";
const FOREIGN: &str = "removal of the forwarding entry ";

/// How an attribute that is sent back is named in a report.
fn attribute_name(kind: u16) -> &'static str {
    match kind {
        ifla::BROADCAST => "broadcast address",
        ifla::LINKMODE => "link mode",
        ifla::CARRIER => "carrier",
        ifla::AF_SPEC => "IPv6 token",
        _ => "protodown",
    }
}

/// `nla_type` without its flags.
const KIND_MASK: u16 = 0x3fff;

impl StepTarget<'_> {
    /// Carries out all steps. On the host it never stops at an error: what could not be done is reported at the end. In a
    /// sandbox the first error ends it, for the device is returned.
    pub(crate) fn apply(&mut self, steps: Vec<Step>) -> Result<Vec<Skipped>, Error> {
        let mut skipped = Vec::new();
        let mut pending: Vec<Pending> = Vec::new();
        let comes_up = steps.iter().any(|step| matches!(step, Step::Flags(value, _) if value & flags::UP != 0));
        for step in steps {
            let arrives = match &step {
                Step::Address(address) if comes_up => announcement(self.index, address),
                _ => None,
            };
            match step {
                Step::Sysctl(setting) => {
                    // in its turn: a file takes effect at once
                    self.send(std::mem::take(&mut pending), &mut skipped)?;
                    let what = format!("net.{}.{}.{}", setting.family, setting.folder, setting.file);
                    match sysctl::write(self.name, &setting) {
                        Ok(()) => {}
                        Err(error) if self.location == Location::Host || error.raw_os_error() == Some(libc::EINVAL) => {
                            skipped.push(Skipped { what, reason: error.to_string() });
                        }
                        Err(error) => return Err(Error::Sysctl { what, error }),
                    }
                }
                Step::Routes(routes) => {
                    self.send(std::mem::take(&mut pending), &mut skipped)?;
                    skipped.extend(self.add_routes(routes)?);
                }
                Step::RoutesFrom(routes) => {
                    self.send(std::mem::take(&mut pending), &mut skipped)?;
                    skipped.extend(self.add_in_turn(routes.iter().map(as_they_were).collect())?);
                }
                Step::Neighbour(group) if is_group(&group) => {
                    let address = group.hardware_address().unwrap_or_default();
                    if let Err(error) = ioctl::add_group(self.socket, self.name, address) {
                        skipped.push(Skipped { what: format!("group {group}"), reason: error.to_string() });
                    }
                }
                other => pending.extend(self.requests(other)),
            }
            pending.extend(arrives);
        }
        self.send(pending, &mut skipped)?;
        Ok(skipped)
    }

    fn requests(&self, step: Step) -> Vec<Pending> {
        let index = self.index;
        let one = |what: String, change: Change| vec![Pending { what, change }];
        match step {
            Step::Link(change) => self.link_requests(change),
            Step::Attribute(attribute) => one(
                attribute_name(attribute.kind & KIND_MASK).into(),
                Box::new(move |batch| {
                    rtnl::link::set(batch, index, 0, 0).attribute(attribute.kind, &attribute.value);
                }),
            ),
            Step::Kind(kind, settings) => one(
                format!("{kind} settings"),
                Box::new(move |batch| rtnl::link::set_info_data(batch, index, &kind, &settings)),
            ),
            Step::AddAltname(name) => one(
                format!("{ALTNAME} {name}"),
                Box::new(move |batch| rtnl::link::add_altname(batch, index, name.as_bytes())),
            ),
            Step::RemoveAltname(name) => one(
                format!("{ALTNAME} {name}"),
                Box::new(move |batch| rtnl::link::remove_altname(batch, index, name.as_bytes())),
            ),
            Step::Flags(flags, mask) => one(
                "flags".into(),
                Box::new(move |batch| {
                    rtnl::link::set(batch, index, flags, mask);
                }),
            ),
            Step::Address(address) => {
                let (first, then) = address_request(&address);
                let what = format!("{ADDRESS} {address}");
                let again = address.clone();
                let mut requests = one(
                    what.clone(),
                    Box::new(move |batch| {
                        rtnl::address::add(batch, index, &address, first, ExistingAddress::Keep);
                    }),
                );
                if then != first {
                    requests.push(Pending {
                        what,
                        change: Box::new(move |batch| {
                            rtnl::address::add(batch, index, &again, then, ExistingAddress::Replace);
                        }),
                    });
                }
                requests
            }
            Step::Neighbour(neighbour) => one(
                format!("{NEIGHBOUR} {neighbour}"),
                Box::new(move |batch| rtnl::neighbour::add(batch, index, &neighbour)),
            ),
            Step::RemoveNeighbour(neighbour) => one(
                format!("{FOREIGN}{neighbour}"),
                Box::new(move |batch| rtnl::neighbour::remove(batch, index, &neighbour)),
            ),
            Step::Sysctl(_) | Step::Routes(_) | Step::RoutesFrom(_) => Vec::new(),
        }
    }

    /// One request for each attribute that a driver may refuse, so that one refusal does not take the others along.
    fn link_requests(&self, change: LinkChange) -> Vec<Pending> {
        let index = self.index;
        let mut requests = Vec::new();
        let mut set = |what: &str, kind: u16, value: Vec<u8>| {
            let change: Change = Box::new(move |batch| {
                rtnl::link::set(batch, index, 0, 0).attribute(kind, &value);
            });
            requests.push(Pending { what: what.to_owned(), change });
        };
        if let Some(mac) = change.mac {
            set("hardware address", ifla::ADDRESS, mac.as_bytes().to_vec());
        }
        if let Some(mtu) = change.mtu {
            set("mtu", ifla::MTU, mtu.to_ne_bytes().to_vec());
        }
        if let Some(length) = change.txqlen {
            set("transmit queue length", ifla::TXQLEN, length.to_ne_bytes().to_vec());
        }
        if let Some(group) = change.group {
            set("group", ifla::GROUP, group.to_ne_bytes().to_vec());
        }
        for (kind, size) in change.offload_sizes {
            set("segment size", kind, size.to_ne_bytes().to_vec());
        }
        if let Some(alias) = change.alias {
            set("alias", ifla::IFALIAS, alias.as_bytes().to_vec());
        }
        if let Some(master) = change.master {
            set("master", ifla::MASTER, master.to_ne_bytes().to_vec());
        }
        if let Some((kind, mode)) = change.macvlan_mode {
            requests.push(Pending {
                what: "macvlan mode".into(),
                change: Box::new(move |batch| rtnl::link::set_macvlan_mode(batch, index, &kind, mode)),
            });
        }
        if !change.ipv4_conf.is_empty() {
            let settings = change.ipv4_conf;
            requests.push(Pending {
                what: "net.ipv4.conf".into(),
                change: Box::new(move |batch| {
                    rtnl::link::set(batch, index, 0, 0).nest(ifla::AF_SPEC, |families| {
                        families.nest(ifla::AF_INET, |inet| {
                            inet.nest(ifla::INET_CONF, |conf| {
                                for (setting, value) in &settings {
                                    conf.attribute(*setting, &value.to_ne_bytes());
                                }
                            });
                        });
                    });
                }),
            });
        }
        requests
    }

    fn send(&mut self, pending: Vec<Pending>, skipped: &mut Vec<Skipped>) -> Result<(), Error> {
        if pending.is_empty() {
            return Ok(());
        }
        let (whats, changes): (Vec<String>, Vec<Change>) =
            pending.into_iter().map(|pending| (pending.what, pending.change)).unzip();
        let results = self.socket.change(changes).subject("the kernel's network configuration")?;
        for (what, result) in whats.into_iter().zip(results) {
            match result {
                Ok(()) => {}
                Err(_) if what == ANNOUNCEMENT => {}
                // it is there already: of the same program before it was killed, or of a manager of the host
                Err(error) if error.errno == libc::EEXIST && may_be_there(&what) => {}
                Err(error) if error.errno == libc::ENOENT && what.starts_with(FOREIGN) => {}
                Err(error) if self.location == Location::Host => {
                    skipped.push(Skipped { what, reason: error.to_string() })
                }
                Err(error) => return Err(Error::Configure { what, error }),
            }
        }
        Ok(())
    }

    /// Adds routes of the link, as far as they can be here.
    fn add_routes(&mut self, routes: Vec<Route>) -> Result<Vec<Skipped>, Error> {
        let mut skipped = Vec::new();
        let mut left = Vec::new();
        for route in routes {
            match self.fitting(&route) {
                Ok(fitting) => left.push((route.to_string(), fitting)),
                Err(reason) => skipped.push(Skipped { what: format!("route {route}"), reason }),
            }
        }
        skipped.extend(self.add_in_turn(left)?);
        Ok(skipped)
    }

    /// Adds routes, again those whose gateway another one leads to, until nothing more comes of it.
    fn add_in_turn(&mut self, mut left: Vec<NamedRoute>) -> Result<Vec<Skipped>, Error> {
        let mut skipped = Vec::new();
        loop {
            let before = left.len();
            let changes = left.iter().cloned().map(|(_, (route, existing))| -> Change {
                Box::new(move |batch| rtnl::route::add(batch, &route, existing))
            });
            let results = self.socket.change(changes.collect()).subject("the kernel's routes")?;
            let taken = |error: &KernelError| error.errno == libc::EEXIST;
            let mut again = Vec::new();
            let mut last = Vec::new();
            for (route, result) in left.into_iter().zip(results) {
                match result {
                    Ok(()) => {}
                    Err(error) if taken(&error) && self.location == Location::Host => {}
                    Err(error) if taken(&error) => {
                        let reason = "the pod has a route of its own to that place".to_owned();
                        skipped.push(Skipped { what: format!("route {}", route.0), reason });
                    }
                    Err(error) => {
                        again.push(route);
                        last.push(error);
                    }
                }
            }
            if again.is_empty() || again.len() == before {
                let whats = again.into_iter().zip(last);
                skipped.extend(
                    whats
                        .map(|((what, _), error)| Skipped { what: format!("route {what}"), reason: error.to_string() }),
                );
                return Ok(skipped);
            }
            left = again;
        }
    }

    /// The route as it can be here, or why it cannot.
    fn fitting(&self, route: &Route) -> Result<(Route, ExistingRoute), String> {
        if route.attribute(route_attribute::NH_ID).is_some() {
            return Err("it uses a next-hop object, which went away with the device".into());
        }
        if self.location == Location::Sandbox {
            if self.own_routes.iter().any(|own| own.has_same_target(route)) {
                return Err("the pod has a route of its own to that place".into());
            }
            if route.is_default() && matches!(route.table, 253..=255) {
                return Err("the pod's default route is its own".into());
            }
        }
        // what the kernel makes of an address is there already; what was written may stand beside a route of another
        // link, or of this one, to the same place
        let existing = if route.protocol == ROUTE_BY_KERNEL || route.family == IPV6 {
            ExistingRoute::Keep
        } else {
            ExistingRoute::Join
        };
        let Some(paths) = route.attribute(route_attribute::MULTIPATH) else {
            return Ok((self.on_link(route), existing));
        };
        let others = next_hops(&paths.value).any(|hop| hop.link != self.host_index);
        if others && self.location == Location::Sandbox {
            return Err("it has next hops on other links of the node".into());
        }
        let mut route = self.on_link(route);
        if route.family == IPV6 {
            // IPv6 keeps each next hop as a route of its own: those on other links stayed, ours join them
            let ours = route
                .attributes
                .iter_mut()
                .filter(|attribute| attribute.kind & KIND_MASK == route_attribute::MULTIPATH);
            ours.for_each(|paths| paths.value = with_links(&paths.value, |link| (link == self.index).then_some(link)));
            return Ok((route, ExistingRoute::Join));
        }
        Ok((route, existing))
    }

    /// The route with this namespace's index of the link.
    fn on_link(&self, route: &Route) -> Route {
        let mut route = route.clone();
        let here = |index: u32| Some(if index == self.host_index { self.index } else { index });
        route.attributes.retain(|attribute| attribute.kind != route_attribute::CACHEINFO);
        for attribute in &mut route.attributes {
            match attribute.kind {
                route_attribute::OIF => attribute.value = self.index.to_ne_bytes().to_vec(),
                route_attribute::MULTIPATH => attribute.value = with_links(&attribute.value, here),
                _ => {}
            }
        }
        route
    }
}
