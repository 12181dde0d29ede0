//! A second watcher, which asks for the same as the controller: how many events come, and how long they are.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;

use super::proxy::Proxy;

/// Events of a watch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Traffic {
    pub(crate) events: f64,
    pub(crate) bytes: f64,
}

/// A watch that is counted. Its thread ends with the process.
#[derive(Debug)]
pub(crate) struct Watcher(Arc<Mutex<Traffic>>);

impl Watcher {
    pub(crate) fn start(proxy: &Proxy, path: &str, accept: &str) -> Result<Self> {
        let reader = proxy.watch(path, accept)?;
        let counted = Arc::default();
        let counter = Arc::clone(&counted);
        std::thread::Builder::new().name("watcher".into()).spawn(move || count(reader, &counter))?;
        Ok(Self(counted))
    }

    /// What came so far.
    pub(crate) fn traffic(&self) -> Traffic {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(reader: BufReader<TcpStream>, counter: &Mutex<Traffic>) {
    for line in reader.lines().map_while(Result::ok) {
        // with its end
        counter.lock().unwrap_or_else(PoisonError::into_inner).add(1.0, (line.len() + 1) as f64);
    }
}

impl Traffic {
    pub(crate) fn since(self, before: Self) -> Self {
        Self { events: self.events - before.events, bytes: self.bytes - before.bytes }
    }

    /// A part of it.
    pub(crate) fn per(self, count: f64) -> Self {
        Self { events: self.events / count, bytes: self.bytes / count }
    }

    fn add(&mut self, events: f64, bytes: f64) {
        self.events += events;
        self.bytes += bytes;
    }
}
