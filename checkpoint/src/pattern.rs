//! Which entries are wanted: patterns over whole paths. `*` and `?` stay within
//! a component, `**` crosses them; a pattern that names a directory means
//! everything in it.

use crate::epoch::RelPath;

/// A pattern over paths, such as `state/*.sst` or `**/MANIFEST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Vec<u8>>);

impl Pattern {
    /// Any bytes are a pattern; a leading `./` and slashes at the ends mean nothing.
    pub fn new(pattern: &[u8]) -> Pattern {
        let parts = pattern.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
        Pattern(parts.map(<[u8]>::to_vec).collect())
    }

    /// The pattern as text: [`Pattern::new`] makes the same of it.
    pub fn text(&self) -> Vec<u8> {
        if self.0.is_empty() { b".".to_vec() } else { self.0.join(&b'/') }
    }

    /// Whether the pattern means this path, or a directory above it.
    pub fn matches(&self, path: &RelPath) -> bool {
        let components: Vec<&[u8]> = path.components().collect();
        let parts: Vec<&[u8]> = self.0.iter().map(Vec::as_slice).collect();
        path_matches(&parts, &components)
    }
}

/// Which entries of a directory are wanted. By default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Only what one of these means, and the directories above it; empty: everything.
    pub include: Vec<Pattern>,
    /// Nothing that one of these means: it goes before `include`.
    pub exclude: Vec<Pattern>,
}

impl Choice {
    /// Whether this is everything.
    pub fn is_all(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether the entry is left out with everything below it.
    pub fn excludes(&self, path: &RelPath) -> bool {
        self.exclude.iter().any(|pattern| pattern.matches(path))
    }

    /// Whether the entry is wanted for itself, and not only for what it holds.
    pub fn takes(&self, path: &RelPath) -> bool {
        let included = self.include.is_empty() || self.include.iter().any(|pattern| pattern.matches(path));
        included && !self.excludes(path)
    }
}

// Which prefixes of the path the first parts can mean, part by part.
fn path_matches(parts: &[&[u8]], components: &[&[u8]]) -> bool {
    let mut reached = vec![false; components.len() + 1];
    reached[0] = true;
    for part in parts {
        let mut next = vec![false; reached.len()];
        for at in 0..reached.len() {
            if *part == b"**" {
                next[at] = reached[at] || (at > 0 && next[at - 1]);
            } else if at > 0 {
                next[at] = reached[at - 1] && name_matches(part, components[at - 1]);
            }
        }
        reached = next;
    }
    reached.contains(&true)
}

fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // The last star, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b) if *b == b'?' || *b == name[n] => (p, n) = (p + 1, n + 1),
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (p, n) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_paths_and_what_lies_below() {
        for (pattern, path, expected) in [
            ("a/*.sst", "a/1.sst", true),
            ("a/*.sst", "a/b/1.sst", false),
            ("**/*.sst", "a/b/1.sst", true),
            ("**/*.sst", "1.sst", true),
            ("a/**", "a/b/c", true),
            ("a/**/c", "a/c", true),
            ("a/", "a/b/c", true),
            ("./a", "a", true),
            ("a?c*d*", "abcxxdd", true),
            ("a?c", "ac", false),
            ("b", "a/b", false),
            ("*", "x", true),
        ] {
            let path = RelPath::parse(path.as_bytes()).unwrap();
            assert_eq!(Pattern::new(pattern.as_bytes()).matches(&path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_is_told_by_its_text() {
        for (pattern, text) in [("a/*.sst", "a/*.sst"), ("./a//b/", "a/b"), ("/", "."), ("**", "**")] {
            let pattern = Pattern::new(pattern.as_bytes());
            assert_eq!(pattern.text(), text.as_bytes());
            assert_eq!(Pattern::new(&pattern.text()), pattern);
        }
    }

    #[test]
    fn what_is_excluded_is_not_included_again() {
        let patterns = |all: &[&str]| all.iter().map(|one| Pattern::new(one.as_bytes())).collect();
        let choice =
            Choice { include: patterns(&["a", "**/*.sst"]), exclude: patterns(&["a/tmp", "**/*.log"]) };
        for (path, taken) in [
            ("a/1", true),
            ("a/tmp/1.sst", false),
            ("b/1.sst", true),
            ("b/1", false),
            ("b", false),
            ("a/x.log", false),
        ] {
            assert_eq!(choice.takes(&RelPath::parse(path.as_bytes()).unwrap()), taken, "{path}");
        }
        assert!(Choice::default().is_all() && Choice::default().takes(&RelPath::root()) && !choice.is_all());
    }
}
