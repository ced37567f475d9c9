//! Stories: scripts in `tests/scripts`, each a history with the answers it must get.
//!
//! A line at the margin is a command, a line that is indented is what the ledger answered; `#` begins a
//! comment. `UPDATE_STORIES=1 cargo test -p nativelog --test it` writes the answers anew: read the diff.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use checkpoint::{CommitId, JobName};
use nativelog::compose::{self, Opening, Pages};
use nativelog::ledger::{
    Effect, Ledger, LedgerFault, RULES_VERSION_FIRST, RULES_VERSION_MAX, Released, Rules,
};
use nativelog::record::{Header, Kind, LogRecord, RECORD_VERSION, Record};
use nativelog::shape::check_shape;

use crate::directory::{CHUNK, Directory};
use crate::history::History;
use crate::objects;
use crate::words::{Words, seeded};

macro_rules! stories {
    ($($name:ident)*) => {
        $(#[test] fn $name() { tell(stringify!($name)); })*

        #[test]
        fn every_script_is_told() {
            let scripts = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().file_name());
            let mut scripts: Vec<String> = scripts.map(|name| name.into_string().unwrap()).collect();
            scripts.retain(|name| !name.starts_with("rules-"));
            scripts.sort();
            let mut told = vec![$(concat!(stringify!($name), ".txt").to_owned()),*];
            told.sort();
            assert_eq!(scripts, told);
        }
    };
}

stories! {
    an_attempt_has_one_writer
    begin_chunk_seal
    commits_too_old_to_know
    expire_keeps_newest
    hostile_records_change_nothing
    job_is_removed_and_starts_anew
    later_epoch_subsumes_earlier_attempt
    leader_dies_mid_epoch
    nodes_keep_their_identity
    quarantine_of_rotten_content
    repeat_is_idempotent
    resume_with_changed_plan
    reuse_of_sealed_content
    seal_with_wrong_root
    hybrid_epoch
    hybrid_gone_from_store
    hybrid_log_home_lost
    hybrid_not_active
    hybrid_quarantine
    hybrid_rehome
    hybrid_release
    hybrid_reuse
    stale_token_is_fenced
    too_old_over_a_removed_job
    whole_epoch_in_one_record
}

/// A version's limits are what they were when it first ruled: replicas that judge by others part ways.
#[test]
fn a_version_of_the_rules_keeps_its_limits() {
    for version in RULES_VERSION_FIRST..=RULES_VERSION_MAX {
        let path = folder().join(format!("rules-{version}.limits"));
        let limits = format!("{:#?}\n", Rules::of(version).unwrap());
        match std::fs::read_to_string(&path) {
            Ok(before) => assert_eq!(limits, before, "make a new version of the rules"),
            Err(error) => {
                let update = std::env::var_os("UPDATE_STORIES").is_some();
                assert!(update, "{}: {error}", path.display());
                std::fs::write(&path, limits).unwrap();
            }
        }
    }
    assert!(Rules::of(RULES_VERSION_FIRST - 1).is_none() && Rules::of(RULES_VERSION_MAX + 1).is_none());
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts")
}

/// Every story under every version of the rules. Where an older version answers otherwise than the newest, its
/// answers lie in a folder of its own.
fn tell(name: &str) {
    for rules in RULES_VERSION_FIRST..=RULES_VERSION_MAX {
        let own = folder().join(format!("rules-{rules}/{name}.txt"));
        let path = if own.exists() { own } else { folder().join(format!("{name}.txt")) };
        tell_under(rules, name, &path);
    }
}

