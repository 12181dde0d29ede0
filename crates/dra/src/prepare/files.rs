//! The files of a prepared claim: the metadata of each request, and the CDI file.

use std::collections::BTreeSet;

use netdevice::{
    Acquisition, DeviceId, InterfaceName, View,
    claims::{
        DRIVER,
        claim::Claim,
        document::{self, Document, Request},
    },
};

use super::{Subject, Wanted};
use crate::{
    cdi_file,
    driver::{Driver, step},
    error::PrepareError,
    metadata::{self, NetworkData},
};

impl Driver {
    /// Writes the metadata of each request, and then the CDI file.
    pub(super) fn write_files(&self, subject: &Subject, wanted: &[Wanted]) -> Result<(), PrepareError> {
        let (paths, claim) = (&self.settings.paths, &subject.claim);
        let view = self.settings.views.borrow().clone();
        let mut seen = BTreeSet::new();
        let names = wanted.iter().map(|wanted| wanted.allocation.main_request()).filter(|name| seen.insert(*name));
        let requests = names.map(|name| {
            let of_request: Vec<&Wanted> =
                wanted.iter().filter(|wanted| wanted.allocation.main_request() == name).collect();
            let devices: Vec<metadata::Device> =
                of_request.iter().map(|wanted| self.metadata_of(wanted, &view)).collect();
            let file = metadata::write(paths, claim, name, &devices)
                .map_err(|error| PrepareError::Write { path: paths.plugin.join("dra-device-metadata"), error })?;
            step();
            let devices = of_request.iter().filter_map(|wanted| wanted.device.clone()).collect();
            Ok(Request {
                name: name.to_owned(),
                environment: environment(claim, name, &of_request, &view),
                devices,
                file: Some(file),
            })
        });
        let requests: Vec<Request> = requests.collect::<Result<_, PrepareError>>()?;
        let (hook, state_dir) = (paths.hook.as_str(), paths.state_dir.as_deref());
        let document = Document { uid: &claim.uid, hook, state_dir, requests: &requests };
        let text = document.to_json().unwrap_or_default();
        let written = cdi_file::write(&paths.cdi, &claim.uid, &text);
        written.map_err(|error| PrepareError::Write { path: cdi_file::path(&paths.cdi, &claim.uid), error })
    }

    pub(super) fn metadata_of(&self, wanted: &Wanted, view: &View) -> metadata::Device {
        let network_data = wanted.device.as_ref().map(|device| {
            let configuration = wanted.configuration.as_ref();
            let is_moved = wanted.acquisition == Acquisition::Move;
            let host = view.snapshot.link_named(&device.to_name()).and_then(|link| link.mac.clone());
            NetworkData {
                interface_name: wanted.name_inside(device).to_string(),
                ips: configuration.map_or_else(Vec::new, |it| it.addresses.iter().map(ToString::to_string).collect()),
                hardware_address: configuration
                    .and_then(|it| it.mac.clone())
                    .or(host.filter(|_| is_moved))
                    .map(|mac| mac.to_string()),
            }
        });
        metadata::Device {
            driver: DRIVER,
            pool: self.settings.node.clone(),
            name: wanted.allocation.device.clone(),
            network_data,
        }
    }
}

/// The variables that list the interfaces of a request in the Pod, separated by spaces. A claim for an extended resource also
/// has the device plugin's.
fn environment(claim: &Claim, request: &str, wanted: &[&Wanted], view: &View) -> Vec<String> {
    let text = |name: InterfaceName| name.to_str().map_or_else(|| DeviceId::from(&name).to_string(), str::to_owned);
    let devices = || wanted.iter().filter_map(|wanted| Some((wanted, wanted.device.as_ref()?)));
    let names: Vec<String> = devices().map(|(wanted, device)| text(wanted.name_inside(device))).collect();
    let names = names.join(" ");
    let claim_name = claim.pod_claim_name.as_deref().unwrap_or(&claim.name);
    let mut variables = vec![format!("{}={names}", document::environment_variable(claim_name, request))];
    if claim.is_extended_resource {
        // of one that is created, its parent's
        let listed = |device: &DeviceId| view.devices().get(&device.parent().unwrap_or_else(|| device.clone()));
        let resource = devices().find_map(|(_, device)| Some(listed(device)?.resource.clone()));
        variables.extend(resource.map(|resource| format!("{}={names}", resource.environment_variable())));
    }
    variables
}
