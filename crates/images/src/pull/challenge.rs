//! `WWW-Authenticate`: what a registry wants before it answers.

/// One challenge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Challenge {
    Basic,
    /// Fetch a token at `realm` for `service`.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The first challenge that we can answer.
pub(super) fn parse(header: &str) -> Option<Challenge> {
    let (scheme, parameters) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    match scheme.to_ascii_lowercase().as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            let parameters = parameters_of(parameters);
            let get = |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") })
        }
        _ => None,
    }
}

/// `name="value", name=value`; a backslash quotes inside quotes.
fn parameters_of(text: &str) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| matches!(c, ' ' | ',' | '\t')).is_some() {}
        let mut name = String::new();
        while let Some(c) = rest.next_if(|c| !matches!(c, '=' | ',')) {
            name.push(c);
        }
        if rest.next_if_eq(&'=').is_none() {
            return parameters;
        }
        let mut value = String::new();
        if rest.next_if_eq(&'"').is_some() {
            while let Some(c) = rest.next() {
                match c {
                    '"' => break,
                    '\\' => value.extend(rest.next()),
                    _ => value.push(c),
                }
            }
        } else {
            while let Some(c) = rest.next_if(|c| !matches!(c, ',' | ' ')) {
                value.push(c);
            }
        }
        parameters.push((name.trim().to_ascii_lowercase(), value));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn registries_challenges_are_read() {
        let hub =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parse(hub),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".to_owned(),
                service: Some("registry.example".to_owned()),
                scope: Some("repository:a/b:pull,push".to_owned()),
            })
        );
        assert_eq!(parse("basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("Basic"), Some(Challenge::Basic));
        assert_eq!(
            parse(r#"bearer Realm=http://x, service="a\"b""#),
            Some(Challenge::Bearer { realm: "http://x".to_owned(), service: Some("a\"b".to_owned()), scope: None })
        );
        assert_eq!(parse("Bearer service=\"x\""), None);
        assert_eq!(parse("Negotiate"), None);
    }

    proptest! {
        #[test]
        fn no_header_panics(header in "(Bearer )?[a-z=\", \\\\]{0,60}") {
            let parsed = parse(&header);
            prop_assert!(parsed.is_none() || parsed.is_some());
        }
    }
}