fn tell_under(rules: u32, name: &str, path: &Path) {
    let script = std::fs::read_to_string(path).unwrap();
    let mut teller = Teller::default();
    (teller.history.ledger, teller.history.rules) = (Ledger::under(rules).unwrap(), Some(rules));
    let mut told = String::new();
    for line in script.lines().filter(|line| !line.starts_with("  ")) {
        told.push_str(line);
        told.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            teller.tell(line, &mut told);
        }
    }
    teller.history.finish();
    if std::env::var_os("UPDATE_STORIES").is_some() {
        std::fs::write(path, told).unwrap();
    } else if told != script {
        let differs = told.lines().zip(script.lines()).position(|(a, b)| a != b);
        let at = differs.unwrap_or(told.lines().count().min(script.lines().count()));
        let show =
            |text: &str| text.lines().skip(at.saturating_sub(3)).take(8).collect::<Vec<_>>().join("\n");
        panic!(
            "{name} under rules {rules}, line {}:\n--- expected\n{}\n--- told\n{}\n",
            at + 1,
            show(&script),
            show(&told)
        );
    }
}

#[derive(Default)]
struct Teller {
    history: History,
    directories: BTreeMap<String, Directory>,
}

impl Teller {
    fn tell(&mut self, line: &str, told: &mut String) {
        let words = Words::parse(line);
        match words.verb {
            "directory" => {
                let (name, entries) = words.rest.split_once(' ').unwrap_or((words.rest, ""));
                let directory = Directory::parse(entries);
                for (file, entry) in directory.entries.iter().enumerate() {
                    writeln!(told, "  {file} {:?} {} {} bytes", entry.kind, entry.path, entry.size).unwrap();
                }
                self.directories.insert(name.to_owned(), directory);
            }
            "leader" => {
                self.history.term = words.number("term");
                self.history.node = words.number("node");
                self.history.blank();
                writeln!(told, "  {}", self.history.ledger.applied().unwrap()).unwrap();
            }
            "check" => {
                let record = self.record(&Words::parse(words.rest));
                self.history.gather(&record.header);
                writeln!(told, "  would be {}", self.history.ledger.check(&record.header)).unwrap();
            }
            "shape" => {
                let record = self.record(&Words::parse(words.rest));
                match check_shape(&record.header, Some(&record.payload)) {
                    Ok(()) => told.push_str("  well formed\n"),
                    Err(error) => writeln!(told, "  refused at the door: {error}").unwrap(),
                }
            }
            "fault" => {
                let record = self.record(&Words::parse(words.rest));
                let id = self.history.next();
                let fault: LedgerFault = self.history.ledger.step(id, &record.header).unwrap_err();
                writeln!(told, "  fault: {fault}").unwrap();
            }
            "days" => {
                for _ in 0..words.number("n") * (24 * 60) {
                    self.history.apply(&compose::tick(60_000));
                }
                writeln!(told, "  horizon={:?}", self.history.ledger.horizon()).unwrap();
            }
            "show" => self.show(&words, told),
            _ => {
                let record = self.record(&words);
                let step = self.history.apply(&record);
                let id = self.history.ledger.applied().unwrap();
                writeln!(told, "  {id} {}", step.verdict).unwrap();
                for effect in &step.effects {
                    writeln!(told, "    {}", effect_line(&self.history, &record, effect)).unwrap();
                }
            }
        }
    }

    fn directory(&self, words: &Words<'_>) -> &Directory {
        let name = words.get("directory");
        self.directories.get(name).unwrap_or_else(|| panic!("no directory {name}"))
    }

    /// `as_of=` takes another version than the one that has all fields.
    fn record(&self, words: &Words<'_>) -> LogRecord {
        let record = self.composed(words);
        let Some(version) = words.maybe("as_of") else { return record };
        let mut header = Header::clone(&record.header).into_record();
        header.version = version as u32;
        LogRecord::from_parts(Arc::new(Header::new(header)), record.payload)
    }

