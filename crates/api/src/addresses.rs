//! `/v1/apps/{app}/ip_assignments`: the addresses by which an app is entered, and those under which its
//! machines leave.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use atoll_control::{AddressWish, EgressHeld, EgressWish, Family};
use atoll_identity::Action;
use atoll_model::address::NetworkId;
use atoll_model::{NodeName, OrgSlug, RegionCode};
use atoll_store::{AddressKind, App, AppAddress, DEFAULT_NETWORK, EgressAddress};

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
    /// `global`: every place leads there; of an address to leave under the region where it is.
    region: String,
    /// Empty: to all services of the app.
    service_name: &'static str,
    /// Several apps have it, and are told apart by name.
    shared: bool,
    /// Machines leave under it; else the app is entered by it.
    egress: bool,
    /// Of an address to leave under: the server that it leads back to, whose machines leave under it; absent
    /// while no server has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    node: Option<NodeName>,
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

/// What an app was given.
#[derive(Serialize, ToSchema)]
#[schema(as = AssignIPResponse)]
struct Given {
    /// Absent if a pair was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_pair: Option<Pair>,
    region: String,
    service_name: &'static str,
    shared: bool,
    egress: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    node: Option<NodeName>,
    local: bool,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<AssignmentNetwork>,
}

/// Addresses to leave under, of one server.
#[derive(Serialize, ToSchema)]
#[schema(as = IPPair)]
struct Pair {
    #[schema(value_type = String)]
    v4: IpAddr,
    #[schema(value_type = String)]
    v6: IpAddr,
}

impl Given {
    fn one(given: Assignment) -> Self {
        Self {
            ip: Some(given.ip),
            ip_pair: None,
            region: given.region,
            service_name: given.service_name,
            shared: given.shared,
            egress: given.egress,
            node: given.node,
            local: given.local,
            created_at: given.created_at,
            network: given.network,
        }
    }

    fn pair(v4: Assignment, v6: IpAddr) -> Self {
        let pair = Pair { v4: v4.ip, v6 };
        Self { ip: None, ip_pair: Some(pair), ..Self::one(v4) }
    }
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
        region: GLOBAL.to_owned(),
        service_name: "",
        shared: held.kind == AddressKind::Shared,
        egress: false,
        node: None,
        local: held.host_route,
        created_at: rfc3339_seconds(held.created_at_ms),
        // An app has no two addresses in one network.
        network: held.network.and_then(|id| networks.remove(&id)),
    }
}

fn shown_egress(held: EgressHeld) -> Assignment {
    let EgressHeld { held, node } = held;
    Assignment {
        ip: held.address,
        region: held.region.to_string(),
        service_name: "",
        shared: false,
        egress: true,
        node,
        local: false,
        created_at: rfc3339_seconds(held.created_at_ms),
        network: None,
    }
}

/// Addresses to leave under as the record of changes shows them.
fn audited_egress<'a>(held: impl IntoIterator<Item = &'a EgressAddress>) -> Value {
    let held: Vec<&EgressAddress> = held.into_iter().collect();
    let addresses: Vec<String> = held.iter().map(|held| held.address.to_string()).collect();
    json!({
        "address": addresses.join(" "),
        "kind": "egress",
        "region": held.first().map(|held| held.region),
    })
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
    let egress = api.control.egress_addresses(&app.name).await?;
    let entered = held.into_iter().map(|held| shown(held, &mut networks));
    Ok(Json(Assignments { ips: entered.chain(egress.into_iter().map(shown_egress)).collect() }))
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
    EgressV4,
    EgressV6,
    EgressPair,
}

impl AssignmentType {
    /// What is asked for if machines are to leave under it.
    fn egress(self) -> Option<EgressWish> {
        match self {
            Self::EgressV4 => Some(EgressWish::One(Family::V4)),
            Self::EgressV6 => Some(EgressWish::One(Family::V6)),
            Self::EgressPair => Some(EgressWish::Pair),
            Self::V4 | Self::V6 | Self::SharedV4 | Self::SharedV6 | Self::PrivateV6 => None,
        }
    }
}

