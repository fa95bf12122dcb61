//! The few system calls that no safe wrapper of our dependencies offers.

use std::ffi::{CString, OsStr, OsString, c_int};
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Asks for real-time scheduling in first-in-first-out order, for this process and those that it starts.
pub fn set_fifo(priority: c_int) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the pointer is to a live value of the type the call reads.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameter) }).map(drop)
}

/// The monotonic clock, which goes on through an upgrade.
pub fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // It counts up from boot and is never negative.
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Signals that are read instead of handled.
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks these signals from now on, in this process and in the program that replaces it.
    pub fn block(signals: &[c_int]) -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before it is read, and lives through the calls; a
        // descriptor that is returned is ours alone.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            check(libc::sigemptyset(&mut set))?;
            for signal in signals {
                check(libc::sigaddset(&mut set, *signal))?;
            }
            check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
            let descriptor = check(libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC))?;
            Ok(Self(OwnedFd::from_raw_fd(descriptor)))
        }
    }

    /// The next signal that has arrived.
    pub fn next(&self) -> io::Result<Option<c_int>> {
        const SIZE: usize = mem::size_of::<libc::signalfd_siginfo>();
        let mut bytes = [0; SIZE];
        match rustix::io::read(&self.0, &mut bytes) {
            // The signal's number is the first field.
            Ok(SIZE) => Ok(Some(c_int::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Becomes another program, with the signals that are blocked still blocked. Returns only on failure.
pub fn become_program(program: &OsStr, arguments: &[OsString]) -> io::Error {
    let words: Result<Vec<CString>, _> = std::iter::once(program)
        .chain(arguments.iter().map(OsString::as_os_str))
        .map(|word| CString::new(word.as_bytes()))
        .collect();
    let words = match words {
        Ok(words) => words,
        Err(error) => return error.into(),
    };
    let mut pointers: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    let path = pointers[0];
    pointers.push(std::ptr::null());
    // SAFETY: every pointer is to a live, terminated string, and the list ends with a null pointer.
    unsafe { libc::execv(path, pointers.as_ptr()) };
    io::Error::last_os_error()
}
