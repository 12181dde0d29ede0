//! Generates clients and servers from the files in `/proto`, without `protoc`.

use std::{error::Error, fs, path::Path};

/// One file per API, each a package of its own.
const FILES: [&str; 6] =
    ["cri.proto", "deviceplugin.proto", "nri.proto", "pluginregistration.proto", "podresources.proto", "ttrpc.proto"];

/// Files whose package has the name of another one's, or whose messages are another one's: each is generated into a directory
/// of its own, named after the file.
const IN_DIRECTORIES: [&str; 4] = ["dra.proto", "dra-v1beta1.proto", "drahealth.proto", "drahealth-v1alpha1.proto"];

/// The packages of those messages, and their modules.
const SHARED: [(&str, &str, &str); 2] = [
    ("dra-v1beta1.proto", ".k8s.io.kubelet.pkg.apis.dra.v1", "crate::dra"),
    ("drahealth-v1alpha1.proto", ".v1", "crate::drahealth"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", folder.display());
    for file in FILES {
        let descriptors = protox::compile([file], [&folder])?;
        // many messages share an encoded device
        tonic_prost_build::configure().bytes(".v1beta1.ListAndWatchResponse").compile_fds(descriptors)?;
    }
    let out = std::env::var("OUT_DIR")?;
    for file in IN_DIRECTORIES {
        let directory = Path::new(&out).join(file.trim_end_matches(".proto"));
        fs::create_dir_all(&directory)?;
        let mut builder = tonic_prost_build::configure().out_dir(directory);
        for (_, package, module) in SHARED.iter().filter(|(shared, ..)| *shared == file) {
            builder = builder.extern_path(*package, *module);
        }
        builder.compile_fds(protox::compile([file], [&folder])?)?;
    }
    Ok(())
}
