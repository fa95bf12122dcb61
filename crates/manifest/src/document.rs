//! A configuration text as a tree that remembers where each value stands, whatever its syntax.
//! This module knows TOML and JSON; it does not know what any key means.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use toml::de::{DeTable, DeValue};

use crate::report::Finding;

/// Byte offsets into the text.
pub(crate) type Span = Range<usize>;

/// Tables within tables (or lists) that a file may open; the deepest documented key needs six.
const MAX_DEPTH: usize = 32;

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Node {
    pub span: Span,
    pub value: Value,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    /// TOML's dates, which no key takes.
    Date,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub node: Node,
}

impl Node {
    pub fn new(span: Span, value: Value) -> Self {
        Self { span, value }
    }

    /// What an error calls this kind of value.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a decimal number",
            Value::Text(_) => "a text",
            Value::Date => "a date",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// Nothing was said: `""`, `[]`, `{}` or `null`, which release definitions use for "not set".
    pub fn is_blank(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Table(entries) => entries.iter().all(|entry| entry.node.is_blank()),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Date => false,
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
            _ => None,
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null | Value::Date => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Table(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect(),
        }
    }
}

/// The tree of a TOML text, or everything that keeps it from being one.
pub(crate) fn from_toml(text: &str) -> Result<Node, Vec<Finding>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut findings: Vec<Finding> = errors
        .iter()
        .map(|error| {
            let span = error.span().unwrap_or(0..0);
            Finding::error(span, error.message().to_owned()).labelled("here")
        })
        .collect();
    let node = toml_table(table.span(), table.get_ref(), 0, &mut findings);
    if findings.is_empty() { Ok(node) } else { Err(findings) }
}

fn toml_table(span: Span, table: &DeTable<'_>, depth: usize, findings: &mut Vec<Finding>) -> Node {
    if too_deep(&span, depth, findings) {
        return Node::new(span, Value::Null);
    }
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_span: key.span(),
            node: toml_value(value.span(), value.get_ref(), depth + 1, findings),
        })
        .collect();
    // The parser sorts by name; findings speak of "the second one" in the author's order.
    entries.sort_by_key(|entry| entry.key_span.start);
    Node::new(span, Value::Table(entries))
}

fn toml_value(span: Span, value: &DeValue<'_>, depth: usize, findings: &mut Vec<Finding>) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Value::Integer(integer),
            Err(_) => {
                findings.push(Finding::error(span.clone(), "the number is too large".into()));
                Value::Null
            }
        },
        DeValue::Float(float) => match float.as_str().parse() {
            Ok(float) => Value::Float(float),
            Err(_) => {
                findings.push(Finding::error(span.clone(), "this is not a number".into()));
                Value::Null
            }
        },
        DeValue::Array(items) => {
            if too_deep(&span, depth, findings) {
                Value::Null
            } else {
                Value::List(
                    items.iter().map(|item| toml_value(item.span(), item.get_ref(), depth + 1, findings)).collect(),
                )
            }
        }
        DeValue::Table(table) => return toml_table(span, table, depth, findings),
    };
    Node::new(span, value)
}

fn too_deep(span: &Span, depth: usize, findings: &mut Vec<Finding>) -> bool {
    if depth < MAX_DEPTH {
        return false;
    }
    findings.push(Finding::error(span.clone(), format!("nested more than {MAX_DEPTH} levels deep")));
    true
}

/// The tree of a JSON text, or the first thing that keeps it from being one.
pub(crate) fn from_json(text: &str) -> Result<Node, Vec<Finding>> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| {
        let at = offset_of(text, error.line(), error.column());
        vec![Finding::error(at..at, strip_position(&error.to_string())).labelled("here")]
    })?;
    let mut findings = Vec::new();
    let node = json_value(text, raw, 0, &mut findings);
    if findings.is_empty() { Ok(node) } else { Err(findings) }
}

