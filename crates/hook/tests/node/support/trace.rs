//! Runs the hook system call by system call: kills it before or after the n-th one that changes something, or lets that
//! one fail.

use std::{
    collections::BTreeMap,
    fs,
    io::{IoSlice, IoSliceMut, Read, Write},
    process::Child,
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        uio::{RemoteIoVec, process_vm_readv, process_vm_writev},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::Ending;

/// What happens at the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL before it.
    KillBefore,
    /// SIGKILL after it.
    KillAfter,
    /// It does nothing and returns this error; a netlink message is refused by the kernel with it.
    Fail(Errno),
    /// It does nothing and the system call itself returns this error.
    FailCall(Errno),
}

/// How a traced run ended.
#[derive(Debug)]
pub(crate) struct Traced {
    /// None if it was killed.
    pub(crate) ending: Option<Ending>,
    /// The step at which the fault was, none if there was no such step.
    pub(crate) step: Option<String>,
}

/// Runs the hook to its end with one fault at the step with that number, counted from 0.
pub(crate) fn run_with_fault(child: Child, state: &str, number: usize, fault: Fault) -> Traced {
    trace(child, state, number, fault).0
}

/// Runs the hook to its end, and counts its requests to the kernel's network configuration, several to one send as one.
pub(crate) fn count_requests(child: Child, state: &str) -> (Ending, usize) {
    let (traced, sends) = trace(child, state, usize::MAX, Fault::KillBefore);
    (traced.ending.unwrap(), sends)
}

fn trace(child: Child, state: &str, number: usize, fault: Fault) -> (Traced, usize) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut tracer =
        Tracer { pid, child, number, fault, count: 0, step: None, pending: BTreeMap::new(), refused: None, sends: 0 };
    let ended = tracer.run(state);
    let mut line = String::new();
    tracer.child.stderr.take().unwrap().read_to_string(&mut line).unwrap();
    let traced = Traced { ending: ended.map(|code| Ending { code: Some(code), line }), step: tracer.step };
    (traced, tracer.sends)
}

struct Tracer {
    pid: Pid,
    child: Child,
    number: usize,
    fault: Fault,
    count: usize,
    step: Option<String>,
    /// What is to be done when a thread's system call returns.
    pending: BTreeMap<Pid, Return>,
    /// Sequence number of a netlink message that the kernel is to refuse.
    refused: Option<(u32, Errno)>,
    sends: usize,
}

#[derive(Clone, Copy)]
enum Return {
    Kill,
    Error(Errno),
}

impl Tracer {
    /// The exit status; none if the hook was killed.
    fn run(&mut self, state: &str) -> Option<i32> {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
        // it waits for its input: nothing has been changed yet
        for task in fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap() {
            let thread = Pid::from_raw(task.unwrap().file_name().to_str().unwrap().parse().unwrap());
            ptrace::seize(thread, options).unwrap();
            ptrace::interrupt(thread).unwrap();
            waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
            ptrace::syscall(thread, None).unwrap();
        }
        self.child.stdin.take().unwrap().write_all(state.as_bytes()).unwrap();
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let (thread, signal) = match waitpid(Pid::from_raw(-1), Some(flags)).unwrap() {
                WaitStatus::Exited(pid, code) if pid == self.pid => return Some(code),
                WaitStatus::Signaled(pid, ..) if pid == self.pid => return None,
                WaitStatus::PtraceSyscall(thread) => {
                    self.syscall(thread);
                    (thread, None)
                }
                WaitStatus::PtraceEvent(thread, ..) => (thread, None),
                WaitStatus::Stopped(thread, Signal::SIGTRAP | Signal::SIGSTOP) => (thread, None),
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                _ => continue,
            };
            // a thread that was killed meanwhile is no error
            let _ = ptrace::syscall(thread, signal);
        }
    }

    fn syscall(&mut self, thread: Pid) {
        let Ok(registers) = ptrace::getregs(thread) else { return };
        // what a system call returns that has not begun yet (arch/x86/entry/entry_64.S)
        let begins = registers.rax.cast_signed() == -i64::from(libc::ENOSYS);
        if begins { self.entry(thread, registers) } else { self.exit(thread, registers) }
    }

    fn entry(&mut self, thread: Pid, mut registers: libc::user_regs_struct) {
        self.sends += usize::from(registers.orig_rax == libc::SYS_sendto as u64);
        if let Fault::Fail(errno) = self.fault
            && registers.orig_rax == libc::SYS_sendto as u64
        {
            self.refuse(thread, registers.rsi, registers.rdx, errno);
            return;
        }
        let Some(step) = describe(thread, &registers) else { return };
        let at = self.count;
        self.count += 1;
        if at != self.number {
            return;
        }
        self.step = Some(step);
        match self.fault {
            Fault::KillBefore => kill(self.pid, Signal::SIGKILL).unwrap(),
            Fault::KillAfter => drop(self.pending.insert(thread, Return::Kill)),
            Fault::Fail(errno) | Fault::FailCall(errno) => {
                registers.orig_rax = u64::MAX;
                ptrace::setregs(thread, registers).unwrap();
                self.pending.insert(thread, Return::Error(errno));
            }
        }
    }

    /// Counts each message of a send that changes something; one that is to be refused becomes one that does nothing.
    fn refuse(&mut self, thread: Pid, address: u64, length: u64, errno: Errno) {
        let bytes = read(thread, address, length);
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + 16) {
            if changes(header) {
                if self.count == self.number {
                    self.step = Some(format!("netlink message {}", kind(header)));
                    self.refused = Some((u32::from_ne_bytes(header[8..12].try_into().unwrap()), errno));
                    let flags = u16::from_ne_bytes([header[6], header[7]]) | ACKNOWLEDGE;
                    write(thread, address + at as u64 + 4, &[NOTHING.to_ne_bytes(), flags.to_ne_bytes()].concat());
                }
                self.count += 1;
            }
            let length = u32::from_ne_bytes(header[..4].try_into().unwrap()) as usize;
            at += length.next_multiple_of(4).max(16);
        }
    }

    fn exit(&mut self, thread: Pid, mut registers: libc::user_regs_struct) {
        match self.pending.remove(&thread) {
            Some(Return::Kill) => kill(self.pid, Signal::SIGKILL).unwrap(),
            Some(Return::Error(errno)) => {
                registers.rax = (-i64::from(errno as i32)).cast_unsigned();
                ptrace::setregs(thread, registers).unwrap();
            }
            None if registers.orig_rax == libc::SYS_recvfrom as u64 => self.answer(thread, &registers),
            None => {}
        }
    }

    /// Writes the error into the kernel's answer to the message that is to be refused.
    fn answer(&mut self, thread: Pid, registers: &libc::user_regs_struct) {
        let Some((sequence, errno)) = self.refused else { return };
        let Ok(length @ 20..) = i64::try_from(registers.rax) else { return };
        let bytes = read(thread, registers.rsi, length.cast_unsigned());
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + 20) {
            if u32::from_ne_bytes(header[8..12].try_into().unwrap()) == sequence {
                write(thread, registers.rsi + at as u64 + 16, &(-(errno as i32)).to_ne_bytes());
                self.refused = None;
            }
            let length = u32::from_ne_bytes(header[..4].try_into().unwrap()) as usize;
            at += length.next_multiple_of(4).max(16);
        }
    }
}

