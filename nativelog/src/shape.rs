//! The ingress check: is a record well formed, within the limits, and is its payload the one its header names?
//!
//! Stateless: every replica runs it on what comes in from outside before anything is written, and
//! answers an RPC error when it fails. It never looks at a ledger. What only an attempt knows
//! (alignment to its chunk size, bounds of its files) is the ledger's to judge.

use checkpoint::digest::{content, is_subtree, subtree, zeros};
use checkpoint::limits::{
    CHUNK_BYTES_MAX, FILE_BYTES_MAX, PACK_BYTES_MAX, PACK_FILES_MAX, PART_BYTES_MAX, REUSE_FILES_MAX,
    WHOLE_BYTES_MAX, WHOLE_ENTRIES_MAX, ZERO_BYTES_MAX,
};
use checkpoint::plan::{check_entries, entries};
use checkpoint::{CommitId, Digest, JobName, Limits};

pub use crate::record::HEADER_BYTES_MAX;
use crate::record::{
    DELETED_MAX, Header, Kind, LINK_FILES_MAX, LogRecord, OBJECT_BYTES_MAX, RECORD_VERSION,
    RECORD_VERSION_MIN, STAMPED_SINCE, STORES_SINCE, is_store_name, proto, version_of,
};

/// Why a record is refused before it reaches the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A record in a format of the future, or of before the first that counts.
    #[error("record format {0} is none that this binary reads")]
    Version(u32),
    /// The header is too large.
    #[error("a header of {0} bytes is over the limit")]
    HeaderBytes(usize),
    /// The payload is not as long as the header says, or should not be there.
    #[error("the header says {said} payload bytes, {found} are here")]
    PayloadBytes {
        /// Bytes that the header names.
        said: u64,
        /// Bytes that came.
        found: u64,
    },
    /// A field is missing, of the wrong length or over its limit.
    #[error("{0}")]
    Field(&'static str),
    /// A name, a path or an entry is refused.
    #[error("{0}")]
    Entry(String),
    /// Bytes do not have the digest that the header names.
    #[error("the bytes of file {file} do not have the digest in the header")]
    Digest {
        /// File id.
        file: u32,
    },
}

/// The check before a record is proposed: its shape, and its payload unless this process made the digests
/// from it. Not its zeros: see [`check_zeros`].
///
/// # Errors
/// As [`check_shape`].
pub fn check_record(record: &LogRecord) -> Result<(), ShapeError> {
    check_shape(&record.header, (!record.is_digested_here()).then_some(&record.payload))
}

/// Checks one record. With `payload` its bytes are checked against the digests in the header; without,
/// the header alone.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_shape(header: &Header, payload: Option<&[u8]>) -> Result<(), ShapeError> {
    if !(RECORD_VERSION_MIN..=RECORD_VERSION).contains(&header.version) {
        return Err(ShapeError::Version(header.version));
    }
    let header_bytes = header.wire().len();
    if header_bytes > HEADER_BYTES_MAX {
        return Err(ShapeError::HeaderBytes(header_bytes));
    }
    if let Some(payload) = payload.filter(|payload| payload.len() as u64 != header.payload_bytes) {
        return Err(ShapeError::PayloadBytes { said: header.payload_bytes, found: payload.len() as u64 });
    }
    let kind = header.kind.as_ref().ok_or(ShapeError::Field("a record of no known kind"))?;
    // A binary that knows no later version than 4 does not see the field, and would keep another ledger.
    if header.version < STAMPED_SINCE && is_stamped(kind) {
        return Err(ShapeError::Field("a record of version 4 does not tell the time of a seal"));
    }
    if header.version < STORES_SINCE && version_of(kind) >= STORES_SINCE {
        return Err(ShapeError::Field("a record of before version 7 knows of no object store"));
    }
    match kind {
        Kind::Chunk(chunk) => check_chunk(chunk, header.payload_bytes, payload),
        Kind::Pack(pack) => {
            let files = pack.files.len();
            if files == 0 || files > PACK_FILES_MAX || header.payload_bytes > PACK_BYTES_MAX as u64 {
                return Err(ShapeError::Field("a pack holds 1 to 4096 files and at most 1 MiB"));
            }
            check_packed(&pack.files, header.payload_bytes, payload)
        }
        Kind::Whole(whole) => check_whole(whole, header.payload_bytes, payload),
        _ if header.payload_bytes > 0 => {
            Err(ShapeError::PayloadBytes { said: header.payload_bytes, found: 0 })
        }
        kind => check_bare(kind),
    }
}

