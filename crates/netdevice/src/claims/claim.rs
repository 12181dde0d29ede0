//! What a ResourceClaim allocates of this node.
