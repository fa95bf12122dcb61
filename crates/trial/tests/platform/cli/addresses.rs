//! `atoll ips`: the operator's pools, the addresses that apps get of them and give back, and those that
//! machines leave under.

use anyhow::{Context, ensure};

use atoll_trial::platform::ONE_REGION;

use super::{User, egress};
use crate::support::trial_with;

#[test]
fn apps_get_addresses_of_the_operators_pools() {
    trial_with("addresses", ONE_REGION, &egress::ARGUMENTS, async |platform| {
        let user = &User::of(platform)?;
        for app in ["site", "shop"] {
            user.ok(&["apps", "create", app]).await?;
        }
        let none = user.fails(1, &["ips", "allocate-v4", "-a", "site"]).await?;
        ensure!(none.contains("no pool of this platform has IPv4"), "{none}");
        pools(user).await.context("pools")?;
        dedicated(user).await.context("dedicated")?;
        shared_and_private(user).await.context("shared and private")?;

        let in_use = user.fails(1, &["ips", "pool", "remove", "198.51.100.0/30"]).await?;
        ensure!(in_use.contains("is in use"), "{in_use}");
        user.ok(&["apps", "destroy", "shop", "--yes"]).await?;
        let pools = user.json(&["ips", "pool", "list"]).await?;
        ensure!(pools[0]["used"] == 0 && pools[0]["resting"] == 2, "what an app had rests after it: {pools}");
        let removed = user.json(&["ips", "pool", "remove", "198.51.100.0/30"]).await?;
        ensure!(removed["removed"] == "198.51.100.0/30", "{removed}");
        user.fails(4, &["ips", "pool", "remove", "198.51.100.0/30"]).await?;
        audited(user).await.context("audited")?;
        egress::machines_leave(user).await.context("egress")
    });
}

/// What was done above is on record: by whom, on what, with which end, as a diff.
async fn audited(user: &User<'_>) -> anyhow::Result<()> {
    let made = user.json(&["token", "create", "looker", "--role", "read-only"]).await?;
    let looker = made["token"].as_str().context("the token is not shown")?;
    let folder = user.folder();
    let refused = user.platform.atoll_as(looker, folder, &["ips", "allocate-v4", "-a", "site"]).await?;
    ensure!(refused.code == Some(3), "{refused:?}");
    let hidden = user.platform.atoll_as(looker, folder, &["control", "audit"]).await?;
    ensure!(hidden.code == Some(3) && hidden.stdout.is_empty(), "{hidden:?}");

    let of_site = user.json(&["control", "audit", "-a", "site", "--since", "1h"]).await?;
    let of_site = of_site.as_array().context("no list")?;
    let (latest, first) = of_site.first().zip(of_site.last()).context("nothing is on record")?;
    ensure!(latest["actor"]["name"] == "looker" && latest["actor"]["role"] == "read-only", "{latest}");
    ensure!(latest["actor"]["token"] == made["id"], "{latest}");
    ensure!(latest["outcome"] == "refused" && latest["error"] == "forbidden", "{latest}");
    ensure!(first["operation"] == "Apps_create" && first["outcome"] == "done", "{first}");
    ensure!(first["actor"]["name"] == "root" && first["org"] == "personal", "{first}");

    let shown = user.ok(&["control", "audit", "-a", "site", "--limit", "1000"]).await?;
    let mut after = shown.lines().skip_while(|line| !line.contains("app=site ip=198.51.100.1"));
    // The newest first: a release that came too late, the release, the allocation.
    for (what, end, diff) in [
        ("App_IPAssignments_delete", "refused: not_found", &[][..]),
        ("App_IPAssignments_delete", "done", &["- address: 198.51.100.1", "- kind: dedicated", "- local: true"]),
        ("App_IPAssignments_create", "done", &["+ address: 198.51.100.1", "+ kind: dedicated", "+ local: true"]),
    ] {
        let row = after.by_ref().find(|line| line.contains("ip=198.51.100.1")).context("a row is missing")?;
        ensure!(row.contains(what) && row.contains("root") && row.ends_with(end), "{what} {end}: {row}");
        for line in diff {
            ensure!(after.next().map(str::trim) == Some(line), "{line} does not follow {row} in {shown}");
        }
    }
    let pools = user.json(&["control", "audit", "--actor", "root", "--limit", "2"]).await?;
    ensure!(pools[1]["operation"] == "address_pool_remove" && pools[1]["error"] == "not_found", "{pools}");
    ensure!(pools[1]["target"] == "pool=198.51.100.0/30", "{pools}");
    let secrets = user.json(&["control", "audit", "--limit", "1000"]).await?;
    ensure!(!secrets.to_string().contains(looker), "a token is on record");
    user.fails(2, &["control", "audit", "--since", "soon"]).await.map(drop)
}

