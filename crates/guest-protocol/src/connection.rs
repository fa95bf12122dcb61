//! Frames over a non-blocking byte stream, for programs with an event loop of their own.

use std::io::{ErrorKind, Read, Write};

use serde::Serialize;

use crate::frame::{self, Channel, Decoder, Frame, FrameError, MAX_DATA};

/// Sent bytes are dropped from the buffer's front once they are this many.
const COMPACT_AT: usize = 64 * 1024;

/// A stream with what was received but not understood, and what is to be sent but was not taken.
/// The stream must be non-blocking.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    decoder: Decoder,
    outgoing: Vec<u8>,
    /// Bytes of `outgoing` that the stream took.
    sent: usize,
}

impl<S: Read + Write> Connection<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, decoder: Decoder::default(), outgoing: Vec::new(), sent: 0 }
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Reads once. `false` at the end of the stream. After it, take frames until there is none.
    pub fn fill(&mut self) -> std::io::Result<bool> {
        let mut chunk = [0; MAX_DATA];
        match self.stream.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.decoder.push(&chunk[..count]);
                Ok(true)
            }
            Err(error) if is_transient(error.kind()) => Ok(true),
            Err(error) => Err(error),
        }
    }

    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        self.decoder.next_frame()
    }

    /// Queues a message; [`Connection::flush`] sends it.
    pub fn send(&mut self, message: &impl Serialize) -> Result<(), FrameError> {
        frame::encode_control(&mut self.outgoing, message)
    }

    /// Queues bytes of a stream.
    pub fn send_data(&mut self, channel: Channel, stream: u32, bytes: &[u8]) {
        frame::encode_data(&mut self.outgoing, channel, stream, bytes);
    }

    /// Sends what the stream takes now.
    pub fn flush(&mut self) -> std::io::Result<()> {
        while self.backlog() > 0 {
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.backlog() == 0 {
            self.outgoing.clear();
            self.outgoing.shrink_to(COMPACT_AT);
            self.sent = 0;
        } else if self.sent > COMPACT_AT {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// Queued bytes that were not sent yet.
    pub fn backlog(&self) -> usize {
        self.outgoing.len() - self.sent
    }
}

fn is_transient(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
