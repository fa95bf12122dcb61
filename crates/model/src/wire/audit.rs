//! The record of changes, and how what changed is shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `GET /api/v1/audit`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// Asks for the entries before these as `cursor`; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One call that changed something, or was to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    pub id: String,
    /// When the call began, in Unix milliseconds.
    pub at_ms: u64,
    pub actor: AuditActor,
    /// As `operationId` in the API's description.
    pub operation: String,
    /// Whose the target is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// The app that it is about, though there may be none of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// What it is about, as `kind=name` with spaces between.
    pub target: String,
    pub outcome: AuditOutcome,
    /// Why it was refused or failed, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the target was, where that is small; absent: it was not there, or is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// Who called. The token may be gone by now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditActor {
    /// The token's id.
    pub token: String,
    /// The token's name.
    pub name: String,
    /// As of tokens: `owner`, `read-only`, `deploy`.
    pub role: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    Done,
    /// Nothing was changed.
    Refused,
    /// The platform failed; parts may be done.
    Failed,
    /// It goes on still; or the caller went away, or control ended, before it was over.
    Unknown,
}

impl AuditEntry {
    /// What changed, a line each: `- state: active`, `+ state: draining`. What is the same is left out.
    pub fn diff(&self) -> Vec<String> {
        let (before, after) = (lines(self.before.as_ref()), lines(self.after.as_ref()));
        let beyond = |some: &BTreeMap<String, usize>, other: &BTreeMap<String, usize>, sign: char| -> Vec<String> {
            let extra = |(line, count): (&String, &usize)| {
                let more = count.saturating_sub(other.get(line).copied().unwrap_or_default());
                std::iter::repeat_n(format!("{sign} {line}"), more)
            };
            some.iter().flat_map(extra).collect()
        };
        let mut diff = beyond(&before, &after, '-');
        diff.extend(beyond(&after, &before, '+'));
        // Old and new of one field stand together, the old first.
        diff.sort_by(|one, other| field(one).cmp(field(other)));
        diff
    }
}

/// Of a line of a diff.
fn field(line: &str) -> &str {
    line.get(2..).and_then(|rest| rest.split(": ").next()).unwrap_or_default()
}

/// A value as lines, and how often each occurs: fields by their path, elements of a list whole, as their
/// places in it say little of what they are.
fn lines(value: Option<&Value>) -> BTreeMap<String, usize> {
    fn add(lines: &mut BTreeMap<String, usize>, path: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    add(lines, &path, value);
                }
            }
            Value::Array(elements) => {
                for element in elements {
                    *lines.entry(format!("{path}: {}", text(element))).or_default() += 1;
                }
            }
            one => *lines.entry(format!("{path}: {}", text(one))).or_default() += 1,
        }
    }
    let mut found = BTreeMap::new();
    if let Some(value) = value {
        add(&mut found, "", value);
    }
    found
}

/// On one line, whatever it holds.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) if !text.chars().any(char::is_control) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn diff(before: Value, after: Value) -> Vec<String> {
        let some = |value: Value| Some(value).filter(|value| !value.is_null());
        let actor = AuditActor { token: "t".into(), name: "tester".into(), role: "owner".into() };
        let entry = AuditEntry {
            id: "1".into(),
            at_ms: 0,
            actor,
            operation: "change".into(),
            org: None,
            app: None,
            target: String::new(),
            outcome: AuditOutcome::Done,
            error: None,
            before: some(before),
            after: some(after),
        };
        entry.diff()
    }

    #[test]
    fn what_is_the_same_is_left_out() {
        let before = json!({"state": "active", "region": "ams"});
        assert_eq!(diff(before.clone(), before.clone()), Vec::<String>::new());
        let after = json!({"state": "draining", "region": "ams"});
        assert_eq!(diff(before, after), ["- state: active", "+ state: draining"]);
    }

    #[test]
    fn what_comes_and_goes_is_shown_whole() {
        let pool = json!({"prefix": "192.0.2.0/24", "shared": false, "nothing": null});
        assert_eq!(diff(Value::Null, pool.clone()), ["+ prefix: 192.0.2.0/24", "+ shared: false"]);
        assert_eq!(diff(pool, Value::Null), ["- prefix: 192.0.2.0/24", "- shared: false"]);
        assert_eq!(diff(Value::Null, Value::Null), Vec::<String>::new());
    }

    #[test]
    fn elements_of_lists_are_told_apart_by_what_they_are() {
        let rule = |port: u16| json!({"action": "allow", "port": port});
        let policy = |rules: Value| json!({"name": "web", "selector": {"all": true}, "rules": rules});
        let moved = diff(policy(json!([rule(80), rule(443)])), policy(json!([rule(443), rule(80), rule(80)])));
        assert_eq!(moved, [r#"+ rules: {"action":"allow","port":80}"#]);
        let narrowed = diff(policy(json!([])), json!({"name": "web", "selector": {"metadata": {"a": "b\nc"}}}));
        assert_eq!(narrowed, ["- selector.all: true", r#"+ selector.metadata.a: "b\nc""#]);
    }
}
