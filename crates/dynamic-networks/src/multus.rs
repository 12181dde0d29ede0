//! Multus' thick daemon runs the plugins: its delegate API, HTTP on a Unix socket (`POST /delegate`).
//!
//! Its answers have no type but a status: 200 with a result, 200 without a body, 400 with a text.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use cni::{Delegate, DelegateError, NetworkList, Target};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::UnixStream, runtime, time::timeout};

/// Where the daemon listens.
pub const DEFAULT_SOCKET: &str = "/run/multus/multus.sock";
/// Where the daemon keeps results, in libcni's form.
pub const DEFAULT_CACHE_DIR: &str = "/var/lib/cni/multus";

/// How long one request may take: a plugin's time and some more.
const TIMEOUT: Duration = Duration::from_secs(90);
/// Longest answer in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// The daemon's words for a Pod that the API server no longer has.
const UNKNOWN_POD: &str = "pod not found";

/// The daemon.
#[derive(Debug, Clone)]
pub struct Multus {
    socket: PathBuf,
}

impl Multus {
    /// The daemon at a socket, in the mount namespace of the calling thread. Nothing is sent yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    fn call(&self, command: &str, list: &NetworkList, target: &Target) -> Result<Vec<u8>, DelegateError> {
        let body = request(command, list, target).to_string();
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| DelegateError::Unavailable(format!("cannot start: {error}")))?;
        let unavailable = |error: String| {
            let socket = self.socket.display();
            DelegateError::Unavailable(format!("Multus does not answer at {socket}: {error}"))
        };
        let answered = runtime.block_on(async { timeout(TIMEOUT, post(&self.socket, body)).await });
        let (status, body) =
            answered.map_err(|_| unavailable(format!("no answer within {TIMEOUT:?}")))?.map_err(unavailable)?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        // what precedes the error repeats the request
        let text = text.split_once("ERRORED: ").map_or(text.as_str(), |(_, error)| error).to_owned();
        Err(match status {
            StatusCode::BAD_REQUEST if text.starts_with(UNKNOWN_POD) => DelegateError::UnknownPod(text),
            StatusCode::BAD_REQUEST => DelegateError::Failed(text),
            status => unavailable(format!("status {status}: {text}")),
        })
    }
}

impl Delegate for Multus {
    fn add(&self, list: &NetworkList, target: &Target) -> Result<Value, DelegateError> {
        let body = self.call("ADD", list, target)?;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|error| DelegateError::Failed(format!("Multus' answer to ADD is no JSON: {error}")))?;
        let result = answer.get("Result").filter(|result| result.is_object()).cloned();
        result.ok_or_else(|| DelegateError::Failed("Multus' answer to ADD has no Result".into()))
    }

    fn delete(&self, list: &NetworkList, target: &Target) -> Result<(), DelegateError> {
        self.call("DEL", list, target).map(drop)
    }
}

/// The body of a request.
fn request(command: &str, list: &NetworkList, target: &Target) -> Value {
    // an item without "=" or an empty one is refused
    let of_pod = |key: &str| {
        target.arguments.iter().find(|(name, _)| name == key).map(|(name, value)| format!("{name}={value}"))
    };
    let arguments: Vec<String> =
        ["K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID"].into_iter().filter_map(of_pod).collect();
    let mut request = json!({
        "env": {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": target.container.as_str(),
            "CNI_NETNS": target.namespace,
            "CNI_IFNAME": target.interface.to_string(),
            "CNI_ARGS": arguments.join(";"),
        },
        "config": STANDARD.encode(list.text()),
    });
    let attributes: serde_json::Map<String, Value> = target
        .capabilities
        .iter()
        .filter(|(key, _)| *key == "ips" || *key == "mac")
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if command == "ADD" && !attributes.is_empty() {
        request["interfaceAttributes"] = attributes.into();
        request["interfaceAttributes"]["cni-args"] = Value::Null;
    }
    request
}

async fn post(socket: &Path, body: String) -> Result<(StatusCode, Vec<u8>), String> {
    let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::post("/delegate")
        .header(header::HOST, "multus")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes().to_vec()))
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            // the answer may have been read before
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_form_of_the_delegate_api() {
        let text = br#"{"cniVersion":"0.4.0","name":"n","plugins":[{"type":"macvlan"}]}"#;
        let list = NetworkList::from_json(text).unwrap();
        let mut target = Target::new("2de4".parse().unwrap(), "x2".parse().unwrap(), "/run/netns/a");
        let arguments = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", "default"),
            ("K8S_POD_NAME", "q1"),
            ("K8S_POD_INFRA_CONTAINER_ID", "2de4"),
            ("K8S_POD_UID", "624a"),
            ("MAC", "02:00:00:00:00:10"),
        ];
        target.arguments = arguments.map(|(key, value)| (key.into(), value.into())).into();
        target.capabilities.insert("mac".into(), "02:00:00:00:00:10".into());
        let expected = json!({
            "env": {"CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=q1;K8S_POD_UID=624a", "CNI_COMMAND": "ADD",
                "CNI_CONTAINERID": "2de4", "CNI_IFNAME": "x2", "CNI_NETNS": "/run/netns/a"},
            "config": STANDARD.encode(text),
            "interfaceAttributes": {"mac": "02:00:00:00:00:10", "cni-args": null},
        });
        assert_eq!(request("ADD", &list, &target), expected);
        assert_eq!(request("DEL", &list, &target).get("interfaceAttributes"), None);
    }

    #[test]
    fn a_daemon_that_is_away_is_not_a_failed_plugin() {
        let list = NetworkList::from_json(br#"{"name":"n","type":"p"}"#).unwrap();
        let target = Target::new("s".parse().unwrap(), "x".parse().unwrap(), "");
        let error = Multus::new("/nonexistent/multus.sock").delete(&list, &target).unwrap_err();
        assert!(
            matches!(&error, DelegateError::Unavailable(text) if text.contains("/nonexistent/multus.sock")),
            "{error}"
        );
    }
}
