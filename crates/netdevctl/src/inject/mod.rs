//! `if-inject`: interfaces in Pods that run.

pub mod device;
