//! `find_sandbox [NAMESPACE POD]`: where a running Pod's network is, or all sandboxes of this node.

#![allow(clippy::print_stdout)] // a program for the terminal

use cri::{Candidates, Client, Deadlines, ENVIRONMENT};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let candidates = Candidates::find(None, std::env::var_os(ENVIRONMENT).as_deref())?;
    let client = Client::connect(&candidates, Deadlines::default()).await?;
    println!("{} {} at {}", client.runtime().name, client.runtime().version, client.endpoint());
    match &arguments[..] {
        [namespace, pod] => match client.find_sandbox(namespace, pod).await {
            Ok(found) => println!("{found:?}"),
            Err(error) => println!("{error}"),
        },
        _ => {
            for sandbox in client.list_sandboxes().await? {
                println!("{sandbox:?}");
            }
            let state = client.runtime_state().await?;
            println!("not ready: {:?}; information: {:?}", state.not_ready, state.info.keys());
        }
    }
    Ok(())
}
