//! The API's descriptions of itself against a server: what they name is served, to nobody without a
//! token, and what is answered is as described. Every operation is called, but for those named here.

mod api;

use anyhow::ensure;
use http::Method;
use serde_json::{Value, json};

use atoll_trial::platform::{MachineSpec, ONE_REGION, Release, SOON, example_of};
use atoll_trial::wait::until;

use crate::support::trial_with;
use api::Api;

/// Operations that are tried elsewhere.
const NOT_CALLED: [&str; 3] = [
    // A WebSocket: `platform/cli/console.rs`.
    "GET /api/v1/apps/{app_name}/machines/{machine_id}/console",
    // Takes an archive, not JSON; whatever imports an example does so.
    "POST /api/v1/images/import",
    // Would take the only server away: `platform/leaving.rs`.
    "POST /api/v1/nodes/{node}/{verb}",
];

#[test]
fn the_api_is_as_it_describes_itself() {
    let folder = tempfile::tempdir().unwrap();
    let zones = folder.path().join("zones.toml");
    std::fs::write(&zones, "servers = [{ name = \"ns1.example.org\" }]\n").unwrap();
    let arguments = ["--dns", "0.0.0.0:53", "--dns-zones", zones.to_str().unwrap()];
    trial_with("described", ONE_REGION, &arguments, async |platform| {
        let mut api = Api::read(platform.client().base(), platform.token()).await?;
        api.refuses_everything_without_a_token().await?;

        api.get("/v1/platform/regions", 200).await?;
        api.get("/v1/tokens/current", 200).await?;
        api.get("/api/v1/nodes", 200).await?;
        api.get("/api/v1/machines/unknown", 200).await?;
        api.send(Method::DELETE, "/api/v1/machines/unknown/00000000000001", json!({}), 404).await?;
        api.get("/api/v1/announcements", 200).await?;
        api.get("/api/v1/mesh", 200).await?;
        api.get("/api/v1/control/backup", 200).await?;
        api.get("/api/v1/audit?since=soon", 400).await?;
        api.get("/api/v1/control/authority", 200).await?;
        api.send(Method::POST, "/api/v1/control/authority/rotate", json!({}), 200).await?;
        api.send(Method::POST, "/api/v1/control/authority/rotate", json!({}), 409).await?;
        api.send(Method::POST, "/api/v1/nodes/tokens", json!({}), 200).await?;
        let made = api.send(Method::POST, "/api/v1/tokens", json!({"name": "ci", "role": "read-only"}), 200).await?;
        api.get("/api/v1/tokens", 200).await?;
        api.delete(&format!("/api/v1/tokens/{}", text(&made, "id")?)).await?;
        let login = json!({"user": "me", "password": "secret", "insecure": false});
        api.send(Method::PUT, "/api/v1/registries/registry.example", login, 204).await?;
        api.get("/api/v1/registries", 200).await?;
        api.delete("/api/v1/registries/registry.example").await?;

        api.send(Method::POST, "/v1/apps", json!({"name": "hello", "org_slug": "personal"}), 201).await?;
        api.send(Method::POST, "/v1/apps", json!({"name": "hello", "org_slug": "personal"}), 422).await?;
        api.get("/v1/apps/hello", 200).await?;
        api.get("/v1/apps/nobody", 404).await?;
        secrets(&mut api).await?;
        addresses(&mut api).await?;
        policies(&mut api).await?;
        devices(&mut api).await?;
        challenges(&mut api).await?;

        platform.import_example("hello", &example_of("hello")).await?;
        api.get("/api/v1/images", 200).await?;
        api.get(&format!("/api/v1/images/inspect?name={}", example_of("hello")), 200).await?;
        let id = platform.create_machine("hello", &MachineSpec { region: "ams", ..MachineSpec::default() }).await?;
        machine(&mut api, &id).await?;
        lists(&mut api, platform.client()).await?;

        let one = Release { name: "one", ..Release::default() };
        let wanted = json!({"manifest": one.manifest("hello"), "image": example_of("hello"), "regions": ["ams"]});
        let begun = api.send(Method::POST, "/api/v1/apps/hello/deploys", wanted, 202).await?;
        api.get(&format!("/api/v1/apps/hello/releases/{}/events", begun["release"]), 200).await?;
        api.get("/api/v1/apps/hello", 200).await?;
        api.get("/api/v1/apps/hello/releases", 200).await?;
        api.get("/api/v1/apps/hello/logs?tail=10", 200).await?;
        api.send(Method::PUT, "/api/v1/apps/hello/scale", json!({"counts": {"app": 1}}), 202).await?;

        api.delete(&format!("/api/v1/images?name={}", example_of("hello"))).await?;
        api.delete("/v1/apps/hello?force=true").await?;
        api.send(Method::POST, "/api/v1/images/gc", json!({}), 200).await?;

        audit(&mut api).await?;

        let mut left = api.never_called();
        left.retain(|operation| !NOT_CALLED.contains(&operation.as_str()));
        ensure!(left.is_empty(), "described, but never called here: {left:#?}");
        Ok(())
    });
}

