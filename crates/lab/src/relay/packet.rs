//! A port's packet socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags};

use crate::sys;

/// The kernel's offload header in front of every frame. It is passed on unread, so that unfinished
/// checksums and whole trains of segments reach the other host as they left.
pub const OFFLOAD_HEADER: usize = 10;

/// Room for the largest train of segments with its headers.
pub const LARGEST_FRAME: usize = 72 << 10;

pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    pub fn open(interface: &str) -> io::Result<Self> {
        sys::packet_socket(interface).map(Self)
    }

    /// The next frame that is waiting, if there is one.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        match rustix::net::recv(&self.0, &mut *buffer, RecvFlags::TRUNC) {
            // A frame larger than the buffer cannot be passed on whole; it counts as lost.
            Ok((received, whole)) if whole > received => Ok(Some(&[])),
            Ok((received, _)) => Ok(Some(&buffer[..received])),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.0, frame, SendFlags::empty())?;
        Ok(())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
