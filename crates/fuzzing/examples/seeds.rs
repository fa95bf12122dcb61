//! Writes the binary seeds of `fuzz/corpus`, to be run after a format changed:
//! `cargo run --profile lab -p atoll-fuzzing --example seeds`. Seeds that are text are kept by hand.

use std::fs;
use std::io::Write;
use std::path::Path;

use atoll_catalogue::protocol::Positions;
use atoll_catalogue::protocol::lease::EdgeLease;
use atoll_catalogue::protocol::message::{Ack, Base, Event, LeaseGrant, Part, Request, Write as RowWrite};
use atoll_guest_protocol::Versions;
use atoll_guest_protocol::frame::{self, Channel};
use atoll_guest_protocol::guest::{FromGuest, ToGuest};
use atoll_guest_protocol::process::{Process, StreamControl, StreamEvent};
use atoll_guest_protocol::shim::{Ask, FromShim, Phase, ToShim};
use atoll_images::Digest;
use atoll_model::row::{NodeRow, NodeState, RowVersion};
use atoll_model::{Owner, Row};
use bytes::Bytes;
use serde_json::json;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    layers()?;
    archives()?;
    catalogue()?;
    frames()?;
    questions()?;
    mesh()
}

/// DNS messages: questions with what clients say of themselves, and a resolver's answer.
fn questions() -> std::io::Result<()> {
    let name = |name: &str| -> Vec<u8> {
        let labels = name.split('.').map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
        labels.chain([vec![0]]).collect::<Vec<_>>().concat()
    };
    let opt = [0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2];
    for (file, asked, kind) in [
        ("machines", "web.internal", 28),
        ("nearest", "top2.nearest.of.web.internal", 28),
        ("metadata", "blue.color.kv._metadata.web.internal", 28),
        ("instances", "_instances.internal", 16),
        ("entry", "web.flycast", 28),
        ("reverse", "2.0.0.0.1.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa", 12),
        ("app", "web.zone.example", 1),
        ("challenge", "_acme-challenge.web.zone.example", 16),
        ("nothing", "none.zone.example", 1),
        ("keys", "zone.example", 48),
        ("transfer", "zone.example", 252),
    ] {
        let head = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        put("dns_packet", file, &[&head[..], &name(asked), &[0, kind, 0, 1], &opt].concat())?;
    }
    let mut answer =
        [&[7, 7, 0x81, 0x80, 0, 1, 0, 2, 0, 1, 0, 1][..], &name("www.example.org"), &[0, 1, 0, 1]].concat();
    for host in [1, 2] {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, host]);
    }
    answer.extend([0xc0, 16, 0, 2, 0, 1, 0, 0, 1, 44, 0, 5, 2, b'n', b's', 0xc0, 16]);
    answer.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    put("dns_upstream", "answer", &answer)
}

fn put(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// A layer with everything a layer can hold.
fn layer() -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions([("SCHILY.xattr.user.note", &b"kept"[..]), ("mtime", b"1700000000.5")])?;
    let mut entry = |kind: tar::EntryType, path: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        match link {
            "" => builder.append_data(&mut header, path, content),
            link => builder.append_link(&mut header, path, link),
        }
    };
    entry(tar::EntryType::Regular, "etc/note", "", b"hello\n")?;
    entry(tar::EntryType::Directory, "usr/", "", b"")?;
    entry(tar::EntryType::Symlink, "bin", "usr/bin", b"")?;
    entry(tar::EntryType::Link, "etc/again", "etc/note", b"")?;
    entry(tar::EntryType::Regular, "usr/.wh.gone", "", b"")?;
    entry(tar::EntryType::Regular, "var/.wh..wh..opq", "", b"")?;
    entry(tar::EntryType::Regular, &"long/".repeat(40), "", b"x")?;
    builder.into_inner()
}

fn layers() -> std::io::Result<()> {
    let layer = layer()?;
    put("image_layer", "everything.tar", &layer)?;
    put("image_layer", "everything.tar.gz", &gzip(&layer)?)
}

fn archives() -> std::io::Result<()> {
    let layer = layer()?;
    let config = json!({"os": "linux", "architecture": "amd64", "config": {"Cmd": ["/run"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}});
    let config = config.to_string().into_bytes();
    let manifest = json!({"schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Digest::of(&layer), "size": layer.len()}]});
    let manifest = manifest.to_string().into_bytes();
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::of(&manifest), "size": manifest.len(), "platform": {"os": "linux", "architecture": "amd64"}}]});
    let index = index.to_string().into_bytes();
    for (name, document) in [("manifest", &manifest), ("index", &index), ("config", &config)] {
        put("image_document", name, document)?;
    }
    let blob = |bytes: &[u8]| Digest::of(bytes).to_string().replace(':', "/");
    let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes();
    let of_blob = |bytes: &[u8]| format!("blobs/{}", blob(bytes));
    let oci = [
        ("oci-layout".to_owned(), layout),
        ("index.json".to_owned(), index.clone()),
        (of_blob(&manifest), manifest.clone()),
        (of_blob(&config), config.clone()),
        (of_blob(&layer), layer.clone()),
    ];
    put("image_archive", "oci.tar", &archive(&oci)?)?;
    let listing = json!([{"Config": "config.json", "RepoTags": ["web:1"], "Layers": ["layer.tar"]}]);
    let docker = [
        ("manifest.json".to_owned(), listing.to_string().into_bytes()),
        ("config.json".to_owned(), config),
        ("layer.tar".to_owned(), layer),
    ];
    put("image_archive", "docker.tar", &archive(&docker)?)
}

