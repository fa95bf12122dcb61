//! The one program: a server's processes, or the command line, by the first word.

#[cfg(feature = "full")]
mod node;
#[cfg(feature = "full")]
mod program;
#[cfg(feature = "full")]
mod roles;

#[cfg(feature = "full")]
fn main() -> std::process::ExitCode {
    program::main()
}

#[cfg(not(feature = "full"))]
fn main() {}
