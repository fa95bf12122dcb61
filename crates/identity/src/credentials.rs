//! What an `Authorization` header says. Clients of the Machines API send `Bearer <token>`,
//! `FlyV1 <token>,<token>`, and what users pasted: `Bearer FlyV1 <token>`. Registry clients send
//! `Basic`, with any user and the token as password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::TokenText;

/// More tokens than this in one header are not looked at.
pub const MAX_CREDENTIALS: usize = 16;

/// The tokens of this platform in a header's value, in order. Others, such as a client's tokens of
/// another platform, are passed over: any one token may grant.
pub fn credentials(header: &str) -> Vec<TokenText> {
    if let Some(basic) = strip_scheme(header.trim(), "basic") {
        return basic_password(basic).into_iter().collect();
    }
    without_schemes(header)
        .split(',')
        .filter_map(|part| without_schemes(part).parse().ok())
        .take(MAX_CREDENTIALS)
        .collect()
}

/// Removes `Bearer` and `FlyV1` in any case and as often as they come.
fn without_schemes(text: &str) -> &str {
    let mut rest = text.trim();
    while let Some(stripped) = strip_scheme(rest, "bearer").or_else(|| strip_scheme(rest, "flyv1")) {
        rest = stripped;
    }
    rest
}

fn strip_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let (word, rest) = text.split_once(char::is_whitespace)?;
    word.eq_ignore_ascii_case(scheme).then(|| rest.trim_start())
}

fn basic_password(encoded: &str) -> Option<TokenText> {
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (_, password) = decoded.split_once(':')?;
    without_schemes(password).parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_documented_spelling_is_read() {
        let [one, two] = [1, 2].map(|number| TokenText::from_random([number; 32]));
        let (a, b) = (one.reveal(), two.reveal());
        let basic = STANDARD.encode(format!("anyone:{a}"));
        for (header, expected) in [
            (format!("Bearer {a}"), vec![&one]),
            (format!("bearer   {a} "), vec![&one]),
            (format!("FlyV1 {a}"), vec![&one]),
            (format!("Bearer FlyV1 {a}"), vec![&one]),
            (format!("Bearer bearer FLYV1 {a}"), vec![&one]),
            (format!("FlyV1 {a},{b}"), vec![&one, &two]),
            (format!("Bearer {a}, FlyV1 {b}"), vec![&one, &two]),
            (format!("FlyV1 fm2_abc,{b},fo1_x"), vec![&two]),
            (format!("Basic {basic}"), vec![&one]),
            (a.to_owned(), vec![&one]),
            ("Bearer".into(), vec![]),
            ("Bearer fm2_abc".into(), vec![]),
            ("Basic !!!".into(), vec![]),
            (String::new(), vec![]),
        ] {
            assert_eq!(credentials(&header).iter().collect::<Vec<_>>(), expected, "{header}");
        }
    }

    #[test]
    fn a_huge_list_is_cut() {
        let token = TokenText::from_random([1; 32]);
        let header = format!("FlyV1 {}", vec![token.reveal(); 10_000].join(","));
        assert_eq!(credentials(&header).len(), MAX_CREDENTIALS);
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(header in ".{0,200}") {
            credentials(&header);
        }
    }
}
