//! The default route of a Pod that one of its further interfaces takes from the others, and gives back.
//!
//! Only the main table: rules of the Pod that lead to other tables are its own matter.

use std::net::IpAddr;

use netdevice::{
    InterfaceName,
    state::{Attribute, ROUTE_BY_ADVERTISEMENT, ROUTE_CLONED, ROUTE_UNICAST, Route, TABLE_MAIN, route_attribute},
};
use rtnl::{
    message::kind,
    route::{Existing, IPV4, IPV6, leads_through},
};
use store::Namespace;

use crate::{
    error::{Error, WithSubject},
    inside::run_inside,
    read::{Which, read_bare},
    socket::{KernelError, RouteSocket},
};

/// `RTPROT_BOOT`: what `ip` and CNI plugins give their routes.
const BY_BOOT: u8 = 3;

/// The default routes of other interfaces that [`take_default_route`] would delete and return, for the caller to keep before.
///
/// # Errors
///
/// When the namespace or its routes cannot be read.
pub fn default_routes_of_others(
    namespace: &Namespace,
    interface: &InterfaceName,
    gateways: &[IpAddr],
) -> Result<Vec<Route>, Error> {
    in_namespace(namespace, |socket| {
        let index = read_bare(socket, Which::Name(interface))?.map_or(0, |link| link.index);
        let mut removed = Vec::new();
        for family in [IPV4, IPV6] {
            if gateways.iter().any(|gateway| gateway.is_ipv4() == (family == IPV4)) {
                removed.extend(default_routes(socket, family)?);
            }
        }
        Ok(Taken { index, added: Vec::new(), removed }.into_routes_of_others())
    })
}

/// Makes `gateways` on `interface` the only default routes of their families. Returns the deleted default routes of other
/// interfaces, which the caller keeps for [`restore_default_routes`]; a second call returns none.
///
/// The new route is added first, so that there is no moment without one, and a gateway that cannot be reached changes
/// nothing. A route by a router advertisement is deleted and not returned: the next advertisement brings it.
///
/// # Errors
///
/// When the namespace or its routes cannot be read, it has no such interface, or the kernel refuses. Then the routes are as
/// before, as far as possible.
pub fn take_default_route(
    namespace: &Namespace,
    interface: &InterfaceName,
    gateways: &[IpAddr],
) -> Result<Vec<Route>, Error> {
    in_namespace(namespace, |socket| {
        let what = || format!("the default route through {interface}");
        let link = read_bare(socket, Which::Name(interface))?.filter(|link| link.name == *interface);
        let no_link = || Error::Configure { what: what(), error: KernelError { errno: libc::ENODEV, text: None } };
        let index = link.ok_or_else(no_link)?.index;
        let mut taken = Taken { index, added: Vec::new(), removed: Vec::new() };
        taken.take(socket, gateways).map_err(|failure| match failure {
            Failure::Refused(error) => {
                taken.undo(socket);
                Error::Configure { what: what(), error }
            }
            Failure::Other(error) => error,
        })?;
        Ok(taken.into_routes_of_others())
    })
}

/// Adds default routes that [`take_default_route`] returned, after the interface that took them is gone or has lost its own.
/// A route that is there already, or whose interface is gone, is left out.
///
/// # Errors
///
/// When the namespace cannot be entered, or with the first route that the kernel refuses; the others are added.
pub fn restore_default_routes(namespace: &Namespace, routes: &[Route]) -> Result<(), Error> {
    in_namespace(namespace, |socket| {
        let mut result = Ok(());
        for route in routes {
            // the kernel would say of an IPv4 route only that its gateway is invalid
            if let Some(index) = route.link()
                && read_bare(socket, Which::Index(index))?.is_none()
            {
                continue;
            }
            match add(socket, route)? {
                Err(error) if ![libc::EEXIST, libc::ENODEV].contains(&error.errno) && result.is_ok() => {
                    result = Err(Error::Configure { what: format!("the route {route}"), error });
                }
                _ => {}
            }
        }
        result
    })
}

fn in_namespace<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce(&mut RouteSocket) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let inside = || work(&mut RouteSocket::open().subject("the kernel's network configuration")?);
    run_inside(namespace, inside).subject("the pod's network namespace")?
}

/// The kernel's refusal, after which there is something to undo, or a socket that fails.
enum Failure {
    Refused(KernelError),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::Refused(error)
    }
}

