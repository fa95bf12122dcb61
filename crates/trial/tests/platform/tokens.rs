//! Tokens of the wrong kind and the wrong role are refused, each with a sentence, and change nothing.

use anyhow::{Context, ensure};
use http::Method;
use serde_json::json;

use atoll_client::{Client, ClientError};
use atoll_model::MachineState;
use atoll_model::wire::TokenRequest;
use atoll_trial::platform::{MachineSpec, ONE_REGION, Said};

use crate::support::trial;

/// Exit codes of the command line.
const NOT_ALLOWED: Option<i32> = Some(3);

fn refused(said: &Said) -> anyhow::Result<()> {
    ensure!(said.code == NOT_ALLOWED && said.stderr.starts_with("error: "), "{said:?}");
    Ok(())
}

#[test]
fn tokens_do_what_their_role_may_and_nothing_else() {
    trial("tokens", ONE_REGION, async |platform| {
        platform.create_app("hello").await?;
        let spec = MachineSpec { region: "ams", ..MachineSpec::default() };
        let machine = platform.create_machine("hello", &spec).await?;
        platform.in_state("hello", &machine, MachineState::Started).await?;
        let owner = platform.client();
        let made = owner
            .token_create(&TokenRequest { name: "looker".into(), role: "read-only".into(), expires_in: None })
            .await?;
        let read_only = made.token.context("the token is not shown")?;
        let join = owner.node_token().await?.token;
        let mallory = owner
            .token_create(&TokenRequest { name: "mallory".into(), role: "emperor".into(), expires_in: None })
            .await;
        ensure!(mallory.is_err(), "a role that is none was given: {mallory:?}");

        let looks = Client::new(owner.base(), Some(read_only.clone()), None)?;
        ensure!(looks.machines("hello").await?.len() == 1, "a read-only token cannot look");
        let changes: [(Method, String); 6] = [
            (Method::POST, "/v1/apps".into()),
            (Method::POST, "/v1/apps/hello/machines".into()),
            (Method::POST, format!("/v1/apps/hello/machines/{machine}/stop")),
            (Method::POST, format!("/v1/apps/hello/machines/{machine}/exec")),
            (Method::DELETE, format!("/v1/apps/hello/machines/{machine}?force=true")),
            (Method::DELETE, "/v1/apps/hello".into()),
        ];
        for (method, path) in changes {
            let body = json!({"app_name": "other", "org_slug": "personal", "command": ["/hello"], "config": {"image": "hello/web"}});
            let said = looks.raw(method.clone(), &path, Some(&body)).await;
            let forbidden = matches!(said, Err(ClientError::Answer { status: 403, .. }));
            ensure!(forbidden, "{method} {path} with a read-only token: {said:?}");
        }
        let folder = tempfile::TempDir::new()?;
        for arguments in [&["apps", "create", "other"][..], &["node", "token", "create"], &["node", "drain", "ams"]] {
            refused(&platform.atoll_as(&read_only, folder.path(), arguments).await?)?;
        }

        // A join token opens no API, a made-up one neither; an expired or revoked one no longer does.
        for token in [join, "nonsense".to_owned(), String::new()] {
            let stranger = Client::new(owner.base(), Some(token.clone()), None)?;
            let said = stranger.machines("hello").await;
            let unknown = matches!(said, Err(ClientError::Answer { status: 401, .. }));
            ensure!(unknown, "with the token {token:?}: {said:?}");
        }
        owner.token_revoke(&made.id).await?;
        let said = looks.machines("hello").await;
        ensure!(said.is_err(), "a revoked token still looks");

        let machines = owner.machines("hello").await?;
        ensure!(machines.len() == 1 && machines[0].state.as_str() == "started", "something was changed: {machines:?}");
        Ok(())
    });
}
