//! The opaque parameters of a claim or of a class: `DeviceConfiguration`.
