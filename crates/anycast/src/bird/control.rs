//! The conversation with bird over its control socket. Blocking, and bounded: a daemon that does not answer
//! within a tenth of a second does not announce reliably either.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::config::EVERY_PREFIX;
use super::reply::{InvalidReply, Protocol, Reply, protocols};

/// How long bird may take for an answer.
pub const LIMIT: Duration = Duration::from_millis(100);

/// bird takes a moment for a configuration with thousands of prefixes.
const CONFIGURE_LIMIT: Duration = Duration::from_secs(2);

/// What went wrong between bird and us.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("talk to bird about {about:?}")]
    Io {
        about: String,
        #[source]
        source: io::Error,
    },
    #[error("bird hung up over {about:?}")]
    HungUp { about: String },
    #[error("read what bird answered to {about:?}")]
    Answer {
        about: String,
        #[source]
        source: InvalidReply,
    },
    #[error("bird refused {about:?}: {told}")]
    Refused { about: String, told: String },
}

/// A connection to a running bird.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Control {
    /// Connects and reads the greeting.
    ///
    /// # Errors
    /// If nobody listens, or who listens is not bird.
    pub fn connect(socket: &Path) -> Result<Self, ControlError> {
        let about = "a connection";
        let failed = |source| ControlError::Io { about: about.to_owned(), source };
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_write_timeout(Some(LIMIT)).map_err(failed)?;
        let mut control = Self { stream, received: Vec::new() };
        let greeting = control.receive(about, LIMIT)?;
        const WELCOME: u16 = 1;
        if greeting.code() == WELCOME {
            Ok(control)
        } else {
            Err(ControlError::Refused { about: about.to_owned(), told: greeting.text() })
        }
    }

    /// Withdraws every prefix.
    ///
    /// # Errors
    /// If bird does not say that it did.
    pub fn withdraw_all(&mut self) -> Result<(), ControlError> {
        self.ask(&format!("disable \"{EVERY_PREFIX}\""), LIMIT).map(drop)
    }

    /// Lets bird read its configuration again.
    ///
    /// # Errors
    /// If bird does not like it; then it keeps the one it had.
    pub fn configure(&mut self) -> Result<(), ControlError> {
        self.ask("configure", CONFIGURE_LIMIT).map(drop)
    }

    /// How every protocol is.
    ///
    /// # Errors
    /// If bird does not answer, or not with a table.
    pub fn protocols(&mut self) -> Result<Vec<Protocol>, ControlError> {
        let about = "show protocols";
        let reply = self.ask(about, LIMIT)?;
        protocols(&reply).map_err(|source| ControlError::Answer { about: about.to_owned(), source })
    }

    fn ask(&mut self, command: &str, limit: Duration) -> Result<Reply, ControlError> {
        // What came unasked is no answer to this.
        self.received.clear();
        let failed = |source| ControlError::Io { about: command.to_owned(), source };
        self.stream.write_all(format!("{command}\n").as_bytes()).map_err(failed)?;
        let reply = self.receive(command, limit)?;
        if reply.refused() {
            return Err(ControlError::Refused { about: command.to_owned(), told: reply.text() });
        }
        Ok(reply)
    }

    fn receive(&mut self, about: &str, limit: Duration) -> Result<Reply, ControlError> {
        let failed = |source| ControlError::Io { about: about.to_owned(), source };
        self.stream.set_read_timeout(Some(limit)).map_err(failed)?;
        let mut buffer = [0; 16 << 10];
        loop {
            let taken = Reply::take(&self.received)
                .map_err(|source| ControlError::Answer { about: about.to_owned(), source })?;
            if let Some((reply, length)) = taken {
                self.received.drain(..length);
                return Ok(reply);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ControlError::HungUp { about: about.to_owned() }),
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A daemon that greets and then gives one answer.
    fn against(answer: &'static str, ask: impl FnOnce(&mut Control) -> Result<(), ControlError>) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("bird.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"0001 BIRD 2.0.12 ready.\n").unwrap();
            let mut asked = [0; 256];
            let length = stream.read(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            // Until the other end hangs up.
            assert_eq!(stream.read(&mut asked[length..]).unwrap(), 0);
        });
        let mut control = Control::connect(&socket).unwrap();
        let result = ask(&mut control).map_err(|error| error.to_string());
        drop(control);
        daemon.join().unwrap();
        result
    }

    #[test]
    fn answers_refusals_and_silence_are_told_apart() {
        assert_eq!(against("0009-net_a: disabled\n0000 \n", Control::withdraw_all), Ok(()));
        let refused = against("9001 syntax error\n", Control::configure).unwrap_err();
        assert!(refused.contains("refused \"configure\": syntax error"), "{refused}");
        assert!(against("0009-net_a: disabled\n", Control::withdraw_all).unwrap_err().contains("talk to bird"));
        assert!(against("hello\n", Control::withdraw_all).unwrap_err().contains("read what bird answered"));
    }
}
