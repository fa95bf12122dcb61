//! `/v1/apps/{app}/ip_assignments`: the addresses by which an app is entered.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use atoll_control::{AddressWish, Family};
use atoll_identity::Action;
use atoll_model::OrgSlug;
use atoll_model::address::NetworkId;
use atoll_store::{AddressKind, App, AppAddress, DEFAULT_NETWORK};

use crate::Api;
use crate::answer::NoContent;
use crate::auth::Auth;
use crate::body::Body;
use crate::describe::Routes;
use crate::error::{ApiError, ApiResult};
use crate::time::rfc3339_seconds;

pub fn routes() -> Routes {
    let all = "/v1/apps/{app_name}/ip_assignments";
    Routes::default()
        .get(all, "App_IPAssignments_list", "The addresses of an app", list)
        .post(all, "App_IPAssignments_create", "Give an app an address", assign)
        .fails([412, 422])
        .delete(&format!("{all}/{{ip}}"), "App_IPAssignments_delete", "Take an address from an app", release)
}

/// An address of an app.
#[derive(Serialize, ToSchema)]
#[schema(as = IPAssignment)]
struct Assignment {
    #[schema(value_type = String)]
    ip: IpAddr,
    /// `global`: every place leads there.
    region: &'static str,
    /// Empty: to all services of the app.
    service_name: &'static str,
    /// Several apps have it, and are told apart by name.
    shared: bool,
    /// Always false: these are addresses to enter by.
    egress: bool,
    /// Announced by itself where the app is served.
    local: bool,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<AssignmentNetwork>,
}

/// From where a private address is entered.
#[derive(Serialize, ToSchema)]
#[schema(as = IPAssignmentNetwork)]
struct AssignmentNetwork {
    /// Empty for the organization's default network.
    name: String,
    org_slug: OrgSlug,
}

#[derive(Serialize, ToSchema)]
struct Assignments {
    ips: Vec<Assignment>,
}

/// An organization's networks by id, as the API names them.
async fn networks(api: &Api, org: &OrgSlug) -> ApiResult<BTreeMap<NetworkId, AssignmentNetwork>> {
    let networks = api.control.networks(org).await?;
    let named = networks.into_iter().map(|network| {
        let name = if network.name == DEFAULT_NETWORK { String::new() } else { network.name };
        (network.id, AssignmentNetwork { name, org_slug: network.org })
    });
    Ok(named.collect())
}

fn shown(held: AppAddress, networks: &mut BTreeMap<NetworkId, AssignmentNetwork>) -> Assignment {
    Assignment {
        ip: held.address,
        region: "global",
        service_name: "",
        shared: held.kind == AddressKind::Shared,
        egress: false,
        local: held.host_route,
        created_at: rfc3339_seconds(held.created_at_ms),
        // An app has no two addresses in one network.
        network: held.network.and_then(|id| networks.remove(&id)),
    }
}

/// An address as the record of changes shows it.
fn audited(held: &AppAddress) -> Value {
    json!({
        "address": held.address,
        "kind": held.kind,
        "local": held.host_route,
        "network": held.network.map(|network| network.0),
    })
}

async fn list(State(api): State<Api>, auth: Auth, Path(app): Path<String>) -> ApiResult<Json<Assignments>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let mut networks = networks(&api, &app.org).await?;
    let held = api.control.addresses(&app.name).await?;
    Ok(Json(Assignments { ips: held.into_iter().map(|held| shown(held, &mut networks)).collect() }))
}

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = IPAssignmentType)]
enum AssignmentType {
    V4,
    #[default]
    V6,
    SharedV4,
    SharedV6,
    PrivateV6,
}

/// Clients send fields that they do not mean as empty texts.
#[derive(Deserialize, Default, ToSchema)]
#[schema(as = assignIPRequest)]
struct Assign {
    #[serde(rename = "type")]
    #[schema(required)]
    kind: Option<AssignmentType>,
    /// `global`, or nothing.
    region: Option<String>,
    /// Of `private_v6`: the app's own organization.
    org_slug: Option<String>,
    /// Of `private_v6`: a network of that organization; the app's own if absent.
    network: Option<String>,
    service_name: Option<String>,
    /// Of `v4` and `v6`: announce the address by itself where the app is served.
    local: Option<bool>,
}

impl Assign {
    fn wish(self, app: &App) -> ApiResult<AddressWish> {
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        let kind = self.kind.ok_or_else(|| ApiError::invalid("type is required, such as v6"))?;
        if let Some(region) = said(self.region).filter(|region| region != "global") {
            let text = format!("region {region:?}: addresses are announced everywhere; `local` follows the machines");
            return Err(ApiError::invalid(text));
        }
        if said(self.service_name).is_some() {
            return Err(ApiError::invalid("service_name: an address leads to all services of its app"));
        }
        let host_route = self.local.unwrap_or_default();
        let (org, network) = (said(self.org_slug), said(self.network));
        let is_private = matches!(kind, AssignmentType::PrivateV6);
        if network.is_some() && !is_private {
            return Err(ApiError::invalid("network: only addresses of type private_v6 are of one"));
        }
        if is_private && org.as_deref().is_some_and(|org| org != app.org.as_str()) {
            let text = format!("org_slug: {} is entered from networks of its own organization, {}", app.name, app.org);
            return Err(ApiError::invalid(text));
        }
        let (family, shared) = match kind {
            AssignmentType::V4 => (Family::V4, false),
            AssignmentType::V6 => (Family::V6, false),
            AssignmentType::SharedV4 => (Family::V4, true),
            AssignmentType::SharedV6 => (Family::V6, true),
            AssignmentType::PrivateV6 if !host_route => return Ok(AddressWish::Private { network }),
            AssignmentType::PrivateV6 => {
                return Err(ApiError::invalid("local: a private address is announced nowhere"));
            }
        };
        match shared {
            true if host_route => Err(ApiError::invalid("local: a shared address is entered everywhere")),
            true => Ok(AddressWish::Shared { family }),
            false => Ok(AddressWish::Dedicated { family, host_route }),
        }
    }
}

async fn assign(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Body(assign): Body<Assign>,
) -> ApiResult<Json<Assignment>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let given = api.control.address_allocate(&app, &assign.wish(&app)?).await?;
    auth.on("ip", given.after.address);
    auth.changed(&given, audited);
    Ok(Json(shown(given.after, &mut networks(&api, &app.org).await?)))
}

async fn release(State(api): State<Api>, auth: Auth, Path((app, ip)): Path<(String, String)>) -> ApiResult<NoContent> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let missing = || ApiError::not_found(format!("app {} has no address {ip:?}", app.name));
    let address = ip.parse::<IpAddr>().map_err(|_| missing())?;
    auth.was(audited(&api.control.address_release(&app.name, address).await?));
    Ok(NoContent)
}
