//! The table of routes and the API's description, made of the same entries: whatever is routed is
//! described, and what a route takes and gives is read off its handler's own signature ([`parts`]).
//! Knows no route by name.

mod operation;
mod parts;

use std::collections::BTreeMap;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};
use serde_json::{Map, Value, json};

pub use operation::Operation;
pub use parts::{Answer, Described, Part};

use crate::Api;
use crate::audit::Operations;

/// Routes and their descriptions, under construction.
#[derive(Default)]
pub struct Routes {
    router: Router<Api>,
    entries: Vec<Entry>,
}

struct Entry {
    method: Method,
    path: String,
    id: &'static str,
    summary: &'static str,
    operation: Operation,
    /// Whether each call leaves a record.
    audited: bool,
}

macro_rules! methods {
    ($($name:ident $filter:ident),*) => {$(
        /// Serves and describes `path`; `id` is the operation's name for generated clients.
        pub fn $name<H, T>(self, path: &str, id: &'static str, summary: &'static str, handler: H) -> Self
        where
            H: Handler<T, Api> + Described<T>,
            T: 'static,
        {
            self.add(Method::$filter, MethodFilter::$filter, path, id, summary, handler)
        }
    )*};
}

impl Routes {
    methods!(get GET, post POST, put PUT, patch PATCH, delete DELETE);

    fn add<H, T>(
        mut self,
        method: Method,
        filter: MethodFilter,
        path: &str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Api> + Described<T>,
        T: 'static,
    {
        let mut operation = Operation::of_path(path);
        handler.describe(&mut operation);
        let audited = method != Method::GET;
        self.entries.push(Entry { method, path: path.to_owned(), id, summary, operation, audited });
        self.router = self.router.route(path, on(filter, handler));
        self
    }

    /// Names failures of the route added last that clients tell apart by their status.
    pub fn fails<const N: usize>(mut self, statuses: [u16; N]) -> Self {
        if let Some(entry) = self.entries.last_mut() {
            for status in statuses {
                entry.operation.failure(&status.to_string());
            }
        }
        self
    }

    /// Calls of the route added last leave a record although it is a GET.
    pub fn audited(self) -> Self {
        self.with_audit(true)
    }

    /// Calls of the route added last leave no record although they change something.
    pub fn not_audited(self) -> Self {
        self.with_audit(false)
    }

    fn with_audit(mut self, audited: bool) -> Self {
        if let Some(entry) = self.entries.last_mut() {
            entry.audited = audited;
        }
        self
    }

    /// Whose calls leave records.
    pub fn audited_operations(&self) -> Operations {
        let mut operations = Operations::default();
        for entry in self.entries.iter().filter(|entry| entry.audited) {
            operations.add(entry.method.clone(), &entry.path, entry.id);
        }
        operations
    }

    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.entries.extend(other.entries);
        self
    }

    pub fn into_router(self) -> Router<Api> {
        self.router
    }

    /// The OpenAPI document of all routes whose path begins with `prefix`.
    pub fn document(&self, title: &str, prefix: &str) -> Value {
        let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        let mut schemas = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.path.starts_with(prefix)) {
            let shown = entry.operation.document(entry.id, entry.summary);
            let method = entry.method.as_str().to_ascii_lowercase();
            paths.entry(&entry.path).or_default().insert(method, shown);
            schemas.extend(entry.operation.schemas().clone());
        }
        json!({
            "openapi": "3.1.0",
            "info": {"title": title, "version": env!("CARGO_PKG_VERSION"), "license": {"name": "Apache-2.0"}},
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GET that changes nothing and a change that is recorded need no word; these do.
    #[test]
    fn every_change_is_recorded_but_for_those_named_here() {
        let routes = crate::routes();
        let named = |audited: bool, is_get: bool| -> Vec<&'static str> {
            let fitting = |entry: &&Entry| entry.audited == audited && (entry.method == Method::GET) == is_get;
            routes.entries.iter().filter(fitting).map(|entry| entry.id).collect()
        };
        // A lease is held for moments, changes nothing by itself, and is taken by programs around each change.
        assert_eq!(named(false, false), ["Machines_create_lease", "Machines_release_lease"]);
        // A shell.
        assert_eq!(named(true, true), ["console"]);
    }
}
