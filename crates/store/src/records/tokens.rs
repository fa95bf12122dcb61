//! Tokens: what they allow and until when. Only a hash is kept, so that whoever reads the records
//! cannot act as anybody.

use atoll_model::{AppName, NodeName, OrgSlug, RegionCode};

use crate::ids::random_id;
use crate::value::{Row, params, stored_word};
use crate::{ReadTx, StoreError, WriteTx};

stored_word! {
    TokenKind {
        /// Everything in its scope.
        Owner = "owner",
        /// Look, but do not touch.
        ReadOnly = "read_only",
        /// Deploy one app.
        Deploy = "deploy",
        /// A machine acting for itself.
        Machine = "machine",
        /// Lets one server join, once.
        NodeJoin = "node_join",
    }
}

/// SHA-256 of a token. Tokens are 256 random bits, so no slow hash is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenHash(pub [u8; 32]);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewToken {
    pub kind: TokenKind,
    /// For people; need not be unique.
    pub name: String,
    /// `None`: every organization.
    pub org: Option<OrgSlug>,
    /// `None`: every app of the organization.
    pub app: Option<AppName>,
    /// A join token's: the only region the node may take.
    pub region: Option<RegionCode>,
    /// A join token's: the only name the node may take. Only such a token lets a server with a new
    /// key take over a known name.
    pub node: Option<NodeName>,
    pub created_by: String,
    pub expires_at_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    pub id: String,
    pub kind: TokenKind,
    pub name: String,
    pub org: Option<OrgSlug>,
    pub app: Option<AppName>,
    pub region: Option<RegionCode>,
    pub node: Option<NodeName>,
    pub created_by: String,
    pub created_at_ms: u64,
    pub expires_at_ms: Option<u64>,
    pub revoked_at_ms: Option<u64>,
    pub used_at_ms: Option<u64>,
}

impl Token {
    /// Neither expired nor revoked.
    pub fn is_live(&self, now_ms: u64) -> bool {
        self.revoked_at_ms.is_none() && self.expires_at_ms.is_none_or(|expiry| now_ms < expiry)
    }
}

fn token(row: &Row) -> Result<Token, StoreError> {
    Ok(Token {
        id: row.text("id")?,
        kind: row.parsed("kind")?,
        name: row.text("name")?,
        org: row.parsed_opt("org")?,
        app: row.parsed_opt("app_name")?,
        region: row.parsed_opt("region")?,
        node: row.parsed_opt("node")?,
        created_by: row.text("created_by")?,
        created_at_ms: row.unsigned("created_at")?,
        expires_at_ms: row.unsigned_opt("expires_at")?,
        revoked_at_ms: row.unsigned_opt("revoked_at")?,
        used_at_ms: row.unsigned_opt("used_at")?,
    })
}

impl ReadTx {
    /// The token with this hash, live or not; `None` when there never was one.
    pub async fn token_find(&self, hash: &TokenHash) -> Result<Option<Token>, StoreError> {
        let sql = "SELECT t.*, a.name AS app_name FROM tokens t LEFT JOIN apps a ON a.id = t.app WHERE t.hash = $1";
        self.row_opt(sql, params![hash.0.as_slice()]).await?.map(|row| token(&row)).transpose()
    }

    pub async fn token_fetch(&self, id: &str) -> Result<Token, StoreError> {
        let sql = "SELECT t.*, a.name AS app_name FROM tokens t LEFT JOIN apps a ON a.id = t.app WHERE t.id = $1";
        token(&self.row_opt(sql, params![id]).await?.ok_or_else(|| StoreError::not_found("token", id))?)
    }

    /// All tokens, oldest first.
    pub async fn token_list(&self) -> Result<Vec<Token>, StoreError> {
        let sql = "SELECT t.*, a.name AS app_name FROM tokens t LEFT JOIN apps a ON a.id = t.app
                   ORDER BY t.created_at, t.id";
        self.rows(sql, params![]).await?.iter().map(token).collect()
    }
}

impl WriteTx {
    pub async fn token_create(&self, hash: &TokenHash, new: &NewToken, now_ms: u64) -> Result<Token, StoreError> {
        if let Some(org) = &new.org {
            self.organization_fetch(org).await?;
        }
        let app_id = match &new.app {
            Some(name) => Some(self.app_fetch(name).await?.id),
            None => None,
        };
        let id = random_id();
        self.execute(
            "INSERT INTO tokens (id, hash, kind, name, org, app, region, node, created_by, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            params![
                &id,
                hash.0.as_slice(),
                new.kind.as_str(),
                &new.name,
                new.org.as_ref(),
                app_id,
                new.region,
                new.node.as_ref(),
                &new.created_by,
                now_ms,
                new.expires_at_ms,
            ],
        )
        .await?;
        self.token_fetch(&id).await
    }

    /// Ends a token at once; ending it twice is no error. Says which it is.
    pub async fn token_revoke(&self, id: &str, now_ms: u64) -> Result<Token, StoreError> {
        let sql = "UPDATE tokens SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1";
        self.execute(sql, params![id, now_ms]).await?;
        self.token_fetch(id).await
    }

    /// Forgets tokens that expired before `before_ms`.
    pub async fn token_prune(&self, before_ms: u64) -> Result<u64, StoreError> {
        self.execute("DELETE FROM tokens WHERE expires_at < $1", params![before_ms]).await
    }

    /// Uses up a join token for one node. The node whose key is `key_fingerprint` may come again
    /// with it until it expires, as its first answer may have been lost; no other node may.
    pub async fn join_token_redeem(
        &self,
        hash: &TokenHash,
        node: &NodeName,
        region: RegionCode,
        key_fingerprint: &str,
        now_ms: u64,
    ) -> Result<Token, StoreError> {
        let refused = |reason: &str| StoreError::invalid("join token", node, reason);
        let token = self.token_find(hash).await?.filter(|token| token.kind == TokenKind::NodeJoin);
        let token = token.ok_or_else(|| refused("the token is unknown"))?;
        if token.revoked_at_ms.is_some() {
            return Err(refused("the token was revoked"));
        }
        if !token.is_live(now_ms) {
            return Err(refused("the token has expired"));
        }
        if token.region.is_some_and(|bound| bound != region) {
            return Err(refused("the token is for another region"));
        }
        if token.node.as_ref().is_some_and(|bound| bound != node) {
            return Err(refused("the token is for another node"));
        }
        let used_by = format!("{node} {key_fingerprint}");
        let changed = self
            .execute(
                "UPDATE tokens SET used_at = COALESCE(used_at, $2), used_by = $3
                 WHERE hash = $1 AND (used_at IS NULL OR used_by = $3)",
                params![hash.0.as_slice(), now_ms, used_by],
            )
            .await?;
        if changed == 0 {
            return Err(refused("the token was used already"));
        }
        Ok(token)
    }
}