fn is_stamped(kind: &Kind) -> bool {
    match kind {
        Kind::Seal(seal) => seal.wall_ms != 0,
        Kind::Whole(whole) => whole.wall_ms != 0,
        _ => false,
    }
}

/// Records without a payload.
fn check_bare(kind: &Kind) -> Result<(), ShapeError> {
    match kind {
        Kind::Genesis(genesis) => {
            sixteen(&genesis.cluster)?;
            genesis.members.iter().try_for_each(|member| sixteen(&member.incarnation))
        }
        Kind::Join(join) => {
            let member = join.member.as_ref().ok_or(ShapeError::Field("a join without a member"))?;
            sixteen(&member.incarnation)
        }
        Kind::OpenWriter(open) => {
            job_name(&open.job)?;
            commit_id(&open.commit_id)
        }
        Kind::Begin(begin) => check_begin(begin),
        Kind::Part(part) => {
            if part.entries.is_empty() {
                return Err(ShapeError::Field("a page of a plan is not empty"));
            }
            if part.entries.len() > PART_BYTES_MAX {
                return Err(ShapeError::Field("a page of a plan has at most 256 KiB"));
            }
            entries(&part.entries)
                .try_for_each(|read| read.map(drop).map_err(|error| ShapeError::Entry(error.to_string())))
        }
        Kind::Zero(zero) => check_zero(zero),
        Kind::Reuse(reuse) => {
            if reuse.files.is_empty() || reuse.files.len() > REUSE_FILES_MAX {
                return Err(ShapeError::Field("a record reuses content for 1 to 1024 files"));
            }
            reuse.files.iter().try_for_each(|file| digest(&file.digest).map(drop))
        }
        Kind::Link(link) => check_link(link),
        Kind::Seal(seal) => {
            digest(&seal.root)?;
            let Some(manifest) = &seal.manifest else { return Ok(()) };
            check_object(manifest.object.as_ref(), manifest.bytes)
        }
        Kind::Store(store) => {
            if !is_store_name(&store.name) {
                return Err(ShapeError::Field(
                    "a store's name has 1 to 64 letters, digits, hyphens, underscores and dots",
                ));
            }
            sixteen(&store.uuid)
        }
        Kind::Deleted(deleted) => {
            if deleted.objects.is_empty() || deleted.objects.len() > DELETED_MAX {
                return Err(ShapeError::Field("a record says of 1 to 4096 objects that they are deleted"));
            }
            deleted.objects.iter().try_for_each(|object| digest(&object.digest).map(drop))
        }
        Kind::Rehome(rehome) => {
            digest(&rehome.digest)?;
            digest(&rehome.old.as_ref().ok_or(ShapeError::Field("an object is not named"))?.digest)?;
            check_object(rehome.object.as_ref(), rehome.object_bytes)
        }
        Kind::Abort(_) | Kind::Tick(_) | Kind::Activate(_) | Kind::DeleteBatch(_) => Ok(()),
        Kind::Pin(pin) => job_name(&pin.job),
        Kind::Unpin(unpin) => job_name(&unpin.job),
        Kind::Expire(expire) => job_name(&expire.job),
        Kind::Quarantine(quarantine) => digest(&quarantine.digest).map(drop),
        Kind::Healed(healed) => digest(&healed.digest).map(drop),
        Kind::RemoveJob(remove) => job_name(&remove.job),
        Kind::Chunk(_) | Kind::Pack(_) | Kind::Whole(_) => unreachable!("they carry payloads"),
    }
}

