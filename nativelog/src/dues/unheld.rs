//! Content to unlink, and how much that is: asked once a commit, so that nothing is summed up then.

use std::collections::BTreeMap;

use checkpoint::Digest;

use super::debts::Owed;

/// Content that nobody holds and whose blobs may lie here.
#[derive(Default)]
pub struct Unheld {
    contents: BTreeMap<Digest, Owed>,
    /// Of all of it.
    bytes: u64,
}

impl Unheld {
    pub fn new(contents: BTreeMap<Digest, Owed>) -> Unheld {
        let bytes = contents.values().map(|owed| owed.bytes).sum();
        Unheld { contents, bytes }
    }

    pub fn contents(&self) -> &BTreeMap<Digest, Owed> {
        &self.contents
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// It is owed, by the newest record that said so.
    pub fn owe(&mut self, digest: Digest, owed: Owed) {
        let entry = self.contents.entry(digest).or_insert_with(|| {
            self.bytes += owed.bytes;
            owed
        });
        entry.index = entry.index.max(owed.index);
    }

    /// It is not owed any more, unless another record than the one at `index` has said so since.
    pub fn pay(&mut self, digest: &Digest, index: u64) {
        if self.contents.get(digest).is_some_and(|owed| owed.index == index)
            && let Some(owed) = self.contents.remove(digest)
        {
            self.bytes -= owed.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_are_those_of_all_contents(
            first in 0u8..8,
            steps in prop::collection::vec((any::<bool>(), 0u8..8, 0u64..4, 0u64..1000), 0..200),
        ) {
            let digest = |n: u8| Digest::from_bytes([n; 32]);
            let there = (0..first).map(|n| (digest(n), Owed { index: 0, bytes: u64::from(n) }));
            let mut unheld = Unheld::new(there.collect());
            for (owes, n, index, bytes) in steps {
                if owes {
                    let before = unheld.contents().get(&digest(n)).map_or(0, |owed| owed.index);
                    unheld.owe(digest(n), Owed { index, bytes });
                    prop_assert_eq!(unheld.contents()[&digest(n)].index, before.max(index));
                } else {
                    unheld.pay(&digest(n), index);
                    prop_assert!(unheld.contents().get(&digest(n)).is_none_or(|owed| owed.index != index));
                }
                prop_assert_eq!(unheld.bytes(), unheld.contents().values().map(|owed| owed.bytes).sum::<u64>());
            }
        }
    }
}
