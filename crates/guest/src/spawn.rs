//! Starts a process: descriptors, terminal, user, folder, program. The child reports over a pipe
//! that closes when the program runs, so that the caller knows whether it does.

use std::convert::Infallible;
use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use atoll_guest_protocol::process::{Process, Terminal};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::identity::{self, Identity};
use crate::lookup;

/// Largest part of `/etc/passwd` and `/etc/group` that is read: the image decides what they are.
const IDENTITY_FILE_MAX: u64 = 1024 * 1024;

/// A started process and this side's ends of its descriptors, all non-blocking.
#[derive(Debug)]
pub struct Spawned {
    pub pid: Pid,
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: Option<OwnedFd>,
    /// The terminal's controlling side, when there is one.
    pub terminal: Option<OwnedFd>,
}

/// The descriptors 0, 1 and 2 of the child.
struct ChildEnds {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    has_terminal: bool,
}

/// Everything the child needs, made before the fork.
struct Plan {
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
    working_dir: CString,
    identity: Identity,
}

/// What the child was doing when it failed. Its number goes through the report pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Session = 1,
    Descriptors,
    WorkingDir,
    Identity,
    Execute,
}

impl Step {
    const ALL: [Self; 5] = [Self::Session, Self::Descriptors, Self::WorkingDir, Self::Identity, Self::Execute];
}

/// Starts `process`. Without `with_stdin` its standard input is empty. The error is a reason that
/// names what is wrong.
pub fn spawn(process: &Process, with_stdin: bool) -> Result<Spawned, String> {
    let plan = plan(process)?;
    let cannot = |what: &'static str| move |error: rustix::io::Errno| format!("cannot {what}: {error}");
    let (mut spawned, ends) = match process.terminal {
        Some(size) => with_terminal(size, &plan.identity),
        None => with_pipes(with_stdin, &plan.identity),
    }
    .map_err(cannot("make the process's descriptors"))?;
    let (report, child_report) = pipe_with(PipeFlags::CLOEXEC).map_err(cannot("make a pipe"))?;
    // SAFETY: this program has one thread, so the child is a whole copy that may run ordinary code.
    match unsafe { libc::fork() } {
        -1 => Err(format!("cannot fork: {}", Error::last_os_error())),
        0 => {
            let (step, error) = match become_program(&plan, ends) {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            let mut message = [0; 5];
            message[0] = step as u8;
            message[1..].copy_from_slice(&error.raw_os_error().unwrap_or(libc::EIO).to_le_bytes());
            // A lost report shows as a process that ended with 127.
            let _ = rustix::io::write(&child_report, &message);
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(127) }
        }
        pid => {
            drop((child_report, ends));
            let mut message = Vec::new();
            File::from(report).read_to_end(&mut message).map_err(|error| format!("cannot read a report: {error}"))?;
            match understand(&message, process) {
                None => {
                    spawned.pid = Pid::from_raw(pid).ok_or("fork gave no process")?;
                    Ok(spawned)
                }
                // The child is reaped with all others.
                Some(reason) => Err(reason),
            }
        }
    }
}

fn plan(process: &Process) -> Result<Plan, String> {
    let program = process.args.first().filter(|program| !program.is_empty()).ok_or("no program was given")?;
    let identity = identity::resolve(&process.user, &read_identities("/etc/passwd")?, &read_identities("/etc/group")?)
        .map_err(|error| error.to_string())?;
    let text = |text: &str| CString::new(text).map_err(|_| format!("{text:?} contains a zero byte"));
    let all = |texts: &[String]| texts.iter().map(|part| text(part)).collect::<Result<Vec<_>, _>>();
    let mut env: Vec<String> = process.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let defaults = [("PATH", lookup::DEFAULT_PATH), ("HOME", identity.home.as_str()), ("TERM", "xterm-256color")];
    for (name, value) in defaults {
        if !process.env.contains_key(name) && (name != "TERM" || process.terminal.is_some()) {
            env.push(format!("{name}={value}"));
        }
    }
    let working_dir = if process.working_dir.is_empty() { "/" } else { &process.working_dir };
    if !working_dir.starts_with('/') {
        return Err(format!("the working directory {working_dir:?} is not absolute"));
    }
    std::fs::create_dir_all(working_dir)
        .map_err(|error| format!("cannot make the working directory {working_dir:?}: {error}"))?;
    Ok(Plan {
        candidates: all(&lookup::candidates(process, program))?,
        args: all(&process.args)?,
        env: all(&env)?,
        working_dir: text(working_dir)?,
        identity,
    })
}

