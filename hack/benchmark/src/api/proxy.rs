//! HTTP with the API server, through `kubectl proxy` in the node: that has the administrator's credentials and TLS.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{Node, Process};
use link::run_inside;
use serde_json::Value;
use store::Namespace;

const PORT: u16 = 8009;
/// A watch is silent for up to a minute.
const PATIENCE: Duration = Duration::from_secs(90);
/// What the controller asks for: the metadata alone.
pub(crate) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// The same of a list.
pub(crate) const METADATA_OF_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
/// An object whole.
pub(crate) const WHOLE: &str = "application/json";

/// The proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    network: Namespace,
    process: Process,
}

/// When a request was sent, and when it was answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
}

impl Proxy {
    pub(crate) fn start(node: &Node) -> Result<Self> {
        let network = Namespace::open(format!("/proc/{}/ns/net", node.init_pid())).context("the node's network")?;
        let process = node.spawn(["kubectl".to_owned(), "proxy".into(), format!("--port={PORT}")]);
        process.wait_for_output("Starting to serve");
        Ok(Self { network, process })
    }

    /// Changes an object by a merge patch.
    pub(crate) fn patch(&self, path: &str, patch: &Value) -> Result<Times> {
        self.send("PATCH", path, "application/merge-patch+json", patch)
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Times> {
        let body = body.to_string();
        let head = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        let request = self.request(method, path, WHOLE, &head, &body);
        let mut stream = self.connect()?;
        let sent = Instant::now();
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let answered = Instant::now();
        body_of(&answer).with_context(|| format!("{method} {path}"))?;
        Ok(Times { sent, answered })
    }

    /// Replaces an object.
    pub(crate) fn put(&self, path: &str, object: &Value) -> Result<Times> {
        self.send("PUT", path, "application/json", object)
    }

    /// The text of an object or of a list.
    pub(crate) fn get(&self, path: &str, accept: &str) -> Result<String> {
        let mut stream = self.connect()?;
        stream.write_all(self.request("GET", path, accept, "", "").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(body_of(&answer).with_context(|| format!("GET {path}"))?.to_owned())
    }

    /// Begins a watch: a line for each event.
    pub(crate) fn watch(&self, path: &str, accept: &str) -> Result<BufReader<TcpStream>> {
        let mut stream = self.connect()?;
        stream.write_all(self.request("GET", path, accept, "", "").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(reader.read_line(&mut head)? > 0, "GET {path}: the connection ended: {head}");
        }
        body_of(&head).with_context(|| format!("GET {path}"))?;
        Ok(reader)
    }

    /// Version 1.0 of the protocol: the end of the connection is the end of the answer.
    fn request(&self, method: &str, path: &str, accept: &str, head: &str, body: &str) -> String {
        format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n{head}\r\n{body}")
    }

    fn connect(&self) -> Result<TcpStream> {
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, PORT));
        let stream = run_inside(&self.network, connect)?.with_context(|| self.process.output())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// The body of an answer, which must be a success.
fn body_of(answer: &str) -> Result<&str> {
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no end of its head")?;
    ensure!(head.split(' ').nth(1).is_some_and(|code| code.starts_with('2')), "{head}\n{body}");
    Ok(body)
}
