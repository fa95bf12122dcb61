//! `/api/v1/tokens`: tokens for people and programs. A token's text is shown once.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use atoll_identity::{Action, Target, token_create};
use atoll_model::wire::{TokenReply, TokenRequest};
use atoll_store::{ErrorKind, NewToken, Token, TokenKind};

use crate::Api;
use crate::answer::NoContent;
use crate::auth::Auth;
use crate::body::Body;
use crate::describe::Routes;
use crate::error::{ApiError, ApiResult};

pub fn routes() -> Routes {
    Routes::default()
        .get("/api/v1/tokens", "tokens", "The tokens that live, without their texts", list)
        .post("/api/v1/tokens", "token_create", "Make a token; its text is shown once", create)
        .delete("/api/v1/tokens/{token_id}", "token_revoke", "Revoke a token", revoke)
}

fn reply(token: Token, text: Option<String>) -> TokenReply {
    let role = role(token.kind);
    TokenReply { id: token.id, token: text, name: token.name, role, expires_at_ms: token.expires_at_ms }
}

/// As our own API spells it.
pub(super) fn role(kind: TokenKind) -> String {
    match kind {
        TokenKind::ReadOnly => "read-only".to_owned(),
        kind => kind.to_string(),
    }
}

/// A token as the record of changes shows it.
fn audited(token: &Token) -> Value {
    json!({"name": token.name, "role": role(token.kind), "expires_at_ms": token.expires_at_ms})
}

async fn create(State(api): State<Api>, auth: Auth, Body(wanted): Body<TokenRequest>) -> ApiResult<Json<TokenReply>> {
    auth.may(Action::Administer, Target::Nodes)?;
    let kind = match wanted.role.as_str() {
        "owner" => TokenKind::Owner,
        "read-only" => TokenKind::ReadOnly,
        other => return Err(ApiError::invalid(format!("role {other:?} is neither \"owner\" nor \"read-only\""))),
    };
    let now = api.control.now_ms();
    let new = NewToken {
        kind,
        name: wanted.name,
        org: None,
        app: None,
        region: None,
        node: None,
        created_by: auth.name(),
        expires_at_ms: wanted.expires_in.map(|seconds| now.saturating_add(seconds.saturating_mul(1000))),
    };
    let (text, token) = token_create(&api.control.store, &new, now).await?;
    auth.on("token", &token.id);
    auth.became(audited(&token));
    Ok(Json(reply(token, Some(text.reveal().to_owned()))))
}

async fn list(State(api): State<Api>, auth: Auth) -> ApiResult<Json<Vec<TokenReply>>> {
    auth.may(Action::Administer, Target::Nodes)?;
    let tokens = api.control.store.read(|tx| async move { tx.token_list().await }).await?;
    let now = api.control.now_ms();
    let live = tokens.into_iter().filter(|token| token.kind != TokenKind::NodeJoin && token.is_live(now));
    Ok(Json(live.map(|token| reply(token, None)).collect()))
}

async fn revoke(State(api): State<Api>, auth: Auth, Path(id): Path<String>) -> ApiResult<NoContent> {
    auth.may(Action::Administer, Target::Nodes)?;
    let (id, now) = (&id, api.control.now_ms());
    let revoked = api.control.store.write(|tx| async move { tx.token_revoke(id, now).await }).await;
    auth.was(audited(&revoked.map_err(|error| match error.kind() {
        ErrorKind::NotFound => ApiError::not_found(format!("there is no token {id:?}")),
        _ => error.into(),
    })?));
    Ok(NoContent)
}
