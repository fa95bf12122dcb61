//! Lists of apps and machines, whole or page by page. A page's cursor names the last entry that was
//! seen, so nothing is shown twice or left out while the list changes.

use std::collections::{HashMap, HashSet};

use atoll_model::{AppName, MachineId, NodeName, OrgSlug};
use atoll_rpc::contract::MachineView;
use atoll_rpc::proto::worker as proto;
use atoll_store::{App, MachineFilter, MachineRecord, Page, PageRequest, StoreError};

use crate::machines::{copy_of, decode, timed_short};
use crate::{Control, ControlResult, Seen};

/// Apps of an organization, and how many it has on all pages.
#[derive(Clone, Debug)]
pub struct AppList {
    pub apps: Page<App>,
    pub total: u64,
}

impl Control {
    /// Apps by name; every one of them without a page.
    pub async fn app_list(&self, org: &OrgSlug, page: Option<PageRequest>) -> ControlResult<AppList> {
        let page = &page;
        let list = self.store.read(|tx| async move {
            let total = tx.app_count(Some(org)).await?;
            let mut request = page.clone().unwrap_or_default();
            let mut items = Vec::new();
            loop {
                let answer = tx.app_list(Some(org), &request).await?;
                items.extend(answer.items);
                match answer.next {
                    Some(cursor) if page.is_none() => request.cursor = Some(cursor),
                    next => return Ok::<_, StoreError>(AppList { apps: Page { items, next }, total }),
                }
            }
        });
        Ok(list.await?)
    }

    /// All machines of an app; one question a node, and control's copy where a node does not answer.
    pub async fn machines(&self, app: &AppName, include_destroyed: bool) -> ControlResult<Vec<Seen>> {
        let records = self.machine_records(app, include_destroyed).await?;
        Ok(self.see_all(app, &records).await)
    }

    /// [`Self::machines`], page by page, by id.
    pub async fn machines_page(
        &self,
        app: &AppName,
        include_destroyed: bool,
        page: &PageRequest,
    ) -> ControlResult<Page<Seen>> {
        let filter = &MachineFilter { app: Some(app.clone()), include_destroyed, ..MachineFilter::default() };
        let records = self.store.read(|tx| async move { tx.machine_list(filter, page).await }).await?;
        Ok(Page { items: self.see_all(app, &records.items).await, next: records.next })
    }

    /// An organization's machines as the records have them, least recently changed first.
    pub async fn machine_changes(
        &self,
        org: &OrgSlug,
        include_destroyed: bool,
        after_ms: u64,
        page: &PageRequest,
    ) -> ControlResult<Page<MachineRecord>> {
        let list =
            self.store.read(|tx| async move { tx.machine_changes(org, include_destroyed, after_ms, page).await });
        Ok(list.await?)
    }

    async fn see_all(&self, app: &AppName, records: &[MachineRecord]) -> Vec<Seen> {
        let nodes: HashSet<&NodeName> = records.iter().map(|record| &record.node).collect();
        let asked = nodes.into_iter().map(|node| async move {
            let mut worker = self.directory.worker(node).ok()?;
            let request = timed_short(proto::ListRequest { app: app.to_string() });
            let reply = worker.list(request).await.ok()?.into_inner();
            let views = reply.machines_json.iter().filter_map(|json| decode::<MachineView>(json).ok());
            Some((node, views.collect::<Vec<_>>()))
        });
        let answers: Vec<_> = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
        let answered: HashSet<&NodeName> = answers.iter().map(|(node, _)| *node).collect();
        let mut views: HashMap<MachineId, MachineView> =
            answers.into_iter().flat_map(|(_, views)| views).map(|view| (view.id, view)).collect();
        let see = |record: &MachineRecord| {
            let release_version = record.spec.release_version;
            match views.remove(&record.id) {
                Some(view) => Seen { view, heard: true, release_version },
                None => Seen { view: copy_of(record), heard: answered.contains(&record.node), release_version },
            }
        };
        records.iter().map(see).collect()
    }
}
