//! The socket that a runtime leaves open.

use std::{
    ffi::OsString,
    os::{fd::IntoRawFd, unix::net::UnixStream as StdStream},
};

use nri::{
    Config, Error,
    stand_in::{Peer, runtime},
};
use tokio::net::UnixStream;

use crate::rig::{Rig, within};

fn environment(socket: Option<i32>) -> impl Fn(&str) -> Option<OsString> {
    move |name| match name {
        "NRI_PLUGIN_NAME" => Some("netdevice".into()),
        "NRI_PLUGIN_IDX" => Some("42".into()),
        "NRI_PLUGIN_SOCKET" => socket.map(|number| number.to_string().into()),
        _ => None,
    }
}

/// One test for all: the environment holds for a process, and its socket can be taken over once.
#[tokio::test(start_paused = true)]
async fn the_socket_of_the_environment_is_taken_over_once() {
    assert!(Config::pre_launched(environment(None)).unwrap().is_none(), "nobody started us");
    for number in ["", "x", "-1", "1", "99999999999"] {
        let config = Config::pre_launched(|name| match name {
            "NRI_PLUGIN_SOCKET" => Some(number.into()),
            other => environment(None)(other),
        });
        assert!(matches!(config, Err(Error::AdoptFailed { .. })), "{number}: {config:?}");
    }

    let (ours, theirs) = StdStream::pair().unwrap();
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::empty()).unwrap();
    let number = ours.into_raw_fd();
    let config = Config::pre_launched(environment(Some(number))).unwrap().unwrap();
    let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
    assert_ne!(u32::from_str_radix(flags, 8).unwrap() & 0o2_000_000, 0, "close-on-exec: {flags}");
    assert!(matches!(Config::pre_launched(environment(Some(number))), Err(Error::AdoptFailed { .. })));

    theirs.set_nonblocking(true).unwrap();
    let (rig, mut peer) = (Rig::start(config), Peer::over(UnixStream::from_std(theirs).unwrap()));
    let registration = within(peer.registration()).await.unwrap();
    assert_eq!((&registration.name[..], &registration.index[..]), ("netdevice", "42"));
    peer.accept(&registration).await;
    peer.configure(runtime()).await.unwrap();
    drop(peer);
    rig.end().await.unwrap();
}
