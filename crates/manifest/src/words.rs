//! A command line as words, the way a POSIX shell would split it: quotes, backslashes, comments.
//! Nothing is expanded.

/// A quote or backslash with nothing after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommand {
    #[error("the command has an opening {0} that is never closed")]
    OpenQuote(char),
    #[error("the command ends with a lone backslash")]
    LoneBackslash,
}

/// The words of a command; empty for an empty text.
pub fn split(text: &str) -> Result<Vec<String>, InvalidCommand> {
    let mut words = Vec::new();
    // `None` between words; an empty word is written with quotes.
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '#' if word.is_none() => {
                chars.by_ref().find(|c| *c == '\n');
            }
            '\\' => word.get_or_insert_default().push(chars.next().ok_or(InvalidCommand::LoneBackslash)?),
            '\'' | '"' => quoted(c, &mut chars, word.get_or_insert_default())?,
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn quoted(quote: char, chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), InvalidCommand> {
    let open = InvalidCommand::OpenQuote(quote);
    loop {
        match chars.next().ok_or(open)? {
            c if c == quote => return Ok(()),
            '\\' if quote == '"' => match chars.next().ok_or(open)? {
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_like_a_shell() {
        for (text, words) in [
            ("", vec![]),
            ("  ", vec![]),
            ("bin/web --port 80", vec!["bin/web", "--port", "80"]),
            (r#"sh -c "echo \"a b\"" 'it''s'"#, vec!["sh", "-c", "echo \"a b\"", "its"]),
            (r"a\ b c", vec!["a b", "c"]),
            ("run # not this", vec!["run"]),
            (r#"a "" b"#, vec!["a", "", "b"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_closed() {
        assert_eq!(split("a 'b"), Err(InvalidCommand::OpenQuote('\'')));
        assert_eq!(split("a \"b\\\""), Err(InvalidCommand::OpenQuote('"')));
        assert_eq!(split("a \\"), Err(InvalidCommand::LoneBackslash));
    }
}
