//! `/api/v1`: what the Machines API does not have. Bodies are in `atoll_model::wire`.

mod console;
mod deploys;
mod images;
mod logs;
mod nodes;
mod records;
mod tokens;

use axum::Router;

use crate::Api;

pub fn routes() -> Router<Api> {
    Router::new()
        .merge(console::routes())
        .merge(deploys::routes())
        .merge(images::routes())
        .merge(logs::routes())
        .merge(nodes::routes())
        .merge(records::routes())
        .merge(tokens::routes())
}
