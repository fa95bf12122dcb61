//! Where a request entered the platform: straight at control, or at an edge that handed it on. Only what a
//! proven edge says of a client is believed; what clients say of themselves is taken away here.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::HeaderName;
use axum::http::{HeaderMap, Request};

/// What edges tell, or may add to.
const FORWARDED: [HeaderName; 10] = [
    CLIENT,
    REQUEST_ID,
    HeaderName::from_static("fly-forwarded-port"),
    HeaderName::from_static("fly-region"),
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("via"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-ssl"),
];
const CLIENT: HeaderName = HeaderName::from_static("fly-client-ip");
const REQUEST_ID: HeaderName = HeaderName::from_static("fly-request-id");
/// Longest id taken over from an edge.
const ID_MAX: usize = 64;

/// Attached to every request before it is routed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// None: not known.
    pub client: Option<IpAddr>,
    /// By which the edge's log knows the request.
    pub request_id: Option<String>,
}

impl Origin {
    /// Of a request on a client's own connection.
    pub fn direct<B>(request: &mut Request<B>, client: Option<SocketAddr>) {
        forget(request.headers_mut());
        let client = client.map(|address| address.ip().to_canonical());
        request.extensions_mut().insert(Self { client, request_id: None });
    }

    /// Of a request on a connection on which an edge has proven itself.
    pub fn forwarded<B>(request: &mut Request<B>) {
        let told = |name: HeaderName| request.headers().get(name)?.to_str().ok();
        let client = told(CLIENT).and_then(|text| text.parse().ok());
        let request_id = told(REQUEST_ID).filter(|id| id.len() <= ID_MAX).map(str::to_owned);
        forget(request.headers_mut());
        request.extensions_mut().insert(Self { client, request_id });
    }
}

fn forget(headers: &mut HeaderMap) {
    for name in FORWARDED {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request<()> {
        Request::builder()
            .header("fly-client-ip", "203.0.113.9")
            .header("x-forwarded-for", "203.0.113.9, 192.0.2.1")
            .header("fly-request-id", "01J-nrt")
            .header("authorization", "Bearer x")
            .body(())
            .unwrap()
    }

    #[test]
    fn clients_are_not_believed_and_edges_are() {
        let mut direct = request();
        Origin::direct(&mut direct, Some("[::ffff:198.51.100.7]:9".parse().unwrap()));
        let mut forwarded = request();
        Origin::forwarded(&mut forwarded);
        for (request, client, id) in [(direct, "198.51.100.7", None), (forwarded, "203.0.113.9", Some("01J-nrt"))] {
            let origin = request.extensions().get::<Origin>().unwrap();
            assert_eq!(origin.client, Some(client.parse().unwrap()));
            assert_eq!(origin.request_id.as_deref(), id);
            assert_eq!(request.headers().len(), 1, "{:?}", request.headers());
        }
    }

    #[test]
    fn an_edge_that_says_nothing_readable_is_no_client() {
        let mut request = Request::builder().header("fly-client-ip", "nobody").body(()).unwrap();
        Origin::forwarded(&mut request);
        assert_eq!(request.extensions().get(), Some(&Origin { client: None, request_id: None }));
    }
}