/// What has been changed for one link.
struct Taken {
    index: u32,
    added: Vec<Route>,
    removed: Vec<Route>,
}

impl Taken {
    fn take(&mut self, socket: &mut RouteSocket, gateways: &[IpAddr]) -> Result<(), Failure> {
        for family in [IPV4, IPV6] {
            let routes: Vec<Route> =
                gateways.iter().map(|gateway| self.route(*gateway)).filter(|route| route.family == family).collect();
            if !routes.is_empty() {
                self.take_family(socket, family, &routes)?;
            }
        }
        Ok(())
    }

    fn take_family(&mut self, socket: &mut RouteSocket, family: u8, routes: &[Route]) -> Result<(), Failure> {
        let present = default_routes(socket, family)?;
        let is_one_of = |one: &Route, routes: &[Route]| routes.iter().any(|other| has_same_hop(one, other));
        for route in routes.iter().filter(|route| !is_one_of(route, &present)) {
            match add(socket, route)? {
                Err(error) if error.errno != libc::EEXIST => return Err(error.into()),
                Err(_) => {}
                Ok(()) => self.added.push(route.clone()),
            }
        }
        let mut had_hop = false;
        for route in present.into_iter().filter(|route| !is_one_of(route, routes)) {
            match remove(socket, &route)? {
                // it went away meanwhile
                Err(error) if error.errno == libc::ESRCH => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    had_hop |= route.link().is_none() && leads_through(&route, self.index);
                    self.removed.push(route);
                }
            }
        }
        // a route with several hops takes one that it shares with ours along
        for route in routes.iter().filter(|_| had_hop) {
            match add(socket, route)? {
                Err(error) if error.errno != libc::EEXIST => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn route(&self, gateway: IpAddr) -> Route {
        let (family, address) = match gateway {
            IpAddr::V4(address) => (IPV4, address.octets().to_vec()),
            IpAddr::V6(address) => (IPV6, address.octets().to_vec()),
        };
        let attributes = vec![
            Attribute { kind: route_attribute::GATEWAY, value: address },
            Attribute { kind: route_attribute::OIF, value: self.index.to_ne_bytes().to_vec() },
        ];
        Route {
            family,
            dst_len: 0,
            src_len: 0,
            tos: 0,
            table: TABLE_MAIN,
            protocol: BY_BOOT,
            scope: 0,
            kind: ROUTE_UNICAST,
            flags: 0,
            attributes,
        }
    }

    /// Makes the routes what they were. What the kernel refuses now stays as it is.
    fn undo(&mut self, socket: &mut RouteSocket) {
        for route in &self.removed {
            let _ = add(socket, route);
        }
        for route in &self.added {
            let _ = remove(socket, route);
        }
    }

    fn into_routes_of_others(self) -> Vec<Route> {
        let is_lasting = |route: &Route| {
            route.protocol != ROUTE_BY_ADVERTISEMENT && route.attribute(route_attribute::CACHEINFO).is_none()
        };
        let is_of_others = |route: &Route| route.link() != Some(self.index);
        self.removed.into_iter().filter(|route| is_lasting(route) && is_of_others(route)).collect()
    }
}

/// The default routes of a family in the main table.
fn default_routes(socket: &mut RouteSocket, family: u8) -> Result<Vec<Route>, Error> {
    let what = "the pod's routes";
    let routes = socket.dump(|batch| rtnl::route::dump(batch, family, 0)).subject(what)?;
    let routes = routes.map_err(|error| Error::Read { what, error })?;
    let is_default = |route: &Route| {
        (route.family, route.dst_len, route.table) == (family, 0, TABLE_MAIN)
            && route.kind == ROUTE_UNICAST
            && route.flags & ROUTE_CLONED == 0
    };
    Ok(routes.of(kind::NEWROUTE).filter_map(|payload| rtnl::route::parse(payload).ok()).filter(is_default).collect())
}

/// Whether two routes have the same single gateway and link.
fn has_same_hop(one: &Route, other: &Route) -> bool {
    let gateway = |route: &Route| route.attribute(route_attribute::GATEWAY).map(|gateway| gateway.value.clone());
    one.link() == other.link() && gateway(one).is_some() && gateway(one) == gateway(other)
}

/// Adds a route behind or beside others.
fn add(socket: &mut RouteSocket, route: &Route) -> Result<Result<(), KernelError>, Error> {
    let route = for_request(route);
    let added = socket.change_one(move |batch| rtnl::route::add(batch, &route, Existing::Join));
    added.subject("the kernel's routes")
}

fn remove(socket: &mut RouteSocket, route: &Route) -> Result<Result<(), KernelError>, Error> {
    let route = for_request(route);
    socket.change_one(move |batch| rtnl::route::remove(batch, &route)).subject("the kernel's routes")
}

/// A route without what the kernel only reports: counters, and the hops of a next-hop object beside its id
/// (`rtm_to_fib_config` in `net/ipv4/fib_frontend.c`).
fn for_request(route: &Route) -> Route {
    use route_attribute::{CACHEINFO, GATEWAY, MULTIPATH, NH_ID, OIF, VIA};
    let is_by_object = route.attribute(NH_ID).is_some();
    let is_reported_only =
        |kind: u16| kind == CACHEINFO || is_by_object && [GATEWAY, MULTIPATH, OIF, VIA].contains(&kind);
    let mut route = route.clone();
    route.attributes.retain(|attribute| !is_reported_only(attribute.kind & 0x3fff));
    route
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use super::*;
    use crate::inside::run_in_new_namespace;

    fn ip(arguments: &str) -> String {
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The default routes of a family, a line each, without spaces at the ends.
    fn defaults(family: &str) -> Vec<String> {
        let list = ip(&format!("{family} route show table main"));
        let routes = list.split_inclusive('\n').map(|line| line.trim_end().to_owned());
        routes.filter(|line| line.starts_with("default")).collect()
    }

    fn name(text: &str) -> InterfaceName {
        text.try_into().unwrap()
    }

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Runs in a namespace with eth0 and net1, each with 10.N.0.2/24 and fd00:N::2/64.
    fn in_pod(work: impl FnOnce(&Namespace) + Send) {
        let inside = || {
            for (number, link) in [(0, "eth0"), (1, "net1")] {
                ip(&format!("link add {link} type veth peer name peer{number}"));
                ip(&format!("link set peer{number} up"));
                ip(&format!("link set {link} up"));
                ip(&format!("address add 10.{number}.0.2/24 dev {link}"));
                ip(&format!("address add fd00:{number}::2/64 dev {link} nodad"));
            }
            work(&Namespace::open(Path::new("/proc/thread-self/ns/net")).unwrap());
        };
        run_in_new_namespace(inside).unwrap();
    }

    #[test]
    fn the_default_routes_are_taken_from_other_links_and_given_back() {
        in_pod(|pod| {
            ip("route add default via 10.0.0.1 dev eth0 mtu 1400");
            ip("route add default via 10.0.0.9 dev eth0 metric 50");
            ip("-6 route add default via fd00:0::1 dev eth0");
            let before = (defaults("-4"), defaults("-6"));
            let gateways = addresses(&["10.1.0.1", "fd00:1::1"]);
            let foretold = default_routes_of_others(pod, &name("net1"), &gateways).unwrap();
            let deleted = take_default_route(pod, &name("net1"), &gateways).unwrap();
            assert_eq!((deleted.len(), &deleted), (3, &foretold));
            assert_eq!(defaults("-4"), ["default via 10.1.0.1 dev net1"]);
            assert_eq!(defaults("-6"), ["default via fd00:1::1 dev net1 metric 1024 pref medium"]);

            let again = take_default_route(pod, &name("net1"), &addresses(&["10.1.0.1", "fd00:1::1"])).unwrap();
            assert_eq!(again, []);
            ip("link delete net1");
            restore_default_routes(pod, &deleted).unwrap();
            assert_eq!((defaults("-4"), defaults("-6")), before);
            restore_default_routes(pod, &deleted).unwrap();
            assert_eq!((defaults("-4"), defaults("-6")), before);
        });
    }

    #[test]
    fn only_the_families_of_the_gateways_are_changed() {
        in_pod(|pod| {
            ip("route add default via 10.0.0.1 dev eth0");
            ip("-6 route add default via fd00:0::1 dev eth0");
            let before = defaults("-4");
            assert_eq!(take_default_route(pod, &name("net1"), &[]).unwrap(), []);
            assert_eq!(take_default_route(pod, &name("net1"), &addresses(&["fd00:1::1"])).unwrap().len(), 1);
            assert_eq!(defaults("-4"), before);
            assert_eq!(defaults("-6").len(), 1);
        });
    }

    #[test]
    fn the_links_own_route_through_another_gateway_is_replaced_and_not_returned() {
        in_pod(|pod| {
            ip("route add default via 10.1.0.9 dev net1");
            ip("route add default via 10.1.0.1 dev net1 metric 7");
            assert_eq!(take_default_route(pod, &name("net1"), &addresses(&["10.1.0.1"])).unwrap(), []);
            assert_eq!(defaults("-4"), ["default via 10.1.0.1 dev net1 metric 7"]);
        });
    }

    #[test]
    fn a_route_with_several_hops_is_taken_as_a_whole() {
        in_pod(|pod| {
            let hops = "nexthop via 10.0.0.1 dev eth0 nexthop via 10.1.0.1 dev net1";
            ip(&format!("route add default {hops}"));
            ip(&format!(
                "-6 route add default {}",
                hops.replace("10.", "fd00:").replace(".0.1", "::1").replace(".0", "")
            ));
            let deleted = take_default_route(pod, &name("net1"), &addresses(&["10.1.0.1", "fd00:1::1"])).unwrap();
            assert_eq!(deleted.len(), 2);
            assert_eq!(defaults("-4"), ["default via 10.1.0.1 dev net1"]);
            assert_eq!(defaults("-6"), ["default via fd00:1::1 dev net1 metric 1024 pref medium"]);
        });
    }

    #[test]
    fn a_route_by_a_nexthop_object_is_given_back_with_it() {
        in_pod(|pod| {
            ip("nexthop add id 7 via 10.0.0.1 dev eth0");
            ip("route add default nhid 7");
            let before = defaults("-4");
            let deleted = take_default_route(pod, &name("net1"), &addresses(&["10.1.0.1"])).unwrap();
            assert_eq!(defaults("-4"), ["default via 10.1.0.1 dev net1"]);
            ip("link delete net1");
            restore_default_routes(pod, &deleted).unwrap();
            assert_eq!(defaults("-4"), before);
        });
    }

    #[test]
    fn routes_of_other_tables_and_kinds_stay() {
        in_pod(|pod| {
            ip("route add default via 10.0.0.1 dev eth0 table 100");
            ip("route add blackhole default metric 9");
            assert_eq!(take_default_route(pod, &name("net1"), &addresses(&["10.1.0.1"])).unwrap(), []);
            assert_eq!(ip("route show table 100").trim_end(), "default via 10.0.0.1 dev eth0");
            assert!(ip("route show").contains("blackhole default"));
        });
    }

    #[test]
    fn an_advertised_route_is_taken_and_left_to_its_router() {
        in_pod(|pod| {
            ip("-6 route add default via fd00:0::1 dev eth0 proto ra expires 600");
            assert_eq!(take_default_route(pod, &name("net1"), &addresses(&["fd00:1::1"])).unwrap(), []);
            assert_eq!(defaults("-6"), ["default via fd00:1::1 dev net1 metric 1024 pref medium"]);
        });
    }

    #[test]
    fn a_gateway_that_cannot_be_reached_changes_nothing() {
        in_pod(|pod| {
            ip("route add default via 10.0.0.1 dev eth0");
            ip("-6 route add default via fd00:0::1 dev eth0");
            let before = (defaults("-4"), defaults("-6"));
            // the second family is refused after the first one was changed
            let error = take_default_route(pod, &name("net1"), &addresses(&["10.1.0.1", "fd00:5::1"])).unwrap_err();
            assert!(error.to_string().starts_with("cannot set the default route through net1: "), "{error}");
            assert_eq!((defaults("-4"), defaults("-6")), before);
        });
    }

    #[test]
    fn a_link_that_is_not_there_is_an_error_and_its_routes_are_left_out() {
        in_pod(|pod| {
            ip("route add default via 10.0.0.1 dev eth0");
            let before = defaults("-4");
            let error = take_default_route(pod, &name("net2"), &addresses(&["10.1.0.1"])).unwrap_err();
            assert!(error.to_string().contains("No such device"), "{error}");
            assert_eq!(defaults("-4"), before);

            let deleted = take_default_route(pod, &name("net1"), &addresses(&["10.1.0.1"])).unwrap();
            ip("link delete eth0");
            restore_default_routes(pod, &deleted).unwrap();
            assert_eq!(defaults("-4"), ["default via 10.1.0.1 dev net1"]);
        });
    }
}
