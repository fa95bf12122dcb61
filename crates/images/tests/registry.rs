//! The registry as clients see it: the specification's requests one by one, then real programs.

mod common;

use std::process::{Command, Output};

use atoll_images::Digest;
use common::{Layer, OCI_MANIFEST, TestImage, TestRegistry, has_program};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};

struct Api {
    registry: TestRegistry,
    client: Client,
}

impl Api {
    async fn start() -> Self {
        // A second test of this process finds it installed.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        }
        Self { registry: TestRegistry::start().await, client: Client::new() }
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("http://{}{path}", self.registry.address);
        self.client.request(method, url).basic_auth("anyone", Some("good"))
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).send().await.unwrap()
    }

    async fn push_blob(&self, repository: &str, content: &[u8]) -> Response {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={}", Digest::of(content));
        self.ask(Method::POST, &path).body(content.to_vec()).send().await.unwrap()
    }

    async fn put_manifest(&self, repository: &str, target: &str, manifest: &[u8]) -> Response {
        let path = format!("/v2/{repository}/manifests/{target}");
        let request = self.ask(Method::PUT, &path).header("content-type", OCI_MANIFEST);
        request.body(manifest.to_vec()).send().await.unwrap()
    }

    async fn push(&self, repository: &str, target: &str, image: &TestImage) {
        for blob in image.layers.iter().chain([&image.config]) {
            assert_eq!(self.push_blob(repository, blob).await.status(), StatusCode::CREATED);
        }
        assert_eq!(self.put_manifest(repository, target, &image.manifest).await.status(), StatusCode::CREATED);
    }
}

fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap().to_owned()
}

async fn code(response: Response) -> String {
    let body: serde_json::Value = response.json().await.unwrap();
    body["errors"][0]["code"].as_str().unwrap().to_owned()
}

fn small(content: &str) -> TestImage {
    TestImage::gzipped(vec![Layer::new().file("file", content).build()])
}

