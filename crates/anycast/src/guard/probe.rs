//! Asks the local edge whether it serves: a `HEAD` request every so often, over a connection that is kept for
//! a second. Whatever it answers below 500 is an answer: that the edge's loop turns is what is asked.
//!
//! That a connection is accepted says nothing, for the kernel accepts on behalf of a dead process.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

const REQUEST: &[u8] =
    b"HEAD / HTTP/1.1\r\nHost: guard.atoll.invalid\r\nUser-Agent: atoll-guard\r\nAccept: */*\r\n\r\n";

/// Then another connection is made, to see that new ones are taken, too.
const PROBES_PER_CONNECTION: u32 = 25;

/// Longer heads are not an edge's.
const MAX_HEAD: usize = 16 << 10;

/// What a probe has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The edge serves, and took this long to say so.
    Answered(Duration),
    Missed,
}

/// The asking of one edge.
#[derive(Debug, Default)]
pub struct Probe {
    connection: Option<Connection>,
    /// When the question was put that has no answer yet.
    asked: Option<Duration>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// What of the request is still to be sent.
    unsent: &'static [u8],
    received: Vec<u8>,
    probes: u32,
    /// By the edge.
    closed: bool,
}

impl Probe {
    /// The question that is open, and since when.
    pub fn asked(&self) -> Option<Duration> {
        self.asked
    }

    /// Gives up on the open question.
    pub fn give_up(&mut self) {
        self.asked = None;
        self.connection = None;
    }

    /// Puts the question.
    pub fn ask(&mut self, edge: SocketAddr, now: Duration) -> Option<Outcome> {
        self.connection.take_if(|connection| connection.closed || connection.probes >= PROBES_PER_CONNECTION);
        self.asked = Some(now);
        if let Some(connection) = &mut self.connection {
            connection.unsent = REQUEST;
            connection.probes += 1;
        } else {
            match connect(edge) {
                Ok(connection) => self.connection = Some(connection),
                Err(_) => return self.missed(),
            }
        }
        self.go_on(now)
    }

    /// What to wait for, while there is something.
    pub fn awaits(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let connection = self.connection.as_ref()?;
        let flags = if connection.unsent.is_empty() { PollFlags::IN } else { PollFlags::OUT };
        Some((connection.socket.as_fd(), flags))
    }

    /// Goes on as far as is possible without waiting.
    pub fn go_on(&mut self, now: Duration) -> Option<Outcome> {
        let connection = self.connection.as_mut()?;
        match (connection.turn(), self.asked) {
            (Ok(None), _) => None,
            (Ok(Some(status)), Some(asked)) => {
                self.asked = None;
                let serves = (100..500).contains(&status);
                Some(if serves { Outcome::Answered(now.saturating_sub(asked)) } else { Outcome::Missed })
            }
            // The edge may close a connection on which nothing is asked, or say something unasked.
            (_, None) => {
                self.connection = None;
                None
            }
            (Err(_), Some(_)) => self.missed(),
        }
    }

    fn missed(&mut self) -> Option<Outcome> {
        self.give_up();
        Some(Outcome::Missed)
    }
}

fn connect(edge: SocketAddr) -> io::Result<Connection> {
    let family = if edge.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &edge) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Connection { socket, unsent: REQUEST, received: Vec::new(), probes: 1, closed: false })
}

impl Connection {
    /// Sends and receives what it can; gives the status of an answer that is whole.
    fn turn(&mut self) -> io::Result<Option<u16>> {
        while !self.unsent.is_empty() {
            match rustix::net::send(&self.socket, self.unsent, SendFlags::NOSIGNAL) {
                Ok(sent) => self.unsent = &self.unsent[sent..],
                // Not connected yet, or no room.
                Err(Errno::AGAIN | Errno::NOTCONN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let mut buffer = [0; 4096];
        loop {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => {
                    self.closed = true;
                    break;
                }
                Ok((length, _)) => self.received.extend_from_slice(&buffer[..length]),
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
            if self.received.len() > MAX_HEAD {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        match take_status(&mut self.received)? {
            None if self.closed => Err(io::ErrorKind::UnexpectedEof.into()),
            status => Ok(status),
        }
    }
}

/// Takes the head of an answer, once it is whole, and gives its status.
fn take_status(received: &mut Vec<u8>) -> io::Result<Option<u16>> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let status = (received.strip_prefix(b"HTTP/1.1 ").or_else(|| received.strip_prefix(b"HTTP/1.0 ")))
        .and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    received.drain(..end + 4);
    Ok(Some(status))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const NOW: Duration = Duration::from_secs(9);

    /// An edge that answers so many times on a connection.
    fn edge(answer: &'static [u8], times: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            for _ in 0..times {
                assert!(stream.read(&mut buffer).unwrap() > 0);
                stream.write_all(answer).unwrap();
            }
        });
        address
    }

    /// Asks and waits for the outcome, as the loop does.
    fn outcome(probe: &mut Probe, edge: SocketAddr) -> Outcome {
        let mut outcome = probe.ask(edge, NOW);
        loop {
            if let Some(outcome) = outcome {
                return outcome;
            }
            let (socket, flags) = probe.awaits().unwrap();
            let mut polled = [rustix::event::PollFd::from_borrowed_fd(socket, flags)];
            let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut polled, Some(&limit)).unwrap(), 1, "silence");
            outcome = probe.go_on(NOW + Duration::from_millis(3));
        }
    }

    #[test]
    fn any_answer_below_500_counts_and_connections_are_kept() {
        let address = edge(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\n", 3);
        let mut probe = Probe::default();
        for _ in 0..3 {
            assert!(matches!(outcome(&mut probe, address), Outcome::Answered(_)));
        }
        // The edge has closed the connection by now, or does so under the question.
        assert_eq!(outcome(&mut probe, address), Outcome::Missed);
    }

    #[test]
    fn errors_refusals_and_nonsense_are_misses() {
        for answer in [&b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..], b"SSH-2.0-x\r\n\r\n", b""] {
            assert_eq!(outcome(&mut Probe::default(), edge(answer, 1)), Outcome::Missed);
        }
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(outcome(&mut Probe::default(), gone), Outcome::Missed);
    }

    #[test]
    fn a_probe_names_the_host_by_which_edges_know_it() {
        let request = std::str::from_utf8(REQUEST).unwrap();
        assert!(request.contains(&format!("\r\nHost: {}\r\n", crate::guard::PROBE_HOST)));
    }

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let mut received = b"HTTP/1.1 200 OK\r\nserver: x\r\n".to_vec();
        assert_eq!(take_status(&mut received).unwrap(), None);
        received.extend(b"\r\nHTTP");
        assert_eq!(take_status(&mut received).unwrap(), Some(200));
        assert_eq!(received, b"HTTP");
    }
}
