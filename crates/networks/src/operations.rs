//! Adding, checking and deleting an interface of one Pod.

use std::{
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use cni::{
    Addition, Cache, CacheEntry, CapabilityArguments, ContainerId, Marker, NetworkList, Phase, Requested, Runtime,
    Target, Version,
};
use link::OpenSandbox;
use netdevice::{InterfaceName, Owner, Pod, Snapshot, owner::Request};
use store::{LockMode, NamedLock, Records, journal};

use crate::{
    attachment::{self, Boot},
    error::Error,
    node_devices,
};

/// The interface that the runtime makes for every Pod.
pub const PRIMARY: &[u8] = b"eth0";
/// How long another program's work on a Pod is waited for, beyond the time of one plugin.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the node's interfaces, when a plugin would take one of them.
pub type ReadNode<'a> = dyn Fn() -> Result<Snapshot, Box<dyn std::error::Error + Send + Sync>> + 'a;

/// The networks of this node.
#[derive(Debug)]
pub struct Networks {
    /// Runs the plugins.
    pub runtime: Runtime,
    /// The locks, and who has which device.
    pub records: Records,
    /// The program, as attachments name it.
    pub by: &'static str,
    /// Which boot of the node this is.
    pub boot: Boot,
    /// Where sysfs is mounted.
    pub sysfs: PathBuf,
    /// Caches of other programs that ran plugins for this one: what has ended is removed there, too.
    pub further_caches: Vec<Cache>,
}

/// A Pod whose sandbox runs.
#[derive(Debug)]
pub struct Place<'a> {
    /// The Pod.
    pub pod: &'a Pod,
    /// Its sandbox's id.
    pub sandbox: &'a str,
    /// Its network namespace.
    pub opened: &'a OpenSandbox,
    /// `CNI_CONTAINERID`: the sandbox's id, unless the user chose another one.
    pub container: ContainerId,
}

/// An interface to add.
#[derive(Debug)]
pub struct AddRequest<'a> {
    /// The network.
    pub list: &'a NetworkList,
    /// The interface's name in the Pod.
    pub interface: InterfaceName,
    /// Further arguments for the plugins (`CNI_ARGS`).
    pub arguments: Vec<(String, String)>,
    /// Capability arguments.
    pub capabilities: CapabilityArguments,
    /// Kept with the attachment, for a program that compares it with what is requested later.
    pub requested: Option<Requested>,
    /// The gateways of the Pod's default route, if this interface takes it from the others.
    pub gateways: Vec<IpAddr>,
}

/// What a deletion found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The attachment, which is deleted now.
    Attachment,
    /// None: the plugins were called, in case they had reserved something for it.
    Nothing,
}

impl Networks {
    /// Adds an interface to a Pod. `node` reads the node's interfaces.
    ///
    /// # Errors
    ///
    /// Nothing is left of an ADD that fails, unless the error says so.
    pub fn add(
        &self,
        place: &Place<'_>,
        request: AddRequest<'_>,
        node: &ReadNode<'_>,
    ) -> Result<(Addition, Version), Error> {
        let AddRequest { list, interface, arguments, capabilities, requested, gateways } = request;
        check_primary(&interface)?;
        let _networks = self.lock_networks(LockMode::Shared)?;
        let _pod = self.lock_pod(place.sandbox)?;
        self.undo_interrupted(place, list, &interface)?;
        if has_link(place.opened, &interface)? {
            return Err(Error::NameTaken(interface));
        }
        let devices = self.lock_node_devices(place, list, &capabilities, node)?;
        let marker = Marker { requested, ..self.marker(place)? };
        let target = self.target(place, interface.clone(), pod_arguments(place, arguments), capabilities);
        let added = self.runtime.add(list, &target, Some(marker)).map_err(|error| {
            let is_made_here = error.undo.is_some() && devices.is_empty();
            // the name was free, and no plugin takes a device of the node
            let is_link_deleted = is_made_here && link::delete_created(place.opened.namespace(), &interface).is_ok();
            if is_link_deleted && error.is_refused_twice() && self.runtime.forget(list.name(), &target).is_ok() {
                return cni::AddError { undo: None, ..error }.into();
            }
            Error::from(error)
        })?;
        if let Err(error) = self.take_default_route(place, list, &target, &gateways) {
            if let Some(entry) = self.runtime.cache.read(list.name(), &target)? {
                self.delete_entry(Some(place), &entry, Some(list), &target.namespace)?;
            }
            return Err(error);
        }
        Ok(added)
    }

