//! One module for each kind of record.

mod addresses;
mod apps;
mod audit;
mod challenges;
mod deploys;
mod devices;
mod egress;
mod hubs;
mod machines;
mod moves;
mod networks;
mod nodes;
mod organizations;
mod policies;
mod releases;
mod scales;
mod secrets;
mod settings;
mod tokens;

pub use addresses::{AddressKind, AddressPool, AppAddress, RestingAddress};
pub use apps::{App, AppStatus, NewApp};
pub use audit::{AuditCall, AuditChange, AuditEnd, AuditEntry, AuditFilter, AuditOutcome};
pub use challenges::Challenge;
pub use deploys::{Deploy, DeployEvent, DeployLease, DeployOutcome};
pub use devices::{Device, NewDevice};
pub use egress::EgressAddress;
pub use hubs::{EdgeLease, Hub};
pub use machines::{
    FoundMachine, MachineFilter, MachineIntent, MachinePhase, MachineRecord, MachineSpec, MachineUpdate, NewMachine,
    Observation,
};
pub use moves::{Move, NewMove};
pub use networks::{DEFAULT_NETWORK, Network};
pub use nodes::{NewNode, Node, NodeGateway, NodeMesh, NodeNetwork, NodeReport, NodeStatus};
pub use organizations::{DEFAULT_ORGANIZATION, Organization};
pub use policies::{PolicyRecord, UnsettledPolicies};
pub use releases::{NewRelease, Release, ReleaseStatus};
pub use scales::Scale;
pub use secrets::{Secret, SecretChange};
pub use tokens::{NewToken, Token, TokenHash, TokenKind};
