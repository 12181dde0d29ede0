//! Stands in for the daemon of Multus 4.3.0 (thick plugin): its delegate API only, `multus-stand-in SOCKET CNI_PATH`.
//!
//! It answers as the daemon was seen to: which errors, their texts, DEL that needs the Pod, results always of version 1.1.0,
//! every configuration run as its own version 0.3.1, nothing undone after a failed ADD. It runs the real plugins, asks the
//! API server by kubectl, and writes each request as a JSON line.

use std::error::Error;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

/// The cniVersion of the daemon's own configuration: everything runs in it.
const VERSION: &str = "0.3.1";
const CACHE: &str = "/var/lib/cni/multus/results";

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(socket), Some(plugins)) = (words.next(), words.next()) else {
        return Err("usage: multus-stand-in SOCKET CNI_PATH".into());
    };
    let socket = PathBuf::from(socket);
    let directory = socket.parent().ok_or("the socket needs a directory")?;
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(&socket)?;
    fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
    say("listening");
    for stream in listener.incoming() {
        let (stream, plugins) = (stream?, plugins.clone());
        std::thread::spawn(move || {
            if let Err(error) = serve(stream, &plugins) {
                say(&format!("connection: {error}"));
            }
        });
    }
    Ok(())
}

fn say(line: &str) {
    // nobody is there to be told of an error
    let _ = writeln!(io::stdout(), "{line}");
}

/// One request; the connection ends with its answer.
fn serve(mut stream: UnixStream, plugins: &str) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ');
    let (status, text) = match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
        ("GET" | "POST", "/healthz") => (200, String::new()),
        ("POST", "/delegate") => delegate(&body, plugins),
        (_, "/delegate") => (405, "Method Not Allowed\n".into()),
        _ => (404, "404 page not found\n".into()),
    };
    let kind = if text.is_empty() { "" } else { "Content-Type: text/plain; charset=utf-8\r\n" };
    let reason = if status == 200 { "OK" } else { "Error" };
    let head =
        format!("HTTP/1.1 {status} {reason}\r\n{kind}Content-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())
}

/// The environment of a request, and its configuration.
struct Call {
    command: String,
    container: String,
    namespace: String,
    interface: String,
    arguments: String,
    pod: (String, String, String),
    configuration: Map<String, Value>,
    attributes: Value,
}

fn delegate(body: &[u8], plugins: &str) -> (u16, String) {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let env = |key: &str| request["env"][key].as_str().unwrap_or_default().to_owned();
    let (command, interface) = (env("CNI_COMMAND"), env("CNI_IFNAME"));
    let answer = match Call::read(body) {
        Err(error) => Err(error),
        Ok(call) => call.run(plugins).map_err(|error| {
            let Call { container, namespace, interface, arguments, .. } = &call;
            format!(
                "ContainerID:{container:?} Netns:{namespace:?} IfName:{interface:?} Args:{arguments:?} Path:\"\" ERRORED: {error}"
            )
        }),
    };
    let status = if answer.is_ok() { 200 } else { 400 };
    let error = answer.as_ref().err();
    say(&json!({"command": command, "interface": interface, "status": status, "error": error}).to_string());
    match answer {
        Ok(text) => (200, text),
        Err(error) => (400, format!("{error}\n")),
    }
}

impl Call {
    fn read(body: &[u8]) -> Result<Self, String> {
        let request: Value = serde_json::from_slice(body).map_err(|_| "unexpected end of JSON input".to_owned())?;
        let env = |key: &str| request["env"][key].as_str().map(str::to_owned);
        let missing = |key: &str| format!("could not extract the CNI command args: missing {key}");
        let command = env("CNI_COMMAND").filter(|command| !command.is_empty());
        let command = command.ok_or("unexpected or missing CNI_COMMAND")?;
        let container = env("CNI_CONTAINERID").ok_or_else(|| missing("CNI_CONTAINERID"))?;
        let namespace = env("CNI_NETNS").ok_or_else(|| missing("CNI_NETNS"))?;
        let interface = env("CNI_IFNAME").unwrap_or_else(|| "eth0".into());
        let extract = |why: String| format!("could not extract the kubernetes runtime args: {why}");
        let arguments = env("CNI_ARGS").ok_or_else(|| extract("missing CNI_ARGS: 'map[]'".into()))?;
        let mut pod = (String::new(), String::new(), String::new());
        for item in arguments.split(';') {
            let pair: Vec<&str> = item.split('=').collect();
            let [key, value] = pair[..] else { return Err(extract(format!("invalid CNI_ARG '{item}'"))) };
            match key {
                "K8S_POD_NAMESPACE" => pod.0 = value.into(),
                "K8S_POD_NAME" => pod.1 = value.into(),
                "K8S_POD_UID" => pod.2 = value.into(),
                _ => {}
            }
        }
        let configuration = request["config"].as_str().and_then(decode);
        let configuration = configuration.ok_or("illegal base64 data at input byte 0")?;
        let configuration = serde_json::from_slice(&configuration).map_err(|error| error.to_string())?;
        let attributes = request["interfaceAttributes"].clone();
        Ok(Self { command, container, namespace, interface, arguments, pod, configuration, attributes })
    }

