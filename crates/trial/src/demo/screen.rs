//! A few lines at the end of a terminal that are written anew in place; nothing where there is none.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    /// Of what stands there now.
    lines: usize,
}

impl Screen {
    pub fn of_stdout() -> Self {
        Self { terminal: io::stdout().is_terminal(), lines: 0 }
    }

    /// Writes over what was shown before.
    pub fn show(&mut self, what: &impl Display) -> io::Result<()> {
        if !self.terminal {
            return Ok(());
        }
        let text = what.to_string();
        self.clear()?;
        self.lines = text.lines().count();
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Takes away what was shown, so that ordinary lines can follow.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.lines > 0 {
            write!(io::stdout(), "\x1b[{}A\x1b[J", self.lines)?;
            self.lines = 0;
        }
        Ok(())
    }
}
