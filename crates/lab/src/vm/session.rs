//! Runs a program in a guest from outside: takes a free port, asks, and passes on what comes back.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::FlockOperation;

use super::machine::{PORTS, port_socket};
use super::wire::{self, Frame, Request};

/// Runs a program in the guest whose machine lives in this folder, and gives its exit code. Its input
/// is given at the start; its output goes to `output` and `errors` as it comes.
pub fn run(folder: &Path, request: Request, mut output: impl Write, mut errors: impl Write) -> io::Result<i32> {
    let (port, _lock) = free_port(folder)?;
    let stream = UnixStream::connect(port_socket(folder, port))?;
    let session = std::process::id() ^ (crate::sys::monotonic().subsec_nanos() << 8);
    wire::write(&stream, session, &Frame::Run(request))?;
    loop {
        match wire::read(&stream)? {
            (number, _) if number != session => {}
            (_, Frame::Output(bytes)) => {
                output.write_all(&bytes)?;
                output.flush()?;
            }
            (_, Frame::Error(bytes)) => errors.write_all(&bytes)?,
            (_, Frame::Exit(code)) => return Ok(code),
            (_, Frame::Run(_)) => return Err(io::Error::new(io::ErrorKind::InvalidData, "the guest asks back")),
        }
    }
}

/// A port and the lock that keeps others from it.
fn free_port(folder: &Path) -> io::Result<(usize, File)> {
    for port in 0..PORTS {
        let lock = File::create(folder.join(format!("port-{port}.lock")))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok((port, lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{PORTS} programs run in this host already")))
}