/// Every place.
const GLOBAL: &str = "global";

/// Clients send fields that they do not mean as empty texts.
#[derive(Deserialize, Default, ToSchema)]
#[schema(as = assignIPRequest)]
struct Assign {
    #[serde(rename = "type")]
    #[schema(required)]
    kind: Option<AssignmentType>,
    /// Of addresses to leave under: where; else `global`, or nothing.
    region: Option<String>,
    /// Of `private_v6`: the app's own organization.
    org_slug: Option<String>,
    /// Of `private_v6`: a network of that organization; the app's own if absent.
    network: Option<String>,
    service_name: Option<String>,
    /// Of `v4` and `v6`: announce the address by itself where the app is served.
    local: Option<bool>,
}

fn said(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// What is asked for.
enum Wish {
    Enter(AddressWish),
    Leave(RegionCode, EgressWish),
}

impl Assign {
    fn wish(self, app: &App) -> ApiResult<Wish> {
        let kind = self.kind.ok_or_else(|| ApiError::invalid("type is required, such as v6"))?;
        match kind.egress() {
            Some(wish) => self.leave(wish),
            None => self.enter(kind, app).map(Wish::Enter),
        }
    }

    fn leave(self, wish: EgressWish) -> ApiResult<Wish> {
        let region = said(self.region).ok_or_else(|| ApiError::invalid("region is required: machines leave in one"))?;
        let region = region.parse().map_err(|_| ApiError::invalid(format!("region {region:?} is none")))?;
        let meaningless =
            [said(self.service_name), said(self.network), self.local.filter(|local| *local).map(|_| String::new())];
        if meaningless.iter().any(Option::is_some) {
            return Err(ApiError::invalid("service_name, network, local: of addresses to enter by alone"));
        }
        Ok(Wish::Leave(region, wish))
    }

    fn enter(self, kind: AssignmentType, app: &App) -> ApiResult<AddressWish> {
        if let Some(region) = said(self.region).filter(|region| region != GLOBAL) {
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
            AssignmentType::EgressV4 | AssignmentType::EgressV6 | AssignmentType::EgressPair => {
                return Err(ApiError::invalid("type: nobody enters by an address to leave under"));
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
) -> ApiResult<Json<Given>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    match assign.wish(&app)? {
        Wish::Enter(wish) => {
            let given = api.control.address_allocate(&app, &wish).await?;
            auth.on("ip", given.after.address);
            auth.changed(&given, audited);
            Ok(Json(Given::one(shown(given.after, &mut networks(&api, &app.org).await?))))
        }
        Wish::Leave(region, wish) => {
            let given = api.control.egress_allocate(&app, region, wish).await?;
            auth.became(audited_egress(given.iter().map(|given| &given.held)));
            for given in &given {
                auth.on("ip", given.held.address);
            }
            let mut given = given.into_iter().map(shown_egress);
            let first = given.next().ok_or_else(|| ApiError::not_found("no address was given"))?;
            Ok(Json(match given.next() {
                Some(second) => Given::pair(first, second.ip),
                None => Given::one(first),
            }))
        }
    }
}

async fn release(State(api): State<Api>, auth: Auth, Path((app, ip)): Path<(String, String)>) -> ApiResult<NoContent> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let missing = || ApiError::not_found(format!("app {} has no address {ip:?}", app.name));
    let address = ip.parse::<IpAddr>().map_err(|_| missing())?;
    let leaves = api.control.egress_addresses(&app.name).await?;
    if leaves.iter().any(|leaves| leaves.held.address == address) {
        auth.was(audited_egress([&api.control.egress_release(&app.name, address).await?]));
    } else {
        auth.was(audited(&api.control.address_release(&app.name, address).await?));
    }
    Ok(NoContent)
}
