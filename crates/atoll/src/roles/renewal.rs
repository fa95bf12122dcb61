//! Keeps a process's certificate fresh: at half of its life a new one is asked of control, taken into
//! use without closing anything, and kept for the next start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tonic::transport::Channel;

use atoll_rpc::ca::signing_request_for;
use atoll_rpc::files::write_durably;
use atoll_rpc::proto::control::RenewRequest;
use atoll_rpc::proto::control::nodes_client::NodesClient;
use atoll_rpc::tls::{IdentityMaterial, LiveIdentity};
use atoll_signals::with_causes;

use crate::node::setup::now_unix;

/// How TLS tells of it that control takes no certificate that has ended, or that is of a root that has been
/// replaced, or that this process does not know the root that replaced its own.
const LAPSED: [&str; 3] = ["CertificateExpired", "UnknownCA", "UnknownIssuer"];

/// Where what was renewed is files.
pub struct Files {
    pub identity: PathBuf,
    /// The roots by themselves, for users of this server.
    pub roots: Option<PathBuf>,
}

/// Runs until the process ends.
pub async fn renew_forever(live: Arc<LiveIdentity>, control: Channel, files: Files) {
    loop {
        let wait = live.renew_at().saturating_sub(now_unix());
        tokio::time::sleep(Duration::from_secs(wait)).await;
        if let Err(error) = renew(&live, control.clone(), &files).await {
            let left = live.expires_at().saturating_sub(now_unix());
            let error = with_causes(error.as_ref());
            if left == 0 && !LAPSED.iter().any(|word| error.contains(word)) {
                tracing::warn!(error, "this server's certificate has ended; until control is back others excuse that");
            } else if left == 0 {
                tracing::error!(
                    error,
                    "this server's certificate has lapsed and cannot be renewed: get a token with `atoll node token \
                     create` and give it to `atoll join` here; machines and records stay"
                );
            } else {
                tracing::warn!(error, left_s = left, "cannot renew this process's certificate now");
            }
            tokio::time::sleep(pause(left)).await;
        }
    }
}

/// Before the next attempt, with so many seconds of the certificate left: a quarter of them, so that
/// there are several, and never a rush.
fn pause(left: u64) -> Duration {
    match left {
        0 => Duration::from_secs(15),
        _ => Duration::from_secs((left / 4).clamp(1, 15)),
    }
}

async fn renew(live: &LiveIdentity, control: Channel, files: &Files) -> anyhow::Result<()> {
    let material = IdentityMaterial::load(&files.identity)?;
    // The key stays: it is what tells this node from another with its name.
    let (key_pem, csr) = signing_request_for(&material.key_pem)?;
    let request = RenewRequest { csr: csr.into(), clock_ms: now_unix() * 1000 };
    let reply = NodesClient::new(control).renew(request).await.context("control did not answer")?.into_inner();
    let renewed = IdentityMaterial { key_pem, chain_pem: reply.chain, roots_pem: reply.roots };
    live.replace(&renewed)?;
    live.trust().authority_heard(now_unix());
    renewed.save(&files.identity)?;
    if let Some(file) = &files.roots
        && std::fs::read_to_string(file).ok().as_ref() != Some(&renewed.roots_pem)
        && let Err(error) = write_durably(file, renewed.roots_pem.as_bytes(), false)
    {
        // This process has them; the next renewal tries again.
        tracing::warn!(file = %file.display(), %error, "cannot write the platform's roots");
    }
    Ok(())
}
