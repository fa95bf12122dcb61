//! Frames: `length: u32le | tag: u8 | body`, where the length counts tag and body. Tag 0 is a
//! control message in JSON; the other tags carry a stream's raw bytes: `stream: u32le | bytes`.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest frame, tag and body. A launch carries a machine's files, everything else is far smaller.
pub const MAX_FRAME: usize = 4 * 1024 * 1024;

/// Most bytes of a stream in one frame; longer writes become several frames.
pub const MAX_DATA: usize = 32 * 1024;

/// A decoder gives memory back once it is empty and holds more than this.
const KEPT_CAPACITY: usize = 64 * 1024;

const LENGTH: usize = 4;
const CONTROL: u8 = 0;

/// Which of a process's three streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Stdin,
    Stdout,
    Stderr,
}

impl Channel {
    fn tag(self) -> u8 {
        match self {
            Self::Stdin => 1,
            Self::Stdout => 2,
            Self::Stderr => 3,
        }
    }

    fn from_tag(tag: u8) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr].into_iter().find(|channel| channel.tag() == tag)
    }
}

/// One frame as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A JSON message, not yet understood; see [`parse`].
    Control(Vec<u8>),
    Data {
        channel: Channel,
        stream: u32,
        bytes: Vec<u8>,
    },
}

/// Bytes that are not this protocol, or a message that does not fit it. After a decoding error the
/// connection is of no use, since its frames can no longer be told apart.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes, while at most {MAX_FRAME} are allowed")]
    TooLarge { length: usize },
    #[error("a frame of {length} bytes with tag {tag}, which is too short")]
    Truncated { tag: u8, length: usize },
    #[error("a frame with the unknown tag {tag}")]
    UnknownTag { tag: u8 },
    #[error("a message that cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    #[error("a message that is not the JSON expected")]
    Message(#[source] serde_json::Error),
}

/// Appends `message` as a control frame to `out`; on error `out` is as before.
pub fn encode_control(out: &mut Vec<u8>, message: &impl Serialize) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    out.push(CONTROL);
    if let Err(error) = serde_json::to_writer(&mut *out, message) {
        out.truncate(start);
        return Err(FrameError::Encode(error));
    }
    let length = out.len() - start - LENGTH;
    if length > MAX_FRAME {
        out.truncate(start);
        return Err(FrameError::TooLarge { length });
    }
    out[start..start + LENGTH].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// Appends `bytes` of a stream to `out`, as several frames when longer than [`MAX_DATA`].
pub fn encode_data(out: &mut Vec<u8>, channel: Channel, stream: u32, bytes: &[u8]) {
    for part in bytes.chunks(MAX_DATA) {
        let length = (1 + LENGTH + part.len()) as u32;
        out.extend_from_slice(&length.to_le_bytes());
        out.push(channel.tag());
        out.extend_from_slice(&stream.to_le_bytes());
        out.extend_from_slice(part);
    }
}

/// Understands the body of a control frame.
pub fn parse<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    serde_json::from_slice(body).map_err(FrameError::Message)
}

/// Cuts a byte stream into frames. Holds at most one unfinished frame beyond what was pushed, as
/// long as [`Decoder::next_frame`] is called until it has none after every push.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` already handed out.
    taken: usize,
}

impl Decoder {
    /// Takes received bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_CAPACITY {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.taken..];
        let Some((length, rest)) = split_u32(rest) else { return Ok(None) };
        let length = length as usize;
        // Judged before the body arrives, so that a hostile length reserves nothing.
        if length > MAX_FRAME {
            return Err(FrameError::TooLarge { length });
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let Some((&tag, body)) = frame.split_first() else {
            return Err(FrameError::Truncated { tag: CONTROL, length });
        };
        let frame = if tag == CONTROL {
            Frame::Control(body.to_vec())
        } else {
            let channel = Channel::from_tag(tag).ok_or(FrameError::UnknownTag { tag })?;
            let (stream, bytes) = split_u32(body).ok_or(FrameError::Truncated { tag, length })?;
            Frame::Data { channel, stream, bytes: bytes.to_vec() }
        };
        self.taken += LENGTH + length;
        Ok(Some(frame))
    }
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<LENGTH>()?;
    Some((u32::from_le_bytes(*number), rest))
}