    fn composed(&self, words: &Words<'_>) -> LogRecord {
        let attempt = || words.number("attempt");
        match words.verb {
            "genesis" => {
                let members = words.list("nodes").into_iter().map(|node| (node, seeded(&node.to_string())));
                compose::genesis(seeded(words.get("cluster")), members)
            }
            "join" => compose::join(words.number("node"), seeded(words.get("incarnation"))),
            "writer" => compose::open_writer(&job(words), commit(words), words.maybe("born").unwrap_or(0)),
            "begin" => {
                let (opening, pages) = (opening(words), Pages::new(&self.directory(words).entries));
                match words.maybe("store") {
                    Some(store) => compose::begin_in(&opening, &pages, store),
                    None => compose::begin(&opening, &pages),
                }
            }
            "whole" => self.whole(words),
            "part" => self.part(words),
            "chunk" => self.chunk(words),
            "pack" => compose::piece(attempt(), self.directory(words).pack(&words.files("files"))),
            "zero" => {
                let (file, offset, len) =
                    (words.number("file") as u32, words.number("offset"), words.number("len"));
                compose::piece(attempt(), self.directory(words).zero(file, offset, len))
            }
            "reuse" => compose::piece(attempt(), self.directory(words).reuse(&words.files("files"))),
            "seal" if words.named.contains_key("manifest") => objects::seal(words, self.directory(words)),
            "seal" => compose::seal(attempt(), self.directory(words).root()),
            "abort" => compose::abort(attempt(), words.text("reason")),
            "pin" => {
                let for_ms = words.maybe("for_ms").unwrap_or(0);
                compose::pin(
                    &job(words),
                    words.number("epoch"),
                    words.get("owner"),
                    &words.text("reason"),
                    for_ms,
                )
            }
            "unpin" => compose::unpin(&job(words), words.number("epoch"), words.get("owner")),
            "expire" => {
                let by_hand = words.named.contains_key("by_hand");
                compose::expire(&job(words), words.list("epochs"), by_hand, words.text("reason"), Vec::new())
            }
            "quarantine" => {
                let digest = self.directory(words).digest(words.number("file") as u32);
                let what = |node| (node, words.text("what"));
                let (brought, found) = (words.number("brought"), words.list("on").into_iter().map(what));
                match words.named.contains_key("gone_from_stores") {
                    true => compose::quarantine_of_stored(digest, brought, found),
                    false => compose::quarantine(digest, brought, found),
                }
            }
            "healed" => {
                let digest = self.directory(words).digest(words.number("file") as u32);
                compose::healed(digest, words.number("since"), words.list("on"))
            }
            "remove_job" => compose::remove_job(&job(words), words.text("reason")),
            "tick" => compose::tick(words.number("ms")),
            "activate" => compose::activate(words.number("version") as u32),
            "empty" => {
                let version = words.maybe("version").map_or(RECORD_VERSION, |version| version as u32);
                let record = Record { version, ..Default::default() };
                LogRecord::from_parts(Arc::new(Header::new(record)), Bytes::new())
            }
            "link" => objects::link(words, self.directory(words)),
            "store" => objects::store(words),
            "delete_batch" => compose::delete_batch(words.number("store"), words.number("nonce")),
            "deleted" => objects::deleted(words),
            "rehome" => objects::rehome(words, self.directory(words)),
            verb => panic!("no command {verb}"),
        }
    }

    fn whole(&self, words: &Words<'_>) -> LogRecord {
        let directory = self.directory(words);
        let files = directory.files();
        let pieces = if files.is_empty() { vec![] } else { vec![directory.pack(&files)] };
        let root =
            words.named.get("root_of").map_or(directory.root(), |other| self.directories[*other].root());
        compose::whole(&opening(words), &Pages::new(&directory.entries), &pieces, root).expect("small enough")
    }

    /// `path=` puts another path in place of entry 1's.
    fn part(&self, words: &Words<'_>) -> LogRecord {
        let mut record = Pages::new(&self.directory(words).entries).part(words.number("attempt"), 0);
        let Some(Kind::Part(mut part)) = record.header.kind.clone() else { unreachable!() };
        part.page = words.maybe("page").unwrap_or(0) as u32;
        if let Some(path) = words.named.get("path") {
            part.entries = named(&part.entries, path);
        }
        record.header = LogRecord::new(Kind::Part(part), Bytes::new()).header;
        record
    }