fn check_begin(begin: &proto::Begin) -> Result<(), ShapeError> {
    job_name(&begin.job)?;
    commit_id(&begin.commit_id)?;
    digest(&begin.plan_digest).map(drop)
}

fn check_object(object: Option<&proto::Object>, bytes: u64) -> Result<(), ShapeError> {
    digest(&object.ok_or(ShapeError::Field("an object is not named"))?.digest)?;
    if bytes == 0 || bytes > OBJECT_BYTES_MAX {
        return Err(ShapeError::Field("an object has 1 byte to 5 TiB"));
    }
    Ok(())
}

fn check_link(link: &proto::Link) -> Result<(), ShapeError> {
    check_object(link.object.as_ref(), link.object_bytes)?;
    if link.files.is_empty() || link.files.len() > LINK_FILES_MAX {
        return Err(ShapeError::Field("a record links 1 to 1024 files"));
    }
    for file in &link.files {
        digest(&file.digest)?;
        let end = file.offset.checked_add(file.len).filter(|_| file.len > 0);
        if end.is_none_or(|end| end > link.object_bytes) {
            return Err(ShapeError::Field("a linked file lies beyond its object"));
        }
    }
    Ok(())
}

/// Which of the two digests a range has, that of a part or that of a whole file, follows from the file's size. The
/// header names it, and the ledger, which has the plan, sees to it that it is true.
fn check_chunk(chunk: &proto::Chunk, payload_bytes: u64, payload: Option<&[u8]>) -> Result<(), ShapeError> {
    let named = digest(&chunk.digest)?;
    if chunk.len == 0 || chunk.len > CHUNK_BYTES_MAX {
        return Err(ShapeError::Field("a chunk has 1 byte to 4 MiB"));
    }
    if payload_bytes != u64::from(chunk.len) {
        return Err(ShapeError::PayloadBytes { said: payload_bytes, found: u64::from(chunk.len) });
    }
    check_range(chunk.file_bytes, chunk.offset, u64::from(chunk.len))?;
    let Some(payload) = payload else { return Ok(()) };
    if subtree(chunk.file_bytes, chunk.offset, payload) != named {
        return Err(ShapeError::Digest { file: chunk.file });
    }
    Ok(())
}

/// A run of zeros has no payload whose digest a replica could check, and beside data they may take 15 ms to hash: who
/// proposes does it ([`check_zeros`]), and the root covers what the others take from it.
fn check_zero(zero: &proto::Zero) -> Result<(), ShapeError> {
    digest(&zero.digest)?;
    if zero.len == 0 || zero.len > ZERO_BYTES_MAX {
        return Err(ShapeError::Field("a run of zeros has 1 byte to 64 MiB"));
    }
    check_range(zero.file_bytes, zero.offset, zero.len)
}

/// The digest of a run of zeros, for who proposes it; `Ok` for any other record and for one whose digests this
/// process made. Most are looked up, and some take 15 ms: not for a thread that others wait for.
///
/// # Errors
/// A header that [`check_shape`] refuses, or another digest.
pub fn check_zeros(record: &LogRecord) -> Result<(), ShapeError> {
    let Some(Kind::Zero(zero)) = record.header.kind.as_ref().filter(|_| !record.is_digested_here()) else {
        return Ok(());
    };
    check_zero(zero)?;
    if zeros(zero.file_bytes, zero.offset, zero.len) != digest(&zero.digest)? {
        return Err(ShapeError::Digest { file: zero.file });
    }
    Ok(())
}

/// Whether a range is one subtree of a file of `file_bytes` bytes.
fn check_range(file_bytes: u64, offset: u64, len: u64) -> Result<(), ShapeError> {
    if file_bytes > FILE_BYTES_MAX || offset.checked_add(len).is_none_or(|end| end > file_bytes) {
        return Err(ShapeError::Field("the range lies beyond its file, or beyond the largest one"));
    }
    if !is_subtree(file_bytes, offset, len) {
        return Err(ShapeError::Field("the range is no aligned run"));
    }
    Ok(())
}

