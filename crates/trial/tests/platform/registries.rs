//! Pulls from a registry that wants a login and has no TLS: the platform's own, by its address on the
//! network, which to a pull is as foreign as any.

use anyhow::{Context, ensure};
use serde_json::json;

use atoll_model::MachineState;
use atoll_trial::platform::{ONE_REGION, Platform, example_of};

use crate::support::trial;

#[test]
fn a_login_and_an_insecure_registry_are_configured_and_pulled_from() {
    trial("registries", ONE_REGION, async |platform| {
        platform.create_app("hello").await?;
        let registry = platform.node("ams")?.address(4280)?.to_string();
        let image = format!("{registry}/{}", example_of("hello"));
        let folder = tempfile::tempdir()?;
        let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
        std::fs::write(&right, format!("{}\n", platform.token()))?;
        std::fs::write(&wrong, "wrong\n")?;
        let login = |file: &std::path::Path| {
            let file = file.display().to_string();
            ["registry", "login", &registry, "--username", "any", "--insecure", "--password-file", &file]
                .map(str::to_owned)
                .to_vec()
        };

        // Over TLS the registry does not answer; the error names it.
        let refused = create(platform, &image).await.err().context("a registry without TLS was pulled from")?;
        ensure!(refused.contains(&registry), "{refused}");

        run(platform, folder.path(), &["registry", "login", &registry, "--insecure"]).await?;
        let refused = create(platform, &image).await.err().context("a pull without a login went through")?;
        ensure!(refused.contains(&format!("atoll registry login {registry}")), "{refused}");

        let arguments = login(&wrong);
        run(platform, folder.path(), &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        let refused = create(platform, &image).await.err().context("a pull with a wrong password went through")?;
        ensure!(refused.contains(&registry) && refused.contains("refuses the login of \"any\""), "{refused}");

        let arguments = login(&right);
        run(platform, folder.path(), &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        let id = create(platform, &image).await.map_err(anyhow::Error::msg)?;
        platform.in_state("hello", &id, MachineState::Started).await?;

        let listed = run(platform, folder.path(), &["registry", "list", "--json"]).await?;
        ensure!(listed.contains(&registry) && !listed.contains(platform.token()), "{listed}");
        run(platform, folder.path(), &["registry", "logout", &registry]).await?;
        ensure!(!run(platform, folder.path(), &["registry", "list", "--json"]).await?.contains(&registry));
        Ok(())
    });
}

/// Makes a machine of an image; the API's text if it is refused.
async fn create(platform: &Platform, image: &str) -> Result<String, String> {
    let body = json!({"region": "ams", "config": {"image": image}});
    let made = platform.client().raw(http::Method::POST, "/v1/apps/hello/machines", Some(&body)).await;
    let made = made.map_err(|error| error.to_string())?;
    Ok(made["id"].as_str().unwrap_or_default().to_owned())
}

async fn run(platform: &Platform, folder: &std::path::Path, arguments: &[&str]) -> anyhow::Result<String> {
    let said = platform.atoll(folder, arguments).await?;
    ensure!(said.code == Some(0), "atoll {}: {}", arguments.join(" "), said.stderr);
    Ok(said.stdout)
}