    /// `len=`, `at=` and `size=` lie about the length, the offset and the file's size, `bytes_of=` takes another
    /// directory's bytes; `whole` names the digest that the bytes have as a file of their own.
    fn chunk(&self, words: &Words<'_>) -> LogRecord {
        let (attempt, file, offset) =
            (words.number("attempt"), words.number("file") as u32, words.number("offset"));
        let from =
            words.named.get("bytes_of").map_or(self.directory(words), |other| &self.directories[*other]);
        let source = words.maybe("source").map_or(file, |source| source as u32);
        let record = compose::piece(attempt, from.chunk(source, offset));
        let Some(Kind::Chunk(mut chunk)) = record.header.kind.clone() else { unreachable!() };
        chunk.file = file;
        chunk.offset = words.maybe("at").unwrap_or(chunk.offset);
        let payload = match words.maybe("len") {
            Some(len) => record.payload.slice(..(len as usize).min(record.payload.len())),
            None => record.payload.clone(),
        };
        chunk.len = payload.len() as u32;
        chunk.file_bytes = words.maybe("size").unwrap_or(chunk.file_bytes);
        if words.named.contains_key("whole") {
            chunk.digest = checkpoint::digest::content(&payload).as_bytes().to_vec().into();
        }
        LogRecord::new(Kind::Chunk(chunk), payload)
    }

    fn show(&self, words: &Words<'_>, told: &mut String) {
        let ledger = &self.history.ledger;
        if words.rest == "ledger" {
            writeln!(told, "  {} bytes, digest {}", ledger.encode().len(), ledger.digest()).unwrap();
        } else if words.rest == "stores" {
            objects::show_stores(ledger, told);
        } else if words.rest == "objects" {
            objects::show_objects(ledger, told);
        } else if words.named.contains_key("job") {
            let name = job(words);
            match ledger.job(&name) {
                None => told.push_str("  no such job\n"),
                Some(job) => {
                    let (token, open) = (job.token, &job.open);
                    if ledger.quarantine().next().is_some() {
                        writeln!(told, "  newest={:?}", job.newest).unwrap();
                    }
                    writeln!(told, "  token={token} high-water={:?} open={open:?}", job.high_water).unwrap();
                }
            }
            for epoch in ledger.epochs(&name) {
                let pins: Vec<_> = epoch.pins.iter().map(|pin| pin.owner.as_str()).collect();
                let pins =
                    if pins.is_empty() { String::new() } else { format!(" pinned by {}", pins.join(", ")) };
                let rotten = ledger.quarantined_in(&name, epoch.sealed.epoch);
                let rotten: String = rotten
                    .iter()
                    .map(|info| format!(" quarantined {} {:?}", info.digest.short(), info.found))
                    .collect();
                let lies = epoch.store.map(|store| format!(" {} in store {store}", epoch.mode));
                writeln!(
                    told,
                    "  epoch {} root={}{}{pins}{rotten}",
                    epoch.sealed.epoch,
                    epoch.sealed.root.short(),
                    lies.unwrap_or_default()
                )
                .unwrap();
            }
        } else if words.named.contains_key("attempt") {
            match ledger.attempt(words.number("attempt")) {
                None => told.push_str("  not open\n"),
                Some(info) => {
                    let coverage = ledger.coverage(info.id).unwrap();
                    let files: Vec<_> = coverage.files().collect();
                    let ranges: Vec<_> = coverage.ranges().collect();
                    let (epoch, pages, plan_pages) = (info.epoch, info.pages_here, info.plan_pages);
                    write!(told, "  epoch={epoch} pages={pages}/{plan_pages} idle={}ms", info.idle_ms)
                        .unwrap();
                    write!(told, " covered={}/{}", info.covered_bytes, info.declared_bytes).unwrap();
                    writeln!(told, " files={files:?} ranges={ranges:?}").unwrap();
                }
            }
        } else {
            let digest = self.directory(words).digest(words.number("file") as u32);
            match ledger.content(&digest) {
                None => writeln!(told, "  {} cannot be reused", digest.short()).unwrap(),
                Some((bytes, holders)) => {
                    write!(told, "  {} {bytes} bytes, held {holders} times", digest.short()).unwrap();
                    objects::show_homes(ledger, &digest, told);
                }
            }
        }
    }
}

