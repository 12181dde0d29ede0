//! Generates clients and servers from the files in `/proto`, without `protoc`.

use std::{error::Error, path::Path};

/// One file per API, each a package of its own.
const FILES: [&str; 6] =
    ["cri.proto", "deviceplugin.proto", "nri.proto", "pluginregistration.proto", "podresources.proto", "ttrpc.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", folder.display());
    for file in FILES {
        let descriptors = protox::compile([file], [&folder])?;
        // many messages share an encoded device
        tonic_prost_build::configure().bytes(".v1beta1.ListAndWatchResponse").compile_fds(descriptors)?;
    }
    Ok(())
}
