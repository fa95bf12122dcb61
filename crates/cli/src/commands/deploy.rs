//! `atoll deploy`: hands the fly.toml to the server, which runs the deploy, and shows its progress.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use atoll_client::{Client, ClientError, Kind};
use atoll_manifest::files::check_sizes;
use atoll_manifest::{Manifest, Options};
use atoll_model::RegionCode;
use atoll_model::wire::{DeployEvent, DeployEventKind, DeployRequest};

use crate::outcome::{CliResult, Outcome};
use crate::printer::now_ms;
use crate::target::AppTarget;
use crate::{CliError, Printer};

#[derive(Args, Debug)]
pub struct DeployCommand {
    #[command(flatten)]
    pub target: AppTarget,
    /// An image instead of [build] image: a reference, an OCI layout folder, an OCI or docker archive
    #[arg(short, long)]
    pub image: Option<String>,
    /// Run in these regions, now and in later deploys (may be repeated)
    #[arg(short, long = "region", value_name = "CODE")]
    pub regions: Vec<RegionCode>,
    /// rolling: new machines replace old ones; immediate: all machines at once, in place
    #[arg(long)]
    pub strategy: Option<String>,
    /// Do not wait: print the release and end
    #[arg(long)]
    pub detach: bool,
    /// Follow a release that was deployed before
    #[arg(long, value_name = "RELEASE", conflicts_with_all = ["image", "regions", "strategy", "detach", "skip_unreachable"])]
    pub watch: Option<u64>,
    /// Refuse unknown keys in fly.toml instead of warning
    #[arg(long)]
    pub strict: bool,
    /// Go on although fly.toml asks for something that is not honoured yet
    #[arg(long)]
    pub allow_unsupported: bool,
    /// Go on without servers that do not answer: the app's machines there go when they are back
    #[arg(long)]
    pub skip_unreachable: bool,
}

pub async fn run(command: DeployCommand, client: &Client, printer: &Printer) -> CliResult {
    let app = command.target.name()?;
    if let Some(release) = command.watch {
        return follow(client, printer, &app, release).await;
    }
    let file = command.target.file();
    let manifest = std::fs::read_to_string(&file).map_err(CliError::io(format!("read {}", file.display())))?;
    let image = match command.image {
        Some(image) if Path::new(&image).exists() => {
            Some(super::image::import(client, printer, Path::new(&image), &upload_name(&app)).await?)
        }
        // No reference begins like this: a path was meant.
        Some(image) if image.starts_with(['/', '.']) => {
            return Err(CliError::usage(format!("there is no image at {image}")));
        }
        other => other,
    };
    let options = Options { strict: command.strict, allow_unsupported: command.allow_unsupported };
    let local_files = local_files(&manifest, &file, &options)?;
    let request = DeployRequest {
        manifest,
        manifest_name: file.display().to_string(),
        image,
        regions: command.regions,
        strategy: command.strategy,
        strict: command.strict,
        allow_unsupported: command.allow_unsupported,
        skip_unreachable: command.skip_unreachable,
        local_files,
    };
    let accepted = client.deploy(&app, &request).await.map_err(|error| advise(error, &app))?;
    for warning in &accepted.warnings {
        printer.warn(warning);
    }
    if command.detach {
        printer.data(&accepted, |printer| {
            printer.line(&format!("release {} of {app} is being deployed", accepted.release));
            printer.note(&format!("follow it with {}", reattach(&app, accepted.release)));
        });
        return Ok(Outcome::Done);
    }
    let outcome = follow(client, printer, &app, accepted.release).await?;
    if outcome == Outcome::Done && !printer.json {
        // Only a kindness: the deploy is done whatever the answer.
        if let Ok(status) = client.app_status(&app).await {
            printer.note(&format!("look at it with `atoll status -a {app}`; it is served as {}", status.hostname));
        }
    }
    Ok(outcome)
}

/// Reads the files that `[[files]] local_path` names, relative to the folder of fly.toml.
fn local_files(manifest: &str, file: &Path, options: &Options) -> Result<BTreeMap<String, String>, CliError> {
    // What is wrong with the file the server says, for every way to deploy alike.
    let Ok(parsed) = Manifest::parse_with(manifest.as_bytes(), &file.display().to_string(), options) else {
        return Ok(BTreeMap::new());
    };
    let folder = file.parent().unwrap_or(Path::new("."));
    let wrong = |message: String| CliError::Usage { message, hint: None };
    let mut sizes = Vec::new();
    let mut contents = BTreeMap::new();
    for local_path in parsed.manifest.local_paths() {
        let path = folder.join(local_path);
        let failed = || CliError::io(format!("read {} for [[files]] local_path", path.display()));
        let metadata = std::fs::metadata(&path).map_err(failed())?;
        if !metadata.is_file() {
            return Err(wrong(format!("[[files]] local_path: {} is no file", path.display())));
        }
        // Before it is read: it may be of any size.
        sizes.push((local_path, metadata.len()));
        check_sizes(sizes.iter().copied()).map_err(|error| wrong(format!("[[files]] local_path: {error}")))?;
        contents.insert(local_path.to_owned(), BASE64_STANDARD.encode(std::fs::read(&path).map_err(failed())?));
    }
    Ok(contents)
}

