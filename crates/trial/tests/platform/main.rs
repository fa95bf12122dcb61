//! Whole platforms under test, each in a lab world of its own. Needs root.

mod deaths;
mod deploys;
mod examples;
mod joining;
mod one_node;
mod support;
mod three_regions;
