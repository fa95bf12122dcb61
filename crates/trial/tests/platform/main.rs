//! Whole platforms under test, each in a lab world of its own. Needs root.

mod cli;
mod deaths;
mod deploys;
mod described;
mod detour;
mod exactly_once;
mod examples;
mod faults;
mod following;
mod full_disk;
mod joining;
mod leaving;
mod mesh;
mod narrow_way;
mod one_node;
mod power_cut;
mod public_names;
mod registries;
mod restoring;
mod resumption;
mod secrets;
mod slow_link;
mod support;
mod three_regions;
mod tokens;
mod wireguard;
