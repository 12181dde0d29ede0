//! The ResourceSlices of this node.
