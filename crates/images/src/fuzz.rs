//! Everything here that reads foreign bytes, as functions of bytes alone. They must return for any
//! input, whatever they answer.

use crate::{
    ImageReference, ImportError, LayerError, LayerSummary, UnpackLimits, import,
    layer::{
        Expected,
        stream::{Discard, read_layer},
    },
    reference::InvalidReference,
};

/// Small enough for a fuzzer's memory, large enough to reach everything.
fn limits() -> UnpackLimits {
    UnpackLimits { bytes: 16 << 20, entries: 10_000, ratio_floor: 1 << 20, ..UnpackLimits::default() }
}

/// Reads a layer, packed or not, as unpacking does.
pub fn layer(bytes: &[u8]) -> Result<LayerSummary, LayerError> {
    read_layer(bytes, &Expected::default(), &limits(), &mut Discard)
}

/// Parses an image reference.
pub fn reference(text: &str) -> Result<ImageReference, InvalidReference> {
    text.parse()
}

/// Reads an archive of an image and plans its import.
pub fn archive(bytes: &[u8]) -> Result<import::Imported, ImportError> {
    import::check_archive(bytes, &limits())
}
