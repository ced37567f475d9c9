//! Names: jobs, relative paths, commit ids. Each is made once from untrusted
//! input and is right from then on; nothing here touches a disk.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits::{COMPONENT_BYTES_MAX, DEPTH_MAX, JOB_NAME_BYTES_MAX, PATH_BYTES_MAX};

/// The name of a job: 1 to 128 bytes of `[A-Za-z0-9._-]`, no leading dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobName(Arc<str>);

/// Why a text is no job name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a valid job name: {why}")]
pub struct JobNameError {
    name: String,
    why: &'static str,
}

impl JobName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for JobName {
    type Error = JobNameError;
    fn try_from(name: &str) -> Result<Self, JobNameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let why = if name.is_empty() {
            "it is empty"
        } else if name.len() > JOB_NAME_BYTES_MAX {
            "it is longer than 128 bytes"
        } else if name.starts_with('.') {
            "it starts with a dot"
        } else if !name.bytes().all(allowed) {
            "only letters, digits, '.', '_' and '-' are allowed"
        } else {
            return Ok(JobName(name.into()));
        };
        Err(JobNameError { name: name.chars().take(200).collect(), why })
    }
}

impl FromStr for JobName {
    type Err = JobNameError;
    fn from_str(name: &str) -> Result<Self, JobNameError> {
        JobName::try_from(name)
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for JobName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for JobName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        JobName::try_from(name.as_str()).map_err(de::Error::custom)
    }
}

/// A path below a checkpoint's root, raw bytes, `/` between components. Empty
/// is the root itself. Never absolute, no `.`, no `..`, no NUL, no empty
/// component; ordered bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Arc<[u8]>);

/// Why bytes are no relative path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct PathError {
    /// The path, escaped and shortened.
    pub path: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl RelPath {
    /// Takes raw bytes, refusing whatever could lead outside or cannot be a name.
    pub fn parse(path: &[u8]) -> Result<RelPath, PathError> {
        PathRef::parse(path).map(PathRef::to_rel_path)
    }

    /// The same path where it lies.
    pub fn borrowed(&self) -> PathRef<'_> {
        PathRef(&self.0)
    }

    /// The root directory itself.
    pub fn root() -> RelPath {
        RelPath(Arc::from(&b""[..]))
    }

    /// Whether this is the root directory itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, outermost first; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// The number of components.
    pub fn depth(&self) -> usize {
        self.borrowed().depth()
    }

    /// The parent directory; `None` for the root.
    pub fn parent(&self) -> Option<RelPath> {
        self.borrowed().parent().map(PathRef::to_rel_path)
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.iter().rposition(|b| *b == b'/').map_or(&self.0[..], |at| &self.0[at + 1..])
    }

    /// The path of `name` inside this directory.
    pub fn join(&self, name: &[u8]) -> Result<RelPath, PathError> {
        if self.is_root() {
            return RelPath::parse(name);
        }
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        path.push(b'/');
        path.extend_from_slice(name);
        RelPath::parse(&path)
    }

    /// As a path of the operating system, relative.
    pub fn to_path_buf(&self) -> PathBuf {
        PathBuf::from(self.as_os_str())
    }

    /// The bytes as the operating system's string.
    pub fn as_os_str(&self) -> &std::ffi::OsStr {
        std::os::unix::ffi::OsStrExt::from_bytes(&self.0)
    }
}

/// A [`RelPath`] whose bytes lie elsewhere: checked as its own are, not copied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathRef<'a>(&'a [u8]);

impl<'a> PathRef<'a> {
    /// Takes raw bytes, refusing what [`RelPath::parse`] refuses.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(path: &'a [u8]) -> Result<PathRef<'a>, PathError> {
        match why_not(path) {
            None => Ok(PathRef(path)),
            Some(why) => Err(PathError { path: escape(&path[..path.len().min(400)]), why }),
        }
    }

    /// The raw bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether this is the root directory itself.
    pub fn is_root(self) -> bool {
        self.0.is_empty()
    }

    /// The number of components, 0 for the root.
    pub fn depth(self) -> usize {
        match self.0 {
            [] => 0,
            path => 1 + path.iter().filter(|b| **b == b'/').count(),
        }
    }

    /// The parent directory; `None` for the root.
    pub fn parent(self) -> Option<PathRef<'a>> {
        if self.0.is_empty() {
            return None;
        }
        Some(PathRef(self.0.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &self.0[..at])))
    }

    /// A copy of its own.
    pub fn to_rel_path(self) -> RelPath {
        RelPath(self.0.into())
    }
}

