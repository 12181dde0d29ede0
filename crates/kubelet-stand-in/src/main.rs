//! The stand-in as a program: commands on stdin, one line of JSON on stdout for each.
//!
//! ```text
//! kubelet-stand-in FOLDER          FOLDER is where plugins register
//!   wait RESOURCE COUNT            until so many healthy devices are free
//!   list                           all resources with their devices
//!   allocate RESOURCE COUNT        what a container with that limit gets
//!   release RESOURCE ID...         the container is gone
//! ```

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use kubelet_stand_in::Kubelet;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let folder: PathBuf = std::env::args_os().nth(1).context("usage: kubelet-stand-in FOLDER")?.into();
    let kubelet = Kubelet::start(&folder).with_context(|| format!("cannot start in {}", folder.display()))?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut lines = BufReader::new(stdin()).lines();
    loop {
        let line = tokio::select! {
            _ = terminated.recv() => return Ok(()),
            line = lines.next_line() => line?,
        };
        // without commands it serves on, as a daemon whose stdin is closed
        let Some(line) = line else {
            terminated.recv().await;
            return Ok(());
        };
        let answer = obey(&kubelet, &line).await.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        stdout().write_all(format!("{answer}\n").as_bytes()).await?;
    }
}

async fn obey(kubelet: &Kubelet, line: &str) -> Result<Value> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["wait", resource, count] => {
            let count: usize = count.parse()?;
            let is_so = |state: &kubelet_stand_in::KubeletState| {
                state.resources.get(*resource).is_some_and(|known| known.available().len() >= count)
            };
            timeout(Duration::from_secs(30), kubelet.until("devices", is_so)).await.context("no such devices")?;
            Ok(json!({ "available": count }))
        }
        ["list"] => {
            let resources = kubelet.state().resources.into_iter().map(|(name, known)| {
                let device = |device: &proto::deviceplugin::Device| {
                    let topology = device.topology.iter().flat_map(|topology| &topology.nodes);
                    let nodes: Vec<i64> = topology.map(|node| node.id).collect();
                    json!({ "id": device.id, "health": device.health, "numaNodes": nodes })
                };
                (name, known.devices().iter().map(device).collect())
            });
            Ok(Value::Object(resources.collect()))
        }
        ["allocate", resource, count] => {
            let answer = kubelet.allocate_any(resource, count.parse()?).await;
            let answer = answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
            let names: Vec<&str> = answer.cdi_devices.iter().map(|device| device.name.as_str()).collect();
            Ok(json!({ "cdiDevices": names, "envs": answer.envs }))
        }
        ["release", resource, ids @ ..] => {
            kubelet.release(resource, ids);
            Ok(json!({}))
        }
        _ => bail!("unknown command {line:?}: wait, list, allocate, release"),
    }
}
