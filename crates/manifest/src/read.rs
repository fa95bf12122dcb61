//! From a file's tree to the canonical tree, following the table of keys: aliases and older shapes
//! are replaced, every value is checked, and every finding is kept.

use crate::document::{Entry, Node, Value};
use crate::keys::{Key, Status};
use crate::path::Path;
use crate::report::Finding;
use crate::shape::{self, Shape};
use crate::{Options, words};

pub(crate) struct Reader<'a> {
    pub options: &'a Options,
    pub findings: Vec<Finding>,
}

impl Reader<'_> {
    fn wrong(&mut self, node: &Node, path: &Path, message: String) -> Option<Node> {
        self.findings.push(Finding::error(node.span.clone(), message).key(path));
        None
    }

    fn wrong_kind(&mut self, node: &Node, path: &Path, shape: &Shape) -> Option<Node> {
        let message = format!("expected {}, found {}", shape.describe(), node.kind());
        self.wrong(node, path, message)
    }

    /// The canonical form of a table; entries that are refused are left out.
    pub fn table(&mut self, node: &Node, path: &Path, keys: &'static [Key]) -> Option<Node> {
        let Value::Table(entries) = &node.value else {
            return self.wrong_kind(node, path, &Shape::Table(keys));
        };
        let mut read: Vec<Entry> = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(key) = keys.iter().find(|key| key.name == entry.key || key.aliases.contains(&&*entry.key)) else {
                self.unknown(entry, path, keys);
                continue;
            };
            let path = path.key(key.name);
            if !self.is_read(key, entry, &path) {
                continue;
            }
            if read.iter().any(|other| other.key == key.name) {
                let message = format!("given twice, under two spellings; here as `{}`", entry.key);
                self.findings.push(Finding::error(entry.key_span.clone(), message).key(&path));
                continue;
            }
            if let Some(node) = self.value(&entry.node, &path, &key.shape) {
                read.push(Entry { key: key.name.to_owned(), key_span: entry.key_span.clone(), node });
            }
        }
        Some(Node::new(node.span.clone(), Value::Table(read)))
    }

    fn is_read(&mut self, key: &Key, entry: &Entry, path: &Path) -> bool {
        match key.status {
            Status::Honoured => !matches!(entry.node.value, Value::Null),
            _ if entry.node.is_blank() => false,
            Status::NoEffect => {
                let message = format!("has no effect: {}", key.about);
                self.findings.push(Finding::warning(entry.key_span.clone(), message).key(path));
                false
            }
            Status::Unsupported(reason) => {
                let finding = if self.options.allow_unsupported {
                    Finding::warning(entry.key_span.clone(), "ignored: not supported yet".into())
                } else {
                    Finding::error(entry.key_span.clone(), "not supported yet".into())
                };
                self.findings.push(finding.key(path).help(reason));
                false
            }
        }
    }

    fn unknown(&mut self, entry: &Entry, path: &Path, keys: &[Key]) {
        let span = entry.key_span.clone();
        let message = "unknown key".to_owned();
        let finding = if self.options.strict { Finding::error(span, message) } else { Finding::warning(span, message) };
        let nearest = keys
            .iter()
            .map(|key| (strsim::damerau_levenshtein(key.name, &shape::short(&entry.key)), key.name))
            .min_by_key(|(distance, _)| *distance)
            .filter(|(distance, name)| *distance <= 1 + name.len() / 4);
        let help = match nearest {
            Some((_, name)) => format!("did you mean `{name}`?"),
            None => {
                let honoured = keys.iter().filter(|key| key.status == Status::Honoured);
                format!("known here: {}", honoured.map(|key| key.name).collect::<Vec<_>>().join(", "))
            }
        };
        self.findings.push(finding.key(&path.key(&entry.key)).help(help));
    }

    fn value(&mut self, node: &Node, path: &Path, shape: &Shape) -> Option<Node> {
        let ok = |value| Some(Node::new(node.span.clone(), value));
        match (shape, &node.value) {
            (Shape::Any, _) | (Shape::AnyTable, Value::Table(_)) | (Shape::AnyList, Value::List(_)) => {
                Some(node.clone())
            }
            (Shape::Text, Value::Text(_)) | (Shape::Bool, Value::Bool(_)) => Some(node.clone()),
            (Shape::Checked(check), Value::Text(text)) => match check(text) {
                // An empty text is "not set" in release definitions.
                _ if text.is_empty() => None,
                Ok(()) => Some(node.clone()),
                Err(message) => self.wrong(node, path, message),
            },
            (Shape::OneOf(allowed), Value::Text(text)) => match allowed.contains(&text.as_str()) {
                true => Some(node.clone()),
                false if text.is_empty() => None,
                false => {
                    let message = format!("{:?} is not one of {}", shape::short(text), shape::one_of(allowed));
                    self.wrong(node, path, message)
                }
            },
            (Shape::Whole { min, max }, value) => match shape::whole(value) {
                Some(number) if (*min..=*max).contains(&number) => ok(Value::Integer(number)),
                Some(number) => self.wrong(node, path, format!("expected {}, found {number}", shape.describe())),
                None => self.wrong_kind(node, path, shape),
            },
            (Shape::Number, Value::Integer(number)) if *number > 0 => ok(Value::Float(*number as f64)),
            (Shape::Number, Value::Float(number)) if *number > 0.0 && number.is_finite() => Some(node.clone()),
            (Shape::Number, Value::Integer(_) | Value::Float(_)) => {
                self.wrong(node, path, format!("expected {}", shape.describe()))
            }
            (Shape::Duration(_), Value::Text(text)) if text.is_empty() => None,
            (Shape::Duration(unit), value) => match shape::duration(value, *unit) {
                Ok(duration) => ok(Value::Text(duration.to_string())),
                Err(message) => self.wrong(node, path, message),
            },
            (Shape::Memory, value) => match shape::memory_mb(value) {
                Some(mb) => ok(Value::Integer(mb)),
                None => self.wrong(node, path, format!("expected {}", shape.describe())),
            },
            (Shape::Texts | Shape::TextsOf(_), Value::List(items)) => {
                let item_shape = if let Shape::TextsOf(allowed) = shape { Shape::OneOf(allowed) } else { Shape::Text };
                let items = self.each(items, path, |reader, item, path| reader.value(item, path, &item_shape));
                ok(Value::List(items))
            }
            (Shape::TextOrTexts, Value::Text(_)) => ok(Value::List(vec![node.clone()])),
            (Shape::TextOrTexts, Value::List(_)) => self.value(node, path, &Shape::Texts),
            (Shape::Autostop, Value::Bool(stop)) => ok(Value::Text(if *stop { "stop" } else { "off" }.into())),
            (Shape::Autostop, Value::Text(_)) => self.value(node, path, &Shape::OneOf(&["off", "stop", "suspend"])),
            (Shape::Strategy, Value::Text(text)) => self.strategy(node, path, text),
            (Shape::PersistRootfs, Value::Text(text)) => match text.as_str() {
                "" | "none" | "never" => None,
                _ => self.wrong(node, path, "only \"never\" is supported yet: volumes come later".into()),
            },
            (Shape::Env, Value::List(items)) => {
                let tables = self.each(items, path, |reader, item, path| reader.value(item, path, &Shape::Env));
                ok(Value::Table(merged(tables)))
            }
            (Shape::Processes, Value::List(items)) => self.named_texts(node, items, path, "command"),
            (Shape::Headers, Value::List(items)) => self.named_texts(node, items, path, "value"),
            (Shape::Env | Shape::Headers | Shape::Processes, Value::Table(entries)) => {
                let is_command = matches!(shape, Shape::Processes);
                let read = entries.iter().filter_map(|entry| self.text_entry(entry, path, is_command)).collect();
                ok(Value::Table(read))
            }
            (Shape::Table(keys), Value::Table(_)) | (Shape::Concurrency(keys), Value::Table(_)) => {
                self.table(node, path, keys)
            }
            (Shape::Concurrency(_), Value::Text(_)) => match shape::concurrency_text(node) {
                Some(node) => Some(node),
                None => self.wrong(node, path, "expected a table, or the older form \"soft,hard\"".into()),
            },
            (Shape::Tables(_) | Shape::FilledTables(_), Value::Table(_)) => {
                self.value(&Node::new(node.span.clone(), Value::List(vec![node.clone()])), path, shape)
            }
            (Shape::Tables(keys), Value::List(items)) => {
                ok(Value::List(self.each(items, path, |reader, item, path| reader.table(item, path, keys))))
            }
            (Shape::FilledTables(keys), Value::List(items)) => {
                let filled: Vec<Node> = items.iter().filter(|item| !is_empty(item)).cloned().collect();
                ok(Value::List(self.each(&filled, path, |reader, item, path| reader.table(item, path, keys))))
            }
            (Shape::Named(keys), Value::Table(entries)) => self.named_tables(node, entries, path, keys),
            (Shape::Named(keys), Value::List(items)) => {
                // The name belongs to the entry now, it is no key of the table.
                let nameless = |item: &Node| match &item.value {
                    Value::Table(entries) => {
                        let rest = entries.iter().filter(|entry| entry.key != "name").cloned().collect();
                        Node::new(item.span.clone(), Value::Table(rest))
                    }
                    _ => item.clone(),
                };
                let Some(mut entries) = shape::named_list(items, "name") else {
                    return self.wrong(node, path, "each entry of this list needs a `name`".into());
                };
                entries.iter_mut().zip(items).for_each(|(entry, item)| entry.node = nameless(item));
                self.named_tables(node, &entries, path, keys)
            }
            _ => self.wrong_kind(node, path, shape),
        }
    }

    fn strategy(&mut self, node: &Node, path: &Path, text: &str) -> Option<Node> {
        if !matches!(text, "canary" | "bluegreen") {
            return self.value(node, path, &Shape::OneOf(&["rolling", "immediate"]));
        }
        let (span, help) = (node.span.clone(), "use \"rolling\", which also starts new machines before old ones go");
        if self.options.allow_unsupported {
            let message = format!("{text:?} is not supported yet: deploying as \"rolling\"");
            self.findings.push(Finding::warning(span.clone(), message).key(path).help(help));
            return Some(Node::new(span, Value::Text("rolling".into())));
        }
        self.findings.push(Finding::error(span, format!("{text:?} is not supported yet")).key(path).help(help));
        None
    }

    fn each(
        &mut self,
        items: &[Node],
        path: &Path,
        read: impl Fn(&mut Self, &Node, &Path) -> Option<Node>,
    ) -> Vec<Node> {
        items.iter().enumerate().filter_map(|(index, item)| read(self, item, &path.index(index))).collect()
    }

    fn text_entry(&mut self, entry: &Entry, path: &Path, is_command: bool) -> Option<Entry> {
        let path = path.key(&entry.key);
        let Some(text) = shape::scalar_text(&entry.node.value) else {
            self.wrong_kind(&entry.node, &path, &Shape::Text);
            return None;
        };
        if is_command && let Err(error) = words::split(&text) {
            self.wrong(&entry.node, &path, error.to_string());
            return None;
        }
        Some(Entry { node: Node::new(entry.node.span.clone(), Value::Text(text)), ..entry.clone() })
    }

    fn named_texts(&mut self, node: &Node, items: &[Node], path: &Path, value_key: &str) -> Option<Node> {
        let Some(entries) = shape::named_list(items, value_key) else {
            return self.wrong(node, path, format!("each entry of this list needs a `name` and a `{value_key}`"));
        };
        if let Some(name) = first_duplicate(&entries) {
            return self.wrong(node, path, format!("{:?} is given twice", shape::short(name)));
        }
        let is_command = value_key == "command";
        let read = entries.iter().filter_map(|entry| self.text_entry(entry, path, is_command)).collect();
        Some(Node::new(node.span.clone(), Value::Table(read)))
    }

    fn named_tables(&mut self, node: &Node, entries: &[Entry], path: &Path, keys: &'static [Key]) -> Option<Node> {
        if let Some(name) = first_duplicate(entries) {
            return self.wrong(node, path, format!("{:?} is given twice", shape::short(name)));
        }
        let read = entries
            .iter()
            .filter_map(|entry| {
                let node = self.table(&entry.node, &path.key(&entry.key), keys)?;
                Some(Entry { node, ..entry.clone() })
            })
            .collect();
        Some(Node::new(node.span.clone(), Value::Table(read)))
    }
}

fn is_empty(node: &Node) -> bool {
    matches!(&node.value, Value::Table(entries) if entries.is_empty())
}

fn first_duplicate(entries: &[Entry]) -> Option<&str> {
    let mut seen = std::collections::HashSet::new();
    entries.iter().map(|entry| entry.key.as_str()).find(|key| !seen.insert(*key))
}

/// Later tables win.
fn merged(tables: Vec<Node>) -> Vec<Entry> {
    let mut all = std::collections::BTreeMap::new();
    for table in tables {
        if let Value::Table(entries) = table.value {
            all.extend(entries.into_iter().map(|entry| (entry.key.clone(), entry)));
        }
    }
    all.into_values().collect()
}
