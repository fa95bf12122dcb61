//! Who asks: credentials as clients present them, and the decision that others make.

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, header};

use crate::Repository;

/// What a request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask whether this is a registry and the credential good (`GET /v2/`).
    Ping,
    /// List all repositories.
    Catalog,
    Pull,
    Push,
    Delete,
}

/// Who asks, as said by `Authorization`.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A registry login: any user, the token as password.
    Basic {
        user: String,
        password: String,
    },
    Bearer(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// The answer to "may they?".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Allow,
    /// The credential is good, for other things.
    Deny,
    /// No credential, or none that is good for anything.
    Unauthenticated,
}

/// Decides what a credential may do. `repository` is `None` for [`Action::Ping`] and
/// [`Action::Catalog`].
#[async_trait]
pub trait Authorizer: Send + Sync {
    async fn authorize(
        &self,
        action: Action,
        repository: Option<&Repository>,
        credential: Option<&Credential>,
    ) -> Verdict;
}

impl Credential {
    /// The secret part, which is the platform's token in both forms.
    pub fn token(&self) -> &str {
        match self {
            Self::Basic { password, .. } => password,
            Self::Bearer(token) => token,
        }
    }

    /// The credential of a request. One that cannot be read is none.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let (scheme, value) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => {
                let text = String::from_utf8(BASE64_STANDARD.decode(value.trim()).ok()?).ok()?;
                let (user, password) = text.split_once(':')?;
                Some(Self::Basic { user: user.to_owned(), password: password.to_owned() })
            }
            "bearer" => Some(Self::Bearer(value.trim().to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<Credential> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        Credential::from_headers(&headers)
    }

    #[test]
    fn both_schemes_are_read_and_nonsense_is_nobody() {
        let basic = Credential::Basic { user: "x".to_owned(), password: "to:ken".to_owned() };
        assert_eq!(read("Basic eDp0bzprZW4="), Some(basic.clone()));
        assert_eq!(read("bearer abc"), Some(Credential::Bearer("abc".to_owned())));
        for nonsense in ["Basic", "Basic %%%", "Basic eA==", "Digest x", ""] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        assert!(!format!("{basic:?}").contains("ken"));
    }
}
