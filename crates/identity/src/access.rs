//! Who may do what: a pure table over a principal's kind and scope.

use atoll_model::{AppName, OrgSlug};
use atoll_store::{Token, TokenKind};

/// Whoever a valid token speaks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    pub token_id: String,
    pub kind: TokenKind,
    /// The token's name, for people.
    pub name: String,
    /// `None`: every organization.
    pub org: Option<OrgSlug>,
    /// `None`: every app.
    pub app: Option<AppName>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Read,
    /// See the value of a secret.
    Reveal,
    /// Change what belongs to the target: machines, secrets, releases, a shell in a machine.
    Change,
    /// Make an app in an organization.
    Create,
    /// Delete the target itself.
    Delete,
    /// Tokens, members, nodes.
    Administer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target<'a> {
    /// What everybody with a token may see: regions, sizes.
    Platform,
    /// The servers of the platform.
    Nodes,
    Organization(&'a OrgSlug),
    App {
        org: &'a OrgSlug,
        name: &'a AppName,
    },
}

/// A valid token that does not reach: 403. What does not exist is 404, and is looked up first only
/// where a client is told apart by it (an app's name: 404 free, 403 someone else's).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the token {name:?} ({kind}) may not {action:?} {target}")]
pub struct Denied {
    pub name: String,
    pub kind: TokenKind,
    pub action: Action,
    pub target: String,
}

/// Whether `principal` may do `action` to `target`.
pub fn authorize(principal: &Principal, action: Action, target: Target<'_>) -> Result<(), Denied> {
    let open = action == Action::Read && target == Target::Platform && principal.kind != TokenKind::NodeJoin;
    if open || (principal.kind_allows(action) && principal.scope_covers(target)) {
        return Ok(());
    }
    Err(Denied { name: principal.name.clone(), kind: principal.kind, action, target: target.to_string() })
}

impl Principal {
    pub(crate) fn of(token: Token) -> Self {
        Self { token_id: token.id, kind: token.kind, name: token.name, org: token.org, app: token.app }
    }

    fn kind_allows(&self, action: Action) -> bool {
        match self.kind {
            TokenKind::Owner => true,
            TokenKind::ReadOnly => action == Action::Read,
            // Without an app such a token would be an owner's in disguise.
            TokenKind::Deploy => self.app.is_some() && matches!(action, Action::Read | Action::Change),
            TokenKind::Machine => self.app.is_some() && action == Action::Read,
            TokenKind::NodeJoin => false,
        }
    }

    fn scope_covers(&self, target: Target<'_>) -> bool {
        let in_org = |org: &OrgSlug| self.org.as_ref().is_none_or(|mine| mine == org);
        match target {
            Target::Platform | Target::Nodes => self.org.is_none() && self.app.is_none(),
            Target::Organization(org) => self.app.is_none() && in_org(org),
            Target::App { org, name } => in_org(org) && self.app.as_ref().is_none_or(|mine| mine == name),
        }
    }
}

impl std::fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Platform => f.write_str("platform"),
            Self::Nodes => f.write_str("nodes"),
            Self::Organization(org) => write!(f, "organization/{org}"),
            Self::App { name, .. } => write!(f, "app/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(kind: TokenKind, org: Option<&str>, app: Option<&str>) -> Principal {
        Principal {
            token_id: "id".into(),
            kind,
            name: "test".into(),
            org: org.map(|org| org.parse().unwrap()),
            app: app.map(|app| app.parse().unwrap()),
        }
    }

    #[test]
    fn the_table_of_rights() {
        use Action::*;
        let (mine, theirs): (OrgSlug, OrgSlug) = ("mine".parse().unwrap(), "theirs".parse().unwrap());
        let (web, db): (AppName, AppName) = ("web".parse().unwrap(), "db".parse().unwrap());
        let targets = [
            Target::Platform,
            Target::Nodes,
            Target::Organization(&mine),
            Target::Organization(&theirs),
            Target::App { org: &mine, name: &web },
            Target::App { org: &mine, name: &db },
            Target::App { org: &theirs, name: &web },
        ];
        // One letter an action that is allowed: Read, reVeal, Change, creAte, Delete, adMinister.
        let letters = [(Read, 'R'), (Reveal, 'V'), (Change, 'C'), (Create, 'A'), (Delete, 'D'), (Administer, 'M')];
        const ALL: &str = "RVCADM";
        let platform_owner = principal(TokenKind::Owner, None, None);
        let org_owner = principal(TokenKind::Owner, Some("mine"), None);
        let app_owner = principal(TokenKind::Owner, Some("mine"), Some("web"));
        let reader = principal(TokenKind::ReadOnly, None, None);
        let org_reader = principal(TokenKind::ReadOnly, Some("mine"), None);
        let deployer = principal(TokenKind::Deploy, Some("mine"), Some("web"));
        let deployer_of_nothing = principal(TokenKind::Deploy, Some("mine"), None);
        let machine = principal(TokenKind::Machine, Some("mine"), Some("web"));
        let joiner = principal(TokenKind::NodeJoin, None, None);
        for (who, principal, expected) in [
            ("platform owner", platform_owner, [ALL, ALL, ALL, ALL, ALL, ALL, ALL]),
            ("organization owner", org_owner, ["R", "", ALL, "", ALL, ALL, ""]),
            ("app owner", app_owner, ["R", "", "", "", ALL, "", ""]),
            ("reader", reader, ["R", "R", "R", "R", "R", "R", "R"]),
            ("organization reader", org_reader, ["R", "", "R", "", "R", "R", ""]),
            ("deployer", deployer, ["R", "", "", "", "RC", "", ""]),
            ("deployer of nothing", deployer_of_nothing, ["R", "", "", "", "", "", ""]),
            ("machine", machine, ["R", "", "", "", "R", "", ""]),
            ("joining node", joiner, ["", "", "", "", "", "", ""]),
        ] {
            for (target, expected) in targets.into_iter().zip(expected) {
                let allowed: String = letters
                    .iter()
                    .filter(|(action, _)| authorize(&principal, *action, target).is_ok())
                    .map(|(_, letter)| letter)
                    .collect();
                assert_eq!(allowed, expected, "{who} on {target}");
            }
        }
    }

    #[test]
    fn a_refusal_says_who_what_and_where() {
        let reader = principal(TokenKind::ReadOnly, None, None);
        let error = authorize(&reader, Action::Administer, Target::Nodes).unwrap_err();
        assert_eq!(error.to_string(), "the token \"test\" (read_only) may not Administer nodes");
    }
}
