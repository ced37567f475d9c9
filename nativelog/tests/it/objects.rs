//! What stories say of object stores, and how they are told what is in them.
//!
//! An object is called by a word, whose BLAKE3 is its digest, and by a nonce: `object=pack nonce=7`.

use std::fmt::Write;

use checkpoint::Digest;
use checkpoint::digest::content;
use nativelog::LogRecord;
use nativelog::compose::{self, LinkedFile, StoredObject};
use nativelog::ledger::Ledger;

use crate::directory::{Directory, number};
use crate::words::{Words, seeded};

pub fn store(words: &Words<'_>) -> LogRecord {
    compose::store(words.get("name"), seeded(words.get("uuid")), words.number("nonce"))
}

/// `files=1@0,2@64k`: entry and place in the object. `len=` lies about all lengths.
pub fn link(words: &Words<'_>, directory: &Directory) -> LogRecord {
    let (digest, nonce) = (content(words.get("object").as_bytes()), words.number("nonce"));
    let object = StoredObject { digest, nonce, bytes: words.number("bytes") };
    let linked = |word: &str| {
        let (file, offset) = word.split_once('@').expect("file@offset");
        let (file, offset) = (number(file) as u32, number(offset));
        let (len, digest) = (directory.size(file), directory.digest(file));
        LinkedFile { file, offset, len: words.maybe("len").unwrap_or(len), digest }
    };
    let files: Vec<_> = words.get("files").split(',').map(linked).collect();
    compose::link(words.number("attempt"), &object, &files)
}

/// `manifest=` is the nonce of the manifest's object; `digest_of=` lies about its digest.
pub fn seal(words: &Words<'_>, directory: &Directory) -> LogRecord {
    let root = directory.root();
    let digest = words.named.get("digest_of").map_or(root, |word| content(word.as_bytes()));
    let object = StoredObject { digest, nonce: words.number("manifest"), bytes: 100 };
    compose::seal_with(words.number("attempt"), root, &object)
}

/// Word, attempt, nonce: `pack.3.7`.
fn name(word: &str) -> (Digest, u64, u64) {
    let mut parts = word.split('.');
    let mut next = || parts.next().expect("word.attempt.nonce");
    (content(next().as_bytes()), number(next()), number(next()))
}

/// `objects=pack.3.7,other.3.8`.
pub fn deleted(words: &Words<'_>) -> LogRecord {
    compose::deleted(words.number("store"), words.get("objects").split(',').map(name))
}

/// The content of `file=`, out of `old=`.
pub fn rehome(words: &Words<'_>, directory: &Directory) -> LogRecord {
    let (digest, nonce) = (content(words.get("object").as_bytes()), words.number("nonce"));
    let object = StoredObject { digest, nonce, bytes: words.number("bytes") };
    let file = directory.digest(words.number("file") as u32);
    let old = name(words.get("old"));
    compose::rehome(words.number("attempt"), file, old, &object, words.number("offset"))
}

pub fn show_stores(ledger: &Ledger, told: &mut String) {
    for store in ledger.stores() {
        let (id, name, batch, before) = (store.id, store.name, store.batch, store.before);
        writeln!(told, "  {id} {name} batch={batch} before={before:?}").unwrap();
    }
}

pub fn show_objects(ledger: &Ledger, told: &mut String) {
    for object in ledger.objects_in(0..ledger.object_slots()) {
        let key = object.key;
        let (digest, bytes) = (key.digest.short(), object.bytes);
        writeln!(told, "  {digest}.{}.{} in store {}: {bytes} bytes", key.attempt, key.nonce, key.store)
            .unwrap();
    }
    for object in ledger.released(None) {
        let key = object.key;
        let (digest, index) = (key.digest.short(), object.index);
        writeln!(
            told,
            "  {digest}.{}.{} in store {}: released by {index}",
            key.attempt, key.nonce, key.store
        )
        .unwrap();
    }
}

/// Ends the line.
pub fn show_homes(ledger: &Ledger, digest: &Digest, told: &mut String) {
    let homes = ledger.homes(digest).unwrap();
    if !homes.extents.is_empty() {
        told.push_str(if homes.log { ", in the log" } else { ", not in the log" });
    }
    for extent in homes.extents {
        let (key, at) = (extent.object.key, extent.offset);
        let digest = key.digest.short();
        write!(told, ", at {at} of {digest}.{}.{} in store {}", key.attempt, key.nonce, key.store).unwrap();
    }
    told.push('\n');
}