fn check_packed(
    files: &[proto::PackedFile],
    payload_bytes: u64,
    payload: Option<&[u8]>,
) -> Result<(), ShapeError> {
    // Equal contents lie in the payload once: a range that was hashed before is not hashed again.
    let mut seen = std::collections::BTreeMap::new();
    for file in files {
        let named = digest(&file.digest)?;
        let end = u64::from(file.offset) + u64::from(file.len);
        if end > payload_bytes {
            return Err(ShapeError::Field("a packed file lies beyond the payload"));
        }
        let Some(payload) = payload else { continue };
        let (start, end) = (file.offset as usize, end as usize);
        let found = *seen.entry((start, end)).or_insert_with(|| content(&payload[start..end]));
        if found != named {
            return Err(ShapeError::Digest { file: file.file });
        }
    }
    Ok(())
}

fn check_whole(whole: &proto::Whole, payload_bytes: u64, payload: Option<&[u8]>) -> Result<(), ShapeError> {
    check_begin(whole.begin.as_ref().ok_or(ShapeError::Field("a whole epoch without its begin"))?)?;
    digest(&whole.root)?;
    if whole.entries.len() > PART_BYTES_MAX {
        return Err(ShapeError::Field("the plan of a whole epoch has at most 256 KiB"));
    }
    let some = WHOLE_ENTRIES_MAX + 1;
    let entries: Result<Vec<_>, _> =
        entries(&whole.entries).take(some).map(|read| read.map(|read| read.entry)).collect();
    let entries = entries.map_err(|error| ShapeError::Entry(error.to_string()))?;
    if entries.len() > WHOLE_ENTRIES_MAX
        || whole.files.len() > WHOLE_ENTRIES_MAX
        || payload_bytes > WHOLE_BYTES_MAX
    {
        return Err(ShapeError::Field("a whole epoch has at most 64 entries and 64 KiB"));
    }
    check_entries(entries, &Limits::default()).map_err(|error| ShapeError::Entry(error.to_string()))?;
    check_packed(&whole.files, payload_bytes, payload)
}

fn job_name(name: &str) -> Result<(), ShapeError> {
    JobName::try_from(name).map(drop).map_err(|error| ShapeError::Entry(error.to_string()))
}

fn commit_id(bytes: &[u8]) -> Result<(), ShapeError> {
    CommitId::from_slice(bytes).map(drop).ok_or(ShapeError::Field("a commit id is 16 bytes"))
}

fn digest(bytes: &[u8]) -> Result<Digest, ShapeError> {
    Digest::from_slice(bytes).ok_or(ShapeError::Field("a digest is 32 bytes"))
}

