//! Physical devices, and kinds of links that few kernels have: in the guest of `hack/vm-test` and nowhere else. Here the
//! host is the guest itself, for that is where a physical device comes back to when its namespace dies.

mod created;
mod machine;
mod moves;
mod offer;
mod routed;
mod stacked;
mod virtual_functions;
