//! Names below the app domain that are the platform's own. Edges, public DNS and control must agree on them.

/// `api.<app domain>` is the platform's API, at every edge; no app may have this name.
pub const API: &str = "api";

/// The host name of the API.
pub fn api_host(app_domain: &str) -> String {
    format!("{API}.{app_domain}")
}

/// What stands before the app domain in a host name, both in lower case: an app's name, a reserved one, or
/// any number of labels. None for hosts that are not below it.
pub fn below_app_domain<'h>(host: &'h str, app_domain: &str) -> Option<&'h str> {
    host.strip_suffix(app_domain)?.strip_suffix('.')
}

/// Whether a host name, in lower case, is that of the API.
pub fn is_api(host: &str, app_domain: &str) -> bool {
    below_app_domain(host, app_domain) == Some(API)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_alone_is_the_api() {
        assert!(is_api(&api_host("apps.test"), "apps.test"));
        for other in
            ["apps.test", ".apps.test", "api", "api.test", "x.api.apps.test", "apiapps.test", "myapi.apps.test"]
        {
            assert!(!is_api(other, "apps.test"), "{other}");
        }
        assert_eq!(below_app_domain("a.b.apps.test", "apps.test"), Some("a.b"));
    }
}
