//! Looking at machines and steering them, and what surrounds that: scale, secrets, releases, logs,
//! images, tokens.

use std::process::Stdio;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};

use atoll_trial::platform::{APP_DOMAIN, ONE_REGION, Platform, Release, SOON, said};
use atoll_trial::programs;
use atoll_trial::visit::{Ask, ask};
use atoll_trial::wait::until;

use super::{User, deploy_site};
use crate::support::trial;

#[test]
fn machines_are_looked_at_and_steered() {
    trial("steering", ONE_REGION, async |platform| {
        let user = User::of(platform)?;
        std::fs::write(user.folder().join("fly.toml"), "app = \"site\"\n[build]\nimage = \"site/web:latest\"\n")?;
        let unknown = user.fails(4, &["deploy"]).await?;
        ensure!(unknown.contains("hint: create it with `atoll apps create site`"), "{unknown}");

        let id = deploy_site(platform, &["PAGE=first-value"]).await?;
        machines(&user, &id).await.context("machines")?;
        secrets(&user, &id).await.context("secrets")?;
        logs(&user, &id).await.context("logs")?;
        images_and_tokens(&user).await.context("images and tokens")?;
        scale(&user).await.context("scale")?;

        user.json(&["apps", "destroy", "site", "--yes"]).await?;
        user.fails(4, &["status"]).await?;
        Ok(())
    });
}

async fn machines(user: &User<'_>, id: &str) -> anyhow::Result<()> {
    let list = user.json(&["machine", "list"]).await?;
    ensure!(list[0]["id"] == *id && list[0]["state"] == "started", "{list}");
    ensure!(user.ok(&["status"]).await?.contains(id), "status does not show {id}");
    ensure!(user.json(&["status"]).await?["machines"][0]["id"] == *id, "status");

    let exec =
        |command: &'static [&'static str]| [&["machine", "exec", id, "--timeout", "1", "--"][..], command].concat();
    ensure!(user.ok(&exec(&["/bin/sh", "-c", "echo $PAGE"])).await? == "first-value\n", "the secret is not there");
    let said = user.types(&exec(&["/bin/sh", "-c", "echo no >&2; exit 3"])).await?;
    ensure!(said.code == Some(3) && said.stderr == "no\n", "{said:?}");
    let missing = user.fails(2, &exec(&["no-such-program"])).await?;
    ensure!(missing.contains("\"no-such-program\" is in no folder of PATH"), "{missing}");
    user.fails(5, &exec(&["/bin/busybox", "sleep", "30"])).await?;

    for (verb, state) in [("stop", "stopped"), ("start", "started"), ("restart", "started")] {
        let result = user.json(&["machine", verb, id]).await?;
        ensure!(result[0]["ok"] == true && result[0]["result"] == state, "{verb}: {result}");
        let shown = user.json(&["machine", "status", id]).await?;
        ensure!(shown["state"] == state, "after {verb}: {shown}");
    }
    user.ok(&["machine", "cordon", id]).await?;
    ensure!(user.ok(&["machine", "list"]).await?.contains("started (cordoned)"), "the cordon does not show");
    user.ok(&["machine", "uncordon", id]).await?;

    let both = user.types(&["machine", "stop", "00000000000001", id, "--json"]).await?;
    ensure!(both.code == Some(4) && both.stdout.contains("\"ok\": true"), "{both:?}");
    let refused = user.types(&["machine", "exec", id, "--", "x"]).await?;
    ensure!(refused.code == Some(1), "{refused:?}");
    user.ok(&["machine", "start", id]).await.map(drop)
}

