//! Every place where the platform reads bytes that somebody else wrote, as a function of those bytes.
//! A target must return for any input; where it panics, the input is an attack.
//!
//! The programs in `fuzz/` hand these functions to libFuzzer; the ordinary test of this crate runs
//! them over the same corpora, so that they cannot rot. What only its own crate can see has its entry
//! function there, in a module `fuzz`. Nothing but tests may depend on this crate.

mod dns;
pub mod targets;

/// One reader of foreign bytes.
pub struct Target {
    /// Also the name of its program, and of its folder in `fuzz/corpus`.
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// All of them, by name.
pub const TARGETS: [Target; 22] = [
    Target { name: "access_token", run: targets::access_token },
    Target { name: "backhaul_headers", run: targets::backhaul_headers },
    Target { name: "catalogue_message", run: targets::catalogue_message },
    Target { name: "catalogue_saved", run: targets::catalogue_saved },
    Target { name: "catalogue_stream", run: targets::catalogue_stream },
    Target { name: "dns_packet", run: targets::dns_packet },
    Target { name: "dns_places", run: targets::dns_places },
    Target { name: "dns_upstream", run: targets::dns_upstream },
    Target { name: "guest_frames", run: targets::guest_frames },
    Target { name: "image_archive", run: targets::image_archive },
    Target { name: "image_document", run: targets::image_document },
    Target { name: "image_layer", run: targets::image_layer },
    Target { name: "image_reference", run: targets::image_reference },
    Target { name: "join_token", run: targets::join_token },
    Target { name: "machine_body", run: targets::machine_body },
    Target { name: "machine_log", run: targets::machine_log },
    Target { name: "manifest", run: targets::manifest },
    Target { name: "mesh_datagrams", run: targets::mesh_datagrams },
    Target { name: "mesh_packet", run: targets::mesh_packet },
    Target { name: "mesh_resumption", run: targets::mesh_resumption },
    Target { name: "mesh_signal", run: targets::mesh_signal },
    Target { name: "mesh_stream", run: targets::mesh_stream },
];
