//! The bytes of a snapshot file: `docs/snapshot.md`. Whatever differs in one bit from what was written is refused.

use bytes::Bytes;
use checkpoint::digest::Hasher;

use super::capture::{Capture, SnapshotMeta};
use crate::dues::Debts;
use crate::record::LogId;

/// Every version starts so; the digest at the end is the same in all of them.
const FAMILY: &[u8] = b"epochlog snapshot ";
const MAGIC: &[u8] = b"epochlog snapshot 4\n";
const DIGEST_BYTES: usize = 32;

/// Why bytes are no snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Not what was written.
    Damaged(&'static str),
    /// Whole, but of a version that this program does not know.
    Version,
}

/// The bytes of a snapshot, end to end. The ledger's are not copied: they may be many.
pub fn parts(capture: &Capture, debts: &Debts) -> [Bytes; 3] {
    let mut head = MAGIC.to_vec();
    put_position(&mut head, capture.meta.position);
    let (id, members) = capture.meta.membership.clone().unwrap_or_default();
    head.push(u8::from(capture.meta.membership.is_some()));
    put_position(&mut head, id);
    put_len(&mut head, members.len());
    head.extend_from_slice(&members);
    put_len(&mut head, capture.ledger.len());
    let debts = debts.encode();
    let mut tail = Vec::with_capacity(debts.len() + 8 + DIGEST_BYTES);
    put_len(&mut tail, debts.len());
    tail.extend_from_slice(&debts);
    let mut hasher = Hasher::new();
    [&head[..], &capture.ledger[..], &tail[..]].into_iter().for_each(|part| hasher.update(part));
    tail.extend_from_slice(hasher.finish().as_bytes());
    [head.into(), capture.ledger.clone(), tail.into()]
}

/// Reads what [`parts`] are, end to end.
pub fn decode(bytes: Bytes) -> Result<(Capture, Debts), Wrong> {
    let at = bytes.len().checked_sub(DIGEST_BYTES).ok_or(Wrong::Damaged("it is cut off"))?;
    if checkpoint::digest::content(&bytes[..at]).as_bytes()[..] != bytes[at..] {
        return Err(Wrong::Damaged("its digest is not the one it names"));
    }
    if !bytes.starts_with(MAGIC) {
        let known = bytes.starts_with(FAMILY);
        return Err(if known { Wrong::Version } else { Wrong::Damaged("it is no snapshot") });
    }
    parse(bytes.slice(MAGIC.len()..at)).ok_or(Wrong::Damaged("its parts do not add up"))
}

fn parse(bytes: Bytes) -> Option<(Capture, Debts)> {
    let mut rest = bytes;
    let position = take_position(&mut rest)?;
    let some = take(&mut rest, 1)?[0] != 0;
    let id = take_position(&mut rest)?;
    let members = take_part(&mut rest)?;
    let ledger = take_part(&mut rest)?;
    let debts = Debts::decode(&take_part(&mut rest)?)?;
    let membership = some.then_some((id, members));
    rest.is_empty().then_some((Capture::brought(SnapshotMeta { position, membership }, ledger), debts))
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u64).to_be_bytes());
}

fn put_position(out: &mut Vec<u8>, id: LogId) {
    for number in [id.term, id.node, id.index] {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

fn take(bytes: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

fn take_u64(bytes: &mut Bytes) -> Option<u64> {
    take(bytes, 8)?[..].try_into().ok().map(u64::from_be_bytes)
}

fn take_part(bytes: &mut Bytes) -> Option<Bytes> {
    let len = usize::try_from(take_u64(bytes)?).ok()?;
    take(bytes, len)
}

fn take_position(bytes: &mut Bytes) -> Option<LogId> {
    Some(LogId { term: take_u64(bytes)?, node: take_u64(bytes)?, index: take_u64(bytes)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Capture {
        let id = |index| LogId { term: 3, node: 2, index };
        let membership = Some((id(4), Bytes::from_static(b"three voters")));
        Capture::brought(SnapshotMeta { position: id(9), membership }, Bytes::from_static(b"the ledger"))
    }

    fn encode(capture: &Capture, debts: &Debts) -> Vec<u8> {
        parts(capture, debts).concat()
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was() {
        let bytes = Bytes::from(encode(&example(), &Debts::default()));
        let (back, debts) = decode(bytes).unwrap();
        assert_eq!((back.meta, back.ledger), (example().meta, example().ledger));
        assert_eq!(debts, Debts::default());
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let whole = encode(&example(), &Debts::default());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(bytes.into()), Err(Wrong::Damaged(_))), "bit {bit}");
        }
        for len in 0..whole.len() {
            assert!(decode(whole[..len].to_vec().into()).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_whole_snapshot_of_another_version_is_told_from_damage() {
        let mut later = encode(&example(), &Debts::default());
        later.truncate(later.len() - DIGEST_BYTES);
        later[FAMILY.len()] = b'9';
        let digest = checkpoint::digest::content(&later);
        later.extend_from_slice(digest.as_bytes());
        assert_eq!(decode(later.into()).err(), Some(Wrong::Version));
    }
}
