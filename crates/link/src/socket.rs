//! A route socket: requests in, answers out, one after the other.

use std::{
    fmt, io,
    ops::{ControlFlow, Range},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rtnl::{Batch, Message, messages};

/// `SO_NETNS_COOKIE` (`include/uapi/asm-generic/socket.h`, Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// One message of a dump is at most 32 KiB; a link with hundreds of virtual functions may have more for itself.
const RECEIVE: usize = 128 << 10;

/// Requests to one send. Each answer takes about 1 KiB of the socket's receive buffer, which has 208 KiB by default.
const MAX_BATCH: u32 = 100;

/// How often a list is asked for that changes while it is read. Who makes and deletes links without pause can keep every
/// list of its namespace from being consistent.
const MAX_DUMPS: u32 = 8;

/// Most bytes of a list that is kept: twice what the largest record can be made of.
const MAX_LIST: usize = 16 << 20;

/// The kernel's "no" to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelError {
    /// `errno`.
    pub errno: i32,
    /// The kernel's own words, if it has any.
    pub text: Option<String>,
}

impl fmt::Display for KernelError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = io::Error::from_raw_os_error(self.errno);
        match &self.text {
            Some(text) => write!(out, "{text} ({error})"),
            None => error.fmt(out),
        }
    }
}

impl std::error::Error for KernelError {}

/// A socket that speaks rtnetlink in the namespace that it was opened in.
#[derive(Debug)]
pub struct RouteSocket {
    socket: Socket,
    sent: u32,
    cookie: u64,
    /// Where answers arrive. It is of a size for which each allocation is a mapping of its own, so that sockets of one work
    /// share it.
    buffer: Arc<Mutex<Vec<u8>>>,
}

/// What the kernel sent in answer to a request for objects.
pub(crate) struct Objects(Vec<Vec<u8>>);

impl Objects {
    /// The payloads of that kind.
    pub(crate) fn of(&self, kind: u16) -> impl Iterator<Item = &[u8]> {
        let all = self.0.iter().flat_map(|bytes| messages(bytes)).flatten();
        all.filter(move |message| message.kind == kind).map(|message| message.payload)
    }
}

/// How far a list was looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// To where it was broken off.
    Enough,
    /// To its end.
    Whole,
    /// Not far enough.
    Beginning,
}

impl RouteSocket {
    /// Opens a socket in the calling thread's namespace. The kernel checks its requests strictly, so that a filter is
    /// honoured and not overlooked.
    ///
    /// # Errors
    ///
    /// When the kernel gives none.
    pub fn open() -> io::Result<Self> {
        Self::with_buffer(Arc::default())
    }

    /// Opens a socket that is used in turn with this one, by one thread, in whichever namespace that is now.
    pub(crate) fn open_beside(&self) -> io::Result<Self> {
        Self::with_buffer(Arc::clone(&self.buffer))
    }