async fn pools(user: &User<'_>) -> anyhow::Result<()> {
    for (add, said) in [
        (&["10.7.0.0/16"][..], "private"),
        (&["198.51.100.7/30"], "198.51.100.4/30 is meant?"),
        (&["anything"], "no prefix"),
        (&["198.51.100.0/30", "--local", "--shared"], "cannot be used with"),
    ] {
        let refused = user.fails(2, &[&["ips", "pool", "add"], add].concat()).await?;
        ensure!(refused.contains(said), "{add:?}: {refused}");
    }
    user.ok(&["ips", "pool", "add", "198.51.100.0/30", "--local"]).await?;
    user.ok(&["ips", "pool", "add", "203.0.113.0/24", "--shared"]).await?;
    let added = user.json(&["ips", "pool", "add", "2001:db8:7::/64"]).await?;
    ensure!(added["prefix"] == "2001:db8:7::/64" && added["used"] == 0, "{added}");
    let overlap = user.fails(1, &["ips", "pool", "add", "198.51.100.0/24"]).await?;
    ensure!(overlap.contains("198.51.100.0/30 overlap"), "{overlap}");
    let shown = user.ok(&["ips", "pool", "list"]).await?;
    ensure!(shown.lines().count() == 4 && shown.contains("HOST ROUTES"), "{shown}");
    Ok(())
}

async fn dedicated(user: &User<'_>) -> anyhow::Result<()> {
    ensure!(user.ok(&["ips", "allocate-v4", "--local", "-a", "site"]).await? == "198.51.100.1\n");
    ensure!(user.ok(&["ips", "allocate-v4", "-a", "shop"]).await? == "198.51.100.2\n");
    ensure!(user.ok(&["ips", "allocate-v6", "-a", "site"]).await? == "2001:db8:7::1\n");
    let full = user.fails(1, &["ips", "allocate-v4", "-a", "shop"]).await?;
    ensure!(full.contains("in use, or rests"), "{full}");

    let released = user.json(&["ips", "release", "198.51.100.1", "-a", "site"]).await?;
    ensure!(released["released"][0] == "198.51.100.1", "{released}");
    let gone = user.fails(4, &["ips", "release", "198.51.100.1", "-a", "site"]).await?;
    ensure!(gone.contains("app site has no address 198.51.100.1"), "{gone}");
    user.fails(4, &["ips", "release", "198.51.100.2", "-a", "site"]).await?;
    user.fails(2, &["ips", "release", "anything", "-a", "site"]).await?;
    user.fails(1, &["ips", "allocate-v4", "-a", "shop"]).await.context("it rests")?;
    Ok(())
}

async fn shared_and_private(user: &User<'_>) -> anyhow::Result<()> {
    for app in ["site", "shop", "shop"] {
        let given = user.ok(&["ips", "allocate-v4", "--shared", "-a", app]).await?;
        ensure!(given == "203.0.113.1\n", "{app}: {given}");
        let private = user.json(&["ips", "private", "-a", app]).await?;
        let address = private["ip"].as_str().context("no address")?;
        let number = if app == "site" { ":0:1::1" } else { ":0:1::2" };
        ensure!(address.starts_with("fdaa:") && address.ends_with(number), "{private}");
        ensure!(private["network"]["org_slug"] == "personal", "{private}");
    }
    let unknown = user.fails(4, &["ips", "private", "--network", "nowhere", "-a", "site"]).await?;
    ensure!(unknown.contains("no network \"nowhere\""), "{unknown}");
    user.fails(4, &["ips", "list", "-a", "nobody"]).await?;

    let listed = user.json(&["ips", "list", "-a", "shop"]).await?;
    let shared: Vec<_> = listed["ips"].as_array().into_iter().flatten().map(|ip| &ip["shared"]).collect();
    ensure!(shared == [false, true, false], "{listed}");
    let shown = user.ok(&["ips", "list", "-a", "shop"]).await?;
    ensure!(shown.lines().count() == 4, "{shown}");
    for kind in ["dedicated", "shared", "private"] {
        ensure!(shown.contains(kind), "{shown}");
    }
    Ok(())
}