fn archive(files: &[(String, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content.as_slice())?;
    }
    builder.into_inner()
}

fn node(name: &str, epoch: u64) -> Row {
    Row::Node(NodeRow {
        name: name.parse().expect("a name written here"),
        region: "ams".parse().expect("a region written here"),
        state: NodeState::Active,
        epoch,
        backhaul: Some(([192, 0, 2, 1], 4282).into()),
        worker_rpc: None,
        public_addresses: Vec::new(),
        egress_addresses: Vec::new(),
        mesh: None,
        gateway: None,
        zones: Vec::new(),
    })
}

fn rows(base: Base, index: u32, through: Option<u64>, rows: &[(u64, Row)]) -> Bytes {
    let write = |(sequence, row): &(u64, Row)| RowWrite {
        key: row.key(),
        sequence: *sequence,
        body: Some(row.encode().into()),
    };
    let writes = rows.iter().map(write).collect();
    Event::Rows(Part { owner: Owner::Control, epoch: 1, base, index, writes, through }).encode()
}

fn catalogue() -> std::io::Result<()> {
    let owner = Owner::Control;
    let positions = Positions::from([(owner, RowVersion { epoch: 1, sequence: 7 })]);
    let lease = Some(EdgeLease::request(Duration::from_secs(1)));
    let ack = Ack { positions: positions.clone(), refused: vec![node("ams1", 1).key()], lease };
    let whole = rows(Base::Nothing, 0, Some(2), &[(1, node("ams1", 1)), (2, node("nrt1", 1))]);
    let part_1 = rows(Base::Sequence(2), 0, None, &[(3, node("ord1", 1))]);
    let part_2 = rows(Base::Sequence(2), 1, Some(4), &[(4, node("ams1", 2))]);
    let messages = [
        ("watch", Request::Watch(positions).encode()),
        ("ack", Request::Ack(ack).encode()),
        ("rows", whole.clone()),
        ("heartbeat", Event::Heartbeat.encode()),
        ("lease", Event::Lease(LeaseGrant { sent_at: Duration::ZERO, term: Duration::from_secs(6) }).encode()),
    ];
    for (name, message) in messages {
        put("catalogue_message", name, &message)?;
    }
    let framed = |message: &Bytes| [&(message.len() as u32).to_le_bytes()[..], message].concat();
    put("catalogue_saved", "two-nodes", &framed(&whole))?;
    let stream = [&whole, &part_1, &whole, &part_2].map(|message| [&[1][..], &framed(message)].concat()).concat();
    put("catalogue_stream", "whole-then-parts", &stream)
}

fn frames() -> std::io::Result<()> {
    let main = Process { args: vec!["/run".to_owned()], ..Process::default() };
    let mut to_guest = vec![7];
    let encoded = |result: Result<(), _>| result.map_err(std::io::Error::other);
    encoded(frame::encode_control(&mut to_guest, &ToGuest::Hello(Versions::OURS)))?;
    encoded(frame::encode_control(&mut to_guest, &ToGuest::Configure { main: main.clone() }))?;
    let start = StreamControl::Start(main);
    encoded(frame::encode_control(&mut to_guest, &ToGuest::Stream { stream: 1, control: start }))?;
    frame::encode_data(&mut to_guest, Channel::Stdin, 1, b"typed\n");
    put("guest_frames", "to-guest", &to_guest)?;

    let mut from_guest = vec![255];
    encoded(frame::encode_control(&mut from_guest, &FromGuest::Hello(Versions::OURS)))?;
    frame::encode_data(&mut from_guest, Channel::Stdout, 0, b"line\n");
    let exit = StreamEvent::Exit { code: 1, signal: Some(9) };
    encoded(frame::encode_control(&mut from_guest, &FromGuest::Stream { stream: 0, event: exit }))?;
    put("guest_frames", "from-guest", &from_guest)?;

    let mut shim = vec![0];
    encoded(frame::encode_control(&mut shim, &ToShim::Request { request: 1, ask: Ask::Stats }))?;
    encoded(frame::encode_control(&mut shim, &FromShim::Machine(Phase::Starting)))?;
    put("guest_frames", "shim", &shim)
}

/// One datagram of each kind, and an IP packet of each family. Those of handshakes are genuine: they
/// come from the peer that the target's node knows.
fn mesh() -> std::io::Result<()> {
    for (name, datagram) in atoll_mesh::fuzz::seeds() {
        // The first byte says how long each datagram is.
        let length = u8::try_from(datagram.len()).unwrap_or(u8::MAX);
        put("mesh_datagrams", name, &[&[length], datagram.as_slice()].concat())?;
    }
    let mut v6 = vec![0; 60];
    (v6[0], v6[5], v6[24], v6[25]) = (0x60, 20, 0xfd, 0xaa);
    put("mesh_packet", "ipv6", &v6)?;
    let mut v4 = vec![0; 28];
    (v4[0], v4[3], v4[16]) = (0x45, 28, 10);
    put("mesh_packet", "ipv4", &v4)?;
    for (name, signal) in atoll_mesh::fuzz::signals() {
        put("mesh_signal", name, &signal)?;
    }
    let framed = ["a", "bc"].map(|datagram| atoll_mesh::stream::framed(datagram.as_bytes())).concat();
    put("mesh_stream", "two", &[&[3], &atoll_mesh::stream::MAGIC[..], &framed].concat())?;
    Ok(())
}
