//! Many packets in one system call: at tens of thousands of questions a second, calls are what DNS costs.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

/// Packets of one call.
const PACKETS: usize = 64;
/// Longest question taken. Real ones are shorter by far; what is longer is cut, and then malformed.
const MAX_QUESTION: usize = 1536;

/// Room for a batch of questions and their answers. A batch is received, each question answered into
/// its own place, and the answers sent; nothing is allocated between two of them.
pub struct Batch {
    questions: Box<[[u8; MAX_QUESTION]]>,
    sources: Box<[SockAddr]>,
    lengths: Box<[usize]>,
    answers: Box<[Vec<u8>]>,
    received: usize,
}

impl Default for Batch {
    fn default() -> Self {
        let nowhere = || SockAddr::from(SocketAddr::from(([0; 16], 0)));
        Self {
            questions: vec![[0; MAX_QUESTION]; PACKETS].into_boxed_slice(),
            sources: (0..PACKETS).map(|_| nowhere()).collect(),
            lengths: vec![0; PACKETS].into_boxed_slice(),
            answers: vec![Vec::new(); PACKETS].into_boxed_slice(),
            received: 0,
        }
    }
}

impl Batch {
    /// Takes what waits in the socket, one packet at least; `WouldBlock` when there is none.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.received = 0;
        let mut places: [SockAddrStorage; PACKETS] = std::array::from_fn(|_| SockAddrStorage::zeroed());
        let mut buffers: [libc::iovec; PACKETS] = std::array::from_fn(|index| libc::iovec {
            iov_base: self.questions[index].as_mut_ptr().cast(),
            iov_len: MAX_QUESTION,
        });
        let mut headers: [libc::mmsghdr; PACKETS] = std::array::from_fn(|index| {
            let mut header = empty_header();
            header.msg_hdr.msg_name = (&raw mut places[index]).cast();
            header.msg_hdr.msg_namelen = places[index].size_of();
            header.msg_hdr.msg_iov = &raw mut buffers[index];
            header.msg_hdr.msg_iovlen = 1;
            header
        });
        // SAFETY: every header points to one buffer and one address place of the lengths it says, all of
        // which live until the call returns; the kernel writes nowhere else.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                PACKETS as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (index, (header, place)) in headers.iter().zip(places).enumerate().take(count) {
            self.lengths[index] = header.msg_len as usize;
            // SAFETY: the kernel wrote an address of this length into what was a valid storage before.
            self.sources[index] = unsafe { SockAddr::new(place, header.msg_hdr.msg_namelen) };
            self.answers[index].clear();
        }
        self.received = count;
        Ok(())
    }

    /// Each question with who asked and the place for its answer. What is empty is not sent.
    pub fn each(&mut self) -> impl Iterator<Item = (&[u8], SocketAddr, &mut Vec<u8>)> {
        let questions = self.questions.iter().zip(&self.lengths).map(|(bytes, length)| &bytes[..*length]);
        let places = questions.zip(&self.sources).zip(&mut self.answers).take(self.received);
        places.filter_map(|((question, source), answer)| Some((question, source.as_socket()?, answer)))
    }

    /// Sends the answers. Those that the socket does not take at once are lost, as packets are.
    pub fn send(&mut self, socket: BorrowedFd<'_>) {
        let mut buffers: [libc::iovec; PACKETS] = std::array::from_fn(|index| libc::iovec {
            iov_base: self.answers[index].as_mut_ptr().cast(),
            iov_len: self.answers[index].len(),
        });
        let mut headers: [libc::mmsghdr; PACKETS] = std::array::from_fn(|_| empty_header());
        let mut count = 0;
        for index in (0..self.received).filter(|index| !self.answers[*index].is_empty()) {
            let header = &mut headers[count].msg_hdr;
            header.msg_name = self.sources[index].as_ptr().cast_mut().cast();
            header.msg_namelen = self.sources[index].len();
            header.msg_iov = &raw mut buffers[index];
            header.msg_iovlen = 1;
            count += 1;
        }
        let mut sent = 0;
        while sent < count {
            let rest = &mut headers[sent..count];
            // SAFETY: each header points to one answer and its address, which outlive the call and are
            // only read.
            let done =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT) };
            match usize::try_from(done) {
                Ok(done) => sent += done.max(1),
                // The first of them could not be sent, for a reason of its own or for want of room.
                Err(_) => sent += 1,
            }
        }
        self.received = 0;
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: all fields are numbers and pointers, for which zero is a value.
    unsafe { mem::zeroed() }
}
