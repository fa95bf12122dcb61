//! How bird answers, strictly read: lines with a code of four digits, then a hyphen where more follow or a
//! space in the last one; a line that begins with a space continues the code before. Pure.

/// Longer lines are not bird's.
const MAX_LINE: usize = 4 << 10;
/// Longer answers are not bird's either.
pub const MAX_REPLY: usize = 4 << 20;

/// A whole answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Every line with its code.
    pub lines: Vec<(u16, String)>,
}

/// Bytes that are no answer of bird's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReply {
    #[error("a line is no line of bird's: {0:?}")]
    Line(String),
    #[error("the answer does not end")]
    Endless,
}

impl Reply {
    /// Takes the first whole answer from what was received; gives it with its length. None if more is to come.
    ///
    /// # Errors
    /// If this can become no answer, whatever comes.
    pub fn take(received: &[u8]) -> Result<Option<(Self, usize)>, InvalidReply> {
        let mut lines: Vec<(u16, String)> = Vec::new();
        let mut at = 0;
        while let Some(length) = received[at..].iter().position(|byte| *byte == b'\n') {
            let (code, last, text) = line(&received[at..at + length], lines.last().map(|(code, _)| *code))?;
            lines.push((code, text));
            at += length + 1;
            if last {
                return Ok(Some((Self { lines }, at)));
            }
        }
        if received.len() > MAX_REPLY || received.len() - at > MAX_LINE {
            return Err(InvalidReply::Endless);
        }
        Ok(None)
    }

    /// The code of the last line: how it went.
    pub fn code(&self) -> u16 {
        self.lines.last().map_or(0, |(code, _)| *code)
    }

    /// Whether bird refused: codes from 8000 are errors at run time, from 9000 of syntax.
    pub fn refused(&self) -> bool {
        self.lines.iter().any(|(code, _)| *code >= 8000)
    }

    /// All lines' texts, for people.
    pub fn text(&self) -> String {
        let texts: Vec<&str> = self.lines.iter().map(|(_, text)| text.trim()).filter(|text| !text.is_empty()).collect();
        texts.join("; ")
    }
}

/// One line: its code, whether it is the last, its text.
fn line(bytes: &[u8], before: Option<u16>) -> Result<(u16, bool, String), InvalidReply> {
    let invalid = || InvalidReply::Line(String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned());
    if bytes.len() > MAX_LINE {
        return Err(invalid());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| invalid())?;
    if let Some(rest) = text.strip_prefix(' ') {
        return Ok((before.ok_or_else(invalid)?, false, rest.to_owned()));
    }
    let (Some(digits), Some(mark)) = (text.get(..4), text.as_bytes().get(4)) else { return Err(invalid()) };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(mark, b' ' | b'-') {
        return Err(invalid());
    }
    let code = digits.parse().map_err(|_| invalid())?;
    Ok((code, *mark == b' ', text[5..].to_owned()))
}

/// How a protocol is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Protocol {
    pub name: String,
    /// Such as `BGP` or `Static`.
    pub kind: String,
    /// Such as `up`, `down` or `start`.
    pub state: String,
    /// Of a session, its own state and what went wrong last.
    pub info: String,
}

impl Protocol {
    /// A session over which routes are told.
    pub fn established(&self) -> bool {
        self.info.split_whitespace().next() == Some("Established")
    }
}

/// Reads the answer to `show protocols`.
///
/// # Errors
/// If a line has not the columns that it should have.
pub fn protocols(reply: &Reply) -> Result<Vec<Protocol>, InvalidReply> {
    const TABLE: u16 = 1002;
    let rows = reply.lines.iter().filter(|(code, _)| *code == TABLE);
    rows.map(|(_, line)| {
        let mut words = line.split_whitespace();
        let mut word = || words.next().map(str::to_owned).ok_or_else(|| InvalidReply::Line(line.clone()));
        // Name, kind, table, state, since when.
        let (name, kind, _table, state, _since) = (word()?, word()?, word()?, word()?, word()?);
        Ok(Protocol { name, kind, state, info: words.collect::<Vec<_>>().join(" ") })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHOWN: &str = "2002-Name       Proto      Table      State  Since         Info\n\
        1002-device1    Device     ---        up     16:55:03.659  \n \
        net_4      Static     master4    down   16:55:03.659  \n \
        up_east    BGP        ---        up     16:55:04.100  Established   \n \
        up_west    BGP        ---        start  16:55:04.100  Active        Socket: Connection refused\n0000 \n";

    #[test]
    fn a_table_of_protocols_is_read() {
        let (reply, length) = Reply::take(SHOWN.as_bytes()).unwrap().unwrap();
        assert_eq!(length, SHOWN.len());
        let protocols = protocols(&reply).unwrap();
        let seen: Vec<_> = protocols.iter().map(|p| (p.name.as_str(), p.state.as_str(), p.established())).collect();
        let expected =
            [("device1", "up", false), ("net_4", "down", false), ("up_east", "up", true), ("up_west", "start", false)];
        assert_eq!(seen, expected);
        assert_eq!(protocols[3].info, "Active Socket: Connection refused");
    }

    #[test]
    fn refusals_are_told_from_answers() {
        let (reply, _) = Reply::take(b"0009-net_4: disabled\n0000 \n").unwrap().unwrap();
        assert!(!reply.refused() && reply.code() == 0);
        let (reply, _) = Reply::take(b"9001 syntax error, unexpected CF_SYM_UNDEFINED\n").unwrap().unwrap();
        assert!(reply.refused());
    }

    #[test]
    fn what_is_not_birds_is_refused_at_once() {
        for bytes in ["HTTP/1.1 200 OK\n", " first\n", "00x0 \n", "0000\n", "0000+x\n", "\n", "12é4 \n"] {
            assert!(Reply::take(bytes.as_bytes()).is_err(), "{bytes}");
        }
        assert_eq!(Reply::take(&vec![b'1'; MAX_LINE + 1]), Err(InvalidReply::Endless));
        assert_eq!(Reply::take(b"0001 BIRD 2.0.12 re").unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((reply, _))) = Reply::take(&bytes) {
                drop(protocols(&reply));
            }
        }

        #[test]
        fn an_answer_is_whole_only_at_its_end(
            lines in prop::collection::vec((1000u16..9999, "[a-z0-9: ]{0,30}", any::<bool>()), 0..10),
            last in (0u16..9999, "[a-z0-9: ]{0,30}"),
        ) {
            let mut text = String::new();
            for (index, (code, line, continues)) in lines.iter().enumerate() {
                if *continues && index > 0 {
                    text.push_str(&format!(" {line}\n"));
                } else {
                    text.push_str(&format!("{code:04}-{line}\n"));
                }
            }
            text.push_str(&format!("{:04} {}\n", last.0, last.1));
            for cut in 0..text.len() {
                prop_assert_eq!(Reply::take(&text.as_bytes()[..cut]), Ok(None));
            }
            let (reply, length) = Reply::take(format!("{text}0001 next\n").as_bytes()).unwrap().unwrap();
            prop_assert_eq!((length, reply.lines.len(), reply.code()), (text.len(), lines.len() + 1, last.0));
        }
    }
}
