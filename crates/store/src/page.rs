//! Pages of lists. A cursor is opaque to callers: it names the last entry they saw, so that a list
//! may grow and shrink between pages without an entry being shown twice or skipped.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::StoreError;

/// The largest page of any list.
pub const MAX_LIMIT: u32 = 5000;

/// Which part of a list is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PageRequest {
    /// `None`: [`MAX_LIMIT`]; larger ones are cut to it.
    pub limit: Option<u32>,
    /// From the page before; `None` begins the list.
    pub cursor: Option<String>,
}

/// Part of a list, in the list's order.
#[derive(Clone, PartialEq, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Asks for the entries after these; `None` at the end.
    pub next: Option<String>,
}

impl PageRequest {
    /// How many rows to ask the database for: one more than wanted tells whether there are more.
    pub(crate) fn fetch_limit(&self) -> u32 {
        self.limit() + 1
    }

    fn limit(&self) -> u32 {
        self.limit.unwrap_or(MAX_LIMIT).clamp(1, MAX_LIMIT)
    }

    /// The key after which the page begins; empty at the beginning. `list` guards against a cursor
    /// of another list.
    pub(crate) fn after(&self, list: &'static str) -> Result<String, StoreError> {
        let Some(cursor) = &self.cursor else { return Ok(String::new()) };
        let invalid = || {
            let shown: String = cursor.chars().take(80).collect();
            StoreError::invalid("cursor", shown, "it is not one that this list gave out")
        };
        let decoded = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| invalid())?;
        let text = String::from_utf8(decoded).map_err(|_| invalid())?;
        let key = text.strip_prefix(list).and_then(|rest| rest.strip_prefix(':')).ok_or_else(invalid)?;
        Ok(key.to_owned())
    }

    /// Makes the page of what was fetched with [`PageRequest::fetch_limit`].
    pub(crate) fn page<T>(&self, list: &'static str, mut items: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
        let limit = self.limit() as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|item| URL_SAFE_NO_PAD.encode(format!("{list}:{}", key(item))));
        Page { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_continues_its_own_list_only() {
        let request = PageRequest { limit: Some(2), cursor: None };
        let page = request.page("apps", vec!["a", "b", "c"], |name| name.to_string());
        assert_eq!(page.items, ["a", "b"]);
        let next = PageRequest { limit: Some(2), cursor: page.next };
        assert_eq!(next.after("apps").unwrap(), "b");
        assert!(matches!(next.after("machines"), Err(StoreError::Invalid { .. })));
        assert_eq!(next.page("apps", vec!["c"], |name| name.to_string()).next, None);
    }

    #[test]
    fn nonsense_is_refused_without_quoting_it_all() {
        let request = PageRequest { limit: None, cursor: Some("%".repeat(10_000)) };
        assert!(request.after("apps").unwrap_err().to_string().len() < 200);
    }
}
