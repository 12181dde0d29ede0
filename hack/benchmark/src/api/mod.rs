//! What the rows on a real cluster share: requests to its API server, watches, what the agent asked, and the agent.

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod proxy;
pub(crate) mod watcher;