fn json_value(text: &str, raw: &RawValue, depth: usize, findings: &mut Vec<Finding>) -> Node {
    let span = span_within(text, raw.get());
    let mut fail = |message: String| {
        findings.push(Finding::error(span.clone(), message));
        Value::Null
    };
    let value = match raw.get().as_bytes().first() {
        Some(b'{' | b'[') if depth >= MAX_DEPTH => fail(format!("nested more than {MAX_DEPTH} levels deep")),
        Some(b'{') => match serde_json::Deserializer::from_str(raw.get()).deserialize_map(JsonEntries) {
            Ok(raw_entries) => Value::Table(json_entries(text, raw_entries, depth, findings)),
            Err(error) => fail(strip_position(&error.to_string())),
        },
        Some(b'[') => match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
            Ok(items) => {
                Value::List(items.into_iter().map(|item| json_value(text, item, depth + 1, findings)).collect())
            }
            Err(error) => fail(strip_position(&error.to_string())),
        },
        _ => match serde_json::from_str::<serde_json::Value>(raw.get()) {
            Ok(serde_json::Value::Bool(value)) => Value::Bool(value),
            Ok(serde_json::Value::String(text)) => Value::Text(text),
            Ok(serde_json::Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Value::Integer(integer),
                (None, Some(float)) => Value::Float(float),
                (None, None) => fail("the number is too large".into()),
            },
            Ok(_) => Value::Null,
            Err(error) => fail(strip_position(&error.to_string())),
        },
    };
    Node::new(span, value)
}

fn json_entries(
    text: &str,
    raw_entries: Vec<(Cow<'_, str>, &RawValue)>,
    depth: usize,
    findings: &mut Vec<Finding>,
) -> Vec<Entry> {
    let mut seen = std::collections::HashSet::new();
    let mut entries = Vec::with_capacity(raw_entries.len());
    for (key, raw) in raw_entries {
        let node = json_value(text, raw, depth + 1, findings);
        // A key with escapes is a copy and has no place in the text; its value's serves.
        let key_span = match &key {
            Cow::Borrowed(key) => span_within(text, key),
            Cow::Owned(_) => node.span.clone(),
        };
        if !seen.insert(key.clone()) {
            findings.push(Finding::error(key_span.clone(), format!("duplicate key `{key}`")));
        }
        entries.push(Entry { key: key.into_owned(), key_span, node });
    }
    entries
}

/// Reads an object without dropping duplicates, values still unread.
struct JsonEntries;

impl<'de> Visitor<'de> for JsonEntries {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key_seed(JsonKey)? {
            entries.push((key, map.next_value()?));
        }
        Ok(entries)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(A::Error::custom("expected an object"))
    }
}

/// Borrows a key from the text where it holds no escapes.
struct JsonKey;

impl<'de> DeserializeSeed<'de> for JsonKey {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for JsonKey {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// Where `part`, a slice of `text`, stands in it.
fn span_within(text: &str, part: &str) -> Span {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len());
    start..(start + part.len()).min(text.len())
}

/// The offset of a one-based line and column (in bytes).
fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let line_start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let mut at = (line_start + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// serde_json appends " at line 1 column 2"; the report says the place in its own way.
fn strip_position(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_and_json_give_the_same_tree_with_places() {
        let toml_text = "app = \"a\"\n[env]\nX = 1\n";
        let json_text = r#"{"app": "a", "env": {"X": 1}}"#;
        let (from_toml, from_json) = (from_toml(toml_text).unwrap(), from_json(json_text).unwrap());
        assert_eq!(from_toml.to_json(), from_json.to_json());
        assert_eq!(&toml_text[from_toml.get("env").unwrap().get("X").unwrap().span.clone()], "1");
        assert_eq!(&json_text[from_json.get("env").unwrap().get("X").unwrap().span.clone()], "1");
    }

    #[test]
    fn duplicate_keys_are_refused_in_both() {
        assert!(from_toml("a = 1\na = 2").unwrap_err()[0].message.contains("duplicate key"));
        assert!(from_json(r#"{"a": 1, "a": 2}"#).unwrap_err()[0].message.contains("duplicate key"));
    }

    #[test]
    fn bottomless_nesting_is_refused_in_both() {
        for depth in [40, 100, 5_000] {
            let lists = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert!(from_toml(&format!("a = {lists}")).is_err());
            assert!(from_json(&format!("{{\"a\": {lists}}}")).is_err());
        }
        assert!(from_toml(&format!("{}.b = 1", vec!["a"; 5_000].join("."))).is_err());
    }

    #[test]
    fn several_syntax_errors_are_found_at_once() {
        assert!(from_toml("a = \nb = 1\nc = = 2\n").unwrap_err().len() >= 2);
    }
}
