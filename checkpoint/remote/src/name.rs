//! The names of objects: `<cluster>/<ab>/<digest>.<attempt>.<nonce>` below the store's prefix.
//!
//! A name is written once and never again. The digest alone could not promise that: content that is released and
//! comes back would be written to a key for which a DELETE may still be on its way. So a name says which attempt (the
//! log index of its Begin, twenty digits, so that the order of text is the order of numbers) and which uploader: the
//! nonce is random, and journaled before the first byte.

use std::fmt;
use std::str::FromStr;

use checkpoint::Digest;
use uuid::Uuid;

/// The name of one object below a store's prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The cluster whose object it is.
    pub cluster: Uuid,
    /// BLAKE3 of the object's bytes.
    pub digest: Digest,
    /// The attempt that wrote it: the log index of its Begin.
    pub attempt: u64,
    /// 64 random bits of who uploaded it.
    pub nonce: u64,
}

/// A name that is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of one of our objects")]
pub struct NotOurs;

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectName { cluster, digest, attempt, nonce } = self;
        let digest = digest.to_string();
        write!(f, "{}/{}/{digest}.{attempt:020}.{nonce:016x}", cluster.as_hyphenated(), &digest[..2])
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for ObjectName {
    type Err = NotOurs;

    /// Only what [`fmt::Display`] writes: who deletes by names must know them exactly.
    fn from_str(text: &str) -> Result<ObjectName, NotOurs> {
        let mut folders = text.splitn(3, '/');
        let (cluster, _, file) = (folders.next(), folders.next(), folders.next());
        let mut fields = file.ok_or(NotOurs)?.splitn(3, '.');
        let (digest, attempt, nonce) = (fields.next(), fields.next(), fields.next());
        let name = ObjectName {
            cluster: cluster.and_then(|c| Uuid::parse_str(c).ok()).ok_or(NotOurs)?,
            digest: digest.and_then(|d| d.parse().ok()).ok_or(NotOurs)?,
            attempt: attempt.and_then(|a| a.parse().ok()).ok_or(NotOurs)?,
            nonce: nonce.and_then(|n| u64::from_str_radix(n, 16).ok()).ok_or(NotOurs)?,
        };
        if name.to_string() == text { Ok(name) } else { Err(NotOurs) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ObjectName {
        ObjectName {
            cluster: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            digest: checkpoint::digest::content(b"abc"),
            attempt: 42,
            nonce: 0xfe,
        }
    }

    #[test]
    fn a_name_is_written_and_read_in_one_way_only() {
        let text = "01234567-89ab-cdef-0123-456789abcdef/64/\
            6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85.00000000000000000042.00000000000000fe";
        assert_eq!(name().to_string(), text);
        assert_eq!(text.parse(), Ok(name()));
        for other in [
            "",
            "epochlog.json",
            &text.replace("/64/", "/65/"),
            &text.replace(".00000000000000000042.", ".42."),
            &text.replace("fe", "FE"),
            &format!("{text}#1"),
            &format!("{text}.x"),
            &format!("/{text}"),
            &text.replace(".0000000000000", ".+000000000000"),
        ] {
            assert_eq!(other.parse::<ObjectName>(), Err(NotOurs), "{other}");
        }
    }

    #[test]
    fn the_order_of_text_is_the_order_of_attempts() {
        let later = ObjectName { attempt: 100, nonce: 0, ..name() };
        assert!(name().to_string() < later.to_string());
    }
}
