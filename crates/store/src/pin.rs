//! Pins: while a virtual device is attached, its network namespace is bind-mounted on `netns/<id>` in the state directory,
//! as `ip netns` does.
//!
//! A virtual device is destroyed with its namespace, and a namespace lives as long as something refers to it. A mount does,
//! whatever happens to the container's processes, the runtime's mounts, its shim, the agent and the hooks. The program
//! that attaches such a device pins the namespace after the record is written and before the device moves; the program that
//! ends the record removes the pin first. A pin without a record is removed with the next record of the device, or by the agent.
//!
//! A copy of the mount in another mount namespace holds nothing up: the kernel detaches all mounts on a file that is
//! unlinked where it is not a mount point (`detach_mounts` in `fs/namespace.c`, Linux 3.18).

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use netdevice::{Attachment, DeviceId, acquisition::Recorded};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
};

use crate::{
    init_mounts::in_mounts_of_init,
    mounts::{Held, InMounts, Mounts},
    namespace::Namespace,
    records::Records,
};

/// Directory of the pins, below the state directory.
const PINS: &str = "netns";

impl Records {
    /// The records in that directory, for an agent. Pins are made in the mount namespace of PID 1, so that they outlive the
    /// agent's container and hooks see them. If it cannot be entered, the reason is returned too; the agent then has to
    /// keep a descriptor of each namespace.
    pub fn of_agent(directory: impl Into<PathBuf>) -> (Self, Option<io::Error>) {
        let mut records = Self::new(directory);
        records.held = Some(Held::default());
        match records.probe_init() {
            Ok(()) => {
                records.mounts = Mounts::Init(in_mounts_of_init);
                (records, None)
            }
            Err(error) => {
                records.mounts = Mounts::Own;
                (records, Some(error))
            }
        }
    }

    fn probe_init(&self) -> io::Result<()> {
        if std::process::id() == 1 {
            return Err(io::Error::other("the node's processes are not visible (hostPID)"));
        }
        fs::create_dir_all(self.directory())?;
        self.at_state_dir(in_mounts_of_init, &mut || Ok(()))
    }

    /// Runs something in another mount namespace, if the state directory is the same there.
    fn at_state_dir(&self, mounts: InMounts, work: &mut (dyn FnMut() -> io::Result<()> + Send)) -> io::Result<()> {
        let place = |file: fs::Metadata| (file.dev(), file.ino());
        let here = fs::metadata(self.directory()).map(place)?;
        mounts(&mut || {
            if fs::metadata(self.directory()).map(place).ok() != Some(here) {
                return Err(io::Error::other("PID 1 has another directory at the path of the state directory"));
            }
            work()
        })
    }

    /// File that the namespace of a device is pinned on.
    pub fn pin_path(&self, device: &DeviceId) -> PathBuf {
        self.directory().join(PINS).join(device.as_str())
    }

    /// Whether the namespace with that inode is pinned for the device, so that no descriptor of it has to be kept.
    pub fn is_pinned(&self, device: &DeviceId, inode: u64) -> bool {
        !matches!(self.mounts, Mounts::Own) && is_on(&self.pin_path(device), inode)
    }

    /// Pins the namespace of a virtual device, whose record is written and whose lock is held.
    ///
    /// # Errors
    ///
    /// When it cannot be mounted, in a user namespace of the runtime for example. The device then lives as long as the
    /// sandbox's processes and mounts do.
    pub fn pin<A: Recorded>(&self, record: &Attachment<A>, namespace: &Namespace) -> io::Result<()> {
        if !record.needs_namespace() {
            return Ok(());
        }
        let path = self.pin_path(&record.device);
        let pinned = match self.mounts {
            Mounts::Init(mounts) => self.at_state_dir(mounts, &mut || place(&path, namespace)),
            Mounts::Runtime | Mounts::Own => place(&path, namespace),
        };
        if let (Err(_), Some(held)) = (&pinned, &self.held)
            && self.held(&record.device, namespace.inode()).is_none()
        {
            let namespace = namespace.try_clone()?;
            held.lock().unwrap_or_else(PoisonError::into_inner).push((record.device.clone(), namespace));
        }
        pinned
    }

    /// Whether this process holds that namespace for the device: a path to it.
    pub fn held(&self, device: &DeviceId, inode: u64) -> Option<PathBuf> {
        let held = self.held.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, namespace) = held.iter().find(|(of, namespace)| of == device && namespace.inode() == inode)?;
        Some(namespace.descriptor_path())
    }

    fn let_go(&self, is_over: impl Fn(&DeviceId) -> bool) {
        if let Some(held) = &self.held {
            held.lock().unwrap_or_else(PoisonError::into_inner).retain(|(device, _)| !is_over(device));
        }
    }

    /// Opens a pin that is mounted where the runtime is and not here.
    pub fn open_pin_of_runtime(&self, device: &DeviceId) -> Option<Namespace> {
        let Mounts::Init(mounts) = self.mounts else { return None };
        let (path, mut opened) = (self.pin_path(device), None);
        let open = &mut || {
            opened = Some(Namespace::open(&path)?);
            Ok(())
        };
        self.at_state_dir(mounts, open).ok()?;
        opened
    }

    /// Removes the pin of a device, whose lock is held. What still refers to the namespace keeps it.
    pub(crate) fn unpin(&self, device: &DeviceId) {
        self.let_go(|of| of == device);
        remove(&self.pin_path(device));
    }

    /// Removes pins whose record has ended, except of devices that a program works on.
    pub(crate) fn sweep_pins(&self) {
        self.let_go(|device| !self.has_file(device));
        for entry in fs::read_dir(self.directory().join(PINS)).into_iter().flatten().flatten() {
            let Some(device) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if !self.has_file(&device)
                && let Ok(Some(_lock)) = self.try_lock(&device)
                && !self.has_file(&device)
            {
                self.unpin(&device);
            }
        }
    }
}

fn is_on(path: &Path, inode: u64) -> bool {
    fs::metadata(path).is_ok_and(|file| file.ino() == inode)
}

fn place(path: &Path, namespace: &Namespace) -> io::Result<()> {
    let make = || mknodat(CWD, path, FileType::RegularFile, Mode::RUSR, 0);
    match make() {
        Ok(()) => {}
        // the first one on this node
        Err(Errno::NOENT) => {
            fs::create_dir(path.parent().unwrap_or(path))?;
            make()?;
        }
        Err(Errno::EXIST) => {
            if is_on(path, namespace.inode()) {
                return Ok(());
            }
            // of a record that has ended
            remove(path);
            make()?;
        }
        Err(error) => return Err(error.into()),
    }
    mount_bind(namespace.descriptor_path(), path).map_err(|error| {
        remove(path);
        error.into()
    })
}

fn remove(path: &Path) {
    // It may be mounted elsewhere only, and mostly there is none of a physical device.
    if unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) != Err(Errno::NOENT) {
        let _ = fs::remove_file(path);
    }
}
