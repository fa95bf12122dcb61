//! Where a program may lie, by the process's own `PATH`. Pure.

use atoll_guest_protocol::process::Process;

/// `PATH` of a process whose environment has none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The paths to try, in order. A program with a `/` is taken as it is, relative to the working
/// folder; so are empty entries of `PATH`.
pub fn candidates(process: &Process, program: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = process.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    path.split(':')
        .map(|folder| match folder {
            "" => format!("./{program}"),
            folder => format!("{}/{program}", folder.trim_end_matches('/')),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_path(path: &str) -> Process {
        Process { env: [("PATH".to_owned(), path.to_owned())].into(), ..Process::default() }
    }

    #[test]
    fn a_bare_name_is_looked_up_in_the_path() {
        assert_eq!(candidates(&with_path("/a:/b/::/c"), "x"), ["/a/x", "/b/x", "./x", "/c/x"]);
        assert_eq!(candidates(&Process::default(), "x").len(), 6);
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        assert_eq!(candidates(&with_path("/a"), "./x"), ["./x"]);
        assert_eq!(candidates(&with_path("/a"), "/bin/x"), ["/bin/x"]);
    }
}
