//! Framing of a tar stream: headers, bodies, padding. Strict where tools disagree, because every
//! disagreement lets one archive mean two things.
//!
//! Knows nothing of PAX records, layers or files; see [`super::entry`] for what headers mean.

use std::io::{self, Read};

use thiserror::Error;

const BLOCK: usize = 512;

/// A stream of headers and bodies.
pub struct Tape<R> {
    reader: R,
    /// Bytes of the current body that nobody has read yet.
    body_left: u64,
    /// Zero bytes after the current body up to the next block.
    padding: u64,
    /// Headers read so far; errors name it.
    count: u64,
}

/// Why a tar stream cannot be read.
#[derive(Debug, Error)]
pub enum TapeError {
    #[error("cannot read the archive at header {header}")]
    Read { header: u64, source: io::Error },
    #[error("the archive ends in the middle of header {header} or its content")]
    Truncated { header: u64 },
    #[error("the checksum of header {header} is wrong: this is no tar archive, or a damaged one")]
    Checksum { header: u64 },
    #[error("header {header} holds no valid number as {field}")]
    Number { header: u64, field: &'static str },
    #[error("the extended header {header} has {size} bytes: at most {limit} are read")]
    LargeExtension { header: u64, size: u64, limit: u64 },
}

/// One header block.
pub struct Header([u8; BLOCK]);

impl<R: Read> Tape<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, body_left: 0, padding: 0, count: 0 }
    }

    /// The next header; `None` at the end of the archive. What is left of the last body is skipped.
    pub fn next_header(&mut self) -> Result<Option<Header>, TapeError> {
        let skip = self.body_left.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.reader).take(skip), &mut io::sink());
        if skipped.map_err(|source| TapeError::Read { header: self.count, source })? < skip {
            return Err(TapeError::Truncated { header: self.count });
        }
        (self.body_left, self.padding) = (0, 0);

        let mut block = [0; BLOCK];
        let read = read_full(&mut self.reader, &mut block)
            .map_err(|source| TapeError::Read { header: self.count + 1, source })?;
        // An archive may end without its zero blocks; many writers leave them out.
        if read == 0 || (read == BLOCK && block.iter().all(|byte| *byte == 0)) {
            return Ok(None);
        }
        self.count += 1;
        if read < BLOCK {
            return Err(TapeError::Truncated { header: self.count });
        }
        let header = Header(block);
        if header.octal(148..156) != Some(u64::from(header.checksum())) {
            return Err(TapeError::Checksum { header: self.count });
        }
        let size = self.size(&header)?;
        self.body_left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        Ok(Some(header))
    }

    /// The size that `header` announces for its body.
    pub fn size(&self, header: &Header) -> Result<u64, TapeError> {
        // Above this no sum of sizes and paddings can be trusted not to overflow.
        self.number(header, 124..136, "size").and_then(|size| match size {
            0..=0xffff_ffff_ffff => Ok(size),
            _ => Err(TapeError::Number { header: self.count, field: "size" }),
        })
    }

    /// The current body, to its end.
    pub fn body(&mut self) -> Body<'_, R> {
        Body { tape: self }
    }

    /// The whole current body, if it has at most `limit` bytes.
    pub fn small_body(&mut self, limit: u64) -> Result<Vec<u8>, TapeError> {
        let header = self.count;
        if self.body_left > limit {
            return Err(TapeError::LargeExtension { header, size: self.body_left, limit });
        }
        let mut bytes = Vec::new();
        self.body().read_to_end(&mut bytes).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => TapeError::Truncated { header },
            _ => TapeError::Read { header, source },
        })?;
        Ok(bytes)
    }

    pub fn number(
        &self,
        header: &Header,
        range: std::ops::Range<usize>,
        field: &'static str,
    ) -> Result<u64, TapeError> {
        header.number(range).ok_or(TapeError::Number { header: self.count, field })
    }

    /// The reader, wherever it stands.
    pub fn into_inner(self) -> R {
        self.reader
    }
}

/// Reads the body of the current entry; an archive that ends inside is an error.
pub struct Body<'a, R> {
    tape: &'a mut Tape<R>,
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.tape.body_left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.tape.reader.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends inside an entry"));
        }
        self.tape.body_left -= read as u64;
        Ok(read)
    }
}

