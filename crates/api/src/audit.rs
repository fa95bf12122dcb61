//! Every changing call leaves one record: who, what, on what, how it ended, and for small things what they
//! were and are. Which calls change is the table's to say ([`crate::describe::Routes::audited`]). The record is
//! begun before the handler runs and ended with its answer, so nothing is changed that is not recorded; a
//! caller who goes away, or a kill, leaves a record whose end is not known.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde_json::{Value, json};

use atoll_identity::{AuthError, Principal};
use atoll_signals::with_causes;
use atoll_store::{AuditCall, AuditChange, AuditEnd, AuditOutcome};

use crate::auth::Auth;
use crate::error::{ApiError, Refusal};
use crate::{Api, MAX_BODY};

/// Bytes of a name in a target, and names in it. Callers choose them.
const MAX_NAME: usize = 128;
const MAX_NAMES: usize = 32;
/// Bytes of what something was or is, as JSON. Larger things are not kept.
const MAX_STATE: usize = 64 << 10;

/// The operations that are recorded, by method and path of their routes.
#[derive(Default)]
pub struct Operations(HashMap<String, Vec<(Method, &'static str)>>);

impl Operations {
    pub fn add(&mut self, method: Method, path: &str, operation: &'static str) {
        self.0.entry(path.to_owned()).or_default().push((method, operation));
    }

    fn find(&self, request: &Request) -> Option<&'static str> {
        let path = request.extensions().get::<MatchedPath>()?;
        let of_path = self.0.get(path.as_str())?;
        of_path.iter().find(|(method, _)| method == request.method()).map(|(_, operation)| *operation)
    }
}

/// Wraps all routes.
pub async fn keep(
    State((api, operations)): State<(Api, Arc<Operations>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(operation) = operations.find(&request) else { return next.run(request).await };
    let (mut parts, body) = request.into_parts();
    let mut auth = match Auth::from_request_parts(&mut parts, &api).await {
        Ok(auth) => auth,
        Err(error) => return error.into_response(),
    };
    let targets = RawPathParams::from_request_parts(&mut parts, &api).await;
    let Some(caller) = auth.principals().first() else {
        return ApiError::unauthenticated(AuthError::Unauthenticated).into_response();
    };
    let trail = Trail::new(caller, operation);
    // A path that is no text names nothing, and its handler refuses it.
    for (name, value) in targets.iter().flatten() {
        trail.on(kind(name), value);
    }
    let id = match api.control.audit_begin(&trail.call()).await {
        Ok(id) => id,
        Err(error) => {
            read_and_drop(body).await;
            return ApiError::from(error).into_response();
        }
    };
    auth.trail = Some(trail.clone());
    parts.extensions.insert(auth);
    request = Request::from_parts(parts, body);
    let response = next.run(request).await;
    let (call, end) = trail.end(&response);
    if let Err(error) = api.control.audit_end(&id, &call, &end).await {
        // What was done is done: the caller learns of that, and the record's end stays unknown.
        tracing::error!(id, operation, outcome = %end.outcome, error = with_causes(&error), "a change's end is not recorded");
    }
    response
}

/// A client that sends still would miss the answer; one that sends more than any call takes is not waited for.
async fn read_and_drop(body: Body) {
    let mut chunks = body.into_data_stream();
    let mut left = MAX_BODY;
    while let Some(Ok(chunk)) = chunks.next().await {
        match left.checked_sub(chunk.len()) {
            Some(less) => left = less,
            None => return,
        }
    }
}

/// What a path's parameter names: `app` for `app_name`.
fn kind(parameter: &str) -> &str {
    let ends = ["_name", "_slug", "_id"];
    ends.iter().find_map(|end| parameter.strip_suffix(end)).unwrap_or(parameter)
}

/// What becomes known of a call while it is handled.
#[derive(Clone)]
pub struct Trail(Arc<Mutex<Notes>>);

struct Notes {
    call: AuditCall,
    names: usize,
    change: AuditChange,
}

impl Trail {
    fn new(caller: &Principal, operation: &'static str) -> Self {
        let call = AuditCall {
            token: caller.token_id.clone(),
            actor: caller.name.clone(),
            role: caller.kind,
            operation: operation.to_owned(),
            org: None,
            app: None,
            target: String::new(),
        };
        Self(Arc::new(Mutex::new(Notes { call, names: 0, change: AuditChange::default() })))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Notes) -> T) -> T {
        // Nothing that holds it can panic half-way through a change.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The token whose right it was, of several that came.
    pub fn by(&self, principal: &Principal) {
        self.with(|notes| {
            notes.call.token.clone_from(&principal.token_id);
            notes.call.actor.clone_from(&principal.name);
            notes.call.role = principal.kind;
        });
    }

    /// A thing that the call is about.
    pub fn on(&self, kind: &str, name: impl Display) {
        let name = plain(&name.to_string());
        self.with(|notes| {
            match kind {
                "app" => notes.call.app = Some(name.clone()),
                "org" => notes.call.org = Some(name.clone()),
                _ => {}
            }
            let pair = format!("{kind}={name}");
            let is_there = notes.call.target.split(' ').any(|known| known == pair);
            if is_there || notes.names > MAX_NAMES {
                return;
            }
            notes.names += 1;
            if !notes.call.target.is_empty() {
                notes.call.target.push(' ');
            }
            notes.call.target.push_str(if notes.names > MAX_NAMES { "…" } else { &pair });
        });
    }

    /// Whose the app is that the call is about.
    pub fn of_org(&self, org: &str) {
        self.with(|notes| notes.call.org = Some(org.to_owned()));
    }

    pub fn was(&self, before: Value) {
        self.with(|notes| notes.change.before = Some(small(before)));
    }

    pub fn became(&self, after: Value) {
        self.with(|notes| notes.change.after = Some(small(after)));
    }

    fn call(&self) -> AuditCall {
        self.with(|notes| notes.call.clone())
    }

    fn end(&self, response: &Response) -> (AuditCall, AuditEnd) {
        let status = response.status();
        let outcome = match status.as_u16() {
            ..400 => AuditOutcome::Done,
            // What took too long may yet happen.
            408 => AuditOutcome::Failed,
            400..500 => AuditOutcome::Refused,
            _ => AuditOutcome::Failed,
        };
        let word = |refusal: &Refusal| refusal.0.to_owned();
        let reason = || response.extensions().get::<Refusal>().map_or_else(|| status.as_str().to_owned(), word);
        let error = (outcome != AuditOutcome::Done).then(reason);
        self.with(|notes| {
            // What was refused did not change, whatever the handler had in mind.
            let change = if outcome == AuditOutcome::Refused { AuditChange::default() } else { notes.change.clone() };
            (notes.call.clone(), AuditEnd { outcome, error, change })
        })
    }
}

/// A name as a target shows it: short, and without what would end it or disturb a terminal.
fn plain(name: &str) -> String {
    let mut plain: String = name.chars().map(|c| if c.is_control() || c.is_whitespace() { '?' } else { c }).collect();
    if plain.len() > MAX_NAME {
        plain.truncate(plain.floor_char_boundary(MAX_NAME));
        plain.push('…');
    }
    plain
}

fn small(state: Value) -> Value {
    match state.to_string().len() {
        ..=MAX_STATE => state,
        bytes => json!({"not_kept": format!("{bytes} bytes")}),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use atoll_store::TokenKind;

    use super::*;

    fn trail() -> Trail {
        let first =
            Principal { token_id: "t1".into(), kind: TokenKind::ReadOnly, name: "looker".into(), org: None, app: None };
        Trail::new(&first, "Apps_create")
    }

    #[test]
    fn targets_are_named_once_and_in_order() {
        let trail = trail();
        for (kind, name) in [("app", "web"), ("ip", "192.0.2.1"), ("app", "web"), ("key", "a b\u{1b}[1m\n")] {
            trail.on(kind, name);
        }
        let call = trail.call();
        assert_eq!(call.target, "app=web ip=192.0.2.1 key=a?b?[1m?");
        assert_eq!((call.app.as_deref(), call.org), (Some("web"), None));
    }

    #[test]
    fn targets_are_bounded() {
        let trail = trail();
        trail.on("secret", "ä".repeat(10_000));
        for number in 0..10_000 {
            trail.on("secret", number);
        }
        let target = trail.call().target;
        assert!(target.len() < MAX_NAMES * 40 && target.ends_with(" …"), "{target}");
        let kept = small(json!("x".repeat(MAX_STATE)));
        assert_eq!(kept, json!({"not_kept": format!("{} bytes", MAX_STATE + 2)}));
    }

    #[test]
    fn an_answer_says_how_it_ended() {
        let trail = trail();
        trail.became(json!({"state": "draining"}));
        let ended = |response: Response| trail.end(&response).1;
        let done = ended(StatusCode::ACCEPTED.into_response());
        assert_eq!((done.outcome, done.error), (AuditOutcome::Done, None));
        assert_eq!(done.change.after, Some(json!({"state": "draining"})));
        let refused = ended(ApiError::not_found("no app").into_response());
        assert_eq!((refused.outcome, refused.error.as_deref()), (AuditOutcome::Refused, Some("not_found")));
        assert_eq!(refused.change, AuditChange::default());
        let foreign = ended(StatusCode::PAYLOAD_TOO_LARGE.into_response());
        assert_eq!((foreign.outcome, foreign.error.as_deref()), (AuditOutcome::Refused, Some("413")));
        let failed = ended(StatusCode::SERVICE_UNAVAILABLE.into_response());
        assert_eq!((failed.outcome, failed.change), (AuditOutcome::Failed, done.change));
    }

    #[test]
    fn parameters_are_named_as_people_call_them() {
        assert_eq!(["app_name", "org_slug", "machine_id", "ip"].map(kind), ["app", "org", "machine", "ip"]);
    }
}
