//! A packed layer as a stream of unpacked bytes: decompressed, metered and verified on the way.

use std::{
    cell::Cell,
    io::{self, BufRead, BufReader, Read},
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;

use super::{
    Expected, LayerError,
    entry::{Entries, Entry},
    limits::{Counting, Metered, UnpackLimits},
};
use crate::digest::HashingReader;

const BUFFER: usize = 128 << 10;
pub(crate) const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
pub(crate) const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What a layer turned out to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct LayerSummary {
    /// Entries, extended headers included.
    pub entries: u64,
    /// Unpacked bytes, headers included.
    pub bytes: u64,
}

/// Takes a layer's entries in their order.
pub trait LayerSink {
    /// `content` is what a file holds; what is left of it is skipped.
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError>;
}

/// Sees entries and keeps nothing: for checking a layer without unpacking it.
pub struct Discard;

impl LayerSink for Discard {
    fn entry(&mut self, _: &Entry, _: &mut dyn Read) -> Result<(), LayerError> {
        Ok(())
    }
}

/// Reads a packed layer to its end and gives its entries to `sink`. Both digests are checked last,
/// so a sink must not treat what it got as good before this returned.
pub fn read_layer(
    packed: impl Read,
    expected: &Expected,
    limits: &UnpackLimits,
    sink: &mut dyn LayerSink,
) -> Result<LayerSummary, LayerError> {
    let count = Rc::new(Cell::new(0));
    let mut packed =
        BufReader::with_capacity(BUFFER, HashingReader::new(Counting { inner: packed, count: Rc::clone(&count) }));
    let summary = {
        let unpacked = decompress(&mut packed).map_err(|source| LayerError::Read { source })?;
        let metered = Metered { inner: unpacked, unpacked: 0, packed: count, limits: limits.clone() };
        let mut entries = Entries::new(BufReader::with_capacity(BUFFER, HashingReader::new(metered)), limits.clone());
        while let Some(entry) = entries.next_entry()? {
            sink.entry(&entry, &mut entries.body())?;
        }
        let count = entries.count();
        let mut rest = entries.into_inner();
        // What follows the archive's end belongs to the digest too.
        io::copy(&mut rest, &mut io::sink()).map_err(LayerError::reading)?;
        let unpacked = rest.into_inner();
        if let Some(diff_id) = expected.diff_id.filter(|diff_id| *diff_id != unpacked.hasher().digest()) {
            let found = unpacked.hasher().digest();
            return Err(LayerError::WrongDiffId { expected: diff_id, found });
        }
        LayerSummary { entries: count, bytes: unpacked.hasher().size() }
    };
    io::copy(&mut packed, &mut io::sink()).map_err(LayerError::reading)?;
    let found = packed.into_inner().hasher().digest();
    if let Some(digest) = expected.digest.filter(|digest| *digest != found) {
        return Err(LayerError::WrongDigest { expected: digest, found });
    }
    Ok(summary)
}

/// The unpacked bytes of a gzip, zstd or plain stream, told apart by how it begins.
pub(crate) fn decompress<'a>(mut packed: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = packed.fill_buf()?;
    Ok(if start.starts_with(&GZIP_MAGIC) {
        Box::new(MultiGzDecoder::new(packed))
    } else if start.starts_with(&ZSTD_MAGIC) {
        // The decoder refuses windows above 128 MiB by itself.
        Box::new(zstd::Decoder::with_buffer(packed)?)
    } else {
        Box::new(packed)
    })
}
