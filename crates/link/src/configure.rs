//! What a device is given in its sandbox, once it is there.

use netdevice::{
    Acquisition, LinkState, SandboxConfiguration,
    configuration::MIN_GSO_SIZE,
    link::flags,
    plan::{Location, Step, aged, missing, plan, relabel, sysctl_name, wanted_as_configured, wanted_in_sandbox},
    state::Route,
};
use rtnl::{
    message::{Message, kind},
    neighbour::List,
    route::ALL_FAMILIES,
};

use crate::{
    error::{Error, WithSubject},
    ethtool,
    inside::run_inside,
    namespace::{add_rules, join_vrf},
    read::{Which, boot_time, neighbours, read_addressed, read_whole},
    skipped::Skipped,
    socket::RouteSocket,
    step::StepTarget,
    sysctl,
    task::AttachRequest,
};

/// Gives the device in the sandbox what it had on the host, or what the Pod asked for. `host` is what it was on the host, or
/// what it was created as.
pub(crate) fn configure_inside(
    host: &LinkState,
    request: &AttachRequest<'_>,
    inside: &mut RouteSocket,
    link: &LinkState,
) -> Result<Vec<Skipped>, Error> {
    if let Some(size) = request.configuration.and_then(SandboxConfiguration::dangerous_size) {
        let what = format!("segment size {size}");
        return Err(Error::NotApplied { what, reason: format!("it must be at least {MIN_GSO_SIZE}") });
    }
    let host = aged(host, boot_time);
    // settings that were made on the host are distinguished from those that every link has there
    let mut wanted = match request.configuration {
        None => wanted_in_sandbox(&host, link, sysctl::is_explicit),
        Some(configuration) => wanted_as_configured(configuration, &host, link, sysctl::is_explicit),
    };
    if matches!(request.acquisition, Acquisition::Create(_)) {
        wanted.flags |= flags::UP;
    }
    // the sandbox's name and master are its own, and labels of addresses have that name
    wanted.name.clone_from(&link.name);
    relabel(&mut wanted.addresses, &host.name, &link.name);
    let index = link.index;
    // files show the namespace of the thread that opens them; all else is the socket's business
    let work = |inside: &mut RouteSocket, present: &LinkState, steps: Vec<Step>| {
        let own_routes =
            if wanted.routes.is_empty() { Vec::new() } else { routes_of_others(inside, index, &wanted.routes)? };
        let host_index = host.index;
        let mut site = StepTarget {
            socket: inside,
            location: Location::Sandbox,
            name: &present.name,
            index,
            host_index,
            own_routes: &own_routes,
        };
        site.apply(steps)
    };
    let work = |inside: &mut RouteSocket, present: &LinkState, steps: Vec<Step>| {
        let skipped = work(inside, present, steps)?;
        match request.configuration {
            None => Ok(skipped),
            Some(configuration) => {
                add_rules(inside, configuration)?;
                verify(configuration, inside, index, skipped)
            }
        }
    };
    if let Some(configuration) = request.configuration {
        ethtool::apply(inside, &link.name, configuration)?;
    }
    let vrf = request.configuration.and_then(|configuration| configuration.vrf.as_ref());
    let is_fresh = !link.is_up();
    let steps = plan(&wanted, link, Location::Sandbox);
    if is_fresh && vrf.is_none() && !steps.iter().any(|step| matches!(step, Step::Sysctl(_))) {
        return work(inside, link, steps);
    }
    let within = || {
        if let Some(vrf) = vrf {
            // before it is set up: a link that is up loses its IPv6 addresses by that (`vrf_add_slave`)
            join_vrf(inside, vrf, index)?;
        }
        if is_fresh {
            return work(inside, link, steps);
        }
        let present = read_whole(inside, Which::Index(index))?.ok_or(Error::Vanished)?;
        let steps = plan(&wanted, &present, Location::Sandbox);
        work(inside, &present, steps)
    };
    let namespace = request.sandbox.namespace();
    let result = run_inside(namespace, within);
    result.map_err(|error| Error::Namespace { path: namespace.path().to_owned(), error })?
}

/// What a Pod asked for is there, or the device is returned. What it brought from the host may have been left out.
fn verify(
    configuration: &SandboxConfiguration,
    inside: &mut RouteSocket,
    index: u32,
    skipped: Vec<Skipped>,
) -> Result<Vec<Skipped>, Error> {
    let mut present = read_addressed(inside, Which::Index(index))?.ok_or(Error::Vanished)?;
    if !configuration.neighbours.is_empty() {
        present.neighbours = neighbours(inside, index, List::Neighbours)?.collect();
    }
    // the files of a link's neighbours are not read again: what was not written was left out
    let is_left_out = |what: &String| skipped.iter().any(|skipped| skipped.what == *what);
    let left_out = || configuration.sysctls.keys().map(|key| sysctl_name(key)).find(is_left_out);
    let Some(what) = missing(configuration, &present).or_else(left_out) else { return Ok(skipped) };
    let reason = skipped.into_iter().find(|skipped| skipped.what == what).map(|skipped| skipped.reason);
    Err(Error::NotApplied {
        what,
        reason: reason.unwrap_or_else(|| "the kernel accepted it and does not have it".into()),
    })
}

/// Routes of the namespace that do not go through the link and lead where one of `wanted` leads, one for each: the Pod
/// may have any number of others.
fn routes_of_others(socket: &mut RouteSocket, link: u32, wanted: &[Route]) -> Result<Vec<Route>, Error> {
    let mut found: Vec<Route> = Vec::new();
    let mut look = |message: &Message<'_>| {
        if message.kind == kind::NEWROUTE
            && let Ok(route) = rtnl::route::parse(message.payload)
            && route.is_ip()
            && route.link() != Some(link)
            && wanted.iter().any(|wanted| wanted.has_same_target(&route))
            && !found.iter().any(|found| found.has_same_target(&route))
        {
            found.push(route);
        }
    };
    let end = socket.each(&|batch| rtnl::route::dump(batch, ALL_FAMILIES, 0), &mut look).subject("the pod's routes")?;
    end.map_err(|error| Error::Read { what: "the pod's routes", error })?;
    Ok(found)
}
