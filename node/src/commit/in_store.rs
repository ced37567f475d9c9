//! A commit whose content goes into an object store: pieces into files of this node, files into objects, objects into the
//! store, and what is there, verified, into the log.
//!
//! ```text
//!   pieces ──> staging (files of the attempt) ──> packing (objects) ──> uploads
//!                                                      Link{object, files} <──┘
//!   all linked ──> the manifest, an object too ──> Seal{root, manifest}
//! ```
//!
//! Everything before the Seal is *not committed*. What is reused is decided by the log, never by asking the store. When this
//! process dies, the journal of the store knows what was written; the source is read again, and what the journal or
//! the log has is not sent again.
//!
//! What goes through the log all the same: references, files that are nothing or next to nothing but zeros, and files that
//! no object holds.

mod directory;
mod packing;
mod staging;
mod uploads;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use checkpoint::{Coverage, Digest, Piece};
use client::Failure;
use nativelog::background::{self, BULK, UPKEEP};
use nativelog::compose::{self, StoredObject};
use nativelog::ledger::{Accepted, Reason, SealedEpoch, Verdict};
use nativelog::record::LINK_FILES_MAX;
use remote::StoreError;
use remote::limits::OBJECT_BYTES_MAX;

use self::directory::Directory;
use self::packing::{LARGE_FROM, Packing};
use self::staging::{Filled, Staging, Unstaged};
use self::uploads::{Done, Uploads};
use super::driver::Driver;
use super::ground::Ground;
use super::no;
use super::origin::{Broken, Next, Opening, Origin};
use super::pieces::{Attempt, HEARD_WITHIN, ROOM_LAPSES, Stopped, life_is_due};
use super::window::{self, Covers, Settled, Window};
use crate::stores::{Bound, Claim, Content};

/// How often it is looked whether the store is heard of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause before the files of an attempt are asked for again.
const PAUSE: Duration = Duration::from_millis(100);

/// What a commit into a store has in hand.
struct Filling {
    attempt: u64,
    /// What the log had when it began.
    covered: Coverage,
    directory: Directory,
    /// Absent while a thread works with it.
    staging: Option<Staging>,
    packing: Packing,
    uploads: Uploads,
    /// The store was heard of so often.
    heard: u64,
}

/// What comes first.
enum Came {
    Settled(Settled),
    Next(Result<Next, Broken>),
    Stored(Result<Done, StoreError>),
    LifeIsDue,
    Tick,
}

