//! Judges the link of files into an object of their attempt's store, and what puts sealed content into another object.
//!
//! Who proposes has uploaded the object and verified it there. An attempt names only objects of its own: their keys have
//! its number, so that no name ever comes back.

use super::change::{Change, LinkedEntry};
use super::fields::{digest, malformed};
use super::judge_pieces::{again, file_of, is_new, twice};
use super::judge_stores::judge_version;
use super::objects::{Named, ObjectKey};
use super::tables::Ledger;
use super::verdict::{Reason, Rejected};
use crate::record::proto;

impl Ledger {
    pub(super) fn judge_link(&self, link: &proto::Link, version: u32) -> Result<Change, Rejected> {
        let rules = self.store_rules()?;
        judge_version(version)?;
        let attempt = self.attempt_with_plan(link.attempt)?;
        let Some(store) = attempt.terms.store else {
            return Err(malformed("the attempt has no store: its content goes through the log"));
        };
        if link.files.is_empty() || link.files.len() > rules.link_files_max {
            return Err(malformed("a record links 1 to 1024 files"));
        }
        let (of, bytes) = ((link.attempt, attempt.objects.len()), link.object_bytes);
        let object = self.named_object(of, store, link.object.as_ref(), bytes)?;
        let (mut files, mut twice) = (Vec::with_capacity(link.files.len()), twice());
        for linked in &link.files {
            let file = linked.file;
            if twice(file) {
                return Err(malformed(format!("file {file} is named twice")));
            }
            let size = file_of(attempt, file)?.size();
            let digest = digest(&linked.digest)?;
            if size == 0 {
                return Err(malformed("an empty file needs no object"));
            }
            if linked.len != size {
                return Err(malformed(format!("file {file} has {size} bytes")));
            }
            if linked.offset.checked_add(size).is_none_or(|end| end > bytes) {
                return Err(malformed(format!("file {file} lies beyond the object")));
            }
            if is_new(attempt, file, 0, size, &digest)? {
                files.push(LinkedEntry { file, digest, offset: linked.offset });
            }
        }
        // What is here already needs no other object.
        match files.is_empty() {
            true => Ok(again(link.attempt)),
            false => Ok(Change::Link { attempt: link.attempt, object, files }),
        }
    }

    /// An object that is lost, or damaged, is uploaded anew by who has the content, under another name: that of an open
    /// attempt, so that nobody takes it for garbage before it is named here. Who was late finds that the content lies
    /// elsewhere by now.
    pub(super) fn judge_rehome(&self, rehome: &proto::Rehome, version: u32) -> Result<Change, Rejected> {
        self.store_rules()?;
        judge_version(version)?;
        let attempt = self.open_attempt(rehome.attempt)?;
        let Some(store) = attempt.terms.store else {
            return Err(malformed("the attempt has no store"));
        };
        let old = rehome.old.as_ref().ok_or_else(|| malformed("an object is not named"))?;
        let old = ObjectKey { store, attempt: old.attempt, digest: digest(&old.digest)?, nonce: old.nonce };
        let of = digest(&rehome.digest)?;
        let Some((content, there)) = self.content.find(&of) else {
            return Err(Rejected::new(Reason::NotFound, format!("nobody holds content {}", of.short())));
        };
        let (many, bytes) = ((rehome.attempt, attempt.objects.len()), rehome.object_bytes);
        let object = self.named_object(many, store, rehome.object.as_ref(), bytes)?;
        if rehome.offset.checked_add(there.bytes).is_none_or(|end| end > bytes) {
            return Err(malformed("the content lies beyond the object"));
        }
        let homes = self.content.homes();
        let elsewhere = || format!("content {} does not lie in the object that is named", of.short());
        match homes.in_store(content, store) {
            Some(home) if object == Named::Known(home.object) && home.offset == rehome.offset => {
                Ok(again(rehome.attempt))
            }
            Some(home) if homes.object(home.object).key == old => {
                let (attempt, offset) = (rehome.attempt, rehome.offset);
                Ok(Change::Rehome { attempt, content, object, offset })
            }
            _ => Err(Rejected::new(Reason::Conflict, elsewhere())),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use checkpoint::{CommitId, Digest, EntryKind, PlanEntry, RelPath};

    use super::*;
    use crate::compose::{self, LinkedFile, Opening, Pages, StoredObject};
    use crate::ledger::verdict::Verdict;
    use crate::record::{LogId, LogRecord};

    struct NoPages;

    impl crate::ledger::pages::PlanPages for NoPages {
        fn read(&self, _: &crate::ledger::pages::Page) -> std::io::Result<Bytes> {
            Ok(entries().0)
        }
    }

    fn entries() -> (Bytes, Vec<PlanEntry>) {
        let entry = |path: &str, kind, size| PlanEntry {
            path: RelPath::parse(path.as_bytes()).unwrap(),
            kind,
            mode: 0o755,
            size,
            target: Vec::new(),
        };
        let entries = vec![entry("", EntryKind::Directory, 0), entry("a", EntryKind::File, 5)];
        (checkpoint::plan::encode(&entries).into(), entries)
    }

    /// Where an attempt has as many objects as it may, its manifest is one more all the same.
    #[test]
    fn an_attempt_has_so_many_objects_and_its_manifest() {
        let mut ledger = Ledger::under(4).unwrap();
        let opening = Opening {
            job: "job".parse().unwrap(),
            epoch: None,
            token: None,
            commit: CommitId::from_bytes([1; 16]),
            born: 0,
            chunk_bytes: 64 << 10,
            base: None,
            labels: Vec::new(),
            depends_on: Vec::new(),
        };
        let (_, plan) = entries();
        let pages = Pages::new(&plan);
        let step = |ledger: &mut Ledger, record: LogRecord| {
            let index = ledger.applied().map_or(0, |id| id.index + 1);
            ledger.gather(&record.header, &NoPages).unwrap();
            ledger.step(LogId { term: 1, node: 1, index }, &record.header).unwrap().verdict
        };
        step(&mut ledger, compose::store("west", [1; 16], 0));
        step(&mut ledger, compose::begin_in(&opening, &pages, 0));
        step(&mut ledger, pages.part(1, 0));
        let digest = checkpoint::digest::content(b"12345");
        let file = LinkedFile { file: 1, offset: 0, len: 5, digest };
        let link = |nonce| compose::link(1, &StoredObject { digest, nonce, bytes: 5 }, &[file]);
        let most = ledger.store_rules().unwrap().objects_of_attempt_max as u64;
        assert!(ledger.check(&link(most).header).is_accepted());
        let objects = (0..most).map(|nonce| ((digest, nonce), 0)).collect();
        ledger.open.get_mut(&1).unwrap().objects = objects;
        let refused = ledger.check(&link(most).header);
        assert_eq!(refused.rejected().map(|no| no.reason), Some(Reason::Quota));
        ledger.open.get_mut(&1).unwrap().objects.remove(&(digest, 0));
        assert_eq!(step(&mut ledger, link(most)), Verdict::DONE);
        let entry = |digest: Digest, entry: &PlanEntry| checkpoint::ManifestEntry::new(entry, digest);
        let entries = vec![entry(Digest::NONE, &plan[0]), entry(digest, &plan[1])];
        let root = checkpoint::Manifest { entries }.root();
        let manifest = StoredObject { digest: root, nonce: 9, bytes: 5 };
        let seal = compose::seal_with(1, root, &manifest);
        ledger.gather(&seal.header, &NoPages).unwrap();
        let sealed = ledger.check(&seal.header);
        assert!(sealed.is_accepted(), "{sealed}");
    }
}
