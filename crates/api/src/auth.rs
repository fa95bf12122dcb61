//! Who asks, and for which app. Every route names the right it needs.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use atoll_identity::{Action, Caller, Target, authenticate};
use atoll_model::{AppName, MachineId, OrgSlug};
use atoll_store::App;

use crate::Api;
use crate::describe::{Operation, Part};
use crate::error::{ApiError, ApiResult};

/// A caller with a valid token.
pub struct Auth(pub Caller);

impl FromRequestParts<Api> for Auth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        authenticate(&api.control.store, header, api.control.now_ms())
            .await
            .map(Self)
            .map_err(ApiError::unauthenticated)
    }
}

impl Part for Auth {
    fn describe(operation: &mut Operation) {
        operation.needs_token();
    }
}

impl Auth {
    pub fn may(&self, action: Action, target: Target<'_>) -> ApiResult<()> {
        self.0.authorize(action, target).map(drop).map_err(|denied| ApiError::denied(&denied))
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

    /// For records of who did it.
    pub fn name(&self) -> String {
        self.0.principals().first().map_or_else(String::new, |principal| principal.name.clone())
    }
}

pub fn machine_id(text: &str) -> ApiResult<MachineId> {
    text.parse().map_err(|_| ApiError::not_found(format!("machine not found: {text:?} is no machine id")))
}