    /// Gives an interface the Pod's default route. The routes that it takes from others are kept before.
    fn take_default_route(
        &self,
        place: &Place<'_>,
        list: &NetworkList,
        target: &Target,
        gateways: &[IpAddr],
    ) -> Result<(), Error> {
        if gateways.is_empty() {
            return Ok(());
        }
        let (namespace, failed) = (place.opened.namespace(), |error| Error::DefaultRoute(Box::new(error)));
        let displaced = link::default_routes_of_others(namespace, &target.interface, gateways).map_err(failed)?;
        self.runtime.cache.set_displaced(list.name(), target, displaced)?;
        link::take_default_route(namespace, &target.interface, gateways).map_err(failed)?;
        Ok(())
    }

    /// Compares an interface with the result of its ADD. Returns whether it was compared: a network may disable that.
    ///
    /// # Errors
    ///
    /// What is different; or when there is no result.
    pub fn check(&self, place: &Place<'_>, list: &NetworkList, interface: &InterfaceName) -> Result<bool, Error> {
        let _networks = self.lock_networks(LockMode::Shared)?;
        let _pod = self.lock_pod(place.sandbox)?;
        let target = self.target(place, interface.clone(), Vec::new(), CapabilityArguments::new());
        let entry = self.runtime.cache.read(list.name(), &target)?;
        let unchecked = || Error::Unchecked { interface: interface.clone(), network: list.name().to_string() };
        Ok(self.runtime.check(&entry.ok_or_else(unchecked)?, &target.namespace)?)
    }

    /// Deletes an interface of a Pod that runs. `list` is not needed if it was added here.
    ///
    /// # Errors
    ///
    /// When it was not added here, or plugins fail; the cache keeps the attachment then.
    pub fn delete(
        &self,
        place: &Place<'_>,
        list: Option<&NetworkList>,
        interface: &InterfaceName,
    ) -> Result<Deleted, Error> {
        check_primary(interface)?;
        let _networks = self.lock_networks(LockMode::Shared)?;
        let _pod = self.lock_pod(place.sandbox)?;
        let target =
            self.target(place, interface.clone(), pod_arguments(place, Vec::new()), CapabilityArguments::new());
        let is_wanted = |entry: &CacheEntry| list.is_none_or(|list| entry.network() == list.name().as_str());
        let entries: Vec<CacheEntry> =
            self.entries_of(&target.container, interface)?.into_iter().filter(is_wanted).collect();
        if entries.iter().any(CacheEntry::is_of_runtime) {
            return Err(Error::OfRuntime(interface.clone()));
        }
        for entry in &entries {
            self.delete_entry(Some(place), entry, list, &target.namespace)?;
        }
        if !entries.is_empty() {
            return Ok(Deleted::Attachment);
        }
        if has_link(place.opened, interface)? {
            let network = list.map_or_else(|| "of any".into(), |list| list.name().to_string());
            return Err(Error::NotAdded { interface: interface.clone(), network });
        }
        // an address may be reserved for it
        if let Some(list) = list {
            self.runtime.delete_uncached(list, &target)?;
        }
        Ok(Deleted::Nothing)
    }

    /// Removes what is known of an interface of a Pod from the cache, without the plugins: for an attachment that they cannot
    /// delete. A link that a plugin created is deleted, too.
    ///
    /// # Errors
    ///
    /// When the cache or the link refuses.
    pub fn forget(
        &self,
        pod: (&str, &str),
        place: Option<&Place<'_>>,
        interface: &InterfaceName,
    ) -> Result<Deleted, Error> {
        check_primary(interface)?;
        let name = interface.to_string();
        let listed = self.list(pod.0, pod.1, place.map(|place| place.sandbox))?;
        let entries = listed.into_iter().filter(|entry| entry.interface() == name);
        let mut deleted = Deleted::Nothing;
        for entry in entries {
            let _pod = self.lock_pod(sandbox_of(&entry))?;
            if entry.is_of_runtime() {
                return Err(Error::OfRuntime(interface.clone()));
            }
            if let Some(place) = place {
                link::delete_created(place.opened.namespace(), interface)
                    .map_err(|error| Error::Links(Box::new(error)))?;
            }
            self.runtime.forget_entry(&entry)?;
            deleted = Deleted::Attachment;
        }
        Ok(deleted)
    }

