//! `GET /api/v1/audit`: who changed what. Of the whole platform for those who administer it, of an
//! organization for those who administer that.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use atoll_identity::{Action, Target};
use atoll_model::wire::{AuditActor, AuditEntry, AuditOutcome, AuditPage};
use atoll_store::{self as store, AuditFilter};

use super::tokens::role;
use crate::Api;
use crate::auth::Auth;
use crate::body::Params;
use crate::describe::Routes;
use crate::error::{ApiError, ApiResult};
use crate::pages;
use crate::time::unix_ms;

const DEFAULT_PART: u32 = 100;
const MAX_PART: u32 = 1000;

pub fn routes() -> Routes {
    Routes::default().get("/api/v1/audit", "audit", "Who changed what, newest first", list)
}

#[derive(Deserialize, ToSchema)]
struct AuditQuery {
    /// Only what began at this moment or later, RFC 3339.
    since: Option<String>,
    /// Only what is about this app.
    app: Option<String>,
    /// Only what this token did; its id or its name.
    actor: Option<String>,
    /// Only what is about this organization, or apps of it. Who does not administer the platform has to say it.
    org: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1000 at most; 100 if absent.
    limit: Option<u32>,
}

async fn list(State(api): State<Api>, auth: Auth, Params(query): Params<AuditQuery>) -> ApiResult<Json<AuditPage>> {
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    let org = said(query.org);
    match &org {
        Some(org) => auth.org(org, Action::Administer).map(drop)?,
        None => auth.may(Action::Administer, Target::Nodes)?,
    }
    let since_ms = match said(query.since) {
        None => 0,
        Some(text) => unix_ms(&text).ok_or_else(|| {
            ApiError::invalid(format!("invalid_argument: since {text:?} is no moment as 2026-01-31T12:00:00Z"))
        })?,
    };
    let filter = AuditFilter { since_ms, org, app: said(query.app), actor: said(query.actor) };
    let part = pages::wanted(query.limit.or(Some(DEFAULT_PART)), query.cursor, MAX_PART)?.unwrap_or_default();
    let page = api.control.audit(&filter, &part).await?;
    Ok(Json(AuditPage { entries: page.items.into_iter().map(shown).collect(), next_cursor: page.next }))
}

fn shown(store::AuditEntry { id, at_ms, call, end }: store::AuditEntry) -> AuditEntry {
    AuditEntry {
        id,
        at_ms,
        actor: AuditActor { token: call.token, name: call.actor, role: role(call.role) },
        operation: call.operation,
        org: call.org,
        app: call.app,
        target: call.target,
        outcome: match end.outcome {
            store::AuditOutcome::Unknown => AuditOutcome::Unknown,
            store::AuditOutcome::Done => AuditOutcome::Done,
            store::AuditOutcome::Refused => AuditOutcome::Refused,
            store::AuditOutcome::Failed => AuditOutcome::Failed,
        },
        error: end.error,
        before: end.change.before,
        after: end.change.after,
    }
}
