//! Where WebSocket frames begin and end in a stream of bytes, so that the edge can say goodbye in
//! between. Contents are of no interest here.

/// A close frame of a server with status 1001, "going away".
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// Longest frame header: two bytes, eight of length, four of mask.
const LONGEST_HEADER: usize = 14;

/// Follows the frames of one direction.
#[derive(Default)]
pub(crate) struct Frames {
    header: [u8; LONGEST_HEADER],
    header_read: usize,
    /// Of the present frame's content.
    content_left: u64,
}

impl Frames {
    /// No frame is under way.
    pub fn between(&self) -> bool {
        self.header_read == 0 && self.content_left == 0
    }

    /// Takes note of `bytes`, and returns how many of them belong to the frame that was under way, if
    /// it ends among them.
    pub fn follow(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut first_end = None;
        let mut position = 0;
        while position < bytes.len() {
            if self.content_left > 0 {
                let rest = (bytes.len() - position) as u64;
                let passed = self.content_left.min(rest);
                self.content_left -= passed;
                // At most the length of `bytes`.
                position += passed as usize;
            } else {
                self.header[self.header_read] = bytes[position];
                self.header_read += 1;
                position += 1;
                if let Some(length) = content_length(&self.header[..self.header_read]) {
                    self.content_left = length;
                    self.header_read = 0;
                }
            }
            if self.between() && first_end.is_none() {
                first_end = Some(position);
            }
        }
        first_end
    }
}

/// The length of a frame's content, once its header is complete.
fn content_length(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let mask = if second & 0x80 != 0 { 4 } else { 0 };
    let length = second & 0x7f;
    let extended = match length {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if header.len() < 2 + extended + mask {
        return None;
    }
    let number = header[2..2 + extended].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Some(if extended == 0 { u64::from(length) } else { number })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame with content of `length`, written in the shortest form.
    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x82];
        match length {
            0..126 => bytes.push(mask | length as u8),
            126..65536 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(vec![0xff; length + if masked { 4 } else { 0 }]);
        bytes
    }

    proptest! {
        #[test]
        fn ends_are_found_however_the_bytes_are_cut(
            lengths in prop::collection::vec((prop::sample::select(vec![0_usize, 1, 125, 126, 300, 65_535, 65_536]), any::<bool>()), 1..5),
            piece in 1..5000_usize,
        ) {
            let mut stream = Vec::new();
            let mut ends = vec![0];
            for (length, masked) in lengths {
                stream.extend(frame(length, masked));
                ends.push(stream.len());
            }
            let mut frames = Frames::default();
            let mut position = 0;
            for bytes in stream.chunks(piece) {
                let first_end = frames.follow(bytes);
                let expected = ends.iter().find(|end| **end > position).filter(|end| **end <= position + bytes.len());
                prop_assert_eq!(first_end, expected.map(|end| end - position));
                position += bytes.len();
                prop_assert_eq!(frames.between(), ends.contains(&position));
            }
        }
    }

    #[test]
    fn nonsense_cannot_break_it() {
        let mut frames = Frames::default();
        frames.follow(&[0xff; 100]);
        assert!(!frames.between());
    }
}