/// Why these bytes are no path below a root.
fn why_not(path: &[u8]) -> Option<&'static str> {
    if path.is_empty() {
        return None;
    }
    if path.len() > PATH_BYTES_MAX {
        return Some("the path is longer than 3072 bytes");
    }
    if path[0] == b'/' {
        return Some("the path is absolute");
    }
    // Once over the bytes: a plan may have a million of them, and every node looks.
    let (mut depth, mut start) = (0, 0);
    for at in 0..=path.len() {
        match path.get(at) {
            Some(0) => return Some("the path holds a NUL byte"),
            Some(b'/') | None => {}
            Some(_) => continue,
        }
        match &path[start..at] {
            b"" => return Some("the path has an empty component"),
            b"." => return Some("the path has a '.' component"),
            b".." => return Some("the path has a '..' component"),
            component if component.len() > COMPONENT_BYTES_MAX => {
                return Some("a component is longer than 255 bytes");
            }
            _ => {}
        }
        (depth, start) = (depth + 1, at + 1);
    }
    (depth > DEPTH_MAX).then_some("the path is deeper than 512 components")
}

impl fmt::Display for PathRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { f.write_str(&escape(self.0)) }
    }
}

impl fmt::Debug for PathRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", escape(self.0))
    }
}

/// Whether a character is not shown as itself but changes how what follows is shown: control characters, and those that
/// turn the direction of writing or break the line. No terminal gets one of these from somebody else's text.
pub fn is_unshown(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes as text that loses nothing: UTF-8 as it is, a backslash doubled,
/// what [`is_unshown`] and bytes that are no UTF-8 as `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if is_unshown(c) => escape_char(c, &mut text),
                c => text.push(c),
            }
        }
        for b in part.invalid() {
            let _ = write!(text, "\\x{b:02x}");
        }
    }
    text
}

/// The bytes of a character, each as `\xNN`.
pub fn escape_char(c: char, into: &mut String) {
    use fmt::Write;
    for b in c.encode_utf8(&mut [0; 4]).bytes() {
        let _ = write!(into, "\\x{b:02x}");
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrowed().fmt(f)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", escape(&self.0))
    }
}

/// A client-made id of one commit, 128 bits; a repeat carries the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId([u8; 16]);

/// The text is no commit id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a commit id is 32 hexadecimal digits")]
pub struct CommitIdError;

impl CommitId {
    /// An id of these random bytes.
    pub fn from_bytes(random: [u8; 16]) -> CommitId {
        CommitId(random)
    }

    /// An id of 16 bytes; `None` for another length.
    pub fn from_slice(bytes: &[u8]) -> Option<CommitId> {
        bytes.try_into().ok().map(CommitId)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CommitId {
    type Err = CommitIdError;
    fn from_str(text: &str) -> Result<Self, CommitIdError> {
        unhex(text).map(CommitId).ok_or(CommitIdError)
    }
}

impl Serialize for CommitId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CommitId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// Reads exactly `N` bytes of hexadecimal digits.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let digit = |b: u8| (b as char).to_digit(16);
    let mut bytes = [0; N];
    for (at, pair) in text.chunks_exact(2).enumerate() {
        bytes[at] = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, its target verbatim.
    Symlink,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shown_as_itself_is_escaped() {
        assert_eq!(escape(b"a\\b\n\xff\x1b"), "a\\\\b\\x0a\\xff\\x1b");
        assert_eq!(escape("\u{202e}cba\u{2069}".as_bytes()), "\\xe2\\x80\\xaecba\\xe2\\x81\\xa9");
        assert_eq!(escape("sch\u{f6}n \u{5d0}".as_bytes()), "sch\u{f6}n \u{5d0}");
    }

    #[test]
    fn job_names_are_plain() {
        for good in ["a", "flink-7.state", "A_b", &"x".repeat(128)] {
            assert_eq!(JobName::try_from(good).unwrap().as_str(), good);
        }
        for bad in ["", ".a", "..", "a/b", "a b", "ü", "a\0", &"x".repeat(129)] {
            assert!(JobName::try_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn paths_never_lead_outside() {
        for bad in ["/a", "..", "a/..", "../a", "a/../b", ".", "a/./b", "a//b", "a/", "a\0b", "/"] {
            assert!(RelPath::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(RelPath::parse(&[b'x'; 256]).is_err());
        assert!(RelPath::parse(&b"x/".repeat(512)[..1023]).is_ok());
        assert!(RelPath::parse(&b"x/".repeat(513)[..1025]).is_err());
        assert!(RelPath::parse(&[&[b'x'; 200][..], b"/"].concat().repeat(16)[..3100]).is_err());
        assert_eq!(RelPath::parse(b"").unwrap(), RelPath::root());
        let path = RelPath::parse(b"a/b\xff/c").unwrap();
        assert_eq!(path.parent().unwrap().as_bytes(), b"a/b\xff");
        assert_eq!(path.name(), b"c");
        assert_eq!(path.to_string(), "a/b\\xff/c");
        assert_eq!(RelPath::parse(b"a").unwrap().parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
        assert_eq!(RelPath::root().depth(), 0);
    }
}