    fn run(&self, plugins: &str) -> Result<String, String> {
        match self.command.as_str() {
            "ADD" | "DEL" => self.find_pod()?,
            "STATUS" => return Ok(String::new()),
            "CHECK" if self.configuration.contains_key("plugins") => {
                return Err("error parsing configuration: missing 'type'".into());
            }
            "CHECK" => return Err(format!("configuration version {VERSION:?} does not support the CHECK command")),
            other => return Err(format!("unknown cmd type: {other}")),
        }
        let list = self.list()?;
        if self.command == "DEL" {
            for plugin in list.iter().rev() {
                self.call(plugin, None, plugins)?;
            }
            let _ = fs::remove_file(self.cache());
            return Ok(String::new());
        }
        let (namespace, name, _) = &self.pod;
        let networking = |error| format!("error configuring pod [{namespace}/{name}] networking: {error}");
        self.is_name_free(&list).map_err(networking)?;
        let mut result = None;
        for plugin in &list {
            result = Some(self.call(plugin, result, plugins).map_err(networking)?);
        }
        let result = result.unwrap_or_default();
        self.keep(&result)?;
        Ok(json!({"Result": newest(result)}).to_string())
    }

    fn find_pod(&self) -> Result<(), String> {
        let (namespace, name, uid) = &self.pod;
        let get = ["get", "pod", "--namespace", namespace, name, "--output=jsonpath={.metadata.uid}"];
        let done = Command::new("kubectl").args(get).output().map_err(|error| error.to_string())?;
        if !done.status.success() {
            return Err("pod not found during Multus GetPod".into());
        }
        let found = String::from_utf8_lossy(&done.stdout);
        if uid.is_empty() || *uid == found {
            return Ok(());
        }
        Err(format!("Multus: [{namespace}/{name}/{uid}]: expected pod UID {uid:?} but got {found:?} from Kube API"))
    }

    fn is_name_free(&self, list: &[Map<String, Value>]) -> Result<(), String> {
        let (namespace, interface) = (&self.namespace, &self.interface);
        if interface.is_empty() {
            return Err("interface name is empty".into());
        }
        if !Path::new(namespace).exists() {
            return Err(format!("validateIfName: no net namespace {namespace} found: failed to Statfs {namespace:?}"));
        }
        let show = [&format!("--net={namespace}"), "ip", "link", "show", "dev", interface];
        let shown = Command::new("nsenter").args(show).output().map_err(|error| error.to_string())?;
        if !shown.status.success() {
            return Ok(());
        }
        let plugin = list.first().and_then(|plugin| plugin["type"].as_str()).unwrap_or_default();
        Err(format!(
            "DelegateAdd: cannot set {plugin:?} interface name to {interface:?}: validateIfName: interface name {interface} already exists"
        ))
    }