/// A missing file is an empty one.
fn read_identities(path: &str) -> Result<String, String> {
    // The image decides what lies there, and opening a pipe would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut bytes = Vec::new();
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file).take(IDENTITY_FILE_MAX).read_to_end(&mut bytes),
        Err(rustix::io::Errno::NOENT) => Ok(0),
        Err(error) => Err(error.into()),
    }
    .map_err(|error| format!("cannot read the image's {path}: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The pipes belong to the process's user: programs open `/dev/stdout` and `/dev/stderr` by name, and
/// opening asks for the right to.
fn with_pipes(with_stdin: bool, identity: &Identity) -> rustix::io::Result<(Spawned, ChildEnds)> {
    let owner = Some(rustix::fs::Uid::from_raw(identity.uid));
    let (stdin, child_stdin) = if with_stdin {
        let (child, parent) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fchown(&child, owner, None)?;
        (Some(parent), child)
    } else {
        (None, rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    };
    let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    for end in [&child_stdout, &child_stderr] {
        rustix::fs::fchown(end, owner, None)?;
    }
    for fd in stdin.iter().chain([&stdout, &stderr]) {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    let ends = ChildEnds { stdin: child_stdin, stdout: child_stdout, stderr: child_stderr, has_terminal: false };
    Ok((Spawned { pid: Pid::INIT, stdin, stdout, stderr: Some(stderr), terminal: None }, ends))
}

fn with_terminal(size: Terminal, identity: &Identity) -> rustix::io::Result<(Spawned, ChildEnds)> {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&controller)?;
    let terminal = ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    resize(controller.as_fd(), size)?;
    rustix::fs::fchown(&terminal, Some(rustix::fs::Uid::from_raw(identity.uid)), None)?;
    rustix::io::ioctl_fionbio(&controller, true)?;
    let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 0);
    let (stdin, stdout) = (copy(&controller)?, copy(&controller)?);
    let ends =
        ChildEnds { stdin: copy(&terminal)?, stdout: copy(&terminal)?, stderr: copy(&terminal)?, has_terminal: true };
    Ok((Spawned { pid: Pid::INIT, stdin: Some(stdin), stdout, stderr: None, terminal: Some(controller) }, ends))
}

/// Sets a terminal's size.
pub fn resize(controller: BorrowedFd<'_>, size: Terminal) -> rustix::io::Result<()> {
    tcsetwinsize(controller, Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 })
}

/// Runs in the child and returns only when it failed.
fn become_program(plan: &Plan, ends: ChildEnds) -> Result<Infallible, (Step, Error)> {
    let at = |step: Step| move |error: rustix::io::Errno| (step, Error::from(error));
    rustix::process::setsid().map_err(at(Step::Session))?;
    if ends.has_terminal {
        rustix::process::ioctl_tiocsctty(&ends.stdin).map_err(at(Step::Session))?;
    }
    for (target, end) in [(0, &ends.stdin), (1, &ends.stdout), (2, &ends.stderr)] {
        place(end, target).map_err(|error| (Step::Descriptors, error))?;
    }
    rustix::process::chdir(&plan.working_dir).map_err(at(Step::WorkingDir))?;
    become_user(&plan.identity).map_err(|error| (Step::Identity, error))?;
    reset_signals();
    execute(plan).map_err(|error| (Step::Execute, error))
}

/// Makes `end` the descriptor `target`, which stays open over the execution. No end lies below 3,
/// since the guest's own 0, 1 and 2 are always taken.
fn place(end: &OwnedFd, target: RawFd) -> Result<(), Error> {
    // SAFETY: `end` is open, and the descriptors 0 to 2 belong to no owner in this process.
    match unsafe { libc::dup2(end.as_raw_fd(), target) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

fn become_user(identity: &Identity) -> Result<(), Error> {
    let check = |result: i32| if result == 0 { Ok(()) } else { Err(Error::last_os_error()) };
    // SAFETY: the pointer and length describe a live slice of group ids.
    check(unsafe { libc::setgroups(identity.groups.len(), identity.groups.as_ptr()) })?;
    // SAFETY: plain system calls on numbers.
    check(unsafe { libc::setgid(identity.gid) })?;
    // SAFETY: as above; last, since it takes the right to do the others away.
    check(unsafe { libc::setuid(identity.uid) })
}

/// The language's runtime ignores SIGPIPE and this program blocks SIGCHLD; programs expect neither.
fn reset_signals() {
    // SAFETY: an all-zero set is valid and is emptied before use; the calls cannot fail with these arguments.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
}

/// Tries each candidate; the most telling error wins over "not there".
fn execute(plan: &Plan) -> Result<Infallible, Error> {
    let pointers = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(&plan.args), pointers(&plan.env));
    let mut telling = Error::from_raw_os_error(libc::ENOENT);
    for candidate in &plan.candidates {
        // SAFETY: all pointers are to zero-terminated texts in arrays that end with a null pointer.
        unsafe { libc::execve(candidate.as_ptr(), args.as_ptr(), env.as_ptr()) };
        let error = Error::last_os_error();
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
            telling = error;
        }
    }
    Err(telling)
}

/// The reason in a child's report; none when the program was executed.
fn understand(message: &[u8], process: &Process) -> Option<String> {
    let [step, errno @ ..] = message else { return None };
    let step = Step::ALL.into_iter().find(|known| *known as u8 == *step);
    let errno = errno.try_into().map_or(libc::EIO, i32::from_le_bytes);
    let error = Error::from_raw_os_error(errno);
    let program = process.args.first().map_or("", String::as_str);
    Some(match step {
        Some(Step::Execute) => match errno {
            libc::ENOENT if program.contains('/') => {
                format!("the program {program:?}, or the interpreter it names, is not in the image")
            }
            libc::ENOENT => format!("the program {program:?} is in no folder of PATH"),
            libc::EACCES => format!("the program {program:?} may not be executed by this user"),
            libc::ENOEXEC => format!("the program {program:?} is in no format that this host can execute"),
            _ => format!("cannot execute {program:?}: {error}"),
        },
        Some(Step::WorkingDir) => format!("cannot enter the working directory {:?}: {error}", process.working_dir),
        Some(Step::Identity) => format!("cannot become user {:?}: {error}", process.user),
        Some(Step::Session | Step::Descriptors) | None => format!("cannot prepare {program:?}: {error}"),
    })
}

/// A descriptor that becomes readable when a child has ended.
pub fn child_signals() -> Result<OwnedFd, Error> {
    // SAFETY: the set is initialised by sigemptyset before use, and signalfd returns a new descriptor.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) == -1 {
            return Err(Error::last_os_error());
        }
        match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(args: &[&str]) -> Process {
        Process { args: args.iter().map(|arg| (*arg).to_owned()).collect(), ..Process::default() }
    }

    #[test]
    fn reasons_name_the_program_and_what_is_wrong() {
        let report = |step: Step, errno: i32| [&[step as u8][..], &errno.to_le_bytes()].concat();
        let reason = |args: &[&str], errno| understand(&report(Step::Execute, errno), &process(args)).unwrap();
        assert_eq!(reason(&["serve"], libc::ENOENT), "the program \"serve\" is in no folder of PATH");
        assert!(reason(&["/serve"], libc::ENOENT).contains("not in the image"));
        assert!(reason(&["/serve"], libc::EACCES).contains("may not be executed"));
        assert_eq!(understand(&[], &process(&["x"])), None);
        assert!(understand(&[99], &process(&["x"])).unwrap().contains("\"x\""));
    }

    #[test]
    fn impossible_processes_are_refused_before_a_fork() {
        assert!(spawn(&process(&[]), false).unwrap_err().contains("no program"));
        let relative = Process { working_dir: "tmp".into(), ..process(&["x"]) };
        assert!(spawn(&relative, false).unwrap_err().contains("not absolute"));
        let zero = Process { env: [("A".to_owned(), "\0".to_owned())].into(), ..process(&["x"]) };
        assert!(spawn(&zero, false).unwrap_err().contains("zero byte"));
    }
}
