//! What a key takes, and how each accepted spelling becomes the one canonical value. Legacy shapes
//! live here, each with the shape it is another spelling of.

use atoll_model::config::STOP_SIGNALS;
use atoll_model::{AppName, GoDuration, RegionCode};

use crate::document::{Entry, Node, Value};
use crate::keys::Key;

/// What a bare number means where a duration is expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DurationUnit {
    Seconds,
    Milliseconds,
    Nanoseconds,
}

/// Says why a text is refused; the reason ends with what would be right.
pub type TextCheck = fn(&str) -> Result<(), String>;

/// The values that a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Text,
    Checked(TextCheck),
    OneOf(&'static [&'static str]),
    Bool,
    /// Also as text or decimal without fraction: `"8080"`, `8080.0`.
    Whole {
        min: i64,
        max: i64,
    },
    Number,
    Duration(DurationUnit),
    /// MB, or a text with a binary unit.
    Memory,
    Texts,
    TextsOf(&'static [&'static str]),
    /// A lone text is a list of one; it is not split into words.
    TextOrTexts,
    /// `off`, `stop`, `suspend` or the older booleans.
    Autostop,
    Strategy,
    PersistRootfs,
    /// A table of texts, also as a list of tables that are merged; other scalars become text.
    Env,
    /// A table of commands, also as a list of `{name, command}`.
    Processes,
    /// A table of texts, also as a list of `{name, value}`.
    Headers,
    Table(&'static [Key]),
    /// A table, also as the text `"soft,hard"`, which means requests.
    Concurrency(&'static [Key]),
    /// A list of tables; a lone table is a list of one.
    Tables(&'static [Key]),
    /// The same, where a table without any key is as good as none.
    FilledTables(&'static [Key]),
    /// Tables by name, also as a list of tables with a `name`.
    Named(&'static [Key]),
    /// A table whose content is passed on.
    AnyTable,
    /// A list whose content is passed on.
    AnyList,
    Any,
}

impl Shape {
    /// For documents and errors: "expected …".
    pub fn describe(&self) -> String {
        match self {
            Self::Text | Self::Checked(_) => "a text".into(),
            Self::OneOf(allowed) => one_of(allowed),
            Self::Bool => "true or false".into(),
            Self::Whole { min, max } => format!("a whole number from {min} to {max}"),
            Self::Number => "a positive number".into(),
            Self::Duration(_) => "a duration such as \"15s\"".into(),
            Self::Memory => "a size such as 512 or \"1gb\"".into(),
            Self::Texts => "a list of texts".into(),
            Self::TextsOf(allowed) => format!("a list of {}", one_of(allowed)),
            Self::TextOrTexts => "a text or a list of texts".into(),
            Self::Autostop => "\"off\", \"stop\" or \"suspend\"".into(),
            Self::Strategy => "\"rolling\" or \"immediate\"".into(),
            Self::PersistRootfs => "\"never\"".into(),
            Self::Env | Self::Processes | Self::Headers => "a table of texts".into(),
            Self::Table(_) | Self::Concurrency(_) => "a table".into(),
            Self::Tables(_) | Self::FilledTables(_) => "a list of tables".into(),
            Self::Named(_) => "a table of named tables".into(),
            Self::AnyTable => "a table".into(),
            Self::AnyList => "a list".into(),
            Self::Any => "any value".into(),
        }
    }
}

pub(crate) fn one_of(allowed: &[&str]) -> String {
    let quoted: Vec<String> = allowed.iter().map(|value| format!("{value:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The whole number meant by a value that may be spelled as a text or decimal.
pub(crate) fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => Some(*number as i64),
        Value::Text(digits)
            if !digits.is_empty() && digits.len() < 16 && digits.bytes().all(|b| b.is_ascii_digit()) =>
        {
            digits.parse().ok()
        }
        _ => None,
    }
}

/// The duration meant by a text in Go syntax or a number of `unit`; the error says what is wrong.
pub(crate) fn duration(value: &Value, unit: DurationUnit) -> Result<GoDuration, String> {
    let ns_per_unit: f64 = match unit {
        DurationUnit::Seconds => 1e9,
        DurationUnit::Milliseconds => 1e6,
        DurationUnit::Nanoseconds => 1.0,
    };
    let number = match value {
        Value::Text(text) => {
            return text.parse().map_err(|error: atoll_model::duration::InvalidDuration| error.to_string());
        }
        Value::Integer(number) => *number as f64,
        Value::Float(number) => *number,
        _ => return Err("expected a duration such as \"15s\"".into()),
    };
    let ns = number * ns_per_unit;
    if ns < 0.0 {
        return Err("a duration must not be negative".into());
    }
    // Go's own limit: an int64 of nanoseconds.
    if !ns.is_finite() || ns >= i64::MAX as f64 {
        return Err("the duration is too long".into());
    }
    Ok(GoDuration(std::time::Duration::from_nanos(ns as u64)))
}

/// MB meant by a number of MB or a text with a binary unit, such as `"1gb"` or `"512 MiB"`.
pub(crate) fn memory_mb(value: &Value) -> Option<i64> {
    if let Some(mb) = whole(value) {
        return (mb >= 0).then_some(mb);
    }
    let Value::Text(text) = value else { return None };
    let text = text.trim().to_ascii_lowercase();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..unit_at].parse().ok()?;
    let bytes_per_unit: f64 = match text[unit_at..].trim_start() {
        "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1024.0 * 1024.0,
        "g" | "gb" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let mb = number * bytes_per_unit / (1024.0 * 1024.0);
    (mb.is_finite() && mb < 1e12).then_some(mb as i64)
}

/// The text of a scalar, for places where anything is text.
pub(crate) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Integer(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Null | Value::Date | Value::List(_) | Value::Table(_) => None,
    }
}

/// `"soft,hard"`, the oldest form of a concurrency limit.
pub(crate) fn concurrency_text(node: &Node) -> Option<Node> {
    let Value::Text(text) = &node.value else { return None };
    let (soft, hard) = text.split_once(',')?;
    let limit = |digits: &str| digits.trim().parse::<u32>().ok().map(i64::from);
    let entry = |key: &str, value| Entry {
        key: key.to_owned(),
        key_span: node.span.clone(),
        node: Node::new(node.span.clone(), value),
    };
    let entries = vec![
        entry("type", Value::Text("requests".into())),
        entry("soft_limit", Value::Integer(limit(soft)?)),
        entry("hard_limit", Value::Integer(limit(hard)?)),
    ];
    Some(Node::new(node.span.clone(), Value::Table(entries)))
}

/// A list of `{name, <value_key>}` as the entries of a table; `None` where one has no name.
pub(crate) fn named_list(items: &[Node], value_key: &str) -> Option<Vec<Entry>> {
    items
        .iter()
        .map(|item| match item.get("name").map(|name| &name.value) {
            Some(Value::Text(name)) => Some(Entry {
                key: name.clone(),
                key_span: item.span.clone(),
                node: item
                    .get(value_key)
                    .cloned()
                    .unwrap_or_else(|| Node::new(item.span.clone(), Value::Text(String::new()))),
            }),
            _ => None,
        })
        .collect()
}

/// Checks of single texts.
pub(crate) mod checks {
    use super::*;

    pub fn app_name(text: &str) -> Result<(), String> {
        text.parse::<AppName>().map(drop).map_err(|error| error.to_string())
    }

    pub fn region(text: &str) -> Result<(), String> {
        text.parse::<RegionCode>().map(drop).map_err(|error| error.to_string())
    }

    pub fn signal(text: &str) -> Result<(), String> {
        if STOP_SIGNALS.contains(&text) {
            return Ok(());
        }
        Err(format!("{:?} is no stop signal: use {}", short(text), one_of(STOP_SIGNALS)))
    }

    pub fn command(text: &str) -> Result<(), String> {
        crate::words::split(text).map(drop).map_err(|error| error.to_string())
    }

    pub fn url_path(text: &str) -> Result<(), String> {
        if text.is_empty() || text.starts_with('/') {
            return Ok(());
        }
        Err(format!("{:?} must begin with '/'", short(text)))
    }

    pub fn guest_path(text: &str) -> Result<(), String> {
        if text.starts_with('/') && !text.ends_with('/') && !text.split('/').any(|part| part == "..") {
            return Ok(());
        }
        Err(format!("{:?} must be an absolute path of a file without \"..\"", short(text)))
    }
}

/// The beginning of a text that may be of any length.
pub(crate) fn short(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        format!("{}…", text.chars().take(60).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_binary_units() {
        for (text, mb) in [("1gb", 1024), ("512", 512), ("512mb", 512), ("1.5 GiB", 1536), ("1048576k", 1024)] {
            assert_eq!(memory_mb(&Value::Text(text.into())), Some(mb), "{text}");
        }
        for bad in ["", "much", "1 zb", "-1gb", "1..5gb"] {
            assert_eq!(memory_mb(&Value::Text(bad.into())), None, "{bad}");
        }
    }

    #[test]
    fn a_bare_number_means_what_its_place_says() {
        let five = Value::Integer(5000);
        assert_eq!(duration(&five, DurationUnit::Seconds).unwrap(), GoDuration::from_secs(5000));
        assert_eq!(duration(&five, DurationUnit::Milliseconds).unwrap(), GoDuration::from_secs(5));
        assert_eq!(duration(&five, DurationUnit::Nanoseconds).unwrap().to_string(), "5µs");
        assert!(duration(&Value::Integer(-1), DurationUnit::Seconds).is_err());
        assert!(duration(&Value::Float(f64::INFINITY), DurationUnit::Seconds).is_err());
        assert!(duration(&Value::Integer(i64::MAX), DurationUnit::Seconds).is_err());
    }
}
