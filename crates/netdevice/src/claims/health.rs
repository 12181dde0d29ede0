//! The health of devices, as reported to the kubelet.
