//! The disk of a server is full: what needs it is refused and says why, what runs goes on, and nothing
//! half made is left when there is room again.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use http::Method;
use serde_json::json;

use atoll_client::ClientError;
use atoll_model::MachineState;
use atoll_trial::load::{RunningLoad, Tally};
use atoll_trial::platform::{MachineSpec, Node, ONE_REGION, SOON, Said, example_of};
use atoll_trial::programs::example_image;
use atoll_trial::wait::until;

use crate::support::trial_prepared;

/// Room for a few images.
const DISK: &str = "size=128m";
/// Folders of a server's state, each with a small disk of its own.
const CONTROLS: &str = "control";
const WORKERS: &str = "worker";

async fn small_disks(node: &Node) -> anyhow::Result<()> {
    for folder in [CONTROLS, WORKERS] {
        let folder = node.state()?.join(folder).display().to_string();
        succeeded(node, &["mkdir", "-p", &folder]).await?;
        succeeded(node, &["mount", "-t", "tmpfs", "-o", DISK, "small-disk", &folder]).await?;
    }
    Ok(())
}

async fn succeeded(node: &Node, words: &[&str]) -> anyhow::Result<()> {
    let (program, arguments) = words.split_first().context("no program")?;
    let output = node.run(program, arguments).await?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Fills a disk to the last byte.
async fn fill(node: &Node, folder: &str) -> anyhow::Result<()> {
    let file = format!("of={}", filler(node, folder)?.display());
    // It ends with the error that is wanted here.
    let output = node.run("dd", &["if=/dev/zero", &file, "bs=64k"]).await?;
    ensure!(!output.status.success(), "the disk is not full");
    Ok(())
}

fn make_room(node: &Node, folder: &str) -> anyhow::Result<()> {
    Ok(std::fs::remove_file(node.seen_from_outside(&filler(node, folder)?)?)?)
}

fn filler(node: &Node, folder: &str) -> anyhow::Result<PathBuf> {
    Ok(node.state()?.join(folder).join("filler"))
}

/// Whether this says that there is no room, and where.
fn names_the_disk(what: &str, said: &str) -> anyhow::Result<()> {
    println!("{what}: {said}");
    let told = ["disk is full", "no space left"].iter().any(|words| said.to_lowercase().contains(words));
    ensure!(told, "{what} says {said:?}");
    Ok(())
}

fn refusal<T: std::fmt::Debug>(what: &str, wanted: u16, answer: Result<T, ClientError>) -> anyhow::Result<String> {
    match answer {
        Err(ClientError::Answer { status, message }) if status == wanted => Ok(message),
        other => anyhow::bail!("{what} on a full disk: {other:?}"),
    }
}

#[test]
fn a_full_disk_refuses_what_is_new_and_harms_nothing_that_runs() {
    trial_prepared("full_disk", ONE_REGION, small_disks, async |platform| {
        let site = platform.create_app("hello").await?;
        let spec = MachineSpec { region: "ams", ..MachineSpec::default() };
        let running = platform.create_machine("hello", &spec).await?;
        let before = platform.served("berlin", &site).await?;
        let load = RunningLoad::start(&platform.host("berlin")?, &site, 30)?;
        load.more(30).await?;

        let node = platform.node("ams")?;
        let client = platform.client();
        let machine = json!({"region": "ams", "config": {"image": example_of("hello")}});
        let create = || client.raw(Method::POST, "/v1/apps/hello/machines", Some(&machine));

        fill(node, CONTROLS).await?;
        let said = refusal("a new app", 507, client.app_create("other", "personal").await)?;
        names_the_disk("a new app", &said)?;
        let said = refusal("a new machine", 507, create().await)?;
        names_the_disk("a new machine", &said)?;
        let layout = example_image("hello")?;
        let said: Said = platform.atoll(&layout, &["image", "import", ".", "hello/again:latest"]).await?;
        ensure!(said.code == Some(1), "an image on a full disk: {said:?}");
        names_the_disk("a new image", &said.stderr)?;
        load.more(30).await?;
        make_room(node, CONTROLS)?;

        fill(node, WORKERS).await?;
        let said = refusal("a new machine", 422, create().await)?;
        names_the_disk("a new machine", &said)?;
        load.more(30).await?;
        make_room(node, WORKERS)?;

        let (second, _) =
            until("machines can be made again", SOON, async || platform.create_machine("hello", &spec).await).await?;
        platform.in_state("hello", &second, MachineState::Started).await?;
        platform.served_as("berlin", &site, |seen| seen.who.machine == second).await?;
        let machines = client.machines("hello").await?;
        ensure!(machines.len() == 2, "machines half made are left: {machines:?}");
        let apps = client.app_list("personal").await?;
        ensure!(!apps.to_string().contains("other"), "an app half made is left: {apps}");
        let images = client.images().await?;
        ensure!(images.iter().all(|image| !image.name.contains("again")), "an image half made is left: {images:?}");

        let shots = load.stop().await?;
        Tally::of(&shots).all_well()?;
        let after = platform.served_as("berlin", &site, |seen| seen.who.machine == running).await?;
        ensure!(after.who.boot_id == before.who.boot_id, "the machine was started anew: {after:?}");
        Ok(())
    });
}