fn job(words: &Words<'_>) -> JobName {
    JobName::try_from(words.get("job")).unwrap()
}

fn commit(words: &Words<'_>) -> CommitId {
    CommitId::from_bytes(seeded(words.get("commit")))
}

fn opening(words: &Words<'_>) -> Opening {
    let label = words.named.get("label").map(|label| label.split_once(':').expect("key:value"));
    Opening {
        job: job(words),
        epoch: words.maybe("epoch"),
        token: words.maybe("token"),
        commit: commit(words),
        born: words.maybe("born").unwrap_or(0),
        chunk_bytes: CHUNK as u32,
        base: words.maybe("base"),
        labels: label.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect(),
        depends_on: Vec::new(),
    }
}

fn effect_line(history: &History, record: &LogRecord, effect: &Effect) -> String {
    match effect {
        Effect::Unpack { attempt, index, files, pages } => {
            let path = |file: &u32| match &record.header.kind {
                Some(Kind::Whole(whole)) => {
                    let named = checkpoint::plan::entries(&whole.entries).nth(*file as usize);
                    named.unwrap().unwrap().entry.path.to_string()
                }
                _ => history.path(pages, *file).to_string(),
            };
            let files: Vec<_> =
                files.iter().map(|(file, at, len)| format!("{}={at}+{len}", path(file))).collect();
            format!("unpack attempt={attempt} from {index}: {}", files.join(" "))
        }
        Effect::Publish(epoch) => {
            let sources: Vec<_> = epoch.sources.iter().map(|source| format!("{source:?}")).collect();
            format!(
                "publish {}@{} from attempt {}: {}",
                epoch.job,
                epoch.epoch,
                epoch.attempt,
                sources.join(" ")
            )
        }
        Effect::Latest { job, avoid } => format!("latest of {job} is none of {avoid:?}"),
        Effect::Distrust { digest } => format!("distrust copies of {}", digest.short()),
        Effect::Heal { digest, bytes } => format!("heal {bytes} bytes of {}", digest.short()),
        Effect::RemoveJob { job } => format!("remove the folder of {job}"),
        Effect::Expire { job, epoch, released } => format!("expire {job}@{epoch}{}", released_by(released)),
        Effect::Discard { attempt, released } => {
            format!("discard attempt={attempt}{}", released_by(released))
        }
    }
}

fn released_by(released: &[Released]) -> String {
    let each = released.iter().map(|content| format!(" {}+{}", content.digest.short(), content.bytes));
    let all: String = each.collect();
    if all.is_empty() { all } else { format!(", releases{all}") }
}

/// Puts another path in place of entry 1's.
fn named(entries: &[u8], path: &str) -> Bytes {
    let read: Vec<_> = checkpoint::plan::entries(entries).map(|read| read.unwrap()).collect();
    let renamed = read[1].bytes;
    // Kind and mode, the path behind its length, the rest.
    let rest = &renamed[5 + read[1].entry.path.as_bytes().len()..];
    let renamed = [&renamed[..3], &(path.len() as u16).to_le_bytes(), path.as_bytes(), rest].concat();
    let parts = read.iter().enumerate().map(|(at, read)| if at == 1 { &renamed } else { read.bytes });
    parts.collect::<Vec<_>>().concat().into()
}
