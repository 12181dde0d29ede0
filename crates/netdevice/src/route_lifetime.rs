//! Lifetimes of IPv6 routes: read from `struct rta_cacheinfo`, set with `RTA_EXPIRES`.

use crate::state::{Attribute, Route, route_attribute};

/// `USER_HZ`: the unit of `rta_expires`.
const TICKS: u32 = 100;
/// Offset of `rta_expires` in `struct rta_cacheinfo`.
const EXPIRES_AT: usize = 8;

/// Replaces the kernel's counters by the remaining lifetime. Returns false if it has expired.
pub(crate) fn age(route: &mut Route, elapsed: u32) -> bool {
    let Some(at) = route.attributes.iter().position(|attribute| attribute.kind == route_attribute::CACHEINFO) else {
        return true;
    };
    let counters = route.attributes.remove(at).value;
    let ticks =
        counters.get(EXPIRES_AT..EXPIRES_AT + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    let Some(seconds) = u32::try_from(ticks).ok().filter(|ticks| *ticks > 0).map(|ticks| ticks.div_ceil(TICKS)) else {
        return true;
    };
    let left = seconds.saturating_sub(elapsed);
    route.attributes.push(Attribute { kind: route_attribute::EXPIRES, value: left.to_ne_bytes().to_vec() });
    left > 0
}
