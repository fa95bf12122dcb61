//! Who changed what. Whoever serves callers records each of their changes here, before and after it;
//! control's own doings are no caller's, and are not in it.

use atoll_store::{AuditCall, AuditEnd, AuditEntry, AuditFilter, Page, PageRequest};

use crate::{Control, ControlResult};

/// What something became, and what it was before, as one transaction saw both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed<T> {
    /// `None`: it was not there.
    pub before: Option<T>,
    pub after: T,
}

impl Control {
    /// Records that a call has begun; answers the record's id.
    pub async fn audit_begin(&self, call: &AuditCall) -> ControlResult<String> {
        let now = self.now_ms();
        Ok(self.store.write(|tx| async move { tx.audit_begin(call, now).await }).await?)
    }

    /// Records how it ended, and what became known of it on the way.
    pub async fn audit_end(&self, id: &str, call: &AuditCall, end: &AuditEnd) -> ControlResult<()> {
        Ok(self.store.write(|tx| async move { tx.audit_end(id, call, end).await }).await?)
    }

    /// Records, newest first.
    pub async fn audit(&self, filter: &AuditFilter, page: &PageRequest) -> ControlResult<Page<AuditEntry>> {
        Ok(self.store.read(|tx| async move { tx.audit_list(filter, page).await }).await?)
    }
}
