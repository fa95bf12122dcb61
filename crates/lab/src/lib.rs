//! (being written)
pub mod address;
pub mod path;
pub mod place;
pub mod relay;
mod sys;
pub mod world;
