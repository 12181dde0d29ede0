//! Per-link settings that only files give: `/proc/sys/net/…`, which shows the calling thread's own namespace.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use netdevice::{
    InterfaceName,
    sysctl::{IPV6_CONF_UNTOLD, Sysctl},
};

const ROOT: &str = "/proc/sys/net";

fn folder(family: &str, folder: &str, link: &[u8]) -> PathBuf {
    Path::new(ROOT).join(family).join(folder).join(OsStr::from_bytes(link))
}

/// Writes one setting of a link.
pub(crate) fn write(link: &InterfaceName, setting: &Sysctl) -> io::Result<()> {
    fs::write(folder(setting.family, setting.folder, link.as_bytes()).join(&setting.file), &setting.value)
}

/// Whether the value of a link's setting is another one than new links get.
pub(crate) fn is_explicit(family: &str, file: &str, value: i32) -> bool {
    let text = fs::read_to_string(folder(family, "conf", b"default").join(file));
    text.ok().and_then(|text| text.trim().parse::<i32>().ok()).is_some_and(|default| default != value)
}

/// The settings of a link that somebody made and only files tell: those that differ from what new links get.
pub(crate) fn explicit_settings(link: &InterfaceName) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut compare = |family: &str, kind: &str, file: &str| {
        let Ok(value) = fs::read_to_string(folder(family, kind, link.as_bytes()).join(file)) else { return };
        // only the first namespace has neigh/default; elsewhere the loopback interface shows what a new link gets
        let default = fs::read_to_string(folder(family, kind, b"default").join(file))
            .or_else(|_| fs::read_to_string(folder(family, kind, b"lo").join(file)));
        if default.is_ok_and(|default| default != value) {
            settings.insert(format!("{family}/{kind}/{file}"), value.trim().to_owned());
        }
    };
    IPV6_CONF_UNTOLD.iter().for_each(|file| compare("ipv6", "conf", file));
    for family in ["ipv4", "ipv6"] {
        let files = fs::read_dir(folder(family, "neigh", link.as_bytes())).into_iter().flatten().flatten();
        files.for_each(|file| compare(family, "neigh", &file.file_name().to_string_lossy()));
    }
    settings
}
