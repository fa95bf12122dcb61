//! The few system calls that no safe wrapper of our dependencies offers. Nothing else in the crate is
//! unsafe.

use std::ffi::{CString, c_int};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Both sides of a fork.
pub enum Fork {
    Child,
    Parent(rustix::process::Pid),
}

/// Forks. The caller must be single-threaded, as the helper modes of the binary are, so that the child
/// may go on running ordinary code.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: the process has one thread, so that no lock can be held by a thread that is not copied.
    let pid = check(unsafe { libc::fork() })?;
    Ok(rustix::process::Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent))
}

/// Moves the calling process out of namespaces, by `CLONE_NEW…` flags.
pub fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: takes no pointers; the callers are single-threaded.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

/// Moves the calling process into the namespaces of the process behind a pidfd.
pub fn setns(pidfd: impl AsFd, flags: c_int) -> io::Result<()> {
    // SAFETY: takes no pointers, and the descriptor is borrowed for the call.
    check(unsafe { libc::setns(pidfd.as_fd().as_raw_fd(), flags) }).map(drop)
}

/// Asks for real-time scheduling in first-in-first-out order.
pub fn set_fifo(priority: c_int) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the pointer is to a live value of the type the call reads.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameter) }).map(drop)
}

/// Timers of this thread fire to the nanosecond instead of 50 µs late.
pub fn finest_timer_slack() -> io::Result<()> {
    // SAFETY: this option takes a number.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) }).map(drop)
}

/// A non-blocking packet socket on an interface of the current network namespace, receiving every
/// frame that comes in, each with the kernel's offload header in front.
pub fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    let every_protocol = (libc::ETH_P_ALL as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // Protocol 0 until bound: before that the socket would see every interface.
    // SAFETY: takes no pointers; a descriptor that is returned is ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, kind, 0))?) };
    let name = CString::new(interface)?;
    // SAFETY: the name is a live, terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let buffer: c_int = 32 << 20;
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1)?;
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &buffer)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &buffer)?;
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = every_protocol;
    address.sll_ifindex = index as c_int;
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: pointer and length describe the structure above.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    let everything = libc::packet_mreq {
        mr_ifindex: index as c_int,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &everything)?;
    Ok(socket)
}

fn set_option<T>(socket: &OwnedFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe a live value of the type the option takes.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (value as *const T).cast(), length) }).map(drop)
}

/// Points standard input and output at nothing.
pub fn drop_stdin_and_stdout() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO] {
        // SAFETY: takes no pointers; what is replaced belongs to nobody in particular.
        check(unsafe { libc::dup2(null.as_raw_fd(), standard) })?;
    }
    Ok(())
}

/// A signal that arrived, and whether a process sent it (the terminal and the kernel did not).
pub struct Arrived {
    pub signal: c_int,
    pub from_process: bool,
}

/// A set of signals that the calling thread takes by waiting instead of by handler.
pub struct Awaited(libc::sigset_t);

impl Awaited {
    /// Blocks these signals from now on.
    pub fn block(signals: &[c_int]) -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before it is read, and lives through the calls.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            check(libc::sigemptyset(&mut set))?;
            for signal in signals {
                check(libc::sigaddset(&mut set, *signal))?;
            }
            check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
            Ok(Self(set))
        }
    }

    /// Lets them through again, for a program about to be executed.
    pub fn unblock(&self) -> io::Result<()> {
        // SAFETY: the set is valid for the life of self.
        check(unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &self.0, std::ptr::null_mut()) }).map(drop)
    }

    /// Waits for the next one.
    pub fn wait(&self) -> io::Result<Arrived> {
        loop {
            // SAFETY: both pointers are to live values; the information is written before it is read.
            let (signal, information) = unsafe {
                let mut information: libc::siginfo_t = mem::zeroed();
                (libc::sigwaitinfo(&self.0, &mut information), information)
            };
            match check(signal) {
                Ok(signal) => return Ok(Arrived { signal, from_process: information.si_code <= 0 }),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The monotonic clock.
pub fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // The monotonic clock counts up from boot and is never negative.
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}
