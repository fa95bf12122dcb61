//! `/api/v1`: what the Machines API does not have. Bodies are in `atoll_model::wire`.

mod announcements;
mod audit;
mod authority;
mod challenges;
mod console;
mod deploys;
mod images;
mod logs;
mod mesh;
mod nodes;
mod pools;
mod records;
mod registries;
mod tokens;
mod unknown;
mod wireguard;

use crate::describe::Routes;

pub fn routes() -> Routes {
    Routes::default()
        .merge(announcements::routes())
        .merge(audit::routes())
        .merge(authority::routes())
        .merge(challenges::routes())
        .merge(console::routes())
        .merge(deploys::routes())
        .merge(images::routes())
        .merge(logs::routes())
        .merge(mesh::routes())
        .merge(nodes::routes())
        .merge(pools::routes())
        .merge(records::routes())
        .merge(registries::routes())
        .merge(tokens::routes())
        .merge(unknown::routes())
        .merge(wireguard::routes())
}
