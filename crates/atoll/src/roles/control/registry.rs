//! Who may use the image registry: whoever may do the same to the app that a repository begins with.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use atoll_control::Control;
use atoll_identity::{Action, Target, authenticate};
use atoll_images::Repository;
use atoll_images::registry::{Action as RegistryAction, Authorizer, Credential, Verdict};
use atoll_model::AppName;

pub struct AppRights(pub Arc<Control>);

#[async_trait]
impl Authorizer for AppRights {
    async fn authorize(
        &self,
        action: RegistryAction,
        repository: Option<&Repository>,
        credential: Option<&Credential>,
    ) -> Verdict {
        let Some(credential) = credential else { return Verdict::Unauthenticated };
        // One reader of credentials for all faces: a registry's login becomes the API's header.
        let header = format!("Basic {}", STANDARD.encode(format!("token:{}", credential.token())));
        let Ok(caller) = authenticate(&self.0.store, Some(&header), self.0.now_ms()).await else {
            return Verdict::Unauthenticated;
        };
        let wanted = match action {
            RegistryAction::Ping => return Verdict::Allow,
            RegistryAction::Catalog | RegistryAction::Pull => Action::Read,
            RegistryAction::Push | RegistryAction::Delete => Action::Change,
        };
        let allowed = match repository {
            None => caller.authorize(wanted, Target::Nodes).is_ok(),
            Some(repository) => {
                let Ok(name) = repository.app().parse::<AppName>() else { return Verdict::Deny };
                match self.0.app(&name).await {
                    Ok(app) => caller.authorize(wanted, Target::App { org: &app.org, name: &app.name }).is_ok(),
                    Err(_) => false,
                }
            }
        };
        if allowed { Verdict::Allow } else { Verdict::Deny }
    }
}
