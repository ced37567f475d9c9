//! A text that nobody prints.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

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
/// (signatures, tokens and upload ids stand there) and user info before a host. Clones share what they know.
#[derive(Clone, Default)]
pub(crate) struct Mask(Arc<Mutex<VecDeque<Secret>>>);

impl Mask {
    // Shorter ones occur by chance in any text, and whoever has such a secret has none.
    const BYTES_MIN: usize = 6;
    // Of those that are renewed the last are known: an answer is about one that was just sent.
    const SECRETS_MAX: usize = 200;

    pub(crate) fn new(secrets: impl IntoIterator<Item = Secret>) -> Mask {
        let mask = Mask::default();
        mask.learn(secrets);
        mask
    }

    /// Masks these, too.
    pub(crate) fn learn(&self, secrets: impl IntoIterator<Item = Secret>) {
        let mut known = self.secrets();
        for secret in secrets.into_iter().filter(|secret| secret.expose().len() >= Mask::BYTES_MIN) {
            if !known.contains(&secret) {
                known.push_back(secret);
            }
        }
        while known.len() > Mask::SECRETS_MAX {
            known.pop_front();
        }
    }

    fn secrets(&self) -> MutexGuard<'_, VecDeque<Secret>> {
        self.0.lock().expect("no thread panics while it notes a secret")
    }

    /// The text, at most `chars_max` characters of it.
    pub(crate) fn show(&self, text: &str, chars_max: usize) -> String {
        let mut text = text.to_string();
        // The longest first: of one that begins as another does nothing must stay.
        let mut secrets: Vec<Secret> = self.secrets().iter().cloned().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        for secret in secrets {
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
        write!(f, "Mask({} secrets)", self.secrets().len())
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
        let nested = Mask::new([Secret::new("canary"), Secret::new("canary-0815")]);
        assert_eq!(nested.show("canary-0815 canary-1", 200), "*** ***-1");
        let other = nested.clone();
        other.learn([Secret::new("renewed")]);
        assert_eq!(nested.show("renewed", 200), "***");
    }
}
