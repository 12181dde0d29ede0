//! The CDI document of a claim.
