//! The socket that signals come to and go from.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use super::LONGEST;
use crate::userspace::{Endpoint, Underlay, is_passing};

/// Bytes of each direction's buffer.
const BUFFER: i32 = 1 << 20;
/// Datagrams that the kernel hands over joined.
const JOINED: usize = 64;
/// Taken at once before something else has its turn.
const TURN: usize = 64;

/// Both families on one port.
pub struct Post {
    socket: Underlay,
    buffer: Vec<u8>,
}

impl Post {
    /// Takes a port in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If it is taken.
    pub fn open(port: u16) -> io::Result<Self> {
        let socket = Underlay::open(port, BUFFER)?;
        // What the way does not carry must be lost, as that is measured.
        socket.never_fragment()?;
        Ok(Self { socket, buffer: vec![0; LONGEST * JOINED] })
    }

    /// Hands over what has come, without waiting, and sends what is answered, from the address that was spoken
    /// to.
    ///
    /// # Errors
    /// If the socket is of no use any more.
    pub fn receive(&mut self, mut answer: impl FnMut(SocketAddr, &[u8]) -> Option<Vec<u8>>) -> io::Result<()> {
        for _ in 0..TURN {
            let received = match self.socket.receive(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error),
            };
            for datagram in self.buffer[..received.length].chunks(received.segment) {
                if let Some(answer) = answer(received.from.remote, datagram) {
                    self.give(&received.from, &answer);
                }
            }
        }
        Ok(())
    }

    /// Sends, if the network takes it.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) {
        self.give(&to.into(), datagram);
    }

    fn give(&self, to: &Endpoint, datagram: &[u8]) {
        if !datagram.is_empty() {
            // One that is not sent is one that is lost, which is what is measured.
            let _ = self.socket.send(to, datagram, datagram.len());
        }
    }
}

impl AsFd for Post {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
