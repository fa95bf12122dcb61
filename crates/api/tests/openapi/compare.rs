//! Two OpenAPI documents, one the published, one ours: how ours differs, as sentences. Compared are
//! operations, their names, parameters, bodies and answers, and of schemas the properties, types,
//! values and what is required. Texts for people are not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Every difference, one sentence each. A whole subtree of operations that we do not serve is one.
pub fn differences(published: &Value, ours: &Value) -> BTreeSet<String> {
    let mut comparison = Comparison { published, ours, seen: BTreeSet::new(), found: BTreeSet::new() };
    let (theirs, served) = (operations(published), operations(ours));
    for subtree in unserved(&theirs, &served) {
        comparison.found.insert(subtree);
    }
    let mut of_operations: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut common = 0;
    for (name, operation) in &served {
        let Some(their) = theirs.get(name) else {
            comparison.found.insert(format!("{name}: ours alone"));
            continue;
        };
        common += 1;
        for difference in comparison.operation(their, operation) {
            of_operations.entry(difference).or_default().push(name);
        }
    }
    for (difference, names) in of_operations {
        if names.len() == common {
            comparison.found.insert(format!("every operation: {difference}"));
        } else {
            comparison.found.extend(names.iter().map(|name| format!("{name}: {difference}")));
        }
    }
    comparison.found
}

/// Operations by method and path.
pub fn operations(document: &Value) -> BTreeMap<String, &Value> {
    let mut operations = BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            operations.insert(format!("{} {path}", method.to_uppercase()), operation);
        }
    }
    operations
}

/// What we do not serve, by the shortest paths under which we serve nothing.
fn unserved(theirs: &BTreeMap<String, &Value>, served: &BTreeMap<String, &Value>) -> Vec<String> {
    let under =
        |path: &str, top: &str| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let mut subtrees: BTreeMap<String, usize> = BTreeMap::new();
    for name in theirs.keys().filter(|name| !served.contains_key(*name)) {
        let full = path(name);
        let ends = full.match_indices('/').map(|(at, _)| at).skip(1).chain([full.len()]);
        let barren = ends.map(|end| &full[..end]).find(|top| !served.keys().any(|name| under(path(name), top)));
        *subtrees.entry(barren.map_or_else(|| name.clone(), str::to_owned)).or_default() += 1;
    }
    subtrees.into_iter().map(|(top, count)| format!("not served: {top} ({count} operations)")).collect()
}

fn path(name: &str) -> &str {
    name.split_once(' ').map_or("", |(_, path)| path)
}

struct Comparison<'a> {
    published: &'a Value,
    ours: &'a Value,
    /// Pairs of schemas that were compared or are being compared.
    seen: BTreeSet<(String, String)>,
    found: BTreeSet<String>,
}

