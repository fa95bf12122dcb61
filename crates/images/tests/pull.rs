//! Pulls from our own registry and from servers that misbehave.

mod common;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use atoll_images::{Digest, Image, ImageReference, Login, PullError, PullOptions, Puller, UnpackLimits};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use common::{Layer, OCI_MANIFEST, TestImage, TestRegistry, TestStore, serve};
use http::{StatusCode, header};

fn puller(logins: HashMap<atoll_images::RegistryHost, Login>) -> Puller {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another test of this process may be first.
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    }
    Puller::new(PullOptions { logins, ..PullOptions::default() }).unwrap()
}

fn login(host: &str, user: &str, password: &str) -> HashMap<atoll_images::RegistryHost, Login> {
    HashMap::from([(host.parse().unwrap(), Login { user: user.to_owned(), password: password.to_owned() })])
}

fn reference(text: String) -> ImageReference {
    text.parse().unwrap()
}

fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", told(source)),
        None => error.to_string(),
    }
}

fn image() -> TestImage {
    let noise: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let large = Layer::new().raw("large", b'0', &noise, |_| {}).build();
    TestImage::gzipped(vec![Layer::new().file("small", "x").build(), large])
}

/// A foreign registry with one image, `app/web:v1`, and a fault.
struct Foreign {
    image: TestImage,
    fault: Fault,
    /// Requests for the large layer.
    asked: AtomicU32,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Wants a token from `/token` first.
    Token,
    /// Breaks the large layer off in the middle, twice.
    Breaks {
        ranges: bool,
    },
    /// Always breaks it off at the same place.
    NeverEnds,
    WrongContent,
    WrongManifest,
    /// More bytes than the manifest says.
    TooLong,
    HugeManifest,
    ServerError,
    /// Blobs are somewhere else.
    Redirects,
}

async fn foreign(image: &TestImage, fault: Fault) -> (String, Arc<Foreign>) {
    let state = Arc::new(Foreign { image: image.clone(), fault, asked: AtomicU32::new(0) });
    let router = Router::new().fallback(answer).with_state(Arc::clone(&state));
    let (address, _) = serve(router).await;
    (address, state)
}

async fn answer(State(foreign): State<Arc<Foreign>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers();
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    if path == "/token" {
        let query = request.uri().query().unwrap_or_default();
        assert!(query.contains("service=foreign") && query.contains("scope=repository%3Aapp%2Fweb%3Apull"), "{query}");
        return "{\"token\":\"anonymous\"}".into_response();
    }
    if foreign.fault == Fault::Token && text(header::AUTHORIZATION).as_deref() != Some("Bearer anonymous") {
        let host = text(header::HOST).unwrap();
        let challenge =
            format!("Bearer realm=\"http://{host}/token\",service=\"foreign\",scope=\"repository:app/web:pull\"");
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    if path.contains("/manifests/") {
        let bytes = match foreign.fault {
            Fault::WrongManifest => [&foreign.image.manifest[..], b"\n"].concat(),
            Fault::HugeManifest => vec![b' '; 5 << 20],
            _ => foreign.image.manifest.clone(),
        };
        return ([(header::CONTENT_TYPE, OCI_MANIFEST)], bytes).into_response();
    }
    let (_, name) = path.rsplit_once('/').unwrap();
    if foreign.fault == Fault::Redirects && path.starts_with("/v2/") {
        let elsewhere = format!("http://{}/elsewhere/{name}", text(header::HOST).unwrap());
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, elsewhere)]).into_response();
    }
    let digest: Digest = name.parse().unwrap();
    let blobs = foreign.image.layers.iter().chain([&foreign.image.config]);
    let Some(blob) = blobs.into_iter().find(|blob| Digest::of(blob) == digest) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if digest != Digest::of(&foreign.image.layers[1]) {
        return blob.clone().into_response();
    }
    large_layer(&foreign, blob, text(header::RANGE))
}

fn large_layer(foreign: &Foreign, blob: &[u8], range: Option<String>) -> Response {
    let asked = foreign.asked.fetch_add(1, Ordering::SeqCst);
    let middle = blob.len() / 2;
    let offset = range.map(|range| range["bytes=".len()..].trim_end_matches('-').parse::<usize>().unwrap());
    match foreign.fault {
        Fault::ServerError => StatusCode::BAD_GATEWAY.into_response(),
        Fault::WrongContent => blob.iter().map(|byte| byte ^ 1).collect::<Vec<_>>().into_response(),
        Fault::TooLong => [blob, b"more"].concat().into_response(),
        Fault::Breaks { ranges: true } if offset.is_some() => {
            let offset = offset.unwrap();
            assert!(offset > 0 && offset <= middle, "taken up where it broke, not at {offset}");
            (StatusCode::PARTIAL_CONTENT, blob[offset..].to_vec()).into_response()
        }
        Fault::Breaks { .. } if asked < 2 => broken_off(blob, middle),
        Fault::NeverEnds => broken_off(blob, 1000),
        _ => blob.to_vec().into_response(),
    }
}