impl Header {
    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The path field, with the prefix that POSIX headers may have. A GNU header keeps times where
    /// POSIX has the prefix.
    pub fn path(&self) -> Vec<u8> {
        let name = text(&self.0[0..100]);
        let prefix = if &self.0[257..263] == b"ustar\0" { text(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    fn checksum(&self) -> u32 {
        let spaces = u32::from(b' ') * 8;
        self.0[..148].iter().chain(&self.0[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + spaces
    }

    /// A number: octal digits, or eight big-endian bytes marked by the highest bit (as GNU writes
    /// what octal cannot hold). Negative and larger ones are none.
    fn number(&self, range: std::ops::Range<usize>) -> Option<u64> {
        let field = &self.0[range.clone()];
        if field[0] & 0x80 == 0 {
            return self.octal(range);
        }
        let (high, low) = field.split_at(field.len() - 8);
        // In an eight byte field the mark is in the number's own first byte.
        let mut low: [u8; 8] = low.try_into().ok()?;
        match high.split_first() {
            Some((0x80, rest)) if rest.iter().all(|byte| *byte == 0) => {}
            None => low[0] &= 0x7f,
            Some(_) => return None,
        }
        let number = u64::from_be_bytes(low);
        // A set sign bit after the mark means a negative number.
        (number < 1 << 62).then_some(number)
    }

    /// Octal digits between blanks; an empty field is 0.
    fn octal(&self, range: std::ops::Range<usize>) -> Option<u64> {
        let digits = text(&self.0[range]).trim_ascii();
        digits.iter().try_fold(0u64, |number, digit| match digit {
            b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
            _ => None,
        })
    }
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Fills `buffer` as far as the stream goes.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(edit: impl FnOnce(&mut [u8; 512])) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_path("file").unwrap();
        header.set_size(0);
        edit(header.as_mut_bytes());
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn first(bytes: &[u8]) -> Result<Option<Header>, TapeError> {
        Tape::new(bytes).next_header()
    }

    #[test]
    fn nothing_and_zero_blocks_are_empty_archives() {
        assert!(first(&[]).unwrap().is_none());
        assert!(first(&[0; 1024]).unwrap().is_none());
    }

    #[test]
    fn a_prefix_belongs_to_posix_headers_alone() {
        let posix = header(|bytes| bytes[345..348].copy_from_slice(b"dir"));
        assert_eq!(first(&posix).unwrap().unwrap().path(), b"dir/file");
        let gnu = header(|bytes| {
            bytes[257..265].copy_from_slice(b"ustar  \0");
            bytes[345..348].copy_from_slice(b"dir");
        });
        assert_eq!(first(&gnu).unwrap().unwrap().path(), b"file");
    }

    #[test]
    fn damaged_headers_are_refused() {
        let mut wrong_sum = header(|_| {});
        wrong_sum[0] ^= 1;
        assert!(matches!(first(&wrong_sum), Err(TapeError::Checksum { header: 1 })));
        assert!(matches!(first(&wrong_sum[..100]), Err(TapeError::Truncated { header: 1 })));
        for size in [*b"8\0\0\0\0\0\0\0\0\0\0\0", *b"-1\0\0\0\0\0\0\0\0\0\0", [0xff; 12], *b"1 1\0\0\0\0\0\0\0\0\0"] {
            let bytes = header(|bytes| bytes[124..136].copy_from_slice(&size));
            assert!(matches!(first(&bytes), Err(TapeError::Number { field: "size", .. })), "{size:?}");
        }
        let huge = header(|bytes| bytes[124..136].copy_from_slice(&[0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]));
        assert!(first(&huge).is_err());
    }

    #[test]
    fn large_numbers_are_read_in_both_forms() {
        let bytes = header(|bytes| {
            bytes[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]);
            bytes[116..124].copy_from_slice(b"0000017\0");
        });
        let mut tape = Tape::new(&bytes[..]);
        let header = tape.next_header().unwrap().unwrap();
        assert_eq!(tape.number(&header, 108..116, "owner").unwrap(), 0xffff_fffe);
        assert_eq!(tape.number(&header, 116..124, "group").unwrap(), 0o17);
    }

    #[test]
    fn an_archive_that_ends_inside_a_body_is_refused() {
        let bytes = header(|bytes| bytes[124..136].copy_from_slice(b"00000001000\0"));
        let mut tape = Tape::new(&bytes[..]);
        tape.next_header().unwrap().unwrap();
        assert!(matches!(tape.next_header(), Err(TapeError::Truncated { .. })));
        let mut tape = Tape::new(&bytes[..]);
        tape.next_header().unwrap().unwrap();
        assert!(matches!(tape.small_body(1 << 20), Err(TapeError::Truncated { .. })));
        let mut tape = Tape::new(&bytes[..]);
        tape.next_header().unwrap().unwrap();
        assert!(matches!(tape.small_body(10), Err(TapeError::LargeExtension { .. })));
    }
}
