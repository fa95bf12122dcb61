//! Errors as one line. An error's text does not repeat its cause's, so whoever logs it joins them.

use std::error::Error;

/// An error with all its causes. Errors of some libraries say their cause themselves: it is not said twice.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failed {
        text: &'static str,
        #[source]
        source: Option<Box<Failed>>,
    }

    fn failed(texts: &[&'static str]) -> Option<Box<Failed>> {
        let (text, causes) = texts.split_first()?;
        Some(Box::new(Failed { text, source: failed(causes) }))
    }

    fn said(texts: &[&'static str]) -> String {
        with_causes(&*failed(texts).unwrap())
    }

    #[test]
    fn causes_follow_their_errors() {
        assert_eq!(said(&["no start"]), "no start");
        assert_eq!(said(&["no start", "no image", "no route"]), "no start: no image: no route");
    }

    #[test]
    fn a_cause_that_its_error_has_said_is_not_said_again() {
        assert_eq!(said(&["no start", "no image: no route", "no route"]), "no start: no image: no route");
    }
}
