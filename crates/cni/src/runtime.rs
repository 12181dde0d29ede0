//! The operations: ADD, CHECK, DEL, STATUS and GC, each as calls of plugins and entries of the cache.

use std::{fmt, sync::Arc};

use serde_json::{Map, Value, json};

use crate::{
    cache::{Cache, CacheEntry, Marker, Phase},
    call::{self, Verb},
    caller::{Plugins, Program, Ready},
    capability::{self, CapabilityArguments},
    configuration::{NetworkList, Plugin},
    delegate::{Delegate, DelegateError},
    error::{AddError, Error, PluginFailure, Reason},
    name::NetworkName,
    node_device::{self, NodeDevice},
    process::Limits,
    result::Addition,
    target::Target,
    version::Version,
};

/// Whether a container that runs has no interface of the target's name.
pub type IsGone = Box<dyn Fn(&Target) -> bool + Send + Sync>;

/// The plugins of a node, and their results.
pub struct Runtime {
    /// The plugins.
    pub plugins: Plugins,
    /// Where results are kept.
    pub cache: Cache,
    /// Asked when `host-device` fails to delete an interface. Without an answer the failure counts.
    pub is_gone: IsGone,
    /// Runs the plugins in place of this program, if it is set.
    pub delegate: Option<Arc<dyn Delegate>>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plugins, cache, .. } = self;
        out.debug_struct("Runtime").field("plugins", plugins).field("cache", cache).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Runs these plugins.
    pub fn new(plugins: Plugins, cache: Cache) -> Self {
        Self { plugins, cache, is_gone: Box::new(|_| false), delegate: None }
    }

    /// The devices of the node that a network's plugins would take away from it, for the caller to check before an ADD.
    pub fn node_devices(&self, list: &NetworkList, capabilities: &CapabilityArguments) -> Vec<NodeDevice> {
        node_device::find(list, capabilities, |plugin| self.plugins.file_of(plugin))
    }

    /// Adds an interface to a container that has none of that name, and keeps the result. `marker` is kept with it.
    ///
    /// What is left of an attachment with the same key, whose ADD was killed or whose interface the container deleted, is
    /// deleted before.
    ///
    /// # Errors
    ///
    /// Nothing runs if the list, a capability argument, a plugin's file or version is wrong. If a plugin fails, DEL is called
    /// for it and those before it, in reverse.
    pub fn add(
        &self,
        list: &NetworkList,
        target: &Target,
        marker: Option<Marker>,
    ) -> Result<(Addition, Version), AddError> {
        capability::check(list, &target.capabilities)?;
        if let Some(delegate) = &self.delegate {
            return self.add_by(&**delegate, list, target, marker);
        }
        let ready = self.plugins.prepare(list, Verb::Add, None)?;
        if let Some(left) = self.cache.read(list.name(), target)? {
            // its configuration may be the reason why it is left
            self.delete(&left, &target.namespace).or_else(|_| self.delete_as(&left, list, &target.namespace))?;
        }
        let mut entry = CacheEntry::new(list, target, ready.version, marker);
        self.cache.write(&entry)?;
        let mut result = None;
        for (index, program) in ready.programs.iter().enumerate() {
            match self.add_one(&ready, program, target, result.as_ref()) {
                Ok(addition) => result = Some(addition),
                Err(failure) => {
                    let undo = self.undo(&ready, index + 1, target, result.as_ref()).err();
                    return Err(AddError { error: Box::new(failure.into()), undo: undo.map(Box::new) });
                }
            }
        }
        let result = result.unwrap_or_default();
        entry.set_phase(Phase::Added);
        entry.set_result(&result, ready.version);
        if let Err(error) = self.cache.write(&entry) {
            let undo = self.undo(&ready, ready.programs.len(), target, Some(&result)).err();
            return Err(AddError { error: Box::new(error.into()), undo: undo.map(Box::new) });
        }
        Ok((result, ready.version))
    }

    /// Adds an interface by another program, and keeps the result here, too.
    fn add_by(
        &self,
        delegate: &dyn Delegate,
        list: &NetworkList,
        target: &Target,
        marker: Option<Marker>,
    ) -> Result<(Addition, Version), AddError> {
        if let Some(left) = self.cache.read(list.name(), target)? {
            self.delete(&left, &target.namespace)?;
        }
        let version = Version::V1_1_0;
        let mut entry = CacheEntry::new(list, target, version, marker);
        self.cache.write(&entry)?;
        let added = delegate.add(list, target).map_err(Error::from).and_then(|result| {
            Addition::from_value(result, version).map_err(|error| Error::Result { network: list.name().clone(), error })
        });
        let written = added.and_then(|addition| {
            entry.set_phase(Phase::Added);
            entry.set_result(&addition, version);
            self.cache.write(&entry)?;
            Ok(addition)
        });
        written.map(|addition| (addition, version)).map_err(|error| {
            let undone = delegate.delete(list, target).map_err(Error::from);
            let undone = undone.and_then(|()| Ok(self.cache.remove(list.name(), target)?));
            AddError { error: Box::new(error), undo: undone.err().map(Box::new) }
        })
    }

    fn add_one(
        &self,
        ready: &Ready<'_>,
        program: &Program<'_>,
        target: &Target,
        previous: Option<&Addition>,
    ) -> Result<Addition, PluginFailure> {
        let input = call::input(ready.list, program.plugin, ready.version, previous, &target.capabilities);
        let output = self.plugins.call(program, Verb::Add, Some(target), &input)?;
        Addition::from_json(&output, ready.version)
            .map_err(|error| PluginFailure::new(program.plugin, Verb::Add, Reason::Result(error)))
    }

    /// Deletes what the first plugins of a list have made, and the entry if all of it is deleted.
    fn undo(&self, ready: &Ready<'_>, count: usize, target: &Target, result: Option<&Addition>) -> Result<(), Error> {
        self.delete_with(ready, count, target, result)?;
        Ok(self.cache.remove(ready.list.name(), target)?)
    }

    /// DEL for the first plugins, in reverse. One that fails does not keep the others from it.
    fn delete_with(
        &self,
        ready: &Ready<'_>,
        count: usize,
        target: &Target,
        result: Option<&Addition>,
    ) -> Result<(), Error> {
        // what stopped this program is over: the cleaning gets its time
        let limits = Limits { stop: None, ..self.plugins.limits.clone() };
        let mut failures = Vec::new();
        for program in ready.programs[..count].iter().rev() {
            let previous = result.filter(|_| ready.version.has_check());
            let input = call::input(ready.list, program.plugin, ready.version, previous, &target.capabilities);
            let called = self.plugins.call_within(&limits, program, Verb::Del, Some(target), &input);
            let are_addresses_left = match &called {
                Err(_) => !target.namespace.is_empty() && (self.is_gone)(target),
                Ok(_) => target.namespace.is_empty(),
            };
            let deleted = if are_addresses_left && self.is_host_device(program.plugin) {
                self.delete_addresses(&limits, program.plugin, target, &input)
            } else {
                called.map(drop)
            };
            failures.extend(deleted.err());
        }
        Error::of_all(failures)
    }

    fn is_host_device(&self, plugin: &Plugin) -> bool {
        node_device::is_host_device(&plugin.kind, &|plugin| self.plugins.file_of(plugin))
    }

    /// DEL of the IPAM plugin of a `host-device`. That one does not call it after the namespace is gone, and fails if the
    /// interface is no longer there, which DEL should not (specification, section 4).
    fn delete_addresses(
        &self,
        limits: &Limits,
        plugin: &Plugin,
        target: &Target,
        input: &Map<String, Value>,
    ) -> Result<(), PluginFailure> {
        let kind = plugin.object.get("ipam").and_then(|ipam| ipam.get("type")).and_then(Value::as_str);
        let Some(kind) = kind.filter(|kind| !kind.is_empty() && !kind.contains('/')) else { return Ok(()) };
        let ipam = Plugin { kind: kind.into(), object: Map::new() };
        self.plugins
            .call_within(limits, &self.plugins.program(&ipam, Verb::Del)?, Verb::Del, Some(target), input)
            .map(drop)
    }

    /// Deletes an attachment that is in the cache, by the configuration that it was made with. `namespace` is the path of
    /// its network namespace, empty if that is gone.
    ///
    /// # Errors
    ///
    /// The plugins that failed: the entry stays.
    pub fn delete(&self, entry: &CacheEntry, namespace: &str) -> Result<(), Error> {
        self.delete_as(entry, &entry.list()?, namespace)
    }

    /// Deletes an attachment that is in the cache, by another configuration of the same network.
    ///
    /// # Errors
    ///
    /// Those of [`Runtime::delete`].
    pub fn delete_as(&self, entry: &CacheEntry, list: &NetworkList, namespace: &str) -> Result<(), Error> {
        let mut target = entry.target()?;
        namespace.clone_into(&mut target.namespace);
        if let Some(delegate) = &self.delegate {
            match delegate.delete(list, &target) {
                Ok(()) => return Ok(self.cache.remove(list.name(), &target)?),
                // its plugins can be run without it, after the Pod's end
                Err(DelegateError::UnknownPod(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let made = entry.addition()?;
        let ready = self.plugins.prepare(list, Verb::Del, made.as_ref().map(|(_, version)| *version))?;
        if entry.marker().is_some_and(|marker| marker.phase == Phase::Added) {
            // if this program is killed, the next one continues
            let mut deleting = entry.clone();
            deleting.set_phase(Phase::Deleting);
            self.cache.write(&deleting)?;
        }
        self.undo(&ready, ready.programs.len(), &target, made.as_ref().map(|(addition, _)| addition))
    }

    /// Removes an attachment from the cache without a DEL.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub fn forget(&self, network: &NetworkName, target: &Target) -> Result<(), Error> {
        Ok(self.cache.remove(network, target)?)
    }

    /// As [`Runtime::forget`], for an entry whose key may not be valid.
    ///
    /// # Errors
    ///
    /// Those of [`Runtime::forget`].
    pub fn forget_entry(&self, entry: &CacheEntry) -> Result<(), Error> {
        Ok(self.cache.remove_entry(entry)?)
    }

    /// Deletes an attachment of which nothing is in the cache: addresses may be reserved for it all the same.
    ///
    /// # Errors
    ///
    /// The plugins that failed.
    pub fn delete_uncached(&self, list: &NetworkList, target: &Target) -> Result<(), Error> {
        let ready = self.plugins.prepare(list, Verb::Del, None)?;
        self.undo(&ready, ready.programs.len(), target, None)
    }

    /// Compares an attachment with the result of its ADD. Returns whether it was compared: a list may disable that.
    ///
    /// # Errors
    ///
    /// What the first plugin says that finds a difference.
    pub fn check(&self, entry: &CacheEntry, namespace: &str) -> Result<bool, Error> {
        let list = entry.list()?;
        let mut target = entry.target()?;
        namespace.clone_into(&mut target.namespace);
        let Some((result, version)) = entry.addition()? else { return Err(Error::NoResult) };
        let ready = self.plugins.prepare(&list, Verb::Check, Some(version))?;
        if !ready.version.has_check() {
            return Err(Error::NoVerb { network: list.name().clone(), version: ready.version, verb: Verb::Check });
        }
        if list.is_check_disabled {
            return Ok(false);
        }
        for program in &ready.programs {
            let input = call::input(&list, program.plugin, ready.version, Some(&result), &target.capabilities);
            self.plugins.call(program, Verb::Check, Some(&target), &input)?;
        }
        Ok(true)
    }

    /// Asks the plugins of a network whether they are ready for an ADD.
    ///
    /// # Errors
    ///
    /// What the first one says that is not ready; or when the network's version has no STATUS.
    pub fn status(&self, list: &NetworkList) -> Result<(), Error> {
        let ready = self.plugins.prepare_gc(list, Verb::Status)?;
        for program in &ready.programs {
            let input = call::input(list, program.plugin, ready.version, None, &CapabilityArguments::new());
            self.plugins.call(program, Verb::Status, None, &input)?;
        }
        Ok(())
    }

    /// Tells the plugins of a network which attachments there are: what they keep for others they may delete. Returns whether
    /// they were told: a list may disable that.
    ///
    /// # Errors
    ///
    /// The plugins that failed; or when the network's version has no GC.
    pub fn collect_garbage(&self, list: &NetworkList, valid: &[(String, String)]) -> Result<bool, Error> {
        let ready = self.plugins.prepare_gc(list, Verb::Gc)?;
        if list.is_gc_disabled {
            return Ok(false);
        }
        let valid: Vec<Value> =
            valid.iter().map(|(container, interface)| json!({"containerID": container, "ifname": interface})).collect();
        let mut failures = Vec::new();
        for program in &ready.programs {
            let mut input = call::input(list, program.plugin, ready.version, None, &CapabilityArguments::new());
            // libcni also writes the key of a draft of the specification, which old plugins read
            for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                input.insert(key.into(), valid.clone().into());
            }
            failures.extend(self.plugins.call(program, Verb::Gc, None, &input).err());
        }
        Error::of_all(failures)?;
        Ok(true)
    }
}

/// Those of a cache's entries that are of one network, as GC wants them.
pub fn attachments_of(entries: &[CacheEntry], network: &NetworkName) -> Vec<(String, String)> {
    let of_network = entries.iter().filter(|entry| entry.network() == network.as_str());
    of_network.map(|entry| (entry.container().to_owned(), entry.interface().to_owned())).collect()
}
