//! Runs a test program once more, in a virtual machine of its own: what holds on this machine's kernel
//! and control groups is then shown on the other's too. Knows how Rust's test programs report, not what
//! they test.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::engine::vm_folder;
use crate::error::{Attempt, LabError};
use crate::lab::{Lab, Options};
use crate::world::World;

const WORLD: &str = "[[host]]\nname = \"vm\"\ncity = \"ams\"\nrole = \"node\"\nkind = \"vm\"\n";

/// A test program and what it needs beside its libraries.
#[derive(Debug, Clone)]
pub struct Suite {
    pub program: PathBuf,
    /// Full names of tests that are not to run there.
    pub except: Vec<String>,
    /// Files, folders and programs of this machine that the tests use, at the same paths.
    pub files: Vec<PathBuf>,
    /// Longest time for all, from the boot on.
    pub limit: Duration,
}

/// What became of a suite.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The tests that should have passed.
    pub expected: Vec<String>,
    pub passed: Vec<String>,
    /// The program's exit code; none if it was still running at the limit.
    pub code: Option<i32>,
    /// All that the program printed.
    pub output: String,
    /// What the machine's kernel said meanwhile.
    pub console: String,
}

impl Report {
    /// Panics unless every test ran and passed, and then tells all that is known. For tests that run
    /// suites.
    pub fn assert_passed(&self) {
        let missing: Vec<_> = self.expected.iter().filter(|test| !self.passed.contains(test)).collect();
        let Self { code, output, console, .. } = self;
        assert!(
            missing.is_empty() && !self.expected.is_empty() && *code == Some(0),
            "exit code {code:?}, not passed: {missing:#?}\n{output}\nThe kernel said:\n{console}"
        );
    }
}

impl Suite {
    /// Boots a machine, runs the program in it and ends the machine. Each test's outcome is told on
    /// standard error as it comes, past what captures a test's output.
    ///
    /// # Errors
    /// If the machine does not boot; a program that fails is an ordinary report.
    pub async fn run(&self) -> Result<Report, LabError> {
        let world = World::parse(WORLD).map_err(|error| LabError::Invalid(error.to_string()))?;
        let mut vm_files = self.files.clone();
        vm_files.push(self.program.clone());
        let lab = Lab::start(&world, &Options { vm_files, ..Options::default() }).await?;
        let host = lab.host("vm")?;
        let console = vm_folder(&host.status()?).join("console.log");
        let mut report = Report { expected: self.tests().await?, ..Report::default() };
        // The disk has room for what tests make; the memory disk has not.
        let mut command = host.command("env")?;
        command.arg(format!("TMPDIR={}", host.disk()?.display()));
        command.arg("RUST_BACKTRACE=0").arg(&self.program).args(["--test-threads=1", "--color=never"]);
        command.arg("--exact").args(self.except.iter().flat_map(|test| ["--skip", test]));
        command.stdin(Stdio::null()).kill_on_drop(true);
        // One pipe for both, so that a failure's message stays at its place.
        let (read, write) = io::pipe().attempting(|| "make a pipe".to_owned())?;
        let errors = write.try_clone().attempting(|| "make a pipe".to_owned())?;
        let mut child = command.stdout(write).stderr(errors).spawn().attempting(|| "run the suite".to_owned())?;
        // It holds the pipe's ends that the program writes to.
        drop(command);
        let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(read.into());
        let mut lines = BufReader::new(pipe.attempting(|| "read the suite's output".to_owned())?).lines();
        let listen = async {
            while let Some(line) = lines.next_line().await? {
                if let Some((test, passed)) = outcome(&line) {
                    writeln!(io::stderr(), "  in a virtual machine: {line}")?;
                    report.passed.extend(passed.then(|| test.to_owned()));
                }
                report.output.push_str(&line);
                report.output.push('\n');
            }
            child.wait().await
        };
        match tokio::time::timeout(self.limit, listen).await {
            Ok(status) => report.code = status.attempting(|| "run the suite".to_owned())?.code(),
            Err(_) => report.output.push_str("the time limit passed here\n"),
        }
        // Only an explanation of what failed: a console that cannot be read is an empty one.
        report.console = fs::read(console).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
        Ok(report)
    }

    /// The names of the tests that are to run.
    async fn tests(&self) -> Result<Vec<String>, LabError> {
        let listing = || format!("list the tests of {}", self.program.display());
        let listed = Command::new(&self.program).args(["--list", "--format=terse"]).output().await;
        let listed = listed.attempting(listing)?;
        let names = String::from_utf8_lossy(&listed.stdout);
        let names = names.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned);
        Ok(names.filter(|name| !self.except.contains(name)).collect())
    }
}

/// The test and whether it passed, in a line such as `test <name> ... ok`.
fn outcome(line: &str) -> Option<(&str, bool)> {
    let (test, told) = line.strip_prefix("test ")?.split_once(" ... ")?;
    match told.split(&[' ', ','][..]).next()? {
        "ok" => Some((test.trim_end_matches(" - should panic"), true)),
        "FAILED" => Some((test, false)),
        // One that is ignored was not run.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_from_their_lines() {
        assert_eq!(outcome("test life::it_runs ... ok"), Some(("life::it_runs", true)));
        assert_eq!(outcome("test life::it_runs ... FAILED"), Some(("life::it_runs", false)));
        assert_eq!(outcome("test a - should panic ... ok"), Some(("a", true)));
        for other in ["test a ... ignored", "test result: ok. 3 passed; 0 failed", "running 3 tests", ""] {
            assert_eq!(outcome(other), None, "{other}");
        }
    }

    #[test]
    #[should_panic(expected = "not passed")]
    fn a_suite_without_tests_has_not_passed() {
        Report { code: Some(0), ..Report::default() }.assert_passed();
    }
}
