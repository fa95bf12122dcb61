//! The entry functions. Beyond returning, a target holds what must be true of anything accepted:
//! mostly that it reads back as it was written.

use atoll_guest_protocol::frame::{self, Decoder, Frame};
use atoll_guest_protocol::guest::{FromGuest, ToGuest};
use atoll_guest_protocol::shim::{ExitRecord, FromShim, StartRecord, ToShim};
use atoll_identity::credentials;
use atoll_model::{MachineConfig, MachineVersion};
use atoll_rpc::join_token::JoinToken;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// `Authorization` headers: platform tokens in every spelling.
pub fn access_token(bytes: &[u8]) {
    let Ok(header) = std::str::from_utf8(bytes) else { return };
    for token in credentials(header) {
        assert_eq!(credentials(&format!("Bearer {}", token.reveal())), [token]);
    }
}

/// A request's line and headers, from a client and from another edge.
pub fn backhaul_headers(bytes: &[u8]) {
    atoll_proxy::fuzz::request_head(bytes);
    atoll_proxy::fuzz::websocket(bytes);
}

pub fn catalogue_message(bytes: &[u8]) {
    atoll_catalogue::fuzz::message(bytes);
}

pub fn catalogue_saved(bytes: &[u8]) {
    atoll_catalogue::fuzz::saved(bytes);
}

pub fn catalogue_stream(bytes: &[u8]) {
    atoll_catalogue::fuzz::stream(bytes);
}

/// A DNS message from anybody, to the private and to the public side.
pub fn dns_packet(bytes: &[u8]) {
    crate::dns::packet(bytes);
}

/// An operator's table of where networks are.
pub fn dns_places(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(places) = atoll_dns::public::Places::parse(text) {
        places.find([192, 0, 2, 1].into(), 32);
    }
}

/// A message from an upstream resolver.
pub fn dns_upstream(bytes: &[u8]) {
    atoll_dns::fuzz::upstream(bytes);
}

/// A connection between agent, shim and guest, read by each of its ends. The first byte says in which
/// pieces it arrives.
pub fn guest_frames(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let mut decoder = Decoder::default();
    for received in bytes.chunks(usize::from(*piece) + 1) {
        decoder.push(received);
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Control(body))) => control_message(&body),
                Ok(Some(Frame::Data { channel, stream, bytes })) => {
                    let mut out = Vec::new();
                    frame::encode_data(&mut out, channel, stream, &bytes);
                    assert!(out.len() >= bytes.len());
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fn control_message(body: &[u8]) {
    reads_back::<ToGuest>(body);
    reads_back::<FromGuest>(body);
    reads_back::<ToShim>(body);
    reads_back::<FromShim>(body);
    reads_back::<ExitRecord>(body);
    reads_back::<StartRecord>(body);
}

/// What `body` says as an `M`, if anything, survives being written and read.
fn reads_back<M: Serialize + DeserializeOwned + PartialEq>(body: &[u8]) {
    let Ok(message) = frame::parse::<M>(body) else { return };
    let mut written = Vec::new();
    // A message can be longer than its original, and too long for a frame.
    if frame::encode_control(&mut written, &message).is_err() {
        return;
    }
    let mut decoder = Decoder::default();
    decoder.push(&written);
    let Ok(Some(Frame::Control(again))) = decoder.next_frame() else { panic!("our own frame is not one") };
    assert!(frame::parse::<M>(&again).is_ok_and(|again| again == message), "a message reads back differently");
}

/// An archive of an image, as `docker save` and OCI layouts make them.
pub fn image_archive(bytes: &[u8]) {
    // Refusing is an answer.
    atoll_images::fuzz::archive(bytes).ok();
}

/// Manifests, indexes and image configurations.
pub fn image_document(bytes: &[u8]) {
    atoll_images::fuzz::document(bytes);
}

/// A layer, packed or not.
pub fn image_layer(bytes: &[u8]) {
    atoll_images::fuzz::layer(bytes).ok();
}

pub fn image_reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(reference) = atoll_images::fuzz::reference(text) {
        let again = atoll_images::fuzz::reference(&reference.to_string());
        assert!(again.is_ok_and(|again| again == reference), "{reference} reads back differently");
    }
}

pub fn join_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<JoinToken>() {
        assert!(token.to_string().parse::<JoinToken>().is_ok_and(|again| again == token));
    }
}

/// The configuration of a machine, as bodies under `/v1` carry it, and a version's id.
pub fn machine_body(bytes: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<MachineConfig>(bytes) {
        // Whether it is allowed is a matter of its own; it must be judged without a panic.
        let judged = config.validate();
        let written = serde_json::to_vec(&config).unwrap_or_default();
        let again = serde_json::from_slice::<MachineConfig>(&written);
        let Ok(again) = again else { panic!("a configuration that was accepted is not when written again") };
        assert!(again == config, "a configuration reads back differently");
        assert!(again.validate() == judged, "a configuration is judged differently when read back");
    }
    if let Some(version) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<MachineVersion>().ok()) {
        assert!(version.to_string().parse::<MachineVersion>().is_ok_and(|again| again == version));
    }
}

/// The log that a machine's output became.
pub fn machine_log(bytes: &[u8]) {
    atoll_worker::fuzz::log(bytes);
}

/// A fly.toml, as TOML and as JSON.
pub fn manifest(bytes: &[u8]) {
    atoll_manifest::fuzz(bytes);
}

/// Datagrams on the mesh's port.
pub fn mesh_datagrams(bytes: &[u8]) {
    atoll_mesh::fuzz::datagrams(bytes);
}

/// WireGuard's datagrams in a user's stream.
pub fn mesh_stream(bytes: &[u8]) {
    atoll_mesh::fuzz::stream(bytes);
}

/// What another server says beside the mesh, once it is opened.
pub fn mesh_signal(bytes: &[u8]) {
    atoll_mesh::fuzz::signal(bytes);
}

/// A machine's packet on its way into the mesh.
pub fn mesh_packet(bytes: &[u8]) {
    atoll_mesh::fuzz::packet(bytes);
}

/// Datagrams of mesh resumption to either side, packets that could travel early, and kept tickets.
pub fn mesh_resumption(bytes: &[u8]) {
    atoll_resume::fuzz::bytes(bytes);
}