async fn secrets(user: &User<'_>, id: &str) -> anyhow::Result<()> {
    let set = user.types(&["secrets", "set", "PAGE=second-value"]).await?;
    let listed = user.types(&["secrets", "list"]).await?;
    let json = user.types(&["secrets", "list", "--json"]).await?;
    for said in [&set, &listed, &json] {
        ensure!(said.code == Some(0), "{said:?}");
        ensure!(!format!("{said:?}").contains("-value"), "a value is shown: {said:?}");
    }
    ensure!(listed.stdout.contains("PAGE"), "{listed:?}");
    user.fails(4, &["secrets", "unset", "NO_SUCH"]).await?;
    user.fails(2, &["secrets", "set", "1=x"]).await?;

    let shipped = std::fs::read_to_string(programs::checkout().join("examples/nginx/fly.toml"))?;
    std::fs::write(user.folder().join("fly.toml"), shipped)?;
    user.ok(&["deploy"]).await?;
    let new = user.json(&["machine", "list"]).await?[0]["id"].as_str().context("no machine")?.to_owned();
    ensure!(new != id, "a deploy replaces machines");
    let page = ["machine", "exec", &new, "--", "/bin/sh", "-c", "echo $PAGE"];
    ensure!(user.ok(&page).await? == "second-value\n", "the new value is not there");
    user.json(&["secrets", "unset", "PAGE"]).await?;

    let releases = user.json(&["releases"]).await?;
    ensure!(releases.as_array().is_some_and(|list| list.len() == 2), "{releases}");
    ensure!(user.ok(&["releases"]).await?.contains("v2"), "the second release is not listed");
    ensure!(user.json(&["regions"]).await?["regions"][0]["code"] == "ams", "regions");
    Ok(())
}

async fn logs(user: &User<'_>, old: &str) -> anyhow::Result<()> {
    let gone = user.fails(4, &["logs", "--machine", "00000000000001"]).await?;
    ensure!(gone.contains("no machine") && old != "00000000000001", "{gone}");
    let mut command = user.platform.atoll_command(programs::atoll()?, user.folder());
    command.args(["logs", "-f", "-n", "0", "--json"]).stdout(Stdio::piped());
    let mut following = command.spawn()?;
    let mut lines = BufReader::new(following.stdout.take().context("no output")?).lines();
    let berlin = user.platform.host("berlin")?;
    let site = format!("site.{APP_DOMAIN}");
    let asking = until("never", SOON, async || -> anyhow::Result<()> {
        ask(&berlin, &Ask::get(&site, "/followed")).await?;
        anyhow::bail!("asked again and again, as following begins at some moment")
    });
    let seen = async {
        while let Some(line) = lines.next_line().await? {
            let line: serde_json::Value = serde_json::from_str(&line)?;
            if line["message"].as_str().is_some_and(|message| message.contains("GET /followed")) {
                return anyhow::Ok(());
            }
        }
        anyhow::bail!("the following ended")
    };
    tokio::select! {
        seen = seen => seen?,
        never = asking => never.map(drop)?,
    }
    Ok(())
}

async fn images_and_tokens(user: &User<'_>) -> anyhow::Result<()> {
    let images = user.json(&["image", "list"]).await?;
    ensure!(images[0]["name"] == "site/web:latest", "{images}");
    let image = user.json(&["image", "inspect", "site/web:latest"]).await?;
    ensure!(image["entrypoint"][0] == "nginx", "{image}");
    user.fails(4, &["image", "inspect", "site/no-such"]).await?;
    user.fails(2, &["image", "import", ".", "site/web"]).await?;

    user.json(&["node", "list"]).await?;
    user.json(&["auth", "whoami"]).await?;
    let token = user.json(&["token", "create", "looker", "--role", "read-only"]).await?;
    let (text, id) = (token["token"].as_str().context("no token")?, token["id"].as_str().context("no id")?);
    let mut command = user.platform.atoll_command(programs::atoll()?, user.folder());
    let looked = said(command.args(["status"]).env("ATOLL_TOKEN", text)).await?;
    ensure!(looked.code == Some(0), "{looked:?}");
    let mut command = user.platform.atoll_command(programs::atoll()?, user.folder());
    let changed = said(command.args(["secrets", "set", "A=b"]).env("ATOLL_TOKEN", text)).await?;
    ensure!(changed.code == Some(3), "{changed:?}");
    ensure!(user.json(&["token", "list"]).await?.to_string().contains(id), "the token is not listed");
    user.json(&["token", "revoke", id]).await?;
    let mut command = user.platform.atoll_command(programs::atoll()?, user.folder());
    let revoked = said(command.args(["status"]).env("ATOLL_TOKEN", text)).await?;
    ensure!(revoked.code == Some(3) && revoked.stderr.contains("hint: "), "{revoked:?}");
    Ok(())
}

