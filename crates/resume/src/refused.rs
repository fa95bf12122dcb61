//! Why a datagram was dropped. Nobody is told but the operator: a stranger learns nothing, and whoever is
//! none has its WireGuard handshake under way.

/// In the order in which it is found out; what comes before `Forged` costs no cryptography.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refused {
    #[error("it is no datagram of this protocol")]
    Malformed,
    #[error("its ticket was never given by this process, or is over")]
    Unknown,
    #[error("its ticket was used for another attempt")]
    Used,
    #[error("it was received before")]
    Replayed,
    #[error("its seal is broken")]
    Forged,
    #[error("what it carries may not travel early")]
    NotAllowed,
    #[error("there are too many connections in one resumption")]
    TooMany,
}

impl Refused {
    /// All, in order.
    pub const ALL: [Self; 7] =
        [Self::Malformed, Self::Unknown, Self::Used, Self::Replayed, Self::Forged, Self::NotAllowed, Self::TooMany];

    /// Its name where it is counted.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Used => "used",
            Self::Replayed => "replayed",
            Self::Forged => "forged",
            Self::NotAllowed => "not_allowed",
            Self::TooMany => "too_many",
        }
    }
}
