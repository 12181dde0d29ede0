//! What the API server was asked by the agent's ServiceAccount, from its audit log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

/// The API server's policy: requests of this user, each at its end; a watch at its beginning too.
pub(crate) fn policy(user: &str) -> String {
    format!(
        "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: [{user}]
- level: None
"
    )
}

/// How long nothing must come until all of an event is over.
const SETTLED: Duration = Duration::from_secs(3);

/// The log.
#[derive(Debug)]
pub(crate) struct Audit(pub(crate) PathBuf);

/// Requests by kind, such as `patch pods/status`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Requests {
    pub(crate) counts: BTreeMap<String, f64>,
    /// How long the API server was asked to keep each watch, in seconds.
    pub(crate) timeouts: Vec<f64>,
    /// Requests that were refused, such as writes that another writer preceded.
    pub(crate) refused: f64,
}

impl Audit {
    /// How much there is: where what happens next begins.
    pub(crate) fn position(&self) -> Result<usize> {
        Ok(fs::read(&self.0).with_context(|| self.0.display().to_string())?.len())
    }

    /// Waits until nothing more comes.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut known = self.position()?;
        loop {
            std::thread::sleep(SETTLED);
            let now = self.position()?;
            if now == known {
                return Ok(());
            }
            known = now;
        }
    }

    /// Requests since a position.
    pub(crate) fn since(&self, position: usize) -> Result<Requests> {
        let log = fs::read(&self.0)?;
        Requests::read(&String::from_utf8_lossy(log.get(position..).unwrap_or_default()))
    }
}

impl Requests {
    fn read(log: &str) -> Result<Self> {
        let mut requests = Self::default();
        let mut known = BTreeSet::new();
        for line in log.lines() {
            let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (verb, uri) = (text("/verb"), text("/requestURI"));
            // that of a watch is its end
            let is_end_of_watch = verb == "watch" && text("/stage") == "ResponseComplete";
            if is_end_of_watch || !known.insert(text("/auditID").to_owned()) {
                continue;
            }
            let code = event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default();
            requests.refused += f64::from(u8::from(code >= 400));
            let subresource = Some(text("/objectRef/subresource")).filter(|name| !name.is_empty());
            let suffix = subresource.map(|name| format!("/{name}")).unwrap_or_default();
            let kind = format!("{verb} {}{suffix}", text("/objectRef/resource"));
            *requests.counts.entry(kind).or_default() += 1.0;
            if verb == "watch" {
                let parameters = uri.split(['?', '&']);
                let timeout =
                    parameters.filter_map(|it| it.strip_prefix("timeoutSeconds=")?.parse::<f64>().ok()).next();
                requests.timeouts.extend(timeout);
            }
        }
        Ok(requests)
    }

    /// All of them.
    pub(crate) fn sum(&self) -> f64 {
        self.counts.values().fold(0.0, |sum, count| sum + count)
    }

    /// Those of one kind.
    pub(crate) fn of(&self, kind: &str) -> f64 {
        self.counts.get(kind).copied().unwrap_or_default()
    }

    /// A part of them.
    pub(crate) fn per(mut self, count: f64) -> Self {
        self.counts.values_mut().for_each(|requests| *requests /= count);
        self.refused /= count;
        self
    }

    /// As text, such as `patch pods/status 1, create events 1`.
    pub(crate) fn describe(&self) -> String {
        let kinds = self.counts.iter().map(|(kind, count)| format!("{kind} {}", round(*count)));
        let text = kinds.collect::<Vec<_>>().join(", ");
        if text.is_empty() { "none".to_owned() } else { text }
    }
}

/// Two digits after the point.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(id: &str, stage: &str, verb: &str, resource: &str, more: &Value) -> String {
        let mut event = json!({"auditID": id, "stage": stage, "verb": verb, "objectRef": {"resource": resource}});
        for (key, value) in more.as_object().unwrap() {
            event[key] = value.clone();
        }
        format!("{event}\n")
    }

    #[test]
    fn a_watch_counts_when_it_begins_and_every_request_once() {
        let watch = json!({"requestURI": "/api/v1/pods?watch=true&timeoutSeconds=290&resourceVersion=7"});
        let status =
            json!({"objectRef": {"resource": "pods", "subresource": "status"}, "responseStatus": {"code": 409}});
        let log = [
            line("a", "ResponseComplete", "watch", "pods", &watch),
            line("b", "ResponseStarted", "watch", "pods", &watch),
            line("b", "ResponseComplete", "watch", "pods", &watch),
            line("c", "ResponseComplete", "patch", "pods", &status),
            line("d", "ResponseComplete", "patch", "pods", &status),
        ];
        let requests = Requests::read(&log.concat()).unwrap();
        assert_eq!(requests.describe(), "patch pods/status 2, watch pods 1");
        assert_eq!((requests.timeouts.clone(), requests.refused, requests.sum()), (vec![290.0], 2.0, 3.0));
        assert_eq!(requests.per(2.0).of("patch pods/status"), 1.0);
    }
}
