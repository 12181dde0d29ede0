//! What the kernel sends, as one would read it from a hostile one: messages, and every parser on every payload.

use rtnl::{
    Batch,
    address::{self, Existing},
    attribute::attributes,
    link, messages, neighbour, neighbour_table, nexthop, nsid, route, rule,
};

pub fn run(bytes: &[u8]) {
    for message in messages(bytes).flatten() {
        let _ = message.answer();
        read(message.payload);
    }
    read(bytes);
}

fn read(payload: &[u8]) {
    if let Ok(link) = link::parse(payload) {
        let _ = (link.to_link(), link.to_state(), link.is_partial(), link.below());
    }
    if let Ok((index, address)) = address::parse(payload) {
        let _ = address.to_string();
        let mut batch = Batch::new();
        address::add(&mut batch, index, &address, address.flags, Existing::Keep);
        let written = batch.into_bytes(0);
        let message = messages(&written).next().expect("one message").expect("a whole one");
        let (again, read) = address::parse(message.payload).expect("what we write we read");
        assert_eq!((again, read.local, read.prefix_len), (index, address.local, address.prefix_len));
    }
    if let Ok((index, neighbour)) = neighbour::parse(payload) {
        let _ = neighbour.destination();
        neighbour::add(&mut Batch::new(), index, &neighbour);
    }
    if let Ok(route) = route::parse(payload) {
        let _ = (route.to_string(), route.has_gateway(), route.metric(), route.is_default(), route.destination());
        let _ = route.has_same_target(&route);
        let mut batch = Batch::new();
        route::add(&mut batch, &route, route::Existing::Keep);
        route::remove(&mut batch, &route);
        assert_eq!(messages(&batch.into_bytes(0)).count(), 2);
    }
    let _ = (route::default_routes(payload), route::family_of_default(payload));
    let _ = (route::default_route_by_object(payload), nexthop::parse(payload), nsid::parse(payload));
    let _ = (neighbour_table::parse(payload), rule::reached_table(payload));
    let _ = route::next_hops(payload).count();
    let _ = route::with_links(payload, |link| link.checked_mul(2));
    for attribute in attributes(payload) {
        let _ = (attribute.address(), attribute.string(), attribute.numbers().count(), attribute.to_owned());
    }
}
