//! How a machine's task performs effects: each runs beside the task and reports back as [`Done`], so
//! that the task can always be asked, stopped or destroyed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use atoll_driver::{DriverError, Running};
use atoll_signals::with_causes;

use super::effects::{self, LaunchError};
use super::step::{Cause, Effect, Input, Phase};
use super::task::{Done, Recorded, Task};
use crate::store::Intent;

impl Task {
    pub(super) fn perform(&mut self, effects: Vec<Effect>, recorded: &Recorded) {
        if !matches!(self.state.phase, Phase::Starting { .. }) {
            // A launch that is no longer wanted need not wait for its image.
            self.launching = None;
        }
        for effect in effects {
            self.act(effect, recorded.clone());
        }
    }

    fn act(&mut self, effect: Effect, recorded: Recorded) {
        let context = self.context.clone();
        let sealed = self.sealed.clone();
        let slot = self.state.slot;
        match effect {
            Effect::Prepare => {
                let bundle = sealed.bundle;
                self.effects.spawn(async move {
                    let result = effects::prepare(&context, &bundle).await.map(|_| ());
                    Done::Prepared { version: bundle.version, result }
                });
            }
            Effect::Launch => {
                let (keep, given_up) = oneshot::channel::<()>();
                self.launching = Some(keep);
                let boot_id = self.state.boot_id.clone().unwrap_or_default();
                // A wake does not wait for the disk: adoption finds the machine by its names.
                let awaited = self.state.phase != (Phase::Starting { cause: Cause::Wake });
                self.effects.spawn(async move {
                    if awaited && let Err(error) = recorded.await {
                        return Done::Launched(Err(LaunchError::Record(error)));
                    }
                    let cancelled = async {
                        // Resolves when the sender is dropped.
                        given_up.await.ok();
                    };
                    Done::Launched(effects::launch(&context, &sealed, slot, boot_id, cancelled).await)
                });
            }
            Effect::AskToEnd => self.ask_to_end(),
            Effect::Kill => {
                // Tried again until the exit is seen.
                self.kill_at = Some(Instant::now() + Duration::from_secs(1));
                self.tell("kill", |running| async move { running.kill().await });
            }
            Effect::Pause => self.with_running(Done::Paused, |running| async move { running.pause().await }),
            Effect::Resume => self.with_running(Done::Resumed, |running| async move { running.resume().await }),
            Effect::Clear => {
                self.effects.spawn(async move {
                    effects::clear(&context, &sealed.bundle, slot).await;
                    Done::Cleared
                });
            }
            Effect::ArmBackOff { ms } => self.back_off_until = Some(Instant::now() + Duration::from_millis(ms)),
            Effect::Remove => {
                self.effects.spawn(async move {
                    // Until the intent is on disk nothing may be removed.
                    if let Err(error) = recorded.await {
                        tracing::error!(machine = %sealed.bundle.machine, error = with_causes(&error), "removing unrecorded");
                    }
                    effects::remove(&context, &sealed.bundle, slot).await;
                    Done::Removed
                });
            }
        }
    }

    fn ask_to_end(&mut self) {
        let config = &self.sealed.bundle.config;
        let configured = config.stop_config.clone().unwrap_or_default();
        let name = self.stop.signal.clone().or(configured.signal).filter(|name| !name.is_empty());
        let signal = name.as_deref().and_then(crate::calls::signal_number).unwrap_or(crate::calls::SIGINT);
        let timeout = self
            .stop
            .timeout
            .filter(|timeout| !timeout.is_zero())
            .or(configured.timeout.map(|timeout| timeout.0).filter(|timeout| !timeout.is_zero()))
            .unwrap_or(atoll_model::config::DEFAULT_STOP_TIMEOUT.0)
            .min(atoll_model::config::MAX_STOP_TIMEOUT.0);
        self.kill_at = Some(Instant::now() + timeout);
        self.tell("signal", move |running| async move { running.signal(signal).await });
    }

    fn tell<F>(&mut self, what: &'static str, act: impl FnOnce(Arc<dyn Running>) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), DriverError>> + Send,
    {
        self.with_running(move |result| Done::Told(what, result), act);
    }

    fn with_running<F>(
        &mut self,
        done: impl FnOnce(Result<(), DriverError>) -> Done + Send + 'static,
        act: impl FnOnce(Arc<dyn Running>) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), DriverError>> + Send,
    {
        let machine = self.id;
        let running = self.running.clone();
        self.effects.spawn(async move {
            done(match running {
                Some(running) => act(running).await,
                None => Err(DriverError::NotRunning { machine }),
            })
        });
    }

    pub(super) fn intent(&self, effect: Effect) -> Option<Intent> {
        let kind = match effect {
            Effect::Prepare => "prepare",
            Effect::Launch => "launch",
            Effect::Clear => "clear",
            Effect::Remove => "remove",
            Effect::Pause => "pause",
            Effect::Resume => "resume",
            Effect::AskToEnd | Effect::Kill | Effect::ArmBackOff { .. } => return None,
        };
        let names = serde_json::json!({
            "folder": self.context.machine_dir(self.id),
            "cgroup": self.context.cgroup(self.id),
            "slot": self.state.slot,
            "boot_id": self.state.boot_id,
            "image": self.sealed.bundle.image.digest,
        });
        Some(Intent { kind, names })
    }
}

/// The intent that an input closes.
pub(super) fn finished_by(input: Input) -> Option<&'static str> {
    match input {
        Input::Prepared | Input::PrepareFailed => Some("prepare"),
        Input::Launched | Input::LaunchFailed { .. } => Some("launch"),
        Input::Cleared => Some("clear"),
        Input::RemoveDone => Some("remove"),
        Input::Paused | Input::PauseFailed => Some("pause"),
        Input::Resumed | Input::ResumeFailed => Some("resume"),
        _ => None,
    }
}