impl<G: Ground> Driver<'_, G> {
    pub(super) async fn in_store<O: Origin>(
        &mut self,
        attempt: Attempt,
        bound: &Bound,
        origin: &mut O,
    ) -> Result<SealedEpoch, Stopped> {
        let (id, _claim) = (attempt.id, self.claim_files(bound, attempt.id).await?);
        let mut window = Window::new(id);
        self.ended("begin");
        let mut directory = Directory::default();
        let (hints, sizes) =
            self.plan(&attempt, origin, &mut window, &mut |page| directory.add(page)).await?;
        self.ended("plan");
        let mut filling = self.filling(bound, &attempt, directory).await?;
        let opening = Opening {
            attempt: id,
            epoch: attempt.epoch,
            token: self.order.token,
            chunk_bytes: attempt.chunk_bytes,
            resumed: attempt.coverage.parts > 0,
            // All of it comes again, because the digests of all are wanted; what the log has is not sent again.
            coverage: Coverage::default(),
            hints,
            silent: false,
        };
        self.from(origin.open(opening).await)?;
        self.opened = true;
        let mut heard = Instant::now();
        let mut waited = Duration::ZERO;
        let root = loop {
            if !window.has_room() {
                let settled = self.settle(&mut window).await;
                self.settled(settled, &mut window).await?;
                continue;
            }
            let asked = Instant::now();
            let came = tokio::select! {
                settled = window.settle(), if !window.is_empty() => Came::Settled(settled),
                stored = filling.uploads.next(), if !filling.uploads.is_empty() => Came::Stored(stored),
                next = origin.next() => Came::Next(next),
                () = life_is_due(self.named) => Came::LifeIsDue,
            };
            waited += asked.elapsed();
            let next = match came {
                // A client that stands still says nothing: this node does not speak for it.
                Came::LifeIsDue if !O::HASHED_HERE && waited >= HEARD_WITHIN => {
                    self.named = Instant::now();
                    continue;
                }
                Came::Next(next) => self.from(next)?,
                other => {
                    self.came(other, &mut filling, &mut window).await?;
                    continue;
                }
            };
            waited = Duration::ZERO;
            if !O::HASHED_HERE && heard.elapsed() >= ROOM_LAPSES {
                self.ask_again(id).await?;
            }
            heard = Instant::now();
            match next {
                Next::Alive => {}
                Next::Seal(root) => break root,
                Next::Piece(piece) => {
                    self.piece(piece, O::HASHED_HERE, &sizes, &mut filling, &mut window).await?;
                }
            }
        };
        self.root = Some(root);
        if let Some(pack) = filling.packing.finish() {
            filling.uploads.push(pack);
        }
        while !filling.uploads.is_empty() {
            self.step(&mut filling, &mut window).await?;
        }
        self.drain(&mut window).await?;
        self.ended("content");
        let manifest = self.manifest(root, &mut filling, &mut window).await?;
        let sealed = self.seal_with(id, root, &manifest).await?;
        self.ended("seal");
        // The journals of what was written are forgotten when nothing else is left of the attempt: see `stores::tidy`.
        let staging = filling.staging;
        tokio::spawn(background::run("forget", UPKEEP, move || {
            // What publish looks for has names of its own.
            if let Some(Err(error)) = staging.map(Staging::remove) {
                tracing::warn!(attempt = id, %error, "files of a sealed attempt stay until its folder goes");
            }
        }));
        Ok(sealed)
    }

    /// Another call of this commit may still be at work in this process; it ends, or has sealed when this one asks.
    async fn claim_files(&mut self, bound: &Bound, attempt: u64) -> Result<Claim, Failure> {
        let begun = Instant::now();
        loop {
            if let Some(claim) = bound.kept.claim_files(attempt) {
                return Ok(claim);
            }
            if begun.elapsed() + PAUSE >= self.order.patience {
                return Err(no::at_work_here(&self.order));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn filling(
        &mut self,
        bound: &Bound,
        attempt: &Attempt,
        directory: Directory,
    ) -> Result<Filling, Failure> {
        let bytes = self.order.stored_bytes.min(self.order.declared_bytes);
        self.ground.has_room_for(bytes).map_err(|why| no::no_space(&self.order, &why))?;
        let shelves = self.ground.shelves();
        let (disk, layout, id) = (shelves.disk().clone(), shelves.layout().clone(), attempt.id);
        let packing = Packing::new(disk.clone(), directory.files_from(LARGE_FROM));
        let staging = background::run("stage", BULK, move || Staging::new(disk, layout, id)).await;
        let staging = staging.ok_or_else(|| self.odd("making a folder panicked"))?;
        Ok(Filling {
            attempt: id,
            covered: attempt.coverage.clone(),
            directory,
            staging: Some(staging.map_err(|why| self.unstaged(why))?),
            packing,
            heard: bound.kept.heard(),
            uploads: Uploads::new(bound.clone(), id),
        })
    }

    fn unstaged(&self, why: Unstaged) -> Failure {
        match why {
            Unstaged::Refused(why) => no::refused(&self.order.name(), why),
            Unstaged::Io(error) => no::unstaged(&self.order, &error),
        }
    }

    /// Takes a piece: what it makes whole goes on its way.
    async fn piece(
        &mut self,
        piece: Piece,
        is_checked: bool,
        sizes: &BTreeMap<u32, u64>,
        filling: &mut Filling,
        window: &mut Window<G::Stream>,
    ) -> Result<(), Stopped> {
        let in_log = judge(&piece, &filling.directory).map_err(|why| no::refused(&self.order.name(), why))?;
        if let Piece::Reuse { files } = &piece {
            files.iter().for_each(|(file, digest)| filling.directory.set(*file, *digest));
        }
        if in_log {
            let (covers, bytes) = window::covers(&piece, sizes);
            let mut record = compose::piece(filling.attempt, piece.clone());
            if is_checked {
                record = record.digested_here();
            }
            self.send(record, covers, bytes, window).await?;
        }
        if matches!(piece, Piece::Reuse { .. }) {
            return Ok(());
        }
        let mut staging = filling.staging.take().expect("nobody else works with it");
        let staged = background::run("stage", BULK, move || {
            let filled = staging.take(piece, is_checked, in_log);
            (staging, filled)
        });
        let (staging, filled) = staged.await.ok_or_else(|| self.odd("writing a file panicked"))?;
        filling.staging = Some(staging);
        for filled in filled.map_err(|why| self.unstaged(why))? {
            self.filled(filled, filling, window).await?;
        }
        Ok(())
    }

    async fn filled(
        &mut self,
        filled: Filled,
        filling: &mut Filling,
        window: &mut Window<G::Stream>,
    ) -> Result<(), Stopped> {
        let Filled { file, size, digest, path, runs } = filled;
        filling.directory.set(file, digest);
        if filling.covered.has_file(file) {
            return Ok(());
        }
        let is_in_log = !runs.is_empty();
        for run in runs {
            let staging::Run { offset, len, digest, is_zero } = run;
            let piece = match &path {
                Some(path) if !is_zero => {
                    let (staging, path) =
                        (filling.staging.take().expect("nobody else works with it"), path.clone());
                    let read = background::run("stage", BULK, move || {
                        let read = staging.read(&path, run);
                        (staging, read)
                    });
                    let (staging, read) = read.await.ok_or_else(|| self.odd("reading a file panicked"))?;
                    filling.staging = Some(staging);
                    let payload = read.map_err(|why| self.unstaged(why))?.into();
                    Piece::Chunk { file, offset, digest, file_bytes: size, payload }
                }
                _ => Piece::Zero { file, offset, len, digest, file_bytes: size },
            };
            let covers = Covers::Range { file, offset, len };
            self.send(compose::piece(filling.attempt, piece), covers, len, window).await?;
        }
        // What went through the log in runs is no object.
        if let Some(path) = path.filter(|_| !is_in_log) {
            let content = Content { path, len: size, digest, files: vec![file] };
            filling.packing.push(content).into_iter().for_each(|object| filling.uploads.push(object));
        }
        Ok(())
    }

    /// Waits for what comes next while nothing is to come from the source.
    async fn step(
        &mut self,
        filling: &mut Filling,
        window: &mut Window<G::Stream>,
    ) -> Result<Option<StoredObject>, Stopped> {
        let came = tokio::select! {
            settled = window.settle(), if !window.is_empty() => Came::Settled(settled),
            stored = filling.uploads.next(), if !filling.uploads.is_empty() => Came::Stored(stored),
            () = life_is_due(self.named) => Came::LifeIsDue,
            () = tokio::time::sleep(LOOK_EVERY) => Came::Tick,
        };
        self.came(came, filling, window).await
    }

    /// The manifest's object, when that is what came.
    async fn came(
        &mut self,
        came: Came,
        filling: &mut Filling,
        window: &mut Window<G::Stream>,
    ) -> Result<Option<StoredObject>, Stopped> {
        match came {
            Came::Settled(settled) => self.settled(settled, window).await?,
            Came::LifeIsDue => self.show_life(filling.attempt),
            Came::Tick => {
                self.look_at_store(filling)?;
                self.tell(filling.uploads.on_their_way());
            }
            Came::Stored(Err(error)) => return Err(Stopped::Store(no::store(&self.order, &error))),
            Came::Stored(Ok(Done::Manifest(object))) => {
                self.moved = Instant::now();
                return Ok(Some(object));
            }
            Came::Stored(Ok(Done::Content(object, files))) => {
                self.moved = Instant::now();
                for some in files.chunks(LINK_FILES_MAX) {
                    let bytes = some.iter().map(|file| file.len).sum();
                    let covers = Covers::Files(some.iter().map(|file| file.file).collect());
                    self.send(compose::link(filling.attempt, &object, some), covers, bytes, window).await?;
                }
            }
            Came::Next(_) => unreachable!("the source is asked elsewhere"),
        }
        Ok(None)
    }

    /// A store that is heard of moves; one that is not is waited for no longer than anything else.
    fn look_at_store(&mut self, filling: &mut Filling) -> Result<(), Stopped> {
        let heard = filling.uploads.heard();
        if std::mem::replace(&mut filling.heard, heard) != heard {
            self.moved = Instant::now();
        }
        match self.moved.elapsed() >= self.order.patience && !filling.uploads.is_empty() {
            true => Err(Stopped::Store(no::store_silent(&self.order, filling.uploads.store()))),
            false => Ok(()),
        }
    }

    /// The manifest as an object in the store.
    async fn manifest(
        &mut self,
        root: Digest,
        filling: &mut Filling,
        window: &mut Window<G::Stream>,
    ) -> Result<StoredObject, Stopped> {
        let directory = std::mem::take(&mut filling.directory);
        let made = background::run("manifest", BULK, move || {
            directory.manifest().map(|bytes| (checkpoint::digest::content(&bytes), bytes))
        });
        let made = made.await.ok_or_else(|| self.odd("making the manifest panicked"))?;
        let (digest, bytes) = made.map_err(|why| no::refused(&self.order.name(), why))?;
        // One writer, so all pieces are of its directory: as it was at different times.
        if digest != root {
            return Err(no::changed_meanwhile(&self.order).into());
        }
        filling.uploads.push_manifest(bytes);
        loop {
            if let Some(object) = self.step(filling, window).await? {
                return Ok(object);
            }
        }
    }

    async fn seal_with(
        &mut self,
        attempt: u64,
        root: Digest,
        manifest: &StoredObject,
    ) -> Result<SealedEpoch, Failure> {
        match self.propose_seal(compose::seal_with(attempt, root, manifest)).await?.1 {
            Verdict::Accepted(Accepted::Sealed(sealed)) => Ok(sealed),
            Verdict::Rejected(rejected) if rejected.reason == Reason::WrongRoot => {
                Err(no::changed_meanwhile(&self.order))
            }
            Verdict::Accepted(other) => Err(self.odd(&format!("seal was answered {other:?}"))),
            Verdict::Rejected(rejected) => Err(no::rejected(&self.order.name(), &rejected)),
        }
    }
}

/// Whether a piece is of the plan, and goes through the log as it is.
fn judge(piece: &Piece, directory: &Directory) -> Result<bool, String> {
    let of_plan = |file: u32, size: u64| match directory.size(file) {
        Some(planned) if planned == size && !directory.has(file) => Ok(()),
        Some(planned) if planned == size => Err(format!("file {file} comes twice")),
        _ => Err(format!("the plan has no file {file} of {size} bytes")),
    };
    match piece {
        Piece::Chunk { file, file_bytes, .. } | Piece::Zero { file, file_bytes, .. } => {
            of_plan(*file, *file_bytes)?;
            Ok(*file_bytes > OBJECT_BYTES_MAX)
        }
        Piece::Pack { files, .. } => {
            files.iter().try_for_each(|packed| of_plan(packed.file, u64::from(packed.len)))?;
            Ok(false)
        }
        Piece::Reuse { files } => {
            files.iter().try_for_each(|(file, _)| match directory.size(*file) {
                Some(size) if size > 0 && !directory.has(*file) => Ok(()),
                _ => Err(format!("file {file} cannot be a reference")),
            })?;
            Ok(true)
        }
    }
}
