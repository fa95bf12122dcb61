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

/// Unix milliseconds of a moment in RFC 3339; none before 1970.
pub fn unix_ms(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_time_is_read_back() {
        assert_eq!(unix_ms(&rfc3339(1_800_000_000_123)), Some(1_800_000_000_123));
        assert_eq!(unix_ms("2027-01-15T09:00:00+01:00"), Some(1_800_000_000_000));
        assert_eq!((unix_ms("soon"), unix_ms("1969-12-31T23:59:59Z")), (None, None));
    }
}
