//! `/api/v1/dns/challenges`: what public DNS answers to certificate authorities that want a host name proven. An
//! app's own name is the app's to prove, every other one the operator's.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use atoll_control::{Challenged, NewChallenge, challenged_host};
use atoll_identity::{Action, Target};
use atoll_model::row::CHALLENGE_LABEL;
use atoll_model::wire::{ChallengeAdded, ChallengeRequest, ChallengeView};
use atoll_store::Challenge;

use crate::Api;
use crate::answer::NoContent;
use crate::auth::Auth;
use crate::body::{Body, Params};
use crate::describe::Routes;
use crate::error::ApiResult;

pub fn routes() -> Routes {
    let all = "/api/v1/dns/challenges";
    Routes::default()
        .get(all, "dns_challenges", "Values that prove host names to certificate authorities", list)
        .post(all, "dns_challenge_add", "Let public DNS answer a value until its time is over", add)
        .fails([412])
        .delete(&format!("{all}/{{host}}"), "dns_challenge_remove", "Take a value back, or all of a host name", remove)
}

/// The host name, if the caller may do this to its challenges.
async fn permitted(api: &Api, auth: &Auth, host: &str, action: Action) -> ApiResult<String> {
    let host = challenged_host(host)?;
    match api.control.challenged_app(&host).await? {
        Some(app) => auth.may(action, Target::App { org: &app.org, name: &app.name })?,
        None if action == Action::Read => auth.may(action, Target::Nodes)?,
        None => auth.may(Action::Administer, Target::Nodes)?,
    }
    Ok(host)
}

fn shown(challenge: Challenge) -> ChallengeView {
    ChallengeView { host: challenge.host, value: challenge.value, ends_at_ms: challenge.ends_at_ms }
}

/// Values as the record of changes shows them: they are public.
fn audited(challenges: &[Challenge]) -> Value {
    json!({"values": challenges.iter().map(|challenge| &challenge.value).collect::<Vec<_>>()})
}

#[derive(Deserialize, ToSchema)]
struct OfHost {
    /// Those of one host name. All are for who may see the platform's servers.
    host: Option<String>,
}

async fn list(
    State(api): State<Api>,
    auth: Auth,
    Params(query): Params<OfHost>,
) -> ApiResult<Json<Vec<ChallengeView>>> {
    let host = match &query.host {
        Some(host) => Some(permitted(&api, &auth, host, Action::Read).await?),
        None => {
            auth.may(Action::Read, Target::Nodes)?;
            None
        }
    };
    let found = api.control.challenges(host.as_deref()).await?;
    Ok(Json(found.into_iter().map(shown).collect()))
}

async fn add(
    State(api): State<Api>,
    auth: Auth,
    Body(request): Body<ChallengeRequest>,
) -> ApiResult<Json<ChallengeAdded>> {
    let ChallengeRequest { host, value, seconds } = request;
    let host = permitted(&api, &auth, &host, Action::Change).await?;
    auth.on("host", &host);
    let name = format!("{CHALLENGE_LABEL}.{host}");
    let Challenged { values, answered_by, waiting_for } =
        api.control.challenge_add(&NewChallenge { host, value, seconds }).await?;
    auth.changed(&values, |values| audited(values));
    let values = values.after.into_iter().map(shown).collect();
    Ok(Json(ChallengeAdded { name, values, answered_by, waiting_for }))
}

#[derive(Deserialize, ToSchema)]
struct OneValue {
    /// The value to take back; all of the host name if absent.
    value: Option<String>,
}

async fn remove(
    State(api): State<Api>,
    auth: Auth,
    Path(host): Path<String>,
    Params(query): Params<OneValue>,
) -> ApiResult<NoContent> {
    let host = permitted(&api, &auth, &host, Action::Change).await?;
    auth.was(audited(&api.control.challenge_remove(&host, query.value.as_deref()).await?));
    Ok(NoContent)
}
