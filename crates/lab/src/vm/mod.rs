//! Hosts with a kernel of their own: emulated QEMU on Debian's cloud kernel, an uplink into the same
//! relay, and pure version 2 control groups.
//!
//! On the lab's side: [`files`] finds QEMU and the kernel, [`image`] packs the guest's memory disk with
//! [`cpio`] and [`modules`], [`machine`] runs it, [`session`] runs a program in it. On the guest's side:
//! [`guest`] is its first process. Between them [`wire`], over ports of a virtual serial device, so that
//! control never depends on the network under test.
//!
//! [`suite`] runs a whole test program in such a host.

mod cpio;
pub mod files;
pub mod guest;
mod image;
pub mod machine;
mod modules;
pub mod session;
pub mod suite;
pub mod wire;