/// Both machines are on one node: each must be known to every edge whatever is written of the other.
async fn scale(user: &User<'_>) -> anyhow::Result<()> {
    let said = user.types(&["scale", "count", "3"]).await?;
    ensure!(said.code == Some(0), "{said:?}");
    let list = user.json(&["machine", "list"]).await?;
    ensure!(list.as_array().is_some_and(|list| list.len() == 3), "{list}");
    user.fails(2, &["scale", "count", "many"]).await?;
    let unknown = user.fails(2, &["scale", "count", "worker=1"]).await?;
    ensure!(unknown.contains("\"worker\""), "{unknown}");

    let first = list[0]["id"].as_str().context("no machine")?;
    user.fails(1, &["machine", "destroy", first]).await?;
    user.json(&["machine", "destroy", first, "--force"]).await?;
    user.ok(&["scale", "count", "1"]).await?;
    let left = user.json(&["machine", "list"]).await?;
    ensure!(left.as_array().is_some_and(|list| list.len() == 1), "{left}");

    user.json(&["image", "rm", "site/web:latest"]).await?;
    user.fails(4, &["image", "rm", "site/web:latest"]).await?;
    user.json(&["image", "gc"]).await.map(drop)
}

/// A release that takes its time.
async fn slow_folder(platform: &Platform, user: &User<'_>, name: &str) -> anyhow::Result<()> {
    let release = Release { name, env: &[("HELLO_START_DELAY_MS", "1500")], ..Release::default() };
    std::fs::write(user.folder().join("fly.toml"), release.manifest("hello"))?;
    platform.import_example("hello", "hello/web:latest").await
}

#[test]
fn the_server_finishes_what_nobody_watches() {
    trial("detached", ONE_REGION, async |platform| {
        let user = User::of(platform)?;
        user.ok(&["apps", "create", "hello"]).await?;
        slow_folder(platform, &user, "one").await?;
        let deploy = ["deploy", "--image", "hello/web:latest", "-r", "ams"];
        let accepted = user.json(&[&deploy[..], &["--detach"]].concat()).await?;
        ensure!(accepted["release"] == 1, "{accepted}");
        let watched = user.types(&["deploy", "--watch", "1"]).await?;
        ensure!(watched.code == Some(0) && watched.stderr.contains("release 1 is in place"), "{watched:?}");
        user.fails(4, &["deploy", "--watch", "9"]).await?;

        slow_folder(platform, &user, "two").await?;
        let mut command = user.platform.atoll_command(programs::atoll()?, user.folder());
        let mut deploying = command.args(deploy).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(deploying.stderr.take().context("no output")?).lines();
        while !lines.next_line().await?.context("it ended")?.contains("waiting") {}
        let pid = deploying.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("it ended")?;
        kill_process(pid, Signal::INT)?;
        let mut last = String::new();
        while let Some(line) = lines.next_line().await? {
            last = line;
        }
        let status = deploying.wait().await?;
        ensure!(status.code() == Some(130) && last.contains("--watch 2"), "{status}: {last}");
        until("the server has finished", SOON, async || {
            let releases = user.json(&["releases"]).await?;
            ensure!(releases[0]["version"] == 2 && releases[0]["status"] == "complete", "{releases}");
            Ok(())
        })
        .await?;
        let seen = platform.served_as("berlin", &format!("hello.{APP_DOMAIN}"), |seen| seen.who.release == "two").await;
        seen.map(drop)
    });
}