impl Comparison<'_> {
    fn note(&mut self, difference: String) {
        self.found.insert(difference);
    }

    /// Differences of an operation itself; those of schemas are noted under the schema's name.
    fn operation(&mut self, theirs: &Value, ours: &Value) -> Vec<String> {
        let mut found = Vec::new();
        if theirs["operationId"] != ours["operationId"] {
            found.push(format!("is named {} (published: {})", ours["operationId"], theirs["operationId"]));
        }
        self.parameters(theirs, ours, &mut found);
        self.bodies(theirs, ours, &mut found);
        let (published, served) = (object(&theirs["responses"]), object(&ours["responses"]));
        for status in published.keys().chain(served.keys()).collect::<BTreeSet<_>>() {
            let what = format!("response {status}");
            match (published.get(status), served.get(status)) {
                (Some(theirs), Some(ours)) => self.contents(&what, &theirs["content"], &ours["content"], &mut found),
                (Some(_), None) => found.push(format!("{what} is not described")),
                _ => found.push(format!("{what} is ours alone")),
            }
        }
        found
    }

    fn parameters(&mut self, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
        let by_name = |operation: &Value| -> BTreeMap<String, Value> {
            let all = operation["parameters"].as_array().cloned().unwrap_or_default();
            let name = |one: &Value| format!("{} parameter {}", text(&one["in"]), text(&one["name"]));
            all.into_iter().map(|one| (name(&one), one)).collect()
        };
        let (published, served) = (by_name(theirs), by_name(ours));
        for name in published.keys().chain(served.keys()).collect::<BTreeSet<_>>() {
            match (published.get(name), served.get(name)) {
                (Some(theirs), Some(ours)) => {
                    let (their_type, our_type) = (type_of(&theirs["schema"]), type_of(&ours["schema"]));
                    if their_type != our_type {
                        found.push(format!("{name} is {our_type} (published: {their_type})"));
                    }
                    let (their_need, our_need) = (theirs["required"] == true, ours["required"] == true);
                    if their_need != our_need {
                        found.push(format!("{name}: required is {our_need} (published: {their_need})"));
                    }
                }
                (Some(_), None) => found.push(format!("{name} is not read")),
                _ => found.push(format!("{name} is ours alone")),
            }
        }
    }

    fn bodies(&mut self, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
        match (theirs.get("requestBody"), ours.get("requestBody")) {
            (Some(theirs), Some(ours)) => {
                let (their_need, our_need) = (theirs["required"] == true, ours["required"] == true);
                if their_need != our_need {
                    found.push(format!("request body: required is {our_need} (published: {their_need})"));
                }
                self.contents("request body", &theirs["content"], &ours["content"], found);
            }
            (Some(_), None) => found.push("request body is not read".into()),
            (None, Some(_)) => found.push("request body is ours alone".into()),
            (None, None) => {}
        }
    }

    fn contents(&mut self, what: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
        let (published, served) = (object(theirs), object(ours));
        for kind in published.keys().chain(served.keys()).collect::<BTreeSet<_>>() {
            match (published.get(kind), served.get(kind)) {
                (Some(theirs), Some(ours)) => self.schema(what, &theirs["schema"], &ours["schema"]),
                (Some(_), None) => found.push(format!("{what} is not {kind}")),
                _ if published.is_empty() => found.push(format!("{what} has content, {kind}")),
                _ => found.push(format!("{what} as {kind} is ours alone")),
            }
        }
    }

    /// Notes differences of two schemas; `at` is the way to them from the last schema with a name.
    fn schema(&mut self, at: &str, theirs: &Value, ours: &Value) {
        let at = match theirs["$ref"].as_str().or_else(|| theirs["allOf"][0]["$ref"].as_str()) {
            Some(reference) => reference.rsplit('/').next().unwrap_or(at).to_owned(),
            None => at.to_owned(),
        };
        let (theirs, ours) = (flat(self.published, theirs), flat(self.ours, ours));
        if !self.seen.insert((at.clone(), Value::Object(ours.clone()).to_string())) {
            return;
        }
        let (their_type, our_type) = (type_of_fields(&theirs), type_of_fields(&ours));
        if their_type != our_type {
            self.found.insert(format!("{at}: is {our_type} (published: {their_type})"));
            return;
        }
        match our_type.as_str() {
            "array" => self.schema(&format!("{at}[]"), &theirs["items"], &ours["items"]),
            "object" => self.objects(&at, &theirs, &ours),
            _ => {
                // In which order they are listed means nothing.
                let values = |schema: &Map<String, Value>| -> Option<BTreeSet<String>> {
                    Some(schema.get("enum")?.as_array()?.iter().map(Value::to_string).collect())
                };
                let (their_values, our_values) = (values(&theirs), values(&ours));
                if our_values.is_some() && our_values != their_values {
                    let theirs = theirs.get("enum").map_or_else(|| "any".into(), Value::to_string);
                    self.found.insert(format!("{at}: is one of {} (published: {theirs})", ours["enum"]));
                }
            }
        }
    }

    fn objects(&mut self, at: &str, theirs: &Map<String, Value>, ours: &Map<String, Value>) {
        let fields = |schema: &Map<String, Value>| schema.get("properties").map(object).unwrap_or_default();
        let (published, served) = (fields(theirs), fields(ours));
        if served.is_empty() && !published.is_empty() {
            self.found.insert(format!("{at}: is a free object"));
            return;
        }
        for name in published.keys().chain(served.keys()).collect::<BTreeSet<_>>() {
            match (published.get(name), served.get(name)) {
                (Some(theirs), Some(ours)) => self.schema(&format!("{at}.{name}"), theirs, ours),
                (Some(_), None) => self.note(format!("{at}.{name}: is not there")),
                _ => self.note(format!("{at}.{name}: is ours alone")),
            }
        }
        if let (Some(theirs), Some(ours)) = (theirs.get("additionalProperties"), ours.get("additionalProperties"))
            && theirs.is_object()
        {
            self.schema(&format!("{at}.*"), theirs, ours);
        }
        let required = |schema: &Map<String, Value>| -> BTreeSet<String> {
            schema.get("required").and_then(Value::as_array).into_iter().flatten().map(text).collect()
        };
        let (their_need, our_need) = (required(theirs), required(ours));
        if their_need != our_need {
            let list = |names: BTreeSet<String>| Vec::from_iter(names).join(", ");
            let theirs = if their_need.is_empty() { "nothing".into() } else { list(their_need) };
            self.found.insert(format!("{at}: requires {} (published: {theirs})", list(our_need)));
        }
    }
}

/// A schema without references at its top, its parts in one.
fn flat(document: &Value, schema: &Value) -> Map<String, Value> {
    if let Some(reference) = schema["$ref"].as_str() {
        return flat(document, document.pointer(&reference[1..]).unwrap_or(&Value::Null));
    }
    let mut whole = object(schema);
    for part in whole.remove("allOf").as_ref().and_then(Value::as_array).into_iter().flatten() {
        for (key, value) in flat(document, part) {
            match (whole.get_mut(&key), value) {
                (Some(Value::Object(fields)), Value::Object(more)) => fields.extend(more),
                (Some(Value::Array(items)), Value::Array(more)) => items.extend(more),
                (Some(_), _) => {}
                (None, value) => drop(whole.insert(key, value)),
            }
        }
    }
    whole
}

fn type_of(schema: &Value) -> String {
    type_of_fields(&object(schema))
}

fn type_of_fields(schema: &Map<String, Value>) -> String {
    let cases = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array);
    match (schema.get("type"), cases) {
        (Some(Value::String(kind)), _) => kind.clone(),
        (_, Some(cases)) => cases.iter().map(type_of).collect::<Vec<_>>().join(" or "),
        _ if schema.contains_key("properties") => "object".into(),
        _ => "anything".into(),
    }
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
