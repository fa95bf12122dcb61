//! From a header to a caller, and from a wish to a token.

use atoll_store::{NewToken, Store, StoreError, Token, TokenKind};

use crate::access::{Action, Denied, Principal, Target, authorize};
use crate::credentials::credentials;
use crate::token::TokenText;

/// Why a request has no caller.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// 401, with this text: no token, or none that is valid. Which of them is not told.
    #[error("Authenticate: token validation error")]
    Unauthenticated,
    /// 503: it cannot be told now.
    #[error("cannot look tokens up")]
    Unavailable { source: StoreError },
}

impl From<StoreError> for AuthError {
    fn from(source: StoreError) -> Self {
        Self::Unavailable { source }
    }
}

/// Everybody that a request's valid tokens speak for; any one of them may grant. Never empty.
#[derive(Clone, Debug)]
pub struct Caller {
    principals: Vec<Principal>,
}

impl Caller {
    /// The principal that may do it, or why the first may not.
    pub fn authorize(&self, action: Action, target: Target<'_>) -> Result<&Principal, Denied> {
        let mut refusal = None;
        for principal in &self.principals {
            match authorize(principal, action, target) {
                Ok(()) => return Ok(principal),
                Err(denied) => refusal = refusal.or(Some(denied)),
            }
        }
        Err(refusal.unwrap_or_else(|| Denied {
            name: String::new(),
            kind: TokenKind::ReadOnly,
            action,
            target: target.to_string(),
        }))
    }

    pub fn principals(&self) -> &[Principal] {
        &self.principals
    }
}

/// Who sent this `Authorization` header. Join tokens speak for nobody.
pub async fn authenticate(store: &Store, header: Option<&str>, now_ms: u64) -> Result<Caller, AuthError> {
    let hashes: Vec<_> = credentials(header.unwrap_or_default()).iter().map(TokenText::hash).collect();
    if hashes.is_empty() {
        return Err(AuthError::Unauthenticated);
    }
    let hashes = hashes.as_slice();
    let principals: Vec<Principal> = store
        .read(|tx| async move {
            let mut found = Vec::new();
            for hash in hashes {
                found.extend(
                    tx.token_find(hash)
                        .await?
                        .filter(|token| token.is_live(now_ms) && token.kind != TokenKind::NodeJoin),
                );
            }
            Ok::<_, StoreError>(found.into_iter().map(Principal::of).collect())
        })
        .await?;
    if principals.is_empty() { Err(AuthError::Unauthenticated) } else { Ok(Caller { principals }) }
}

/// Makes a token. Its text is returned this once and kept nowhere.
pub async fn token_create(store: &Store, new: &NewToken, now_ms: u64) -> Result<(TokenText, Token), StoreError> {
    let text = TokenText::generate();
    let hash = &text.hash();
    let token = store.write(|tx| async move { tx.token_create(hash, new, now_ms).await }).await?;
    Ok((text, token))
}

/// The platform's first owner token, unless there is a live one already. Of several processes that
/// start at once exactly one gets it.
pub async fn first_token(store: &Store, now_ms: u64) -> Result<Option<TokenText>, StoreError> {
    let text = TokenText::generate();
    let hash = &text.hash();
    let made = store
        .write(|tx| async move {
            tx.organization_ensure_default(now_ms).await?;
            let owners = tx.token_list().await?.into_iter().filter(|token| {
                token.kind == TokenKind::Owner && token.org.is_none() && token.app.is_none() && token.is_live(now_ms)
            });
            if owners.count() > 0 {
                return Ok::<_, StoreError>(false);
            }
            let new = NewToken {
                kind: TokenKind::Owner,
                name: "root".into(),
                org: None,
                app: None,
                region: None,
                node: None,
                created_by: "atoll".into(),
                expires_at_ms: None,
            };
            tx.token_create(hash, &new, now_ms).await?;
            Ok(true)
        })
        .await?;
    Ok(made.then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_store::Location;

    const NOW: u64 = 1_800_000_000_000;

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Sqlite(dir.path().join("control.db"))).await.unwrap();
        (dir, store)
    }

    fn new_token(kind: TokenKind, expires_at_ms: Option<u64>) -> NewToken {
        NewToken {
            kind,
            name: format!("{kind}"),
            org: None,
            app: None,
            region: None,
            node: None,
            created_by: "tester".into(),
            expires_at_ms,
        }
    }

    #[tokio::test]
    async fn the_first_token_is_made_once_and_owns_the_platform() {
        let (_dir, store) = store().await;
        let (one, two) = tokio::join!(first_token(&store, NOW), first_token(&store, NOW));
        let made: Vec<_> = [one.unwrap(), two.unwrap()].into_iter().flatten().collect();
        let [token] = made.as_slice() else { panic!("{} first tokens", made.len()) };
        let caller = authenticate(&store, Some(&format!("Bearer {}", token.reveal())), NOW).await.unwrap();
        let owner = caller.authorize(Action::Administer, Target::Nodes).unwrap();
        assert_eq!(owner.name, "root");
    }

    #[tokio::test]
    async fn any_valid_token_of_a_list_grants() {
        let (_dir, store) = store().await;
        let (reader, _) = token_create(&store, &new_token(TokenKind::ReadOnly, None), NOW).await.unwrap();
        let (owner, _) = token_create(&store, &new_token(TokenKind::Owner, None), NOW).await.unwrap();
        let header = format!("FlyV1 {},{}", reader.reveal(), owner.reveal());
        let caller = authenticate(&store, Some(&header), NOW).await.unwrap();
        assert_eq!(caller.authorize(Action::Read, Target::Nodes).unwrap().kind, TokenKind::ReadOnly);
        assert_eq!(caller.authorize(Action::Administer, Target::Nodes).unwrap().kind, TokenKind::Owner);

        let alone = authenticate(&store, Some(reader.reveal()), NOW).await.unwrap();
        assert!(alone.authorize(Action::Administer, Target::Nodes).is_err());
    }

    #[tokio::test]
    async fn what_is_not_valid_is_nobody() {
        let (_dir, store) = store().await;
        let (expired, _) = token_create(&store, &new_token(TokenKind::Owner, Some(NOW)), NOW).await.unwrap();
        let (join, _) = token_create(&store, &new_token(TokenKind::NodeJoin, None), NOW).await.unwrap();
        let (revoked, token) = token_create(&store, &new_token(TokenKind::Owner, None), NOW).await.unwrap();
        let id = token.id.as_str();
        store.write(|tx| async move { tx.token_revoke(id, NOW).await }).await.unwrap();
        let unknown = TokenText::generate();
        for header in [None, Some(""), Some("Bearer"), Some("Bearer nonsense")]
            .into_iter()
            .chain([&expired, &join, &revoked, &unknown].map(|token| Some(token.reveal())))
        {
            let error = authenticate(&store, header, NOW).await.unwrap_err();
            assert!(matches!(error, AuthError::Unauthenticated), "{header:?}: {error:?}");
        }
    }
}
