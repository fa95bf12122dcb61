//! Keeps the authority as time passes: control's signs of life, its own certificate, and the next step of a
//! root's replacement.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atoll_control::Control;
use atoll_rpc::ca::signing_request_for;
use atoll_rpc::files::write_durably;
use atoll_rpc::tls::IdentityMaterial;
use atoll_signals::with_causes;

use crate::node::setup::now_unix;
use crate::node::state::StateDir;

/// Control's own sign of life is due this often, in seconds.
const EVERY_S: u64 = 20;

/// Runs until the process ends. Control has published everything once.
pub async fn keep(control: Arc<Control>, state: StateDir) {
    let live = &control.live;
    let mut alive = last_alive(&state);
    // An earlier process may have died between a step and its own certificate.
    let mut own = None;
    let mut published = 0;
    loop {
        let now = now_unix();
        live.trust().authority_heard(now);
        match control.authority.step(now, alive) {
            Ok(false) => {}
            Ok(true) => tracing::info!(standing = ?control.authority.seen(), "the root's replacement went on"),
            Err(error) => tracing::error!(error = with_causes(&error), "the root's replacement cannot go on"),
        }
        note_alive(&state, now);
        alive = now;
        let generation = control.authority.generation();
        if own != Some(generation) || now >= live.renew_at() {
            match renew(&control, &state.identity("control")) {
                Ok(()) => own = Some(generation),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "control cannot renew its own certificate");
                }
            }
        }
        if published != generation {
            match control.republish_certificates().await {
                Ok(()) => published = generation,
                Err(error) => {
                    tracing::error!(error = with_causes(&error), "certificates of the app domain are the old ones");
                }
            }
        }
        let wait = live.renew_at().saturating_sub(now_unix()).clamp(1, EVERY_S);
        tokio::time::sleep(Duration::from_secs(wait)).await;
    }
}

/// Control signs its own certificate.
fn renew(control: &Control, file: &Path) -> anyhow::Result<()> {
    let kept = IdentityMaterial::load(file)?;
    let (key_pem, csr) = signing_request_for(&kept.key_pem)?;
    let issued = control.authority.issue_node(&csr, control.live.identity(), now_unix())?;
    let renewed = IdentityMaterial { key_pem, chain_pem: issued.chain_pem, roots_pem: issued.roots_pem };
    control.live.replace(&renewed)?;
    Ok(renewed.save(file)?)
}

/// When control was alive last, in Unix seconds, as an earlier process noted; now where none did.
pub fn last_alive(state: &StateDir) -> u64 {
    let noted = std::fs::read_to_string(state.alive()).ok().and_then(|text| text.trim().parse().ok());
    noted.unwrap_or_else(now_unix)
}

/// So that the next process knows for how long nobody could renew.
fn note_alive(state: &StateDir, now: u64) {
    if let Err(error) = write_durably(&state.alive(), now.to_string().as_bytes(), false) {
        tracing::warn!(%error, "cannot note that control is alive: after a long absence servers would have to join again");
    }
}
