//! Values that public DNS answers at `_acme-challenge.<host>`, for certificate authorities.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::NodeName;

/// `POST /api/v1/dns/challenges`
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ChallengeRequest {
    /// The host name that is to be proven, such as `web.apps.example.com`; `_acme-challenge.` or `*.` before it
    /// means the same.
    #[schema(required)]
    pub host: String,
    /// Text of the TXT record: 1 to 255 visible ASCII characters.
    #[schema(required)]
    pub value: String,
    /// For how long it is answered, 60 to 86400 [default: 3600].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
}

/// A value that is answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChallengeView {
    pub host: String,
    pub value: String,
    pub ends_at_ms: u64,
}

/// What came of adding a value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChallengeAdded {
    /// Of the TXT records.
    pub name: String,
    /// All that are answered at that name.
    pub values: Vec<ChallengeView>,
    /// Servers that answer them by now.
    pub answered_by: Vec<NodeName>,
    /// Servers of public DNS that did not say so in time; they may answer without the value still.
    pub waiting_for: Vec<NodeName>,
}
