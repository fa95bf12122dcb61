//! What a layer may cost, and the reader that stops it when it costs more.

use std::io::{self, Read};

use thiserror::Error;

/// Bounds of one image's root filesystem. A layer is refused at the first byte beyond.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnpackLimits {
    /// Unpacked bytes of all layers together, archive headers included.
    pub bytes: u64,
    /// Entries of all layers together.
    pub entries: u64,
    /// Folders above one another in a path.
    pub depth: usize,
    /// Bytes of one path, and of a symbolic link's target.
    pub path_length: usize,
    /// Unpacked bytes per packed byte, once a layer is larger than `ratio_floor`.
    pub ratio: u64,
    /// Unpacked bytes up to which any ratio is fine: small files of zeros are honest.
    pub ratio_floor: u64,
    /// Layers of one image; one overlay mount takes no more of them.
    pub layers: usize,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            bytes: 8 << 30,
            entries: 1_000_000,
            depth: 64,
            path_length: 4096,
            ratio: 200,
            ratio_floor: 16 << 20,
            layers: 128,
        }
    }
}

/// A limit that was passed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Exceeded {
    #[error("it unpacks to more than {limit} bytes")]
    Bytes { limit: u64 },
    #[error("it unpacks to more than {limit} times its packed size, like an archive bomb")]
    Ratio { limit: u64 },
    #[error("it holds more than {limit} entries")]
    Entries { limit: u64 },
    #[error("it holds folders whose paths are longer than {limit} bytes together")]
    Folders { limit: usize },
    #[error("it has {found} layers, more than {limit}")]
    Layers { found: usize, limit: usize },
}

/// Counts packed bytes on their way into a decompressor.
pub(super) struct Counting<R> {
    pub inner: R,
    pub count: std::rc::Rc<std::cell::Cell<u64>>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Passes unpacked bytes on until a limit is reached; then it fails with [`Exceeded`] inside the
/// [`io::Error`].
pub(super) struct Metered<R> {
    pub inner: R,
    pub unpacked: u64,
    pub packed: std::rc::Rc<std::cell::Cell<u64>>,
    pub limits: UnpackLimits,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.unpacked += read as u64;
        let limits = &self.limits;
        if self.unpacked > limits.bytes {
            return Err(io::Error::other(Exceeded::Bytes { limit: limits.bytes }));
        }
        if self.unpacked > limits.ratio_floor && self.unpacked / limits.ratio.max(1) > self.packed.get() {
            return Err(io::Error::other(Exceeded::Ratio { limit: limits.ratio }));
        }
        Ok(read)
    }
}
