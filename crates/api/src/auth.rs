//! Who asks, and for which app. Every route names the right it needs.

use std::fmt::Display;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use serde_json::Value;

use atoll_control::Changed;
use atoll_identity::{Action, Caller, Principal, Target, authenticate};
use atoll_model::{AppName, MachineId, OrgSlug};
use atoll_store::App;

use crate::Api;
use crate::audit::Trail;
use crate::describe::{Operation, Part};
use crate::error::{ApiError, ApiResult};

/// A caller with a valid token.
#[derive(Clone)]
pub struct Auth {
    caller: Caller,
    /// `None`: the call is not recorded.
    pub trail: Option<Trail>,
}

impl FromRequestParts<Api> for Auth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        // Where calls are recorded the caller is known already.
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let caller = authenticate(&api.control.store, header, api.control.now_ms()).await;
        Ok(Self { caller: caller.map_err(ApiError::unauthenticated)?, trail: None })
    }
}

impl Part for Auth {
    fn describe(operation: &mut Operation) {
        operation.needs_token();
    }
}

impl Auth {
    pub fn may(&self, action: Action, target: Target<'_>) -> ApiResult<()> {
        if let (Some(trail), Target::Organization(org) | Target::App { org, .. }) = (&self.trail, target) {
            trail.of_org(org.as_str());
        }
        let granted = self.caller.authorize(action, target).map_err(|denied| ApiError::denied(&denied))?;
        if let Some(trail) = &self.trail {
            trail.by(granted);
        }
        Ok(())
    }

    /// The app named in the path, when the caller may do this to it. Unknown apps are 404 before
    /// foreign ones are 403: clients tell a free name from a taken one by it.
    pub async fn app(&self, api: &Api, name: &str, action: Action) -> ApiResult<App> {
        let name: AppName = name.parse().map_err(|error| ApiError::of_path(&error))?;
        let app = api.control.app(&name).await?;
        self.may(action, Target::App { org: &app.org, name: &app.name })?;
        Ok(app)
    }

    pub fn org(&self, slug: &str, action: Action) -> ApiResult<OrgSlug> {
        let org: OrgSlug = slug.parse().map_err(|error| ApiError::of_path(&error))?;
        self.may(action, Target::Organization(&org))?;
        Ok(org)
    }

    pub fn principals(&self) -> &[Principal] {
        self.caller.principals()
    }

    /// For records of who did it.
    pub fn name(&self) -> String {
        self.principals().first().map_or_else(String::new, |principal| principal.name.clone())
    }

    /// For the record: a thing that the call is about, beside those in its path.
    pub fn on(&self, kind: &str, name: impl Display) {
        if let Some(trail) = &self.trail {
            trail.on(kind, name);
        }
    }

    /// For the record: what the call's target was. Small, and nothing secret.
    pub fn was(&self, before: Value) {
        if let Some(trail) = &self.trail {
            trail.was(before);
        }
    }

    /// For the record: what the call's target is now. Small, and nothing secret.
    pub fn became(&self, after: Value) {
        if let Some(trail) = &self.trail {
            trail.became(after);
        }
    }

    /// For the record: both.
    pub fn changed<T>(&self, changed: &Changed<T>, shown: impl Fn(&T) -> Value) {
        if let Some(before) = &changed.before {
            self.was(shown(before));
        }
        self.became(shown(&changed.after));
    }
}

pub fn machine_id(text: &str) -> ApiResult<MachineId> {
    text.parse().map_err(|_| ApiError::not_found(format!("machine not found: {text:?} is no machine id")))
}
