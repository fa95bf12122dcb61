//! The `Range` header of a download and the `Content-Range` of an upload's chunk.

/// First byte and length of what is asked of `size` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Whole,
    Part {
        start: u64,
        length: u64,
    },
    /// Nothing of the blob lies in the range.
    Outside,
}

/// Reads a `Range` header. Units and lists that we do not serve mean the whole, as HTTP allows.
pub(super) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(range) = header.and_then(|text| text.strip_prefix("bytes=")) else { return Wanted::Whole };
    let Some((first, last)) = range.split_once('-') else { return Wanted::Whole };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(last)) if start <= last => (start, last.saturating_add(1).min(size)),
        (Ok(start), Err(_)) if last.is_empty() => (start, size),
        (Err(_), Ok(suffix)) if first.is_empty() => (size.saturating_sub(suffix), size),
        _ => return Wanted::Whole,
    };
    if start >= end { Wanted::Outside } else { Wanted::Part { start, length: end - start } }
}

/// The first byte that a chunk says it holds: `<first>-<last>`.
pub(super) fn chunk_start(header: &str) -> Option<u64> {
    let range = header.strip_prefix("bytes ").unwrap_or(header);
    range.split_once('-')?.0.parse().ok()
}

/// How an upload of `size` bytes says how far it is.
pub(super) fn reached(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        let part = |start, length| Wanted::Part { start, length };
        for (header, expected) in [
            ("bytes=0-9", part(0, 10)),
            ("bytes=5-", part(5, 95)),
            ("bytes=-7", part(93, 7)),
            ("bytes=-700", part(0, 100)),
            ("bytes=90-4000", part(90, 10)),
            ("bytes=100-", Wanted::Outside),
            ("bytes=-0", Wanted::Outside),
            ("bytes=9-3", Wanted::Whole),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), 100), expected, "{header}");
        }
        assert_eq!(wanted(None, 100), Wanted::Whole);
    }

    #[test]
    fn chunks_say_where_they_begin() {
        assert_eq!(chunk_start("10-19"), Some(10));
        assert_eq!(chunk_start("bytes 10-19/*"), Some(10));
        assert_eq!(chunk_start("x-1"), None);
    }

    proptest! {
        #[test]
        fn a_part_lies_inside(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size: u64) {
            if let Wanted::Part { start, length } = wanted(Some(&header), size) {
                prop_assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= size));
            }
        }
    }
}
