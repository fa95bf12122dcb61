//! Records as people see them: releases, machines. Pure.

use atoll_control::Seen;
use atoll_model::wire::{DeployEventKind, MachineSummary, ReleaseStatus as Shown, ReleaseView};
use atoll_store::{Release, ReleaseStatus};

pub(crate) fn release_view(release: &Release, reason: Option<String>) -> ReleaseView {
    let content = &release.content;
    ReleaseView {
        version: release.version,
        status: shown(release.status),
        image: content.image_ref.clone(),
        digest: content.image_digest.clone(),
        strategy: content.strategy.clone(),
        created_by: content.created_by.clone(),
        created_at_ms: release.created_at_ms,
        finished_at_ms: release.status.is_final().then_some(release.updated_at_ms),
        reason: reason.filter(|_| release.status == ReleaseStatus::Failed),
    }
}

fn shown(status: ReleaseStatus) -> Shown {
    match status {
        ReleaseStatus::Pending => Shown::Pending,
        ReleaseStatus::Running => Shown::Running,
        ReleaseStatus::Complete => Shown::Complete,
        ReleaseStatus::Failed => Shown::Failed,
        ReleaseStatus::Superseded => Shown::Superseded,
    }
}

/// How a release that is over ended, for who cannot be told by its events.
pub(crate) fn known_end(release: &Release) -> (DeployEventKind, String) {
    let version = release.version;
    match release.status {
        ReleaseStatus::Complete => (DeployEventKind::Complete, format!("release {version} is in place")),
        ReleaseStatus::Superseded => {
            (DeployEventKind::RolledBack, format!("release {version} was not begun: a later one took its place"))
        }
        _ => (DeployEventKind::RolledBack, format!("release {version} failed")),
    }
}

pub(crate) fn machine_summary(seen: Seen) -> MachineSummary {
    let view = seen.view;
    let image = match view.image.digest.as_str() {
        "" => view.image.reference,
        digest => format!("{}@{digest}", view.image.reference),
    };
    MachineSummary {
        id: view.id,
        name: view.name,
        app: view.app,
        state: view.state,
        region: view.region,
        node: view.node,
        version: view.version,
        process_group: view.config.process_group().to_owned(),
        release: seen.release_version,
        cordoned: view.cordoned,
        checks: view.checks,
        image,
        private_ip: view.private_ipv6.to_string(),
        host_status: if seen.heard { "ok" } else { "unreachable" }.to_owned(),
        updated_at_ms: view.updated_at_ms,
    }
}
