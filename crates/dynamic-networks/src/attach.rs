//! The devices that the annotation `netdevice.networking.k8s.io/attach` of a running Pod lists: compared with what the Pod has
//! by it, attached and returned. What is to be done is decided in [`netdevice::annotation::attach`]. No plugin and no Multus
//! has a part in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
};

use netdevice::{
    Acquisition, Attachment, DeviceId, DeviceRequest, InterfaceName, Owner, Phase, Pod, Wanted,
    annotation::attach::{Present, plan, status_name},
    choice::{Allocated, Demand, check_again, choose},
    networks::{EventVerb, device_event_text},
    owner::Request,
};
use networks::Place;
use serde_json::Value;
use store::Records;

use crate::{
    device::{self, DeviceError, Devices},
    outcome::{Done, WorkError},
    report::Report,
};

/// The devices of one Pod.
pub(crate) struct OfAnnotation<'a> {
    pub(crate) records: &'a Records,
    pub(crate) devices: &'a dyn Devices,
    pub(crate) place: &'a Place<'a>,
    /// As the API server knows it.
    pub(crate) pod: &'a Pod,
}

impl OfAnnotation<'_> {
    fn owner(&self) -> Owner {
        let (id, pod) = (self.place.sandbox.to_owned(), Some(self.place.pod.clone()));
        Owner::Sandbox { id, pod, by: Request::attach() }
    }

    /// The records of the devices that the sandbox has by the annotation.
    pub(crate) fn records(&self) -> Result<Vec<Attachment>, WorkError> {
        let listed = self.records.list();
        let (ledger, _) =
            listed.map_err(|error| WorkError::Node(format!("cannot read the records of this node: {error}")))?;
        let is_own = |record: &&std::sync::Arc<Attachment>| {
            record.owner.id() == self.place.sandbox && record.owner.request().is_some_and(Request::is_attach)
        };
        Ok(ledger.values().filter(is_own).map(|record| (**record).clone()).collect())
    }

    /// The entries of the status.
    pub(crate) fn status_entries(&self) -> Result<Vec<Value>, WorkError> {
        let mut records = self.records()?;
        records.retain(|record| record.phase == Phase::Attached);
        let entry =
            |record: &Attachment| device::status_entry(&status_name(&record.device), &record.sandbox.name, record);
        Ok(records.iter().map(entry).collect())
    }

    /// Attaches what is listed and not there, and returns what is there and not listed. An element that fails does not harm
    /// the others.
    pub(crate) fn converge(
        &self,
        wanted: &[DeviceRequest],
        links: &BTreeSet<InterfaceName>,
        done: &mut Done,
    ) -> Result<(), WorkError> {
        let present = |record: Attachment| Present { is_there: links.contains(&record.sandbox.name), record };
        let present: Vec<Present> = self.records()?.into_iter().map(present).collect();
        let plan = plan(wanted, &present, &self.devices.view().pools);

        // what is attached anew, or makes room for another one, is returned only if the new one can be had
        let mut refused = BTreeMap::new();
        for (index, at) in &plan.replace {
            let checked = check_again(&self.devices.view(), &self.place.pod.namespace, &present[*at].record);
            refused.extend(checked.err().map(|error| (*index, error.to_string())));
        }
        for index in plan.successors(wanted, &present) {
            refused.extend(self.check(&wanted[index]).err().map(|error| (index, error)));
        }
        let plan = plan.without(&refused.keys().copied().collect(), wanted, &present);
        for (index, error) in refused {
            self.fail(&wanted[index], DeviceError::Refused(error), done);
        }

        for at in &plan.remove {
            self.detach(&present[*at], done);
        }
        let mut returned = plan.replace;
        returned.retain(|(_, at)| self.detach(&present[*at], done));
        for (index, at) in returned {
            self.attach_anew(&wanted[index], &present[at], done);
        }
        for index in plan.add {
            let element = &wanted[index];
            match self.requests(element).and_then(|requests| self.attach(&requests)) {
                Ok(device) => self.added(element, &device, done),
                Err(error) => self.fail(element, error, done),
            }
        }
        Ok(())
    }

    /// An element, and what the Pod has: a device of a pool, and one that is created, is one that it has not.
    fn requests(&self, element: &DeviceRequest) -> Result<Vec<DeviceRequest>, DeviceError> {
        let records = self.records().map_err(|error| DeviceError::Failed(error.to_string()))?;
        let is_other = |record: &&Attachment| {
            // one that moves is the one of that name
            let is_named = matches!(&element.device, Wanted::Name(name) if *name == record.device.to_name());
            !is_named || record.created().is_some()
        };
        Ok(iter::once(element.clone()).chain(records.iter().filter(is_other).map(as_it_is)).collect())
    }

    /// Whether an element can be had at this moment.
    fn check(&self, element: &DeviceRequest) -> Result<(), String> {
        let unreadable = |error| format!("cannot read the records of this node: {error}");
        let requests = self.requests(element).map_err(|error| error.to_string())?;
        let owner = self.owner();
        let (ledger, _) = self.records.list().map_err(unreadable)?;
        let (allocated, reserved): (Allocated, _) =
            (self.devices.allocated()?, self.records.reserved_from(&owner).map_err(unreadable)?);
        let demand = Demand {
            owner: &owner,
            pod: self.place.pod,
            requests: &requests,
            allocated: &allocated,
            reserved: &reserved,
            busy: &BTreeSet::new(),
            ledger: &ledger,
        };
        choose(&self.devices.view(), &demand).map(drop).map_err(|error| error.to_string())
    }

    fn attach(&self, requests: &[DeviceRequest]) -> Result<DeviceId, DeviceError> {
        device::attach(self.records, self.devices, self.place.opened, &self.owner(), requests)
    }

    /// Attaches a device again that was returned for that: as requested, or if that fails as it was.
    fn attach_anew(&self, element: &DeviceRequest, before: &Present, done: &mut Done) {
        let name = before.record.device.to_name();
        let request = DeviceRequest { device: Wanted::Name(name), ..element.clone() };
        match self.attach(&[request]) {
            Ok(device) => self.added(element, &device, done),
            Err(error) => {
                self.fail(element, error, done);
                if before.is_complete() && self.attach(&[as_it_is(&before.record)]).is_ok() {
                    done.is_restored = true;
                    let interface = before.interface();
                    done.failures.push(format!("{interface} was attached again as it was before"));
                }
            }
        }
    }

    /// Returns whether the device is on the host.
    fn detach(&self, present: &Present, done: &mut Done) -> bool {
        let Attachment { device, owner, .. } = &present.record;
        let interface = present.interface().to_string();
        match device::detach(self.records, self.devices, self.place.opened, device, owner) {
            Ok(()) => {
                self.report(EventVerb::Removed, &interface, &format!("device {device}"), done);
                true
            }
            Err(error) => {
                self.report(EventVerb::FailedRemoving, &interface, &error, done);
                done.failures.push(format!("cannot remove {interface}: {error}"));
                false
            }
        }
    }

    fn added(&self, element: &DeviceRequest, device: &DeviceId, done: &mut Done) {
        let host = device.to_name();
        let interface = element.interface().unwrap_or(&host).to_string();
        self.report(EventVerb::Added, &interface, &format!("device {device}"), done);
    }

    fn fail(&self, element: &DeviceRequest, error: DeviceError, done: &mut Done) {
        let interface = shown(element);
        self.report(EventVerb::FailedAdding, &interface, &error.to_string(), done);
        done.refused += usize::from(matches!(error, DeviceError::Refused(_)));
        done.failures.push(format!("cannot add interface {interface}: {error}"));
    }

    fn report(&self, verb: EventVerb, interface: &str, about: &str, done: &mut Done) {
        let note = device_event_text(verb, self.pod, interface, about);
        let (pod, reason, is_warning) = (self.pod.clone(), verb.reason(), verb.is_warning());
        done.reports.push(Report { pod, reason, is_warning, note });
    }
}

/// The element's name in the Pod, or its pool.
fn shown(element: &DeviceRequest) -> String {
    match (element.interface(), &element.device) {
        (Some(name), _) | (None, Wanted::Name(name)) => name.to_string(),
        (None, Wanted::Pool(pool)) => format!("of pool {pool}"),
    }
}

/// The request for a device as the Pod has or had it.
fn as_it_is(record: &Attachment) -> DeviceRequest {
    let acquisition = record.created().map_or(Acquisition::Move, |created| Acquisition::Create(created.kind));
    let configuration = record.configuration.clone().unwrap_or_default();
    DeviceRequest { device: Wanted::Name(record.device.to_name()), acquisition, configuration }
}
