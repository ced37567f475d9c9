//! A text that nobody prints.

use std::fmt;

/// A secret. Neither `Debug` nor `Display` shows it; its length neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// This text, kept.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for who must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Makes other people's texts fit to be shown: secrets that we know are masked, and so is the query of every address
/// (signatures, tokens and upload ids stand there) and user info before a host.
#[derive(Clone, Default)]
pub(crate) struct Mask(Vec<Secret>);

impl Mask {
    // Shorter ones occur by chance in any text, and whoever has such a secret has none.
    const BYTES_MIN: usize = 6;

    pub(crate) fn new(secrets: impl IntoIterator<Item = Secret>) -> Mask {
        Mask(secrets.into_iter().filter(|s| s.expose().len() >= Mask::BYTES_MIN).collect())
    }

    /// The text, at most `chars_max` characters of it.
    pub(crate) fn show(&self, text: &str, chars_max: usize) -> String {
        let mut text = text.to_string();
        for secret in &self.0 {
            text = text.replace(secret.expose(), "***");
        }
        let words: Vec<String> = text.split_whitespace().map(without_query).collect();
        let text = words.join(" ");
        match text.char_indices().nth(chars_max) {
            Some((at, _)) => format!("{}...", &text[..at]),
            None => text,
        }
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mask({} secrets)", self.0.len())
    }
}

fn without_query(word: &str) -> String {
    let Some(start) = word.find("://") else { return word.to_string() };
    let (scheme, rest) = word.split_at(start + 3);
    let rest = match rest.split_once('?') {
        Some((before, _)) => format!("{before}?***"),
        None => rest.to_string(),
    };
    let host_end = rest.find('/').unwrap_or(rest.len());
    match rest[..host_end].rfind('@') {
        Some(at) => format!("{scheme}***{}", &rest[at..]),
        None => format!("{scheme}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("canary-0815");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert!(!format!("{:?}", Mask::new([secret])).contains("canary"));
    }

    #[test]
    fn what_a_store_says_is_shown_without_secrets_queries_and_user_info() {
        let mask = Mask::new([Secret::new("canary-0815"), Secret::new("e")]);
        let said = mask.show(
            "PUT https://me:pw@host/b/k?X-Amz-Signature=abc in 3s, key canary-0815x (http://h?uploadId=7)",
            200,
        );
        assert_eq!(said, "PUT https://***@host/b/k?*** in 3s, key ***x (http://h?***");
        assert_eq!(mask.show("abcdef", 3), "abc...");
    }
}
