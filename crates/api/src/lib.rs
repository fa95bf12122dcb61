//! The faces of the platform over HTTP: the Machines API under `/v1`, our own API under `/api/v1`,
//! the image registry under `/v2/`. Knows no SQL: everything is asked of control and deploy.

mod addresses;
mod answer;
mod apps;
mod audit;
mod auth;
mod body;
mod describe;
mod documents;
mod error;
mod machines;
mod origin;
mod own;
mod pages;
mod platform;
mod policies;
mod request_id;
mod secrets;
mod time;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Request, Uri};
use axum::middleware;

use atoll_control::Control;
use atoll_deploy::Deploys;

use describe::Routes;
pub use documents::{machines_document, own_document};
pub use origin::Origin;

/// What the routes work with.
#[derive(Clone)]
pub struct Api {
    pub control: Arc<Control>,
    pub deploys: Arc<Deploys>,
}

/// Largest JSON body. Uploads of images have no such limit.
const MAX_BODY: usize = 4 << 20;

/// All routes.
pub fn router(api: Api) -> Router {
    let region = api
        .control
        .directory
        .nodes()
        .get(&api.control.live.identity().node)
        .map_or_else(String::new, |known| known.node.region.to_string());
    let routes = routes();
    let recorded = (api.clone(), Arc::new(routes.audited_operations()));
    routes
        .into_router()
        .route_layer(middleware::from_fn_with_state(recorded, audit::keep))
        .merge(documents::routes())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(middleware::from_fn(move |request, next| request_id::add(region.clone(), request, next)))
        .with_state(api)
}

/// The table of all described routes.
fn routes() -> Routes {
    Routes::default()
        .merge(addresses::routes())
        .merge(apps::routes())
        .merge(machines::routes())
        .merge(secrets::routes())
        .merge(policies::routes())
        .merge(platform::routes())
        .merge(own::routes())
}

/// Documented examples end some paths with a slash; both spellings are the same route. To be applied
/// around the router, before it matches.
pub fn without_trailing_slash<B>(mut request: Request<B>) -> Request<B> {
    let uri = request.uri();
    let path = uri.path();
    // The registry's paths are its own.
    if path.len() > 1 && path.ends_with('/') && !path.starts_with("/v2/") {
        let trimmed = path.trim_end_matches('/');
        let rewritten = match uri.query() {
            Some(query) => format!("{trimmed}?{query}"),
            None => trimmed.to_owned(),
        };
        if let Ok(uri) = rewritten.parse::<Uri>() {
            *request.uri_mut() = uri;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_makes_no_difference() {
        for (given, expected) in [
            ("/v1/apps/", "/v1/apps"),
            ("/v1/apps/?a=b", "/v1/apps?a=b"),
            ("/v1/apps", "/v1/apps"),
            ("/v2/", "/v2/"),
            ("/", "/"),
        ] {
            let request = Request::builder().uri(given).body(()).unwrap();
            assert_eq!(without_trailing_slash(request).uri().to_string(), expected);
        }
    }
}
