//! Devices by claim: a driver for Dynamic Resource Allocation (DRA).
//!
//! The kubelet asks it to prepare the claims of a Pod; what it decides is in `netdevice::claims`. A claim that is prepared has a
//! reservation for each of its devices and a CDI file, both on disk. What attaches the devices is elsewhere: the injector when the
//! sandbox starts, and the hook in the CDI file when a container starts.
//!
//! There is no state in memory: two instances answer the kubelet in turn while the agent is updated.

mod api;
mod cdi_file;
mod collect;
mod driver;
mod error;
mod health;
pub mod holders;
mod metadata;
mod obstacle;
mod prepare;
mod registration;
mod service;
mod services;
mod settings;
pub mod slices;
pub mod status;
#[cfg(test)]
mod tests;
mod unprepare;

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use api::ApiError;
pub use error::{BlockingError, DeviceError, PrepareError};
pub use kubelet::RegistrationState;
pub use settings::{ClaimName, Outcome, Paths, Report, RuntimeState, Settings};

/// Serves the kubelet until `shutdown`. `state` receives whether the kubelet uses the driver.
pub async fn serve(settings: Settings, state: watch::Sender<RegistrationState>, shutdown: CancellationToken) {
    let driver = Arc::new(driver::Driver::new(settings));
    let served = registration::run(driver.clone(), state, shutdown.clone());
    tokio::join!(served, collect::run(&driver, &shutdown));
}
