//! The container driver with real machines. Needs root, and busybox for the image.

mod isolation;
mod life;
mod support;
mod survival;
mod unified;