#[tokio::test]
async fn without_a_token_the_way_to_log_in_is_told() {
    let api = Api::start().await;
    let url = format!("http://{}/v2/", api.registry.address);
    let nobody = api.client.get(&url).send().await.unwrap();
    assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
    assert!(header(&nobody, "www-authenticate").starts_with("Basic realm="));
    assert_eq!(code(nobody).await, "UNAUTHORIZED");
    assert_eq!(api.client.get(&url).bearer_auth("good").send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(api.get("/v2/").await.status(), StatusCode::OK);
    let foreign = api.get("/v2/other/web/tags/list").await;
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    assert_eq!(code(foreign).await, "DENIED");
}

#[tokio::test]
async fn a_pushed_image_is_read_back_by_tag_and_digest() {
    let api = Api::start().await;
    let image = small("a");
    api.push("mine/web", "v1", &image).await;
    for target in ["v1".to_owned(), image.digest().to_string()] {
        let path = format!("/v2/mine/web/manifests/{target}");
        let head = api.ask(Method::HEAD, &path).send().await.unwrap();
        assert_eq!(header(&head, "docker-content-digest"), image.digest().to_string());
        assert_eq!(header(&head, "content-length"), image.manifest.len().to_string());
        let response = api.get(&path).await;
        assert_eq!(header(&response, "content-type"), OCI_MANIFEST);
        assert_eq!(&response.bytes().await.unwrap()[..], &image.manifest[..]);
    }
    let layer = Digest::of(&image.layers[0]);
    assert_eq!(&api.get(&format!("/v2/mine/web/blobs/{layer}")).await.bytes().await.unwrap()[..], &image.layers[0][..]);
    let missing = api.get("/v2/mine/web/manifests/v9").await;
    assert_eq!((missing.status(), code(missing).await.as_str()), (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"));
}

#[tokio::test]
async fn blobs_are_read_in_ranges() {
    let api = Api::start().await;
    let digest = Digest::of(b"0123456789");
    api.push_blob("mine/web", b"0123456789").await;
    let path = format!("/v2/mine/web/blobs/{digest}");
    let range = |range: &'static str| api.ask(Method::GET, &path).header("range", range).send();
    let part = range("bytes=3-5").await.unwrap();
    assert_eq!(
        (part.status(), header(&part, "content-range")),
        (StatusCode::PARTIAL_CONTENT, "bytes 3-5/10".to_owned())
    );
    assert_eq!(part.text().await.unwrap(), "345");
    assert_eq!(range("bytes=-2").await.unwrap().text().await.unwrap(), "89");
    assert_eq!(range("bytes=10-").await.unwrap().status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let head = api.ask(Method::HEAD, &path).send().await.unwrap();
    assert_eq!((head.status(), header(&head, "content-length")), (StatusCode::OK, "10".to_owned()));
}

#[tokio::test]
async fn uploads_go_in_chunks_that_follow_one_another() {
    let api = Api::start().await;
    let started = api.ask(Method::POST, "/v2/mine/web/blobs/uploads/").send().await.unwrap();
    assert_eq!(started.status(), StatusCode::ACCEPTED);
    let upload = header(&started, "location");
    let chunk = |range: &'static str, body: &'static str| {
        api.ask(Method::PATCH, &upload).header("content-range", range).body(body).send()
    };
    assert_eq!(header(&chunk("0-4", "hello").await.unwrap(), "range"), "0-4");
    let wrong = chunk("3-7", "again").await.unwrap();
    assert_eq!((wrong.status(), header(&wrong, "range")), (StatusCode::RANGE_NOT_SATISFIABLE, "0-4".to_owned()));
    assert_eq!(header(&api.get(&upload).await, "range"), "0-4");
    assert_eq!(chunk("5-10", " world").await.unwrap().status(), StatusCode::ACCEPTED);
    let digest = Digest::of(b"hello world!");
    let finished = api.ask(Method::PUT, &format!("{upload}?digest={digest}")).body("!").send().await.unwrap();
    assert_eq!(
        (finished.status(), header(&finished, "docker-content-digest")),
        (StatusCode::CREATED, digest.to_string())
    );
    assert_eq!(api.get(&header(&finished, "location")).await.text().await.unwrap(), "hello world!");
    assert_eq!(api.get(&upload).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_upload_of_something_else_is_refused_and_leaves_nothing() {
    let api = Api::start().await;
    let path = format!("/v2/mine/web/blobs/uploads/?digest={}", Digest::of(b"promised"));
    let response = api.ask(Method::POST, &path).body("delivered").send().await.unwrap();
    assert_eq!((response.status(), code(response).await.as_str()), (StatusCode::BAD_REQUEST, "DIGEST_INVALID"));
    let started = api.ask(Method::POST, "/v2/mine/web/blobs/uploads/").send().await.unwrap();
    let upload = header(&started, "location");
    assert_eq!(api.ask(Method::DELETE, &upload).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(api.get(&upload).await.status(), StatusCode::NOT_FOUND);
    api.registry.store.assert_empty();
}

#[tokio::test]
async fn a_manifest_needs_all_it_names_in_its_own_repository() {
    let api = Api::start().await;
    let image = small("a");
    let refused = api.put_manifest("mine/web", "v1", &image.manifest).await;
    assert_eq!((refused.status(), code(refused).await.as_str()), (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"));
    api.push("mine/web", "v1", &image).await;
    // The blobs are on the disk, and yet not in the other repository.
    let layer = Digest::of(&image.layers[0]);
    assert_eq!(api.get(&format!("/v2/mine/worker/blobs/{layer}")).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(api.put_manifest("mine/worker", "v1", &image.manifest).await.status(), StatusCode::NOT_FOUND);

    let nonsense = api.put_manifest("mine/web", "v2", b"{\"schemaVersion\":2}").await;
    assert_eq!((nonsense.status(), code(nonsense).await.as_str()), (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"));
    let wrong = api.put_manifest("mine/web", &Digest::of(b"x").to_string(), &image.manifest).await;
    assert_eq!(code(wrong).await, "DIGEST_INVALID");
    let huge = api.put_manifest("mine/web", "v3", &vec![b' '; (4 << 20) + 1]).await;
    assert_eq!(huge.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn blobs_are_mounted_from_where_the_client_may_read() {
    let api = Api::start().await;
    let image = small("a");
    api.push("mine/web", "v1", &image).await;
    let layer = Digest::of(&image.layers[0]);
    let mount = |to: &str, from: &str, token: &'static str| {
        let url = format!("http://{}/v2/{to}/blobs/uploads/?mount={layer}&from={from}", api.registry.address);
        api.client.post(url).basic_auth("x", Some(token)).send()
    };
    assert_eq!(mount("mine/worker", "mine/web", "good").await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(api.get(&format!("/v2/mine/worker/blobs/{layer}")).await.status(), StatusCode::OK);
    // Another tenant is told to upload, not whether the blob exists.
    assert_eq!(mount("other/web", "mine/web", "other").await.unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(mount("mine/worker", "mine/nothing", "good").await.unwrap().status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn lists_come_in_pages_and_deleted_images_leave_them() {
    let api = Api::start().await;
    let image = small("a");
    for tag in ["v1", "v2", "v3"] {
        api.push("mine/web", tag, &image).await;
    }
    let page = api.get("/v2/mine/web/tags/list?n=2").await;
    let next = header(&page, "link");
    assert_eq!(page.json::<serde_json::Value>().await.unwrap()["tags"], serde_json::json!(["v1", "v2"]));
    let path = next.trim_start_matches('<').split('>').next().unwrap();
    let rest = api.get(path).await;
    assert!(rest.headers().get("link").is_none());
    assert_eq!(rest.json::<serde_json::Value>().await.unwrap()["tags"], serde_json::json!(["v3"]));

    let delete = |target: String| api.ask(Method::DELETE, &format!("/v2/mine/web/manifests/{target}")).send();
    assert_eq!(delete("v1".to_owned()).await.unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(api.get("/v2/mine/web/manifests/v2").await.status(), StatusCode::OK);
    assert_eq!(delete(image.digest().to_string()).await.unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(api.get("/v2/mine/web/manifests/v2").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(api.get("/v2/mine/web/tags/list").await.status(), StatusCode::NOT_FOUND);
}

/// Runs a program in a folder of its own and expects success.
fn run(program: &str, folder: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.current_dir(folder).args(arguments).env("HOME", folder).env("XDG_RUNTIME_DIR", folder);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output
}

async fn run_async(program: &'static str, folder: &std::path::Path, arguments: &[&str]) -> Output {
    let (folder, arguments) = (folder.to_owned(), arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    let run = move || run(program, &folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test]
async fn skopeo_copies_there_and_back() {
    if !has_program("skopeo") {
        return;
    }
    let api = Api::start().await;
    let folder = tempfile::tempdir().unwrap();
    let image = TestImage::gzipped(vec![
        Layer::new().folder("etc/").file("etc/motd", "hello").build(),
        Layer::new().file("big", &"0123456789abcdef".repeat(100_000)).build(),
    ]);
    image.write_layout(&folder.path().join("in"));
    let remote = format!("docker://{}/mine/web:v1", api.registry.address);
    let policy = "--insecure-policy";
    let push = [policy, "copy", "--dest-tls-verify=false", "--dest-creds=x:good", "oci:in:latest", &remote];
    run_async("skopeo", folder.path(), &push).await;
    let other = format!("docker://{}/mine/worker:v1", api.registry.address);
    let both = ["--src-tls-verify=false", "--dest-tls-verify=false", "--src-creds=x:good", "--dest-creds=x:good"];
    run_async("skopeo", folder.path(), &[&[policy, "copy"], &both[..], &[&remote, &other]].concat()).await;
    let pull = [policy, "copy", "--src-tls-verify=false", "--src-creds=x:good", &other, "oci:out:latest"];
    run_async("skopeo", folder.path(), &pull).await;
    let came_back = folder.path().join("out/blobs/sha256").join(image.digest().hex());
    assert_eq!(std::fs::read(came_back).unwrap(), image.manifest);
    let inspect = ["inspect", "--tls-verify=false", "--creds=x:good", &remote];
    let said = run_async("skopeo", folder.path(), &inspect).await.stdout;
    assert!(String::from_utf8_lossy(&said).contains(&image.digest().to_string()));
    // Docker's own manifest form.
    let docker = format!("docker://{}/mine/docker:v1", api.registry.address);
    let push =
        [policy, "copy", "--format=v2s2", "--dest-tls-verify=false", "--dest-creds=x:good", "oci:in:latest", &docker];
    run_async("skopeo", folder.path(), &push).await;
}

#[tokio::test]
async fn buildah_pushes_and_pulls() {
    common::need_root();
    if !has_program("buildah") {
        return;
    }
    let api = Api::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    std::fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let policy = format!("--signature-policy={}", policy.display());
    small("from buildah").write_layout(&folder.path().join("in"));
    let store = ["--root=root", "--runroot=runroot", "--storage-driver=vfs"];
    let remote = format!("{}/mine/web:v1", api.registry.address);
    let docker_remote = format!("docker://{remote}");
    let from_layout =
        run_async("buildah", folder.path(), &[&store[..], &["pull", &policy, "-q", "oci:in:latest"]].concat()).await;
    let id = String::from_utf8(from_layout.stdout).unwrap().trim().to_owned();
    let login = ["--tls-verify=false", "--creds=x:good"];
    run_async("buildah", folder.path(), &[&store[..], &["push", &policy], &login, &[&id, &docker_remote]].concat())
        .await;
    run_async("buildah", folder.path(), &[&store[..], &["rmi", &id]].concat()).await;
    run_async("buildah", folder.path(), &[&store[..], &["pull", &policy], &login, &[&docker_remote]].concat()).await;
    assert_eq!(api.registry.store.store.images().len(), 1);
}