fn reattach(app: &str, release: u64) -> String {
    format!("`atoll deploy -a {app} --watch {release}`")
}

/// What a newcomer has most often forgotten.
fn advise(error: ClientError, app: &str) -> CliError {
    match error.kind() {
        Kind::NotFound if error.to_string().contains("App") => {
            CliError::Advised { answer: error, hint: format!("create it with `atoll apps create {app}`") }
        }
        _ => error.into(),
    }
}

/// What shells make of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Each upload has a name of its own, so that deploys never change each other's image.
fn upload_name(app: &str) -> String {
    format!("{app}/deploy:{}", now_ms())
}

/// Shows a release's progress until it ends; survives broken connections. Interrupting ends the
/// showing alone: the server finishes.
pub async fn follow(client: &Client, printer: &Printer, app: &str, release: u64) -> CliResult {
    printer.note(&format!("release {release} of {app}"));
    tokio::select! {
        outcome = show(client, printer, app, release) => outcome,
        Ok(()) = tokio::signal::ctrl_c() => {
            printer.note(&format!("the deploy goes on without you; follow it with {}", reattach(app, release)));
            Ok(Outcome::Exit(INTERRUPTED))
        }
    }
}

async fn show(client: &Client, printer: &Printer, app: &str, release: u64) -> CliResult {
    let mut view = View::new(printer);
    let mut after = 0;
    let mut failures = 0;
    loop {
        match watch_once(client, app, release, &mut after, &mut view).await {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => failures = 0,
            Err(error @ ClientError::Answer { .. }) if error.kind() != Kind::Unavailable => return Err(error.into()),
            Err(error) if failures >= 20 => return Err(error.into()),
            Err(_) => failures += 1,
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn watch_once(
    client: &Client,
    app: &str,
    release: u64,
    after: &mut u64,
    view: &mut View<'_>,
) -> Result<Option<Outcome>, ClientError> {
    let mut events = client.release_events(app, release, *after).await?;
    while let Some(event) = events.next().await? {
        *after = event.index + 1;
        view.show(&event);
        if event.kind.is_last() {
            view.finish();
            let well = event.kind == DeployEventKind::Complete;
            return Ok(Some(if well { Outcome::Done } else { Outcome::Failed }));
        }
    }
    Ok(None)
}

/// A live line a machine for people, plain lines for everybody else.
struct View<'a> {
    printer: &'a Printer,
    bars: Option<MultiProgress>,
    machines: Vec<(String, ProgressBar)>,
}

impl<'a> View<'a> {
    fn new(printer: &'a Printer) -> Self {
        let bars = printer.is_interactive().then(MultiProgress::new);
        Self { printer, bars, machines: Vec::new() }
    }

    fn show(&mut self, event: &DeployEvent) {
        if self.printer.json {
            if let Ok(text) = serde_json::to_string(event) {
                self.printer.line(&text);
            }
            return;
        }
        let subject = match (&event.machine, &event.region) {
            (Some(machine), Some(region)) => format!("{region} {machine}"),
            (Some(machine), None) => machine.to_string(),
            _ => String::new(),
        };
        let mark = match event.kind {
            DeployEventKind::Progress => "…",
            DeployEventKind::Done | DeployEventKind::Complete => "✓",
            DeployEventKind::Failed | DeployEventKind::RolledBack => "✗",
            DeployEventKind::Log => "|",
        };
        let lasting = matches!(
            event.kind,
            DeployEventKind::Log | DeployEventKind::Failed | DeployEventKind::RolledBack | DeployEventKind::Complete
        );
        match &self.bars {
            Some(bars) if !subject.is_empty() && !lasting => {
                let bar = match self.machines.iter().find(|(known, _)| *known == subject) {
                    Some((_, bar)) => bar.clone(),
                    None => {
                        let bar = bars.add(ProgressBar::new_spinner());
                        if let Ok(style) = ProgressStyle::with_template("{prefix:.bold} {msg}") {
                            bar.set_style(style);
                        }
                        self.machines.push((subject.clone(), bar.clone()));
                        bar
                    }
                };
                bar.set_prefix(format!("{mark} {subject}"));
                bar.set_message(event.text.clone());
                if event.kind == DeployEventKind::Progress {
                    bar.enable_steady_tick(Duration::from_millis(120))
                } else {
                    bar.disable_steady_tick()
                }
                bar.tick();
            }
            Some(bars) => bars
                .suspend(|| eprintln!("{mark} {subject}{}{}", if subject.is_empty() { "" } else { "  " }, event.text)),
            None => eprintln!("{mark} {subject}{}{}", if subject.is_empty() { "" } else { "  " }, event.text),
        }
    }

    fn finish(&mut self) {
        for (_, bar) in &self.machines {
            bar.finish();
        }
    }
}
