//! What the kubelet knows of its plugins.

use std::collections::{BTreeMap, BTreeSet};

use proto::deviceplugin::{Device, HEALTHY};

/// Everything, by resource name.
#[derive(Debug, Clone, Default)]
pub struct KubeletState {
    /// Each resource that was ever registered since the kubelet started.
    pub resources: BTreeMap<String, Resource>,
}

/// A resource.
#[derive(Debug, Clone, Default)]
pub struct Resource {
    /// Socket of the instance that registered last.
    pub endpoint: String,
    /// Registrations since the kubelet started.
    pub registrations: usize,
    /// Whether a stream is open.
    pub is_connected: bool,
    /// Whether GetPreferredAllocation is asked.
    pub has_preference: bool,
    /// Every list that came, the last one last.
    pub lists: Vec<Vec<Device>>,
    /// Devices that were allocated and not released.
    pub in_use: BTreeSet<String>,
}

impl Resource {
    /// The last list.
    pub fn devices(&self) -> &[Device] {
        self.lists.last().map_or(&[], Vec::as_slice)
    }

    /// Ids of the last list, in its order.
    pub fn ids(&self) -> Vec<&str> {
        self.devices().iter().map(|device| device.id.as_str()).collect()
    }

    /// Ids of the healthy devices that no Pod has.
    pub fn available(&self) -> Vec<String> {
        let is_free = |device: &&Device| device.health == HEALTHY && !self.in_use.contains(&device.id);
        self.devices().iter().filter(is_free).map(|device| device.id.clone()).collect()
    }
}