async fn secrets(api: &mut Api) -> anyhow::Result<()> {
    let all = "/v1/apps/hello/secrets";
    api.send(Method::POST, all, json!({"values": {"ONE": "1", "TWO": "2"}}), 200).await?;
    api.send(Method::POST, &format!("{all}/THREE"), json!({"value": "3"}), 201).await?;
    api.get(all, 200).await?;
    api.get(&format!("{all}/THREE"), 200).await?;
    api.delete(&format!("{all}/THREE")).await?;
    Ok(())
}

async fn addresses(api: &mut Api) -> anyhow::Result<()> {
    let (pools, all) = ("/api/v1/addresses/pools", "/v1/apps/hello/ip_assignments");
    api.send(Method::POST, all, json!({"type": "v4"}), 412).await?;
    api.send(Method::POST, pools, json!({"prefix": "198.51.100.7/32", "local": true}), 200).await?;
    api.send(Method::POST, pools, json!({"prefix": "198.51.100.0/24"}), 409).await?;
    api.send(Method::POST, pools, json!({"prefix": "10.0.0.0/8"}), 400).await?;
    api.get(pools, 200).await?;
    // All texts are sent, as some clients do.
    let wanted = json!({"type": "v4", "region": "", "org_slug": "", "network": "", "service_name": ""});
    let given = api.send(Method::POST, all, wanted, 200).await?;
    ensure!(text(&given, "ip")? == "198.51.100.7", "{given}");
    api.send(Method::POST, all, json!({"type": "v4"}), 422).await?;
    api.send(Method::POST, all, json!({"type": "private_v6"}), 200).await?;
    api.get(all, 200).await?;
    api.delete(&format!("{all}/198.51.100.7")).await?;
    // No server has addresses to leave under.
    api.send(Method::POST, all, json!({"type": "egress_pair", "region": "ams"}), 412).await?;
    api.send(Method::POST, all, json!({"type": "egress_pair"}), 400).await?;
    api.send(Method::POST, all, json!({"type": "egress_v4", "region": "ams", "local": true}), 400).await?;
    api.delete(&format!("{pools}?prefix=198.51.100.7/32")).await.map(drop)
}

async fn policies(api: &mut Api) -> anyhow::Result<()> {
    let all = "/v1/apps/hello/network_policies";
    let rule = json!({"action": "allow", "direction": "ingress", "ports": [{"protocol": "tcp", "port": 8080}]});
    let mut policy = json!({"name": "web", "selector": {"all": true}, "rules": [rule]});
    let made = api.send(Method::POST, all, policy.clone(), 200).await?;
    // Another one of this name, then the same with another text.
    api.send(Method::POST, all, policy.clone(), 409).await?;
    policy["id"] = made["id"].clone();
    policy["rules"] = json!([]);
    api.send(Method::POST, all, policy, 200).await?;
    api.get(all, 200).await?;
    api.delete(&format!("{all}/{}", text(&made, "id")?)).await?;
    Ok(())
}

