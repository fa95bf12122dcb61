//! Times as the API writes them.

/// RFC 3339, UTC, with milliseconds.
pub fn rfc3339(unix_ms: u64) -> String {
    format_at(unix_ms, |time| format!("{time:.3}"))
}

/// RFC 3339, UTC, to the second.
pub fn rfc3339_seconds(unix_ms: u64) -> String {
    format_at(unix_ms, |time| format!("{time:.0}"))
}

fn format_at(unix_ms: u64, format: impl FnOnce(jiff::Timestamp) -> String) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format(time.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}