    fn with_buffer(buffer: Arc<Mutex<Vec<u8>>>) -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        let cookie = cookie(&socket)?;
        Ok(Self { socket, sent: 0, cookie, buffer })
    }

    /// `SO_NETNS_COOKIE` of its namespace.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    fn send(&mut self, batch: Batch) -> io::Result<Range<u32>> {
        let (offset, count) = (self.sent, batch.count());
        let bytes = batch.into_bytes(offset);
        self.sent = offset.wrapping_add(count);
        let sent = self.socket.send(&bytes, 0)?;
        if sent != bytes.len() {
            return Err(io::Error::other("the kernel took part of a netlink message"));
        }
        Ok(offset + 1..offset + 1 + count)
    }

    /// What the next datagram has.
    fn receive<'a>(&self, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        buffer.clear();
        buffer.reserve(RECEIVE);
        loop {
            match self.socket.recv(buffer, 0) {
                Ok(_) => return Ok(buffer),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes all changes, and returns the result of each, in order.
    ///
    /// # Errors
    ///
    /// When the socket fails; then it is not known how far the kernel came.
    pub(crate) fn change(&mut self, requests: Vec<Change>) -> io::Result<Vec<Result<(), KernelError>>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let mut batch = Batch::new();
            while batch.count() < MAX_BATCH {
                let Some(request) = requests.next() else { break };
                request(&mut batch);
            }
            if !batch.is_empty() {
                results.extend(self.change_batch(batch)?);
            }
        }
        Ok(results)
    }

    fn change_batch(&mut self, mut batch: Batch) -> io::Result<Vec<Result<(), KernelError>>> {
        batch.acknowledge_last();
        let numbers = self.send(batch)?;
        let mut results = vec![Ok(()); numbers.len()];
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            for message in messages(self.receive(&mut buffer)?) {
                let message = message.map_err(io::Error::other)?;
                let Some(answer) = message.answer() else { continue };
                let Some(at) = numbers.clone().position(|number| number == message.sequence) else { continue };
                if answer.errno != 0 {
                    results[at] = Err(KernelError { errno: answer.errno, text: answer.text.map(str::to_owned) });
                }
                if at + 1 == results.len() {
                    return Ok(results);
                }
            }
        }
    }

    /// Makes one change.
    pub(crate) fn change_one(
        &mut self,
        request: impl FnOnce(&mut Batch) + 'static,
    ) -> io::Result<Result<(), KernelError>> {
        let mut results = self.change(vec![Box::new(request)])?;
        Ok(results.pop().unwrap_or(Ok(())))
    }

    /// Asks for one object; the outer error is the socket's, the inner one the kernel's.
    pub(crate) fn get(&mut self, request: impl FnOnce(&mut Batch)) -> io::Result<Result<Objects, KernelError>> {
        let mut batch = Batch::new();
        request(&mut batch);
        let numbers = self.send(batch)?;
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let bytes = self.receive(&mut buffer)?;
            let all: Result<Vec<_>, _> = messages(bytes).collect();
            let ours = all.map_err(io::Error::other)?.into_iter().find(|message| numbers.contains(&message.sequence));
            let refusal = match ours {
                None => continue,
                Some(message) => message.answer().filter(|answer| answer.errno != 0),
            };
            let refusal =
                refusal.map(|answer| KernelError { errno: answer.errno, text: answer.text.map(str::to_owned) });
            return Ok(refusal.map_or_else(|| Ok(Objects(vec![bytes.to_vec()])), Err));
        }
    }

    /// Looks at the beginning of a list, until `look` breaks off or so many datagrams have come. The calling thread must
    /// be in the socket's namespace.
    pub(crate) fn look_through(
        &mut self,
        request: impl FnOnce(&mut Batch),
        datagrams: usize,
        look: impl FnMut(&Message<'_>) -> ControlFlow<()>,
    ) -> io::Result<Seen> {
        let mut batch = Batch::new();
        request(&mut batch);
        let numbers = self.send(batch)?;
        let looked = self.look_at(numbers, datagrams, look);
        if !matches!(looked, Ok((_, true))) {
            // what was not received ends with the socket
            self.socket = self.open_beside()?.socket;
        }
        looked.map(|(seen, _)| seen)
    }

    /// How far the list was looked through, and whether all of it was received.
    fn look_at(
        &self,
        numbers: Range<u32>,
        datagrams: usize,
        mut look: impl FnMut(&Message<'_>) -> ControlFlow<()>,
    ) -> io::Result<(Seen, bool)> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut has_enough = false;
        for datagram in 0..datagrams {
            for message in messages(self.receive(&mut buffer)?) {
                let message = message.map_err(io::Error::other)?;
                match message.answer().filter(|_| numbers.contains(&message.sequence)) {
                    Some(_) if has_enough => return Ok((Seen::Enough, true)),
                    Some(answer) if answer.errno == 0 => return Ok((Seen::Whole, true)),
                    Some(_) => return Ok((Seen::Beginning, true)),
                    None => has_enough = has_enough || look(&message).is_break(),
                }
            }
            // of a short list the end comes next
            if has_enough && datagram > 0 {
                return Ok((Seen::Enough, false));
            }
        }
        Ok((if has_enough { Seen::Enough } else { Seen::Beginning }, false))
    }

    /// Asks for a list of objects, again if it changed meanwhile. Neither how often nor how much is left to whoever makes
    /// the changes: what is asked for here is of one link, or of the node.
    pub(crate) fn dump(&mut self, request: impl Fn(&mut Batch)) -> io::Result<Result<Objects, KernelError>> {
        for _ in 0..MAX_DUMPS {
            let mut objects = Vec::new();
            let mut length = 0;
            let end = self.dump_once(&request, &mut |bytes| {
                length += bytes.len();
                if length <= MAX_LIST {
                    objects.push(bytes.to_vec());
                }
            })?;
            match end {
                Err(error) => return Ok(Err(error)),
                Ok(_) if length > MAX_LIST => {
                    let text = Some(format!("the list is longer than {MAX_LIST} bytes"));
                    return Ok(Err(KernelError { errno: libc::E2BIG, text }));
                }
                Ok(Consistency::Interrupted) => {}
                Ok(Consistency::Whole) => return Ok(Ok(Objects(objects))),
            }
        }
        let text = Some(format!("the list changed while it was read, {MAX_DUMPS} times in succession"));
        Ok(Err(KernelError { errno: libc::EINTR, text }))
    }

    /// Asks for a list and looks at each object as it comes, so that its length costs no memory. A list that changed
    /// meanwhile is asked for again, a few times: then `look` has an object more than once, and the answer is that some
    /// may be missing.
    pub(crate) fn each(
        &mut self,
        request: &dyn Fn(&mut Batch),
        look: &mut dyn FnMut(&Message<'_>),
    ) -> io::Result<Result<Consistency, KernelError>> {
        let mut end = Ok(Consistency::Interrupted);
        for _ in 0..MAX_DUMPS {
            end = self.dump_once(request, &mut |bytes| messages(bytes).flatten().for_each(|message| look(&message)))?;
            if end != Ok(Consistency::Interrupted) {
                break;
            }
        }
        Ok(end)
    }

    /// One request for a list, to its end; `look` gets each datagram.
    fn dump_once(
        &mut self,
        request: &dyn Fn(&mut Batch),
        look: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Result<Consistency, KernelError>> {
        let mut batch = Batch::new();
        request(&mut batch);
        let numbers = self.send(batch)?;
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut consistency = Consistency::Whole;
        loop {
            let bytes = self.receive(&mut buffer)?;
            let mut end = None;
            for message in messages(bytes) {
                let message = message.map_err(io::Error::other)?;
                if !numbers.contains(&message.sequence) {
                    continue;
                }
                if message.flags & rtnl::message::flags::DUMP_INTR != 0 {
                    consistency = Consistency::Interrupted;
                }
                if let Some(answer) = message.answer() {
                    end = Some((answer.errno, answer.text.map(str::to_owned)));
                }
            }
            look(bytes);
            match end {
                None => {}
                Some((0, _)) => return Ok(Ok(consistency)),
                Some((errno, text)) => return Ok(Err(KernelError { errno, text })),
            }
        }
    }
}

/// Whether a list is all that there was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// It is.
    Whole,
    /// It changed while the kernel wrote it (`NLM_F_DUMP_INTR`).
    Interrupted,
}

/// A change: adds one acknowledged request to a batch.
pub(crate) type Change = Box<dyn FnOnce(&mut Batch)>;

impl AsRawFd for RouteSocket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// The cookie of the namespace that a socket acts in: counts up and is never used again while the node runs.
#[allow(unsafe_code)] // no crate wraps it
fn cookie(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("8 fits");
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has that many and outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