async fn devices(api: &mut Api) -> anyhow::Result<()> {
    let all = "/api/v1/orgs/personal/wireguard/peers";
    let wanted = json!({"name": "laptop", "public_key": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCUk="});
    until("the server is known as a gateway", SOON, async || {
        let gateways = api.get("/api/v1/wireguard/gateways", 200).await?;
        ensure!(gateways.as_array().is_some_and(|gateways| gateways.len() == 1), "{gateways}");
        Ok(())
    })
    .await?;
    let made = api.send(Method::POST, all, wanted.clone(), 200).await?;
    ensure!(api.send(Method::POST, all, wanted, 200).await? == made, "asked again");
    let other = json!({"name": "laptop", "public_key": "CAkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCUk="});
    api.send(Method::POST, all, other, 422).await?;
    api.send(Method::POST, all, json!({"name": "phone", "public_key": "none"}), 400).await?;
    api.get(all, 200).await?;
    let one = format!("{all}/laptop");
    api.get(&one, 200).await?;
    api.delete(&one).await?;
    api.get(&one, 404).await.map(drop)
}

async fn challenges(api: &mut Api) -> anyhow::Result<()> {
    let all = "/api/v1/dns/challenges";
    let wanted = |host: &str, value: &str| json!({"host": host, "value": value, "seconds": 600});
    until("the server is known to answer public DNS", SOON, async || {
        api.send(Method::POST, all, wanted("_acme-challenge.hello.apps.test", "proof"), 200).await.map(drop)
    })
    .await?;
    api.send(Method::POST, all, wanted("hello.apps.test", "two words"), 400).await?;
    api.send(Method::POST, all, wanted("elsewhere.test", "proof"), 412).await?;
    api.get(all, 200).await?;
    let found = api.get(&format!("{all}?host=hello.apps.test"), 200).await?;
    ensure!(found.as_array().map(Vec::len) == Some(1) && found[0]["value"] == "proof", "{found}");
    let one = format!("{all}/hello.apps.test");
    api.delete(&format!("{one}?value=proof")).await?;
    api.send(Method::DELETE, &one, json!({}), 404).await.map(drop)
}

/// What this trial did, in parts.
async fn audit(api: &mut Api) -> anyhow::Result<()> {
    let mut entries = Vec::new();
    let mut cursor = String::new();
    loop {
        let part = api.get(&format!("/api/v1/audit?app=hello&limit=20{cursor}"), 200).await?;
        entries.extend(part["entries"].as_array().into_iter().flatten().cloned());
        let Some(next) = part["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let of = |operation: &str| entries.iter().filter(|entry| entry["operation"] == operation).collect::<Vec<_>>();
    for (operation, outcomes) in [
        ("Apps_delete", &["done"][..]),
        ("Apps_create", &["refused", "done"]),
        ("App_IPAssignments_create", &["refused", "refused", "refused", "done", "refused", "done", "refused"]),
        ("NetworkPolicies_put", &["done", "refused", "done"]),
        ("Machines_exec", &["refused", "done"]),
        ("Machines_create_lease", &[]),
        ("deploy", &["done"]),
    ] {
        let found = of(operation);
        let found: Vec<_> = found.iter().filter_map(|entry| entry["outcome"].as_str()).collect();
        ensure!(found == outcomes, "{operation}: {found:?}");
    }
    let of_org = api.get("/api/v1/audit?org=personal&app=hello&limit=1", 200).await?;
    ensure!(of_org["entries"][0] == entries[0], "{of_org}");
    let set = of("Secrets_update");
    ensure!(set.len() == 1 && set[0]["target"] == "app=hello secret=ONE secret=TWO", "{set:?}");
    let policies = of("NetworkPolicies_put");
    ensure!(policies[0]["before"]["rules"].as_array().is_some_and(|rules| rules.len() == 1), "{policies:?}");
    ensure!(policies[0]["after"]["rules"] == json!([]), "{policies:?}");
    Ok(())
}

/// A machine through all that can be asked of it.
async fn machine(api: &mut Api, id: &str) -> anyhow::Result<()> {
    let all = "/v1/apps/hello/machines";
    let one = &format!("{all}/{id}");
    let at = |path: &str| format!("{one}/{path}");
    api.get(&at("wait?state=started&timeout=30"), 200).await?;
    let leased = api.send(Method::POST, &at("lease"), json!({"ttl": 60, "description": "a look"}), 201).await?;
    api.get(&at("lease"), 200).await?;
    api.get(&format!("{all}?include_leases=true"), 200).await?;
    api.get(&format!("{all}?summary=true"), 200).await?;
    api.send(Method::POST, &at("stop"), json!({}), 409).await?;
    api.with_nonce(text(&leased["data"], "nonce")?);
    api.delete(&at("lease")).await?;

    let shown = api.get(one, 200).await?;
    api.get(&at("events"), 200).await?;
    api.get(&at("ps"), 200).await?;
    api.send(Method::POST, &at("exec"), json!({"command": ["/hello", "--no-such"], "timeout": 10}), 200).await?;
    api.send(Method::POST, &at("exec"), json!({}), 400).await?;
    api.send(Method::POST, &at("cordon"), json!({}), 200).await?;
    api.send(Method::POST, &at("uncordon"), json!({}), 200).await?;
    api.send(Method::POST, &at("signal"), json!({"signal": "SIGHUP"}), 200).await?;

    api.send(Method::PATCH, &at("metadata"), json!({"metadata": {"colour": "blue"}}), 204).await?;
    api.send(Method::PUT, &at("metadata"), json!({"metadata": {"size": "big"}}), 204).await?;
    api.send(Method::POST, &at("metadata/taste"), json!({"value": "salt"}), 204).await?;
    api.get(&at("metadata"), 200).await?;
    api.get(&at("metadata/taste"), 200).await?;
    api.delete(&at("metadata/taste")).await?;
    api.get(&at("metadata/taste"), 404).await?;

    api.send(Method::POST, one, json!({"config": shown["config"]}), 200).await?;
    api.get(&at("versions"), 200).await?;
    api.get(&at("wait?state=started&timeout=30"), 200).await?;
    api.send(Method::POST, &at("restart"), json!({}), 200).await?;
    api.get(&at("wait?state=started&timeout=30"), 200).await?;
    api.send(Method::POST, &at("suspend"), json!({}), 200).await?;
    api.get(&at("wait?state=suspended&timeout=30"), 200).await?;
    api.send(Method::POST, &at("start"), json!({}), 200).await?;
    api.get(&at("wait?state=started&timeout=30"), 200).await?;
    api.send(Method::POST, &at("stop"), json!({}), 200).await?;
    api.get(&at("wait?state=stopped&timeout=30"), 200).await?;
    api.get(&at("wait?state=started&timeout=1"), 408).await?;
    Ok(())
}

/// Lists come in parts, none of them twice; totals count all parts.
async fn lists(api: &mut Api, client: &atoll_client::Client) -> anyhow::Result<()> {
    for app in ["aside", "beside"] {
        client.app_create(app, "personal").await?;
    }
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let part = api.get(&format!("/v1/apps?org_slug=personal&limit=1{cursor}"), 200).await?;
        ensure!(part["total_apps"] == 3, "{part}");
        names.extend(part["apps"].as_array().into_iter().flatten().map(|app| app["name"].clone()));
        let Some(next) = part["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    ensure!(names == ["aside", "beside", "hello"], "{names:?}");
    api.get("/v1/apps?org_slug=personal&limit=5001", 400).await?;

    let machines = "/v1/apps/hello/machines";
    let config = json!({"image": example_of("hello")});
    for _ in 0..2 {
        api.send(Method::POST, machines, json!({"config": config, "skip_launch": true}), 200).await?;
    }
    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let part = api.get(&format!("{machines}?limit=2{cursor}"), 200).await?;
        listed.extend(part.as_array().into_iter().flatten().map(|machine| machine["id"].to_string()));
        let Some(next) = api.next_cursor() else { break };
        cursor = format!("&cursor={next}");
    }
    let whole = api.get(machines, 200).await?;
    let whole: Vec<String> = whole.as_array().into_iter().flatten().map(|machine| machine["id"].to_string()).collect();
    ensure!(whole.len() == 3 && listed == whole && api.next_cursor().is_none(), "{listed:?} of {whole:?}");
    api.get(&format!("{machines}?cursor=abc"), 400).await?;

    let all = "/v1/orgs/personal/machines";
    // The list is in the order of changes, so they must be over.
    until("all machines rest", SOON, async || {
        let resting = api.get(&format!("{all}?state=stopped"), 200).await?;
        ensure!(resting["machines"].as_array().is_some_and(|machines| machines.len() == 3), "{resting}");
        Ok(())
    })
    .await?;
    let first = api.get(&format!("{all}?limit=2&summary=true"), 200).await?;
    let rest = api.get(&format!("{all}?cursor={}", text(&first, "next_cursor")?), 200).await?;
    let count = |part: &Value| part["machines"].as_array().map_or(0, Vec::len);
    ensure!((count(&first), count(&rest)) == (2, 1), "{first} {rest}");
    ensure!(first["machines"][0].get("config").is_none() && rest["machines"][0].get("config").is_some(), "{first}");
    let later = api.get(&format!("{all}?updated_after={}", text(&rest, "last_updated_at")?), 200).await?;
    ensure!(count(&later) == 0, "{later}");
    let id = listed.pop().unwrap_or_default();
    api.delete(&format!("{machines}/{}?force=true", id.trim_matches('"'))).await?;
    let deleted = api.get(&format!("{all}?include_deleted=true&state=destroyed"), 200).await?;
    ensure!(count(&deleted) == 1, "{deleted}");
    Ok(())
}

fn text<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    value[name].as_str().ok_or_else(|| anyhow::anyhow!("there is no {name} in {value}"))
}
