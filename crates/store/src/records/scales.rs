//! How many machines of each process group a user wants in each region.

use atoll_model::{AppName, RegionCode};

use crate::value::params;
use crate::{ReadTx, StoreError, WriteTx};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scale {
    pub process_group: String,
    pub region: RegionCode,
    pub count: u32,
}

impl ReadTx {
    /// An app's settings by group and region; groups and regions without one are not listed.
    pub async fn scale_list(&self, app: &AppName) -> Result<Vec<Scale>, StoreError> {
        let rows = self
            .rows(
                "SELECT s.process_group, s.region, s.machine_count FROM scales s JOIN apps a ON a.id = s.app
                 WHERE a.name = $1 ORDER BY s.process_group, s.region",
                params![app],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Scale {
                    process_group: row.text("process_group")?,
                    region: row.parsed("region")?,
                    count: row.small("machine_count")?,
                })
            })
            .collect()
    }
}

impl WriteTx {
    pub async fn scale_set(&self, app: &AppName, scale: &Scale) -> Result<(), StoreError> {
        let app = self.app_fetch(app).await?;
        self.execute(
            "INSERT INTO scales (app, process_group, region, machine_count) VALUES ($1, $2, $3, $4)
             ON CONFLICT (app, process_group, region) DO UPDATE SET machine_count = excluded.machine_count",
            params![&app.id, &scale.process_group, scale.region, scale.count],
        )
        .await
        .map(drop)
    }

    /// Replaces all settings of one process group.
    pub async fn scale_replace(
        &self,
        app: &AppName,
        process_group: &str,
        counts: &[(RegionCode, u32)],
    ) -> Result<(), StoreError> {
        let id = self.app_fetch(app).await?.id;
        self.execute("DELETE FROM scales WHERE app = $1 AND process_group = $2", params![id, process_group]).await?;
        for &(region, count) in counts {
            self.scale_set(app, &Scale { process_group: process_group.to_owned(), region, count }).await?;
        }
        Ok(())
    }
}
