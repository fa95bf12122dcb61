//! What can go wrong with a request, as data.

/// Whose fault a failure is and what helps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The request itself is wrong: a value that cannot be, a malformed fly.toml, an address that is none.
    Invalid,
    /// The platform refuses it as things are now.
    Refused,
    /// No token, or one that may not do this.
    NotAllowed,
    NotFound,
    TimedOut,
    /// The server cannot be reached or broke.
    Unavailable,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with an error.
    #[error("{message}")]
    Answer { status: u16, message: String },
    #[error("cannot reach the API at {url}")]
    Connect {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("the API at {url} sent an answer that cannot be read")]
    Unreadable {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the connection to the API broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    Setup(String),
}

impl ClientError {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Answer { status: 400, .. } | Self::Setup(_) => Kind::Invalid,
            Self::Answer { status: 401 | 403, .. } => Kind::NotAllowed,
            Self::Answer { status: 404, .. } => Kind::NotFound,
            Self::Answer { status: 408 | 504, .. } => Kind::TimedOut,
            Self::Answer { status: 500.., .. } => Kind::Unavailable,
            Self::Answer { .. } => Kind::Refused,
            Self::Connect { source, .. } if source.is_timeout() => Kind::TimedOut,
            Self::Connect { .. } | Self::Unreadable { .. } | Self::Broken(_) => Kind::Unavailable,
        }
    }
}