fn sixteen(bytes: &[u8]) -> Result<(), ShapeError> {
    if bytes.len() == 16 { Ok(()) } else { Err(ShapeError::Field("a uuid or incarnation is 16 bytes")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose;
    use crate::record::LogRecord;
    use bytes::Bytes;
    use checkpoint::Piece;
    use checkpoint::digest::hashed_bytes;

    fn check(record: &LogRecord) -> Result<(), ShapeError> {
        check_shape(&record.header, Some(&record.payload))
    }

    fn chunk(file_bytes: u64, offset: u64, payload: &[u8]) -> LogRecord {
        let digest = subtree(file_bytes, offset, payload);
        let payload = Bytes::copy_from_slice(payload);
        compose::piece(9, Piece::Chunk { file: 3, offset, digest, file_bytes, payload })
    }

    fn altered(record: &LogRecord, how: impl FnOnce(&mut crate::record::Record)) -> Header {
        let mut altered = Header::clone(&record.header).into_record();
        how(&mut altered);
        Header::new(altered)
    }

    #[test]
    fn a_chunk_is_taken_as_a_whole_file_or_a_part_of_one() {
        let data = vec![7; 64 << 10];
        assert_eq!(check(&chunk(data.len() as u64, 0, &data)), Ok(()));
        assert_eq!(check(&chunk(1 << 30, 0, &data)), Ok(()));
        assert_eq!(check(&chunk(1 << 30, 64 << 10, &data)), Ok(()));
        assert_eq!(check(&chunk((64 << 10) + 100, 64 << 10, &data[..100])), Ok(()));
        assert_eq!(check(&chunk(100, 0, &data[..100])), Ok(()));
    }

    /// A root made with such a digest could be sealed, and no copy would ever verify.
    #[test]
    fn the_first_part_of_a_file_is_not_taken_with_the_digest_of_a_whole_file() {
        let data = vec![7; 64 << 10];
        let alone = subtree(data.len() as u64, 0, &data);
        let (offset, file_bytes) = (0, 128 << 10);
        let payload = Bytes::from(data);
        let record = compose::piece(9, Piece::Chunk { file: 3, offset, digest: alone, file_bytes, payload });
        assert_eq!(check(&record), Err(ShapeError::Digest { file: 3 }));
        let len = 64 << 10;
        let digest = zeros(len, 0, len);
        let record = compose::piece(9, Piece::Zero { file: 3, offset, len, digest, file_bytes });
        assert_eq!(check_zeros(&record), Err(ShapeError::Digest { file: 3 }));
    }

    #[test]
    fn a_flipped_bit_is_found_in_every_kind_of_payload() {
        let digest = content(b"abc");
        let files = vec![checkpoint::PackedFile { file: 1, offset: 0, len: 3, digest }];
        let pack = compose::piece(1, Piece::Pack { files, payload: Bytes::from_static(b"abc") });
        assert_eq!(check(&pack), Ok(()));
        for record in [pack, chunk(1 << 20, 0, &[1; 64 << 10]), chunk(3, 0, b"xyz")] {
            let mut payload = record.payload.to_vec();
            payload[1] ^= 4;
            let error = check_shape(&record.header, Some(&payload)).unwrap_err();
            assert!(matches!(error, ShapeError::Digest { .. }), "{error}");
            assert_eq!(check_shape(&record.header, None), Ok(()), "the header alone is well formed");
        }
    }

    #[test]
    fn a_payload_is_hashed_once_by_who_gets_it_and_not_by_who_made_its_digests() {
        let hashed_by = |check: &dyn Fn() -> Result<(), ShapeError>| {
            let before = hashed_bytes();
            check().unwrap();
            hashed_bytes() - before
        };
        let data = vec![7; 64 << 10];
        let (same, other) = (content(&data[..1000]), content(&data[1000..3000]));
        let packed = |file, offset, len, digest| checkpoint::PackedFile { file, offset, len, digest };
        // Equal contents lie in the payload once.
        let files = vec![packed(1, 0, 1000, same), packed(2, 0, 1000, same), packed(3, 1000, 2000, other)];
        let pack = Piece::Pack { files, payload: Bytes::copy_from_slice(&data[..3000]) };
        // A whole file, and a part of one: which of them it is says the header, and nobody tries both.
        for record in [chunk(64 << 10, 0, &data), chunk(1 << 30, 0, &data), compose::piece(1, pack)] {
            let bytes = record.payload.len() as u64;
            assert_eq!(hashed_by(&|| check(&record)), bytes, "a follower");
            assert_eq!(hashed_by(&|| check_record(&record)), bytes, "a leader, of what came from elsewhere");
            let own = record.clone().digested_here();
            assert_eq!(hashed_by(&|| check_record(&own)), 0, "a leader that has split it");
        }
    }

    #[test]
    fn a_record_of_before_the_field_tells_no_time() {
        let seal = compose::seal(7, content(b"root"));
        let old = altered(&seal, |record| record.version = STAMPED_SINCE - 1);
        assert_eq!(check_shape(&old, None), Ok(()));
        let told = altered(&seal.sealed_at(5), |record| record.version = STAMPED_SINCE - 1);
        assert!(matches!(check_shape(&told, None), Err(ShapeError::Field(_))));
        // The leader's own stamp makes it one of the version that has the field.
        let stamped = LogRecord::from_parts(told.into(), Bytes::new()).sealed_at(6);
        assert_eq!(check(&stamped), Ok(()));
    }

    #[test]
    fn zeros_are_hashed_by_who_proposes_them_and_by_nobody_else() {
        let zero = |file_bytes, offset, len, digest| {
            compose::piece(1, Piece::Zero { file: 2, offset, len, digest, file_bytes })
        };
        let (mib, file) = (1 << 20, 5 << 20);
        for (offset, len) in [(0, 4 * mib), (4 * mib, mib), (0, file)] {
            let record = zero(file, offset, len, zeros(file, offset, len));
            assert_eq!(check(&record).and(check_zeros(&record)), Ok(()), "{offset}+{len}");
        }
        let wrong = zero(file, 0, mib, zeros(file, mib, mib));
        assert_eq!(check_zeros(&wrong), Err(ShapeError::Digest { file: 2 }));
        assert_eq!(check(&wrong), Ok(()), "a follower looks at the shape only");
        assert_eq!(check_zeros(&wrong.digested_here()), Ok(()));
        for (offset, len) in
            [(mib, 4 * mib), (0, 0), (0, 128 * mib), (u64::MAX - 1023, 1024), (1, mib), (0, 8 * mib)]
        {
            for check in [check, check_zeros] {
                let found = check(&zero(file, offset, len, content(b"")));
                assert!(matches!(found, Err(ShapeError::Field(_))), "{offset}+{len}");
            }
        }
    }

    #[test]
    fn lengths_and_versions_are_checked_first() {
        let record = chunk(1 << 20, 0, &[1; 64 << 10]);
        let short = check_shape(&record.header, Some(&record.payload[..10]));
        assert!(matches!(short, Err(ShapeError::PayloadBytes { found: 10, .. })), "{short:?}");
        let tick = compose::tick(5);
        let loaded = altered(&tick, |tick| tick.payload_bytes = u64::MAX);
        assert!(matches!(check_shape(&loaded, None), Err(ShapeError::PayloadBytes { .. })));
        for version in [0, RECORD_VERSION_MIN - 1, RECORD_VERSION + 1] {
            let other = altered(&tick, |tick| tick.version = version);
            assert_eq!(check_shape(&other, None), Err(ShapeError::Version(version)));
        }
        let long = compose::abort(1, "x".repeat(HEADER_BYTES_MAX));
        assert!(matches!(check(&long), Err(ShapeError::HeaderBytes(_))));
    }

    #[test]
    fn a_page_has_whole_entries_and_no_more_than_its_limit() {
        let part = |entries: Vec<u8>| check(&compose::part(1, 0, entries.into()));
        let root: &[u8] = b"d\xed\x01\x00\x00";
        let link = |target: usize| {
            [b"l\xff\x01\x01\x00n", &(target as u16).to_le_bytes()[..], &vec![b'x'; target]].concat()
        };
        // A door does not know whether it fits the plan.
        assert_eq!(part(root.repeat(3)), Ok(()));
        let most = [root.repeat((PART_BYTES_MAX - 8) / 5 - 9), link(0)].concat();
        let full = [most.clone(), link(PART_BYTES_MAX - most.len() - 8)].concat();
        assert_eq!((full.len(), part(full.clone())), (PART_BYTES_MAX, Ok(())));
        assert!(matches!(part([full, root.to_vec()].concat()), Err(ShapeError::Field(_))));
        assert!(matches!(part(Vec::new()), Err(ShapeError::Field(_))));
        assert!(matches!(part(root[..4].to_vec()), Err(ShapeError::Entry(_))));
        assert!(matches!(part([root, &link(9)[..12]].concat()), Err(ShapeError::Entry(_))));
        assert!(matches!(part([root, b"x\xed\x01\x00\x00"].concat()), Err(ShapeError::Entry(_))));
    }

    #[test]
    fn digests_of_the_wrong_length_are_refused() {
        let record = chunk(1 << 20, 0, &[1; 64 << 10]);
        let header = altered(&record, |header| {
            let Some(Kind::Chunk(chunk)) = &mut header.kind else { unreachable!() };
            chunk.digest = Bytes::from_static(&[1; 31]);
        });
        assert_eq!(check_shape(&header, None), Err(ShapeError::Field("a digest is 32 bytes")));
    }
}

#[cfg(test)]
mod object_tests;