/// Promises the whole and breaks the connection after `sent` bytes.
fn broken_off(blob: &[u8], sent: usize) -> Response {
    let start = Bytes::copy_from_slice(&blob[..sent]);
    let broken = std::io::Error::other("cable cut");
    let pieces = futures_util::stream::iter([Ok(start), Err(broken)]);
    ([(header::CONTENT_LENGTH, blob.len().to_string())], Body::from_stream(pieces)).into_response()
}

async fn pull(fault: Fault) -> (Result<Image, PullError>, TestStore, Arc<Foreign>) {
    let (address, state) = foreign(&image(), fault).await;
    let store = TestStore::new();
    let result = puller(HashMap::new()).pull(&store.store, &reference(format!("{address}/app/web:v1"))).await;
    (result, store, state)
}

#[tokio::test]
async fn our_own_registry_is_pulled_from_with_a_login() {
    let registry = TestRegistry::start().await;
    let image = image();
    let digest = image.put(&registry.store.store);
    registry.store.store.set_tag(&"mine/web".parse().unwrap(), &"v1".parse().unwrap(), digest).unwrap();
    let name = reference(format!("{}/mine/web:v1", registry.address));
    let store = TestStore::new();

    let nobody = puller(HashMap::new()).pull(&store.store, &name).await.unwrap_err();
    assert!(told(&nobody).contains("atoll registry login"), "{}", told(&nobody));
    let stranger = puller(login(&registry.address, "x", "other")).pull(&store.store, &name).await.unwrap_err();
    assert!(told(&stranger).contains("may not read mine/web"), "{}", told(&stranger));
    store.assert_empty();

    let puller = puller(login(&registry.address, "x", "good"));
    assert_eq!(puller.resolve(&name).await.unwrap(), digest);
    let pulled = puller.pull(&store.store, &name).await.unwrap();
    assert_eq!(pulled.digest, digest);
    assert_eq!(pulled, Image::read(&store.store, digest, &UnpackLimits::default()).unwrap());
    let missing = puller.pull(&store.store, &reference(format!("{}/mine/web:v9", registry.address))).await.unwrap_err();
    assert!(told(&missing).contains("no image mine/web:v9"), "{}", told(&missing));
}

#[tokio::test]
async fn anonymous_tokens_and_redirects_are_followed() {
    for fault in [Fault::None, Fault::Token, Fault::Redirects] {
        let (result, store, _) = pull(fault).await;
        let pulled = result.unwrap();
        assert_eq!(pulled.digest, image().digest());
        assert!(store.store.size_of(&pulled.digest).unwrap().is_some());
    }
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_broke() {
    for ranges in [true, false] {
        let (result, _store, state) = pull(Fault::Breaks { ranges }).await;
        result.unwrap();
        assert_eq!(state.asked.load(Ordering::SeqCst), if ranges { 2 } else { 3 });
    }
}

#[tokio::test]
async fn what_is_there_is_not_fetched_again() {
    let (address, state) = foreign(&image(), Fault::None).await;
    let store = TestStore::new();
    let name = reference(format!("{address}/app/web:v1"));
    let puller = puller(HashMap::new());
    puller.pull(&store.store, &name).await.unwrap();
    puller.pull(&store.store, &name).await.unwrap();
    assert_eq!(state.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn misbehaving_registries_are_refused_and_nothing_of_theirs_stays() {
    let large = Digest::of(&image().layers[1]);
    for (fault, words) in [
        (Fault::WrongContent, "digest is"),
        (Fault::TooLong, "bytes, expected"),
        (Fault::NeverEnds, "broke 4 times"),
        (Fault::ServerError, "502"),
    ] {
        let (result, store, _) = pull(fault).await;
        let said = told(&result.unwrap_err());
        assert!(said.contains(words), "{said:?} does not say {words:?}");
        assert_eq!(store.store.size_of(&large).unwrap(), None);
        assert_eq!(store.store.size_of(&image().digest()).unwrap(), None, "the manifest comes last");
        store.assert_nothing_unpacked();
    }
    let (result, store, _) = pull(Fault::HugeManifest).await;
    assert!(told(&result.unwrap_err()).contains("larger than 4194304"));
    store.assert_empty();

    let (address, _) = foreign(&image(), Fault::WrongManifest).await;
    let pinned = reference(format!("{address}/app/web")).pinned(image().digest());
    let error = puller(HashMap::new()).pull(&store.store, &pinned).await.unwrap_err();
    assert!(told(&error).contains("for the manifest"), "{}", told(&error));
    store.assert_empty();
}

#[tokio::test]
async fn a_name_without_a_registry_is_not_pulled() {
    let store = TestStore::new();
    let error = puller(HashMap::new()).pull(&store.store, &reference("nginx".to_owned())).await.unwrap_err();
    assert!(error.to_string().contains("docker.io/nginx"), "{error}");
}