    /// Deletes an interface of a Pod that no longer runs, by the Pod's name.
    ///
    /// # Errors
    ///
    /// When plugins fail; the cache keeps the attachment then.
    pub fn delete_of_ended(
        &self,
        namespace: &str,
        name: &str,
        list: Option<&NetworkList>,
        interface: &InterfaceName,
    ) -> Result<Deleted, Error> {
        let _networks = self.lock_networks(LockMode::Shared)?;
        let interface = interface.to_string();
        let (entries, _) = self.runtime.cache.list()?;
        let is_wanted = |entry: &&CacheEntry| {
            let is_pod =
                entry.marker().is_some_and(|marker| marker.pod.namespace == namespace && marker.pod.name == name);
            is_pod && entry.interface() == interface && list.is_none_or(|list| entry.network() == list.name().as_str())
        };
        let mut deleted = Deleted::Nothing;
        for entry in entries.iter().filter(is_wanted) {
            let _pod = self.lock_pod(sandbox_of(entry))?;
            let namespace = attachment::namespace_of(entry, &self.boot).map_err(Error::Namespace)?;
            self.delete_entry(None, entry, list, namespace.map_or("", |_| entry.namespace()))?;
            deleted = Deleted::Attachment;
        }
        Ok(deleted)
    }

    /// The attachments of a Pod that are in the cache: those of its sandbox, and those that were added for it under another
    /// container id, or in a sandbox before this one.
    ///
    /// # Errors
    ///
    /// When the cache cannot be read.
    pub fn list(&self, namespace: &str, name: &str, sandbox: Option<&str>) -> Result<Vec<CacheEntry>, Error> {
        let (entries, _) = self.runtime.cache.list()?;
        let is_wanted = |entry: &CacheEntry| Some(entry.container()) == sandbox || is_of_pod(entry, namespace, name);
        Ok(entries.into_iter().filter(is_wanted).collect())
    }

    fn entries_of(&self, container: &ContainerId, interface: &InterfaceName) -> Result<Vec<CacheEntry>, Error> {
        let interface = interface.to_string();
        let entries = self.runtime.cache.list_of(container)?.into_iter();
        Ok(entries.filter(|entry| entry.interface() == interface).collect())
    }

    /// Deletes what killed programs had begun to add to a Pod, or to delete. Its lock is held, so that none of them runs. What
    /// has nothing to do with the interface that is to be added is left if it cannot be deleted.
    fn undo_interrupted(&self, place: &Place<'_>, list: &NetworkList, interface: &InterfaceName) -> Result<(), Error> {
        let path = namespace_path(place.opened);
        let interface = interface.to_string();
        for entry in self.runtime.cache.list_of(&place.container)? {
            if entry.is_unfinished() {
                let deleted = self.delete_entry(Some(place), &entry, Some(list), &path);
                if entry.interface() == interface {
                    deleted?;
                }
            }
        }
        Ok(())
    }

    /// Deletes an attachment: by the configuration that it was made with, or else by that of its network now.
    /// Interfaces of the Pod at `place` get the default routes back that it took from them.
    fn delete_entry(
        &self,
        place: Option<&Place<'_>>,
        entry: &CacheEntry,
        list: Option<&NetworkList>,
        namespace: &str,
    ) -> Result<(), Error> {
        if let Some(place) = place.filter(|_| !entry.displaced().is_empty()) {
            let restored = link::restore_default_routes(place.opened.namespace(), entry.displaced());
            restored.map_err(|error| Error::DefaultRoute(Box::new(error)))?;
        }
        let list = list.filter(|list| list.name().as_str() == entry.network());
        match (self.runtime.delete(entry, namespace), list) {
            (Err(first), Some(list)) => Ok(self.runtime.delete_as(entry, list, namespace).map_err(|_| first)?),
            (deleted, _) => Ok(deleted?),
        }
    }

