use super::*;

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(*name, value.parse().unwrap());
    }
    map
}

fn names(map: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn hop_by_hop_headers_end_here_with_those_that_connection_names() {
    let mut map = headers(&[
        ("connection", "keep-alive, X-Private"),
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("x-private", "1"),
        ("upgrade", "h2c"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip, trailers"),
        ("trailer", "x-sum"),
        ("accept", "*/*"),
    ]);
    strip_hop_by_hop(&mut map);
    assert_eq!(names(&map), ["accept", "te", "trailer"]);
    assert_eq!(map["te"], "trailers");
}

#[test]
fn only_a_named_upgrade_of_http_1_1_counts() {
    let websocket = headers(&[("connection", "Keep-Alive, Upgrade"), ("upgrade", "websocket")]);
    assert_eq!(wanted_upgrade(Version::HTTP_11, &websocket).unwrap(), "websocket");
    assert_eq!(wanted_upgrade(Version::HTTP_10, &websocket), None);
    let unnamed = headers(&[("upgrade", "websocket")]);
    assert_eq!(wanted_upgrade(Version::HTTP_11, &unnamed), None);
    let h2c = headers(&[("connection", "upgrade"), ("upgrade", "h2c")]);
    assert_eq!(wanted_upgrade(Version::HTTP_11, &h2c), None);
}

#[test]
fn clients_cannot_speak_for_the_platform() {
    let mut map = headers(&[
        ("fly-src", "instance=1"),
        ("fly-replay-src", "x"),
        ("atoll-machine", "1"),
        ("atoll-verdict", "bounced;PR02"),
        ("fly-region", "ams"),
    ]);
    strip_platform(&mut map);
    assert_eq!(names(&map), ["fly-region"], "what is overwritten later need not be removed");
}

#[test]
fn facts_overwrite_what_the_client_claims_except_where_documented() {
    let facts = Facts {
        client: "203.0.113.9".parse().unwrap(),
        entered: "198.51.100.1".parse().unwrap(),
        port: 443,
        tls: true,
    };
    let mut map = headers(&[
        ("fly-client-ip", "1.1.1.1"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "ftp"),
        ("x-forwarded-port", "8443"),
        ("fly-forwarded-port", "1"),
        ("via", "1.0 squid"),
    ]);
    add_request_facts(&mut map, Version::HTTP_2, &facts, "ams".parse().unwrap(), &"ID-ams".parse().unwrap());
    let expected = [
        ("fly-client-ip", "203.0.113.9"),
        ("fly-forwarded-port", "443"),
        ("fly-region", "ams"),
        ("fly-request-id", "ID-ams"),
        ("via", "1.0 squid, 2 atoll"),
        ("x-forwarded-for", "10.0.0.1, 10.0.0.2, 203.0.113.9, 198.51.100.1"),
        ("x-forwarded-port", "8443"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-ssl", "on"),
    ];
    assert_eq!(names(&map), expected.map(|(name, _)| name));
    for (name, value) in expected {
        assert_eq!(map.get_all(name).iter().collect::<Vec<_>>(), [value], "{name}");
    }
}
