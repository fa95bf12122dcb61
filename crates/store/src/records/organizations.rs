//! Organizations: who owns apps and private networks.

use atoll_model::OrgSlug;

use crate::value::{Row, params};
use crate::{ReadTx, StoreError, WriteTx};

/// The organization that every platform has.
pub const DEFAULT_ORGANIZATION: &str = "personal";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Organization {
    pub slug: OrgSlug,
    /// Small number that some clients want besides the slug.
    pub numeric_id: u64,
    pub name: String,
    pub created_at_ms: u64,
}

fn organization(row: &Row) -> Result<Organization, StoreError> {
    Ok(Organization {
        slug: row.parsed("slug")?,
        numeric_id: row.unsigned("numeric_id")?,
        name: row.text("name")?,
        created_at_ms: row.unsigned("created_at")?,
    })
}

impl ReadTx {
    pub async fn organization_fetch(&self, slug: &OrgSlug) -> Result<Organization, StoreError> {
        let row = self.row_opt("SELECT * FROM organizations WHERE slug = $1", params![slug]).await?;
        organization(&row.ok_or_else(|| StoreError::not_found("organization", slug))?)
    }

    /// All organizations by slug.
    pub async fn organization_list(&self) -> Result<Vec<Organization>, StoreError> {
        self.rows("SELECT * FROM organizations ORDER BY slug", params![]).await?.iter().map(organization).collect()
    }
}

impl WriteTx {
    pub async fn organization_create(
        &self,
        slug: &OrgSlug,
        name: &str,
        now_ms: u64,
    ) -> Result<Organization, StoreError> {
        let present = self.row_opt("SELECT slug FROM organizations WHERE slug = $1", params![slug]).await?;
        if present.is_some() {
            return Err(StoreError::taken("organization", slug, None));
        }
        let numeric_id = self.counter_next("organization").await?;
        self.execute(
            "INSERT INTO organizations (slug, numeric_id, name, created_at) VALUES ($1, $2, $3, $4)",
            params![slug, numeric_id, name, now_ms],
        )
        .await?;
        self.organization_fetch(slug).await
    }

    /// Makes the default organization unless it is there; every start may call this.
    pub async fn organization_ensure_default(&self, now_ms: u64) -> Result<Organization, StoreError> {
        let slug: OrgSlug = DEFAULT_ORGANIZATION
            .parse()
            .map_err(|error| StoreError::invalid("organization", DEFAULT_ORGANIZATION, format!("{error}")))?;
        match self.organization_fetch(&slug).await {
            Err(StoreError::NotFound { .. }) => self.organization_create(&slug, "Personal", now_ms).await,
            result => result,
        }
    }
}
