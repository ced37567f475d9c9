//! I4: every restored directory has the root in its manifest, and is what was committed.

use crate::oracle::{Event, History};

pub(super) fn check(history: &History, broken: &mut dyn FnMut(&'static str, String)) {
    for event in &history.events {
        let Event::Restored { name, content, digest, root } = event else { continue };
        if digest != root {
            broken("I4", format!("{name:?} was restored with root {digest}, its manifest says {root}"));
        }
        let mut committed = history.commits().filter(|(_, other, _, _)| *other == name).peekable();
        if committed.peek().is_some() && !committed.any(|(_, _, source, _)| source == *content) {
            broken("I4", format!("{name:?} was restored with content {content}, which nobody committed"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{broken, commit, yes};
    use crate::oracle::Event;
    use crate::walk::Fingerprint;

    fn restored(content: u64, digest: &str) -> Event {
        Event::Restored {
            name: ("j".into(), 1),
            content: Fingerprint(content),
            digest: digest.into(),
            root: "root10".into(),
        }
    }

    #[test]
    fn another_root_and_another_content_are_caught() {
        assert_eq!(broken(vec![commit(1, 10, yes(10)), restored(10, "root11")]), ["I4"]);
        assert_eq!(broken(vec![commit(1, 10, yes(10)), restored(11, "root10")]), ["I4"]);
    }
}
