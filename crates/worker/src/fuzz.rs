//! What this crate reads although an app decided what it says, as functions of bytes alone.

use crate::logs::whole_lines;

/// Reads a machine's log, at once and as it would be followed while it grows; panics where the two
/// differ.
pub fn log(bytes: &[u8]) {
    let (at_once, end) = whole_lines(bytes, 0);
    let (mut followed, middle) = whole_lines(&bytes[..bytes.len() / 2], 0);
    let (rest, followed_end) = whole_lines(bytes, middle);
    followed.extend(rest);
    assert!(end <= bytes.len() as u64 && end == followed_end);
    assert!(at_once == followed, "a log that was followed reads differently");
}
