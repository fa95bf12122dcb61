//! What the lab and a guest say to each other on a port: frames with the number of their session, since
//! a port keeps what an earlier session left unread.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Of one frame; larger ones are no frames of ours.
const MAX_FRAME: u32 = 1 << 20;

/// A program to be run in a guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub program: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub folder: PathBuf,
    /// All of its standard input.
    pub input: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    Run(Request),
    Output(Vec<u8>),
    Error(Vec<u8>),
    /// The exit code, as shells have it.
    Exit(i32),
}

/// Writes a frame as session, kind, length and body.
pub fn write(mut to: impl Write, session: u32, frame: &Frame) -> io::Result<()> {
    let (kind, body) = match frame {
        Frame::Run(request) => (0, serde_json::to_vec(request)?),
        Frame::Output(bytes) => (1, bytes.clone()),
        Frame::Error(bytes) => (2, bytes.clone()),
        Frame::Exit(code) => (3, code.to_be_bytes().to_vec()),
    };
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_FRAME).ok_or_else(too_large)?;
    let mut bytes = Vec::with_capacity(body.len() + 9);
    bytes.extend_from_slice(&session.to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&body);
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads the next frame.
pub fn read(mut from: impl Read) -> io::Result<(u32, Frame)> {
    let mut header = [0; 9];
    from.read_exact(&mut header)?;
    let [s0, s1, s2, s3, kind, l0, l1, l2, l3] = header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    if length > MAX_FRAME {
        return Err(too_large());
    }
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body)?;
    let frame = match (kind, &body[..]) {
        (0, json) => Frame::Run(serde_json::from_slice(json)?),
        (1, _) => Frame::Output(body),
        (2, _) => Frame::Error(body),
        (3, &[a, b, c, d]) => Frame::Exit(i32::from_be_bytes([a, b, c, d])),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown kind of frame")),
    };
    Ok((u32::from_be_bytes([s0, s1, s2, s3]), frame))
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame is too large")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_come_back_as_they_were() {
        let request = Request {
            program: vec!["sh".into(), "-c".into()],
            environment: vec![("A".into(), "b".into())],
            folder: "/".into(),
            input: b"in".to_vec(),
        };
        for frame in [Frame::Run(request), Frame::Output(vec![0, 255]), Frame::Error(vec![]), Frame::Exit(-3)] {
            let mut bytes = Vec::new();
            write(&mut bytes, 7, &frame).unwrap();
            assert_eq!(read(&bytes[..]).unwrap(), (7, frame));
        }
        assert!(write(Vec::new(), 1, &Frame::Output(vec![0; 2 << 20])).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            drop(read(&bytes[..]));
        }
    }
}
