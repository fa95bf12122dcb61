//! Limits on the local files that a deploy carries into machines. They travel within the request and
//! live in every machine's configuration: larger content belongs into the image.

/// One file.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// All files of a deploy.
pub const MAX_TOTAL_BYTES: u64 = 2 << 20;

/// What a deploy does not carry.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TooLarge {
    #[error(
        "the local file {path:?} has {bytes} bytes, more than the limit of {MAX_FILE_BYTES}: put it into the image"
    )]
    File { path: String, bytes: u64 },
    #[error(
        "the local files have {bytes} bytes together, more than the limit of {MAX_TOTAL_BYTES}: put them into the image"
    )]
    Together { bytes: u64 },
}

/// Whether files of these sizes may come along.
pub fn check_sizes<'a>(files: impl Iterator<Item = (&'a str, u64)>) -> Result<(), TooLarge> {
    let mut total: u64 = 0;
    for (path, bytes) in files {
        if bytes > MAX_FILE_BYTES {
            return Err(TooLarge::File { path: path.to_owned(), bytes });
        }
        total = total.saturating_add(bytes);
    }
    if total > MAX_TOTAL_BYTES { Err(TooLarge::Together { bytes: total }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_and_all_together_have_a_limit() {
        assert_eq!(check_sizes([("a", MAX_FILE_BYTES), ("b", MAX_FILE_BYTES)].into_iter()), Ok(()));
        let large = check_sizes([("a", MAX_FILE_BYTES + 1)].into_iter()).unwrap_err().to_string();
        assert!(large.contains("\"a\"") && large.contains("1048577"), "{large}");
        assert!(check_sizes([("a", MAX_FILE_BYTES), ("b", MAX_FILE_BYTES), ("c", 1)].into_iter()).is_err());
    }
}
