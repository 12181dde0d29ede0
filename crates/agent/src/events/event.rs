//! The Event of `events.k8s.io/v1` for a report. `kubectl describe` and `kubectl get events` show it like any other.

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};

use super::occurrence::{Report, Severity, Subject};

/// Most characters of the reporting instance.
const MAX_INSTANCE: usize = 128;
/// Most characters of the object's name in that of the Event, which may have 253 in all.
const MAX_NAME: usize = 200;

impl Subject {
    /// The namespace of its Events. A Node has none, and its Events are in `default`, as the kubelet's are.
    pub(super) fn namespace(&self) -> &str {
        match self {
            Self::Pod { namespace, .. } => namespace,
            Self::Node(_) => "default",
        }
    }

    fn reference(&self) -> ObjectReference {
        let version = Some("v1".to_owned());
        match self {
            Self::Pod { namespace, name, uid } => ObjectReference {
                api_version: version,
                kind: Some("Pod".into()),
                namespace: Some(namespace.clone()),
                name: Some(name.clone()),
                uid: Some(uid.clone()),
                ..ObjectReference::default()
            },
            // the kubelet uses the name as UID too, and `kubectl describe node` selects by that
            Self::Node(name) => ObjectReference {
                api_version: version,
                kind: Some("Node".into()),
                name: Some(name.clone()),
                uid: Some(name.clone()),
                ..ObjectReference::default()
            },
        }
    }
}

/// The name of the Event of a report: as client-go makes it, from the object's name and the time.
pub(super) fn build_name(subject: &Subject, now: Timestamp) -> String {
    let (Subject::Pod { name, .. } | Subject::Node(name)) = subject;
    let name: String = name.chars().take(MAX_NAME).collect();
    // a label must not end in a dot or dash
    format!("{}.{:x}", name.trim_end_matches(['.', '-']), now.as_nanosecond())
}

/// The Event that is made when something happens first.
pub(super) fn build_event(report: &Report, name: &str, node: Option<&str>, now: Timestamp) -> Event {
    let instance: String = node.unwrap_or(report.controller).chars().take(MAX_INSTANCE).collect();
    let severity = match report.severity {
        Severity::Normal => "Normal",
        Severity::Warning => "Warning",
    };
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(report.subject.namespace().to_owned()),
            ..ObjectMeta::default()
        },
        action: Some(report.action.into()),
        event_time: Some(MicroTime(now)),
        note: Some(report.note.clone()),
        reason: Some(report.reason.into()),
        regarding: Some(report.subject.reference()),
        reporting_controller: Some(report.controller.into()),
        reporting_instance: Some(instance),
        type_: Some(severity.into()),
        ..Event::default()
    }
}

/// The change of an Event when the same happens again.
pub(super) fn build_count(count: i32, now: Timestamp) -> Event {
    Event { series: Some(EventSeries { count, last_observed_time: MicroTime(now) }), ..Event::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, to_value};

    use super::{super::occurrence::tests::refused, *};

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    #[test]
    fn an_event_has_all_that_the_api_server_asks_for() {
        let report = refused("no such device").reports(None).remove(0);
        let name = build_name(&report.subject, now());
        let event = to_value(build_event(&report, &name, Some("node-1"), now())).unwrap();
        let expected = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": "web.17979cfe362a0000", "namespace": "default"},
            "action": "Attach",
            "eventTime": "2023-11-14T22:13:20.000000Z",
            "note": "no such device",
            "reason": "InjectionRefused",
            "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "web", "uid": "0a1b"},
            "reportingController": "netdevice",
            "reportingInstance": "node-1",
            "type": "Warning",
        });
        assert_eq!(event, expected);
    }

    #[test]
    fn an_event_of_the_node_is_where_the_kubelets_are() {
        let subject = Subject::Node("node-1".into());
        let reference = to_value(subject.reference()).unwrap();
        assert_eq!(reference, json!({"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-1"}));
        assert_eq!(subject.namespace(), "default");
    }

    #[test]
    fn the_name_of_an_event_is_legal_however_long_the_objects_name_is() {
        let name = build_name(&Subject::Node(format!("{}.x{}", "a".repeat(198), "b".repeat(50))), now());
        assert!(name.len() <= 253 && name.starts_with("aaa") && name.contains("a.x.1"), "{name}");
        let name = build_name(&Subject::Node(format!("{}.b", "a".repeat(199))), now());
        assert!(!name.contains(".."), "{name}");
    }

    #[test]
    fn a_count_touches_the_series_and_nothing_else() {
        let patch = to_value(build_count(3, now())).unwrap();
        let series = json!({"count": 3, "lastObservedTime": "2023-11-14T22:13:20.000000Z"});
        assert_eq!(patch["series"], series);
        let rest = patch.as_object().unwrap().iter().filter(|(key, _)| *key != "series");
        let rest: Vec<(&str, &Value)> = rest.map(|(key, value)| (key.as_str(), value)).collect();
        assert_eq!(
            rest,
            [("apiVersion", &json!("events.k8s.io/v1")), ("kind", &json!("Event")), ("metadata", &json!({})),]
        );
    }
}
