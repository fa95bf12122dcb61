//! Durations as the Machines API writes them: Go syntax (`"1m30s"`) or an integer of nanoseconds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::openapi::schema::{ObjectBuilder, Type};

/// A non-negative duration, read from Go syntax or nanoseconds and written in Go syntax.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }
}

/// The text is no Go duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a duration: write a number with a unit, such as \"15s\", \"500ms\" or \"1m30s\"")]
pub struct InvalidDuration {
    given: String,
}

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let invalid = || InvalidDuration { given: text.chars().take(40).collect() };
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total_ns: u128 = 0;
        while !rest.is_empty() {
            let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
            let (number, after) = rest.split_at(number_end);
            let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, next) = after.split_at(unit_end);
            let unit_ns: u128 = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return Err(invalid()),
            };
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 24 {
                return Err(invalid());
            }
            let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
            total_ns += whole * unit_ns;
            if !fraction.is_empty() {
                let digits: u128 = fraction.parse().map_err(|_| invalid())?;
                let scale = 10u128.checked_pow(fraction.len() as u32).ok_or_else(invalid)?;
                total_ns += digits * unit_ns / scale;
            }
            rest = next;
        }
        // Go's own limit: an int64 of nanoseconds, about 292 years.
        let total_ns = i64::try_from(total_ns).map_err(|_| invalid())?;
        Ok(Self(Duration::from_nanos(total_ns as u64)))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        if ns == 0 {
            return f.write_str("0s");
        }
        let decimal = |value: u128, unit: u128| {
            let text = format!("{}.{:0width$}", value / unit, value % unit, width = unit.ilog10() as usize);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        if ns < 1_000 {
            return write!(f, "{ns}ns");
        }
        if ns < 1_000_000 {
            return write!(f, "{}µs", decimal(ns, 1_000));
        }
        if ns < 1_000_000_000 {
            return write!(f, "{}ms", decimal(ns, 1_000_000));
        }
        let (minutes, seconds_ns) = (ns / 60_000_000_000, ns % 60_000_000_000);
        let (hours, minutes) = (minutes / 60, minutes % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}s", decimal(seconds_ns, 1_000_000_000))
    }
}

impl utoipa::ToSchema for GoDuration {}

impl utoipa::PartialSchema for GoDuration {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("Such as \"15s\" or \"1m30s\"; an integer of nanoseconds is read as well"))
            .into()
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"15s\" or an integer of nanoseconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, nanoseconds: u64) -> Result<GoDuration, E> {
                Ok(GoDuration(Duration::from_nanos(nanoseconds)))
            }

            fn visit_i64<E: de::Error>(self, nanoseconds: i64) -> Result<GoDuration, E> {
                u64::try_from(nanoseconds)
                    .map(|ns| GoDuration(Duration::from_nanos(ns)))
                    .map_err(|_| E::custom("a duration must not be negative"))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes() {
        for (text, ms) in [
            ("15s", 15_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("0", 0),
            ("1h0m0.25s", 3_600_250),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap(), GoDuration::from_millis(ms), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in ["", "15", "s", "1x", "-1s", "1..5s", ".s", "999999999999h", "1s ", "1e3s"] {
            assert!(text.parse::<GoDuration>().is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn writes_go_syntax() {
        for (ns, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (2_000_000, "2ms"),
            (15_000_000_000, "15s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            let duration = GoDuration(Duration::from_nanos(ns));
            assert_eq!(duration.to_string(), text);
            assert_eq!(text.parse::<GoDuration>().unwrap(), duration);
        }
    }

    #[test]
    fn json_integers_are_nanoseconds() {
        assert_eq!(serde_json::from_str::<GoDuration>("5000000000").unwrap(), GoDuration::from_secs(5));
        assert!(serde_json::from_str::<GoDuration>("-1").is_err());
    }
}
