//! The ResourceSlices of this node, kept as they should be.