/// `NLMSG_NOOP`: the kernel acknowledges it and does nothing.
const NOTHING: u16 = 1;

/// `NLM_F_ACK`: of what it refuses, the kernel tells whether it is asked to or not; of what does nothing, if it is.
const ACKNOWLEDGE: u16 = 4;

fn kind(header: &[u8]) -> u16 {
    u16::from_ne_bytes([header[4], header[5]])
}

/// Of each four kinds of rtnetlink messages the third asks and changes nothing.
fn changes(header: &[u8]) -> bool {
    kind(header) % 4 != 2
}

/// The system call as text, if it changes something.
fn describe(thread: Pid, registers: &libc::user_regs_struct) -> Option<String> {
    #[allow(clippy::cast_possible_wrap)] // a system call's number is small
    let number = registers.orig_rax as i64;
    let path = |address| format!("{:?}", String::from_utf8_lossy(&path(thread, address)));
    Some(match number {
        libc::SYS_sendto => {
            let header = read(thread, registers.rsi, 16);
            changes(&header).then(|| format!("send of kind {} with {} bytes", kind(&header), registers.rdx))?
        }
        libc::SYS_pwrite64 => format!("write of {} bytes in place", registers.rdx),
        libc::SYS_write if registers.rdi > 2 => format!("write of {} bytes", registers.rdx),
        libc::SYS_openat if registers.rdx & libc::O_CREAT as u64 != 0 => format!("create {}", path(registers.rsi)),
        libc::SYS_mkdir => format!("mkdir {}", path(registers.rdi)),
        libc::SYS_mount => format!("mount {}", path(registers.rsi)),
        libc::SYS_umount2 => format!("unmount {}", path(registers.rdi)),
        libc::SYS_mknodat => format!("make {}", path(registers.rsi)),
        libc::SYS_rename => format!("rename {}", path(registers.rdi)),
        libc::SYS_unlink => format!("unlink {}", path(registers.rdi)),
        libc::SYS_unlinkat | libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_mkdirat => {
            format!("call {number} of {}", path(registers.rsi))
        }
        _ => return None,
    })
}

fn path(thread: Pid, address: u64) -> Vec<u8> {
    // up to the end of a page, behind which there may be nothing
    let bytes = read(thread, address, 256.min(4096 - address % 4096));
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

fn read(thread: Pid, address: u64, length: u64) -> Vec<u8> {
    let length = usize::try_from(length).unwrap();
    let mut bytes = vec![0; length];
    let from = RemoteIoVec { base: usize::try_from(address).unwrap(), len: length };
    let count = process_vm_readv(thread, &mut [IoSliceMut::new(&mut bytes)], &[from]).unwrap_or(0);
    bytes.truncate(count);
    bytes
}

fn write(thread: Pid, address: u64, bytes: &[u8]) {
    let to = RemoteIoVec { base: usize::try_from(address).unwrap(), len: bytes.len() };
    process_vm_writev(thread, &[IoSlice::new(bytes)], &[to]).unwrap();
}
