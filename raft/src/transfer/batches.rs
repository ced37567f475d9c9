//! Contents in groups, each of which is fetched and shelved as one.

use checkpoint::store::Content;

/// Batches that are fetched at once.
pub(super) const STREAMS: usize = 3;
/// Contents of one batch.
const BATCH_CONTENTS: usize = 256;
/// Bytes of one batch, unless a single content is larger. Fewer when there is little to bring, so that all
/// streams have a share, but not less than [`BATCH_BYTES_MIN`]: a batch costs a call and syncs.
const BATCH_BYTES: u64 = 32 << 20;
const BATCH_BYTES_MIN: u64 = 1 << 20;

/// Groups small contents; a large one goes alone. Every stream gets a share.
pub(super) fn batches(contents: impl Iterator<Item = Content> + Clone) -> Vec<Vec<Content>> {
    let (count, total) =
        contents.clone().fold((0, 0u64), |(n, bytes), content| (n + 1, bytes.saturating_add(content.size)));
    let bytes_max = (total / STREAMS as u64).clamp(BATCH_BYTES_MIN, BATCH_BYTES);
    let contents_max = usize::div_ceil(count, STREAMS).clamp(BATCH_CONTENTS / 8, BATCH_CONTENTS);
    let mut all = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0u64);
    for content in contents {
        let full = batch.len() >= contents_max || bytes.saturating_add(content.size) > bytes_max;
        if full && !batch.is_empty() {
            all.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes = bytes.saturating_add(content.size);
        batch.push(content);
    }
    all.extend(Some(batch).filter(|batch| !batch.is_empty()));
    all
}

#[cfg(test)]
mod tests {
    use checkpoint::Digest;

    use super::*;

    fn content(n: u8, size: u64) -> Content {
        Content { digest: Digest::from_bytes([n; 32]), mode: 0o644, size }
    }

    #[test]
    fn small_contents_share_a_batch_and_large_ones_go_alone() {
        let sizes =
            |contents: Vec<Content>| batches(contents.into_iter()).iter().map(Vec::len).collect::<Vec<_>>();
        let mut contents: Vec<Content> = (0..200).map(|n| content(n, 10)).collect();
        contents.push(content(250, BATCH_BYTES * 3));
        contents.push(content(251, 10));
        assert_eq!(sizes(contents), [68, 68, 64, 1, 1]);
        assert_eq!(sizes((0..6).map(|n| content(n, 1 << 20)).collect()), [2, 2, 2]);
        assert_eq!(sizes((0..6).map(|n| content(n, 100)).collect()), [6]);
        assert!(sizes(vec![]).is_empty());
    }
}
