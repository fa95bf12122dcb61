//! The table of routes and the API's description, made of the same entries: whatever is routed is
//! described, and what a route takes and gives is read off its handler's own signature ([`parts`]).
//! Knows no route by name.

mod operation;
mod parts;

use std::collections::BTreeMap;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use serde_json::{Map, Value, json};

pub use operation::Operation;
pub use parts::{Answer, Described, Part};

use crate::Api;

/// Routes and their descriptions, under construction.
#[derive(Default)]
pub struct Routes {
    router: Router<Api>,
    entries: Vec<Entry>,
}

struct Entry {
    /// As the description spells it: `get`.
    method: &'static str,
    path: String,
    id: &'static str,
    summary: &'static str,
    operation: Operation,
}

macro_rules! methods {
    ($($name:ident $filter:ident),*) => {$(
        /// Serves and describes `path`; `id` is the operation's name for generated clients.
        pub fn $name<H, T>(self, path: &str, id: &'static str, summary: &'static str, handler: H) -> Self
        where
            H: Handler<T, Api> + Described<T>,
            T: 'static,
        {
            self.add(stringify!($name), MethodFilter::$filter, path, id, summary, handler)
        }
    )*};
}

impl Routes {
    methods!(get GET, post POST, put PUT, patch PATCH, delete DELETE);

    fn add<H, T>(
        mut self,
        method: &'static str,
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
        self.entries.push(Entry { method, path: path.to_owned(), id, summary, operation });
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
            paths.entry(&entry.path).or_default().insert(entry.method.to_owned(), shown);
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