    /// The plugins as they are called: with the list's name and the daemon's version.
    fn list(&self) -> Result<Vec<Map<String, Value>>, String> {
        let configuration = &self.configuration;
        let plugins = match (configuration.get("plugins").and_then(Value::as_array), configuration.contains_key("type"))
        {
            (Some(plugins), _) => plugins.iter().filter_map(|plugin| plugin.as_object().cloned()).collect(),
            (None, true) => {
                let mut single = configuration.clone();
                // of a single plugin it sees the daemon's keys
                for (key, value) in [("logLevel", "verbose"), ("socketDir", "/run/multus")] {
                    single.insert(key.into(), value.into());
                }
                vec![single]
            }
            (None, false) => {
                return Err("LoadDelegateNetConf: failed with: LoadDelegateNetConfList: delegate must have the 'type' or 'plugin' field".into());
            }
        };
        let complete = |mut plugin: Map<String, Value>| {
            plugin.insert("name".into(), configuration["name"].clone());
            plugin.insert("cniVersion".into(), VERSION.into());
            if let Some(arguments) = self.attributes["cni-args"].as_object() {
                let own = plugin.get("args").and_then(|args| args["cni"].as_object()).cloned().unwrap_or_default();
                let merged: Map<String, Value> = own.into_iter().chain(arguments.clone()).collect();
                plugin.insert("args".into(), json!({"cni": merged}));
            }
            let mut runtime = Map::new();
            for capability in ["ips", "mac"] {
                let is_supported = plugin.get("capabilities").is_some_and(|of| of[capability] == true);
                if is_supported && !self.attributes[capability].is_null() {
                    runtime.insert(capability.into(), self.attributes[capability].clone());
                }
            }
            if !runtime.is_empty() {
                plugin.insert("runtimeConfig".into(), runtime.into());
            }
            plugin
        };
        Ok(Vec::into_iter(plugins).map(complete).collect())
    }

    fn call(&self, plugin: &Map<String, Value>, before: Option<Value>, path: &str) -> Result<Value, String> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        let file = path.split(':').map(|dir| Path::new(dir).join(kind)).find(|file| file.is_file());
        let file = file.ok_or_else(|| format!("failed to find plugin {kind:?} in path [{path}]"))?;
        let mut input = plugin.clone();
        input.extend(before.map(|result| ("prevResult".to_owned(), result)));
        let (namespace, name, uid) = &self.pod;
        let mut arguments = format!(
            "IgnoreUnknown=true;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID=;K8S_POD_UID={uid}"
        );
        if let Some(mac) = self.attributes["mac"].as_str() {
            arguments += &format!(";MAC={mac}");
        }
        if let Some(ips) = self.attributes["ips"].as_array() {
            let ips: Vec<&str> = ips.iter().filter_map(Value::as_str).collect();
            arguments += &format!(";IP={}", ips.join(","));
        }
        let environment = [
            ("CNI_COMMAND", self.command.as_str()),
            ("CNI_CONTAINERID", &self.container),
            ("CNI_NETNS", &self.namespace),
            ("CNI_IFNAME", &self.interface),
            ("CNI_ARGS", &arguments),
            ("CNI_PATH", path),
        ];
        let mut command = Command::new(file);
        command.envs(environment).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let stdin = child.stdin.take();
        let written = stdin.map_or(Ok(()), |mut pipe| pipe.write_all(Value::from(input).to_string().as_bytes()));
        written.map_err(|error| error.to_string())?;
        let done = child.wait_with_output().map_err(|error| error.to_string())?;
        let output: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
        if done.status.success() {
            return Ok(output);
        }
        let message = output["msg"].as_str().unwrap_or("netplugin failed with no error message").to_owned();
        let verb = self.command.to_lowercase();
        let in_list = self.configuration.contains_key("plugins");
        Err(if in_list { format!("plugin type={kind:?} failed ({verb}): {message}") } else { message })
    }

    fn cache(&self) -> PathBuf {
        let network = self.configuration["name"].as_str().unwrap_or_default();
        Path::new(CACHE).join(format!("{network}-{}-{}", self.container, self.interface))
    }

    /// As libcni does after an ADD.
    fn keep(&self, result: &Value) -> Result<(), String> {
        let entry = json!({"kind": "cniCacheV1", "containerId": self.container, "ifName": self.interface,
            "networkName": self.configuration["name"], "config": encode(&Value::from(self.configuration.clone()).to_string()),
            "netns": self.namespace, "result": result});
        let written = fs::create_dir_all(CACHE).and_then(|()| fs::write(self.cache(), entry.to_string()));
        written.map_err(|error| format!("{}: {error}", self.cache().display()))
    }
}

/// A result of version 0.3.1 as one of version 1.1.0.
fn newest(mut result: Value) -> Value {
    result["cniVersion"] = "1.1.0".into();
    for ip in result["ips"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        ip.remove("version");
    }
    result
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = DIGITS.iter().position(|it| *it == digit)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(bytes)
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * at) & 63]);
            out.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    out
}
