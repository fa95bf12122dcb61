//! Records of extended headers (PAX): `<length> <key>=<value>\n`, read strictly.

use thiserror::Error;

/// Why an extended header cannot be trusted.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InvalidPax {
    #[error("an extended header holds a record that is not \"<length> <key>=<value>\"")]
    Record,
    #[error("an extended header says {key} twice")]
    Twice { key: String },
    #[error("an extended header holds {key} with the impossible value {value:?}")]
    Value { key: &'static str, value: String },
    #[error("an extended header asks for {key}, which is not supported in layers")]
    Unsupported { key: String },
}

/// What the extended header of one entry says about it; all else it may say does not matter here.
#[derive(Default, PartialEq, Debug)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    /// Names without the `SCHILY.xattr.` before them; of every namespace.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Seconds since 1970 and nanoseconds of the started second.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Pax {
    /// Reads the body of a header of type `x`.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidPax> {
        let mut pax = Self::default();
        for record in Records(body) {
            let (key, value) = record?;
            match key {
                b"path" => set(&mut pax.path, key, value.to_vec())?,
                b"linkpath" => set(&mut pax.link, key, value.to_vec())?,
                b"size" => set(&mut pax.size, key, number("size", value)?)?,
                b"uid" => set(&mut pax.uid, key, number("uid", value)?)?,
                b"gid" => set(&mut pax.gid, key, number("gid", value)?)?,
                b"mtime" => set(&mut pax.mtime, key, time(value)?)?,
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(InvalidPax::Unsupported { key: key.escape_ascii().to_string() });
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        pax.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(pax)
    }

    /// Checks the body of a header of type `g`, which would speak for every later entry: it may
    /// comment, not change what entries are.
    pub fn check_global(body: &[u8]) -> Result<(), InvalidPax> {
        for record in Records(body) {
            let (key, _) = record?;
            let changes_entries = matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid")
                || key.starts_with(b"GNU.sparse.")
                || key.starts_with(b"SCHILY.xattr.");
            if changes_entries {
                return Err(InvalidPax::Unsupported { key: format!("a global {}", key.escape_ascii()) });
            }
        }
        Ok(())
    }
}

fn set<T>(slot: &mut Option<T>, key: &[u8], value: T) -> Result<(), InvalidPax> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(InvalidPax::Twice { key: key.escape_ascii().to_string() }),
    }
}

fn number(key: &'static str, value: &[u8]) -> Result<u64, InvalidPax> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| InvalidPax::Value { key, value: super::path::printable(value) })
}

/// `[-]seconds[.fraction]`.
fn time(value: &[u8]) -> Result<Time, InvalidPax> {
    let invalid = || InvalidPax::Value { key: "mtime", value: super::path::printable(value) };
    let text = std::str::from_utf8(value).map_err(|_| invalid())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let seconds: i64 = whole.parse().map_err(|_| invalid())?;
    let nine_digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = nine_digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    // -1.25 is a quarter second before -1: 0.75 after -2.
    Ok(if whole.starts_with('-') && nanoseconds > 0 {
        Time { seconds: seconds.checked_sub(1).ok_or_else(invalid)?, nanoseconds: 1_000_000_000 - nanoseconds }
    } else {
        Time { seconds, nanoseconds }
    })
}

struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), InvalidPax>;

    fn next(&mut self) -> Option<Self::Item> {
        // Some writers fill the block with zeros.
        if self.0.iter().all(|byte| *byte == 0) {
            return None;
        }
        let record = split_record(self.0);
        self.0 = match record {
            Some((.., rest)) => rest,
            None => &[],
        };
        Some(record.map(|(key, value, _)| (key, value)).ok_or(InvalidPax::Record))
    }
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn split_record(bytes: &[u8]) -> Option<Record<'_>> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    if length <= space + 1 || length > bytes.len() {
        return None;
    }
    let (record, rest) = bytes.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record with the length that fits; all here have two digits.
    fn record(text: &str) -> Vec<u8> {
        format!("{} {text}\n", text.len() + 4).into_bytes()
    }

    #[test]
    fn the_keys_that_matter_are_read() {
        let records = ["path=a/b", "size=1234", "mtime=1700000.25", "SCHILY.xattr.user.a=one\0\ntwo", "other=thing"];
        let pax = Pax::parse(&records.map(record).concat()).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.size, Some(1234));
        assert_eq!(pax.mtime, Some(Time { seconds: 1_700_000, nanoseconds: 250_000_000 }));
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"one\0\ntwo".to_vec())]);
    }

    #[test]
    fn times_before_1970_count_backwards() {
        assert_eq!(time(b"-1.25").unwrap(), Time { seconds: -2, nanoseconds: 750_000_000 });
        assert_eq!(time(b"-3").unwrap(), Time { seconds: -3, nanoseconds: 0 });
        assert!(time(b"soon").is_err() && time(b"1.x").is_err() && time(b"").is_err());
    }

    #[test]
    fn ambiguous_and_broken_records_are_refused() {
        assert_eq!(Pax::parse(b"10 size=1\n10 size=2\n"), Err(InvalidPax::Twice { key: "size".to_owned() }));
        for body in
            [&b"99 path=a\n"[..], b"9 path=ab\n", b"x path=a\n", b"6 path\n", b"0 \n", b"-1 a=b\n", b"9 path=aX"]
        {
            assert_eq!(Pax::parse(body), Err(InvalidPax::Record), "{}", body.escape_ascii());
        }
        assert!(matches!(Pax::parse(&record("size=-1")), Err(InvalidPax::Value { .. })));
        assert!(matches!(Pax::parse(&record("GNU.sparse.major=1")), Err(InvalidPax::Unsupported { .. })));
        assert!(matches!(Pax::check_global(b"10 size=1\n"), Err(InvalidPax::Unsupported { .. })));
        assert!(Pax::check_global(&record("comment=x")).is_ok());
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'='), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..80)) {
            let parsed = Pax::parse(&body);
            prop_assert!(parsed.is_ok() || parsed.is_err());
        }
    }
}
