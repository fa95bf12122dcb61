//! The one program: a server's processes, or the command line, by the first word.

mod node;
mod program;
mod roles;

fn main() -> std::process::ExitCode {
    program::main()
}