    fn lock_node_devices(
        &self,
        place: &Place<'_>,
        list: &NetworkList,
        capabilities: &CapabilityArguments,
        node: &ReadNode<'_>,
    ) -> Result<Vec<store::Lock>, Error> {
        let devices = self.runtime.node_devices(list, capabilities);
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let owner = Owner::Sandbox { id: place.sandbox.into(), pod: Some(place.pod.clone()), by: Request::Command };
        node_devices::lock(&self.records, &devices, &owner, &node().map_err(Error::Node)?, &self.sysfs)
    }

    fn marker(&self, place: &Place<'_>) -> Result<Marker, Error> {
        let cookie = attachment::cookie(place.opened.namespace()).map_err(Error::Namespace)?;
        let (by, pod, boot) = (self.by.to_owned(), place.pod.clone(), self.boot.as_str().to_owned());
        let sandbox = place.sandbox.to_owned();
        Ok(Marker { phase: Phase::Adding, by, pod, sandbox, since: journal::now(), cookie, boot, requested: None })
    }

    /// A target with the arguments that plugins get of a Pod.
    pub fn target_of_pod(&self, place: &Place<'_>, target: Target) -> Target {
        Target { arguments: pod_arguments(place, target.arguments), ..target }
    }

    fn target(
        &self,
        place: &Place<'_>,
        interface: InterfaceName,
        arguments: Vec<(String, String)>,
        capabilities: CapabilityArguments,
    ) -> Target {
        let namespace = namespace_path(place.opened);
        Target { container: place.container.clone(), interface, namespace, arguments, capabilities }
    }

    fn patience(&self) -> Duration {
        self.runtime.plugins.limits.time + PATIENCE
    }

    /// The right to work on a Pod.
    pub(crate) fn lock_pod(&self, sandbox: &str) -> Result<NamedLock, Error> {
        let lock = self.records.lock_sandbox(sandbox, Instant::now() + self.patience());
        lock.map_err(Error::Lock)?.ok_or_else(|| Error::PodBusy(self.patience()))
    }

    pub(crate) fn lock_networks(&self, mode: LockMode) -> Result<NamedLock, Error> {
        let lock = self.records.lock_networks(mode, Instant::now() + self.patience());
        lock.map_err(Error::Lock)?.ok_or_else(|| Error::NetworksBusy(self.patience()))
    }
}

fn is_of_pod(entry: &CacheEntry, namespace: &str, name: &str) -> bool {
    entry.marker().is_some_and(|marker| marker.pod.namespace == namespace && marker.pod.name == name)
}

/// The sandbox whose lock is for an attachment.
pub(crate) fn sandbox_of(entry: &CacheEntry) -> &str {
    entry.marker().map_or(entry.container(), |marker| &marker.sandbox)
}

/// What the kubelet's runtimes pass to plugins, and then the user's own.
fn pod_arguments(place: &Place<'_>, own: Vec<(String, String)>) -> Vec<(String, String)> {
    let Pod { namespace, name, uid } = place.pod;
    let known = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", namespace),
        ("K8S_POD_NAME", name),
        ("K8S_POD_INFRA_CONTAINER_ID", place.sandbox),
        ("K8S_POD_UID", uid),
    ];
    let is_own = |key: &str| own.iter().any(|(other, _)| other == key);
    let mut arguments: Vec<(String, String)> =
        known.iter().filter(|(key, _)| !is_own(key)).map(|(key, value)| ((*key).into(), (*value).into())).collect();
    arguments.extend(own);
    arguments
}

fn namespace_path(opened: &OpenSandbox) -> String {
    opened.namespace().path().to_string_lossy().into_owned()
}

fn check_primary(interface: &InterfaceName) -> Result<(), Error> {
    if interface.as_bytes() == PRIMARY { Err(Error::Primary(interface.clone())) } else { Ok(()) }
}

/// Whether the Pod has a link of that name, or with that alternative name.
fn has_link(opened: &OpenSandbox, name: &InterfaceName) -> Result<bool, Error> {
    link::has_link(opened.namespace(), name).map_err(|error| Error::Links(Box::new(error)))
}
