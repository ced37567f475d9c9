//! Restores that are killed, fail or are meddled with at any step, beside the target and into a directory that stays, as
//! a mount point does: as if it were one.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::super::LocalTree;
use super::super::place::look_as;
use super::super::steps::{Step, at_steps};
use super::*;
use crate::limits::Limits;
use crate::split::digest_dir;
use crate::verify::verify_dir;

struct Site {
    temp: tempfile::TempDir,
    source: PathBuf,
    volume: PathBuf,
    manifest: Manifest,
}

fn site() -> Site {
    let temp = tempfile::tempdir().unwrap();
    let [source, volume] = ["source", "volume"].map(|name| temp.path().join(name));
    fs::create_dir_all(source.join("shut/inner")).unwrap();
    fs::create_dir(source.join("dir")).unwrap();
    fs::create_dir(&volume).unwrap();
    for (name, data) in [("a", "one"), ("dir/b", "two"), ("shut/inner/c", "three")] {
        fs::write(source.join(name), data).unwrap();
    }
    fs::set_permissions(source.join("shut"), fs::Permissions::from_mode(0o555)).unwrap();
    let manifest = digest_dir(&source, &Limits::default()).unwrap();
    Site { temp, source, volume, manifest }
}

impl Site {
    fn restore(&self, options: &RestoreOptions, progress: &dyn Fn(u64)) -> Result<Restored, RestoreError> {
        let place = look_as(&self.volume, options, self.manifest.entries[0].mode, true)?;
        let chosen = choose(&self.manifest, options)?;
        restore_to(&place, &self.manifest, &chosen, options, &mut LocalTree::new(&self.source), progress)
    }

    /// To a directory that can be renamed.
    fn beside(&self, options: &RestoreOptions) -> Result<Restored, RestoreError> {
        let target = self.temp.path().join("target");
        restore(&self.manifest, &target, options, &mut LocalTree::new(&self.source), &|_| {})
    }

    /// Whether it is what was sealed.
    fn is_restored(&self, dir: &Path) -> bool {
        verify_dir(dir, &self.manifest).unwrap().is_good()
    }

    /// What lies beside the source, but for the directory that stays.
    fn besides(&self) -> Vec<String> {
        let mut names = names_of(self.temp.path());
        names.retain(|name| name != "source" && name != "volume");
        names
    }

    fn names(&self) -> Vec<String> {
        names_of(&self.volume)
    }
}

fn names_of(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn force() -> RestoreOptions {
    RestoreOptions { force: true, ..RestoreOptions::default() }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Does something the `n`th time that a step is reached, counted from one.
fn at_nth(
    step: Step,
    n: usize,
    mut what: impl FnMut() -> Result<(), Errno> + 'static,
) -> impl FnMut(Step) -> Result<(), Errno> + 'static {
    let mut reached = 0;
    move |at| {
        reached += usize::from(at == step);
        if at == step && reached == n { what() } else { Ok(()) }
    }
}

/// The name of an old directory, if there is one in `dir`.
fn old_in(dir: &Path) -> Option<PathBuf> {
    names_of(dir).into_iter().find(|name| name.ends_with("-old")).map(|name| dir.join(name))
}

impl Drop for Site {
    fn drop(&mut self) {
        crate::durable::remove_tree(&crate::RealDisk, self.temp.path()).unwrap();
    }
}

#[test]
fn a_directory_that_stays_is_filled_and_filled_again() {
    let site = site();
    let inode = || fs::metadata(&site.volume).unwrap().ino();
    let before = inode();
    // What a killed one left is swept.
    let stale = site.volume.join(".epochlog-tmp-0123456789abcdef");
    fs::create_dir_all(stale.join("x")).unwrap();
    set_mode(&stale, 0o1700);
    assert_eq!(site.restore(&RestoreOptions::default(), &|_| {}).unwrap().left, [] as [PathBuf; 0]);
    assert!(verify_dir(&site.volume, &site.manifest).unwrap().is_good());
    assert!(matches!(site.restore(&RestoreOptions::default(), &|_| {}), Err(RestoreError::Exists(_))));
    let force = force();
    assert_eq!(site.restore(&force, &|_| {}).unwrap().left, [] as [PathBuf; 0]);
    assert!(verify_dir(&site.volume, &site.manifest).unwrap().is_good());
    assert_eq!(inode(), before);
    assert_eq!(site.names(), ["a", "dir", "shut"]);
    // What is put there meanwhile, by the name of an entry or any other, ends it; all is as it was.
    let late = site.volume.join("late");
    let result = site.restore(&force, &|_| fs::write(&late, b"mine").unwrap());
    assert!(matches!(result, Err(RestoreError::Others { .. })), "{result:?}");
    assert_eq!(site.names(), ["a", "dir", "late", "shut"]);
    fs::remove_file(&late).unwrap();
    assert!(verify_dir(&site.volume, &site.manifest).unwrap().is_good());
}

#[test]
fn what_has_the_name_of_an_entry_by_then_stays() {
    let site = site();
    let mine = site.volume.join("dir");
    let result = site.restore(&RestoreOptions::default(), &|_| fs::write(&mine, b"mine").unwrap());
    assert!(matches!(result, Err(RestoreError::Exists(_))), "{result:?}");
    assert_eq!((site.names(), fs::read(&mine).unwrap()), (vec!["dir".to_owned()], b"mine".to_vec()));
}

#[test]
fn a_failed_sync_of_the_names_takes_everything_back() {
    let site = site();
    let target = site.temp.path().join("target");
    let fails = || at_nth(Step::SyncNames, 1, || Err(Errno::IO));
    // Nothing was there: nothing is.
    let result = at_steps(fails(), || site.beside(&RestoreOptions::default())).unwrap();
    assert!(matches!(result, Err(RestoreError::Io(_))), "{result:?}");
    assert_eq!(site.besides(), [""; 0]);
    // An empty directory is one again.
    fs::create_dir(&target).unwrap();
    set_mode(&target, 0o710);
    at_steps(fails(), || site.beside(&RestoreOptions::default())).unwrap().unwrap_err();
    assert_eq!((mode(&target), names_of(&target)), (0o710, vec![]));
    // What an earlier restore wrote is the same directory still.
    site.beside(&RestoreOptions::default()).unwrap();
    let inode = fs::metadata(&target).unwrap().ino();
    at_steps(fails(), || site.beside(&force())).unwrap().unwrap_err();
    assert_eq!(fs::metadata(&target).unwrap().ino(), inode);
    assert!(site.is_restored(&target));
    assert_eq!(site.besides(), ["target"]);
    // Where it cannot be taken back it is kept, and named.
    let mut synced = false;
    let fails = move |step: Step| {
        synced |= step == Step::SyncNames;
        if synced && matches!(step, Step::SyncNames | Step::Exchange) { Err(Errno::IO) } else { Ok(()) }
    };
    let error = at_steps(fails, || site.beside(&force())).unwrap().unwrap_err();
    let kept = site.temp.path().join("before-restore.epochlog");
    assert!(error.to_string().contains("before-restore.epochlog"), "{error}");
    assert_eq!(fs::metadata(&kept).unwrap().ino(), inode);
    assert!(site.is_restored(&kept) && site.is_restored(&target));
}

#[test]
fn a_kill_at_any_step_loses_nothing_of_others() {
    use Step::{Exchange, Look, Rename, SyncNames, SyncNew};
    let can = [SyncNew, Rename, Exchange, Look, SyncNames].map(|step| (step, 1, true));
    let cannot = [(Rename, 2), (Rename, 3), (Rename, 4), (Look, 1), (SyncNames, 1)];
    for (step, n, can_exchange) in can.into_iter().chain(cannot.map(|(step, n)| (step, n, false))) {
        let site = site();
        let target = site.temp.path().join("target");
        site.beside(&RestoreOptions::default()).unwrap();
        // Written in the last moment before the kill, by somebody who stands in the directory.
        let old = fs::File::open(&target).unwrap();
        let mut kill = at_nth(step, n, move || {
            fs::write(format!("/proc/self/fd/{}/late", old.as_raw_fd()), b"mine").unwrap();
            panic!("killed")
        });
        let hook = move |at: Step| match kill(at) {
            Ok(()) if at == Exchange && !can_exchange => Err(Errno::INVAL),
            result => result,
        };
        let what = format!("{step:?} {n}, {can_exchange}");
        assert!(at_steps(hook, || site.beside(&force())).is_err(), "{what} is not reached");
        // The next ones, forced or not, remove nothing of that.
        for options in [RestoreOptions::default(), force()] {
            let left = site.beside(&options).map(|done| done.left);
            let is_mine = |name: &String| {
                fs::read(site.temp.path().join(name).join("late")).is_ok_and(|data| data == b"mine")
            };
            let holder = site.besides().into_iter().find(is_mine);
            let holder = holder.unwrap_or_else(|| panic!("{what}: it is lost; {left:?}"));
            if let Ok(left) = left {
                assert!(left.contains(&site.temp.path().join(holder)), "{what}: nobody tells; {left:?}");
            }
        }
    }
}

#[test]
fn a_kill_once_the_new_is_in_place_leaves_only_what_the_next_removes() {
    for inside in [false, true] {
        let site = site();
        let run = |options: &RestoreOptions| match inside {
            true => site.restore(options, &|_| {}),
            false => site.beside(options),
        };
        run(&RestoreOptions::default()).unwrap();
        let killed = at_steps(at_nth(Step::Done, 1, || panic!("killed")), || run(&force()));
        assert!(killed.is_err());
        let parent = if inside { site.volume.as_path() } else { site.temp.path() };
        assert!(old_in(parent).is_some());
        assert_eq!(run(&force()).unwrap().left, [] as [PathBuf; 0]);
        assert_eq!(old_in(parent), None);
        assert!(site.is_restored(&if inside { site.volume.clone() } else { parent.join("target") }));
    }
    // One that is killed while it writes, too.
    let site = site();
    let write = || {
        let mut source = LocalTree::new(&site.source);
        let target = site.temp.path().join("target");
        restore(&site.manifest, &target, &RestoreOptions::default(), &mut source, &|_| panic!("killed"))
    };
    assert!(at_steps(|_| Ok(()), write).is_err());
    assert_eq!(site.besides().len(), 1);
    site.beside(&RestoreOptions::default()).unwrap();
    assert_eq!(site.besides(), ["target"]);
}

#[test]
fn what_a_killed_restore_has_put_aside_in_a_directory_that_stays_is_kept_and_told() {
    let site = site();
    fs::write(site.volume.join("mine"), b"precious").unwrap();
    let all = RestoreOptions { delete_others: true, ..force() };
    let killed = at_steps(at_nth(Step::Look, 1, || panic!("killed")), || site.restore(&all, &|_| {}));
    assert!(killed.is_err());
    let old = old_in(&site.volume).unwrap();
    // Nothing but names of ours is there now: that is an empty directory, and needs no force.
    let done = site.restore(&RestoreOptions::default(), &|_| {}).unwrap();
    assert_eq!(done.left, std::slice::from_ref(&old));
    assert_eq!(fs::read(old.join("mine")).unwrap(), b"precious");
    // To a directory that goes as a whole it is what it is: somebody's.
    fs::rename(&site.volume, site.temp.path().join("target")).unwrap();
    fs::create_dir(&site.volume).unwrap();
    let result = site.beside(&force());
    let Err(RestoreError::Others { others, .. }) = result else { panic!("{result:?}") };
    assert_eq!((others.entries, others.bytes), (1, 8));
    assert!(site.temp.path().join("target").join(old.file_name().unwrap()).join("mine").exists());
}

#[test]
fn what_somebody_swaps_in_is_neither_placed_nor_removed() {
    // Before the names are exchanged, and when the old directory is looked through.
    for (step, done) in [(Step::Exchange, false), (Step::Look, true)] {
        let site = site();
        let [target, precious, away] = ["target", "precious", "away"].map(|name| site.temp.path().join(name));
        fs::create_dir_all(precious.join("inner")).unwrap();
        site.beside(&RestoreOptions::default()).unwrap();
        let inode = fs::metadata(&target).unwrap().ino();
        let (parent, from) = (site.temp.path().to_owned(), precious.clone());
        let swap = at_nth(step, 1, move || {
            let old = old_in(&parent).unwrap();
            fs::rename(&old, &away).unwrap();
            fs::rename(&from, old).unwrap();
            Ok(())
        });
        let result = at_steps(swap, || site.beside(&force())).unwrap();
        let old = old_in(site.temp.path()).expect("what was swapped in is where it was put");
        assert!(old.join("inner").is_dir());
        match result {
            Ok(restored) => assert_eq!((done, restored.left), (true, vec![old])),
            Err(RestoreError::Left { error, left }) => {
                assert!(matches!(*error, RestoreError::Target { .. }), "{error}");
                assert_eq!((done, left), (false, vec![old]));
            }
            Err(other) => panic!("{other}"),
        }
        assert!(site.is_restored(&target));
        assert_eq!(fs::metadata(&target).unwrap().ino() == inode, !done);
    }
}

#[test]
fn where_names_cannot_be_exchanged_the_old_directory_is_never_lost() {
    let site = site();
    let target = site.temp.path().join("target");
    let cannot = |step: Step| if step == Step::Exchange { Err(Errno::INVAL) } else { Ok(()) };
    site.beside(&RestoreOptions::default()).unwrap();
    let inode = || fs::metadata(&target).unwrap().ino();
    let before = inode();
    assert_eq!(at_steps(cannot, || site.beside(&force())).unwrap().unwrap().left, [] as [PathBuf; 0]);
    assert_ne!(inode(), before);
    assert_eq!(site.besides(), ["target"]);
    // What comes late is taken back there too.
    let (before, late) = (inode(), site.temp.path().to_owned());
    let mut look = at_nth(Step::Look, 1, move || {
        fs::write(old_in(&late).unwrap().join("late"), b"mine").unwrap();
        Ok(())
    });
    let hook = move |step: Step| look(step).and_then(|()| cannot(step));
    let result = at_steps(hook, || site.beside(&force())).unwrap();
    assert!(matches!(result, Err(RestoreError::Others { .. })), "{result:?}");
    assert_eq!((inode(), site.besides()), (before, vec!["target".to_owned()]));
    fs::remove_file(target.join("late")).unwrap();
    // Neither the new gets the name nor the old its own back: it is named, and stays.
    let mut renamed = 0;
    let hook = move |step: Step| {
        renamed += usize::from(step == Step::Rename);
        if renamed > 3 && step == Step::Rename { Err(Errno::IO) } else { cannot(step) }
    };
    let error = at_steps(hook, || site.beside(&force())).unwrap().unwrap_err();
    let old = old_in(site.temp.path()).unwrap();
    assert!(error.to_string().contains(&old.display().to_string()), "{error}");
    let done = site.beside(&RestoreOptions::default()).unwrap();
    assert_eq!(done.left, std::slice::from_ref(&old));
    assert_eq!(fs::metadata(&old).unwrap().ino(), before);
    assert!(site.is_restored(&old) && site.is_restored(&target));
}

#[test]
fn a_directory_that_stays_is_as_it_was_when_its_names_cannot_be_made_durable() {
    let site = site();
    site.restore(&RestoreOptions::default(), &|_| {}).unwrap();
    // The mode of the root is the last that is changed.
    set_mode(&site.volume, 0o750);
    let (shut, before) = (site.volume.join("shut"), fs::metadata(site.volume.join("a")).unwrap().ino());
    // Of its directories two are synced before it.
    let fails = at_nth(Step::SyncNames, 3, || Err(Errno::IO));
    let error = at_steps(fails, || site.restore(&force(), &|_| {})).unwrap().unwrap_err();
    assert!(matches!(error, RestoreError::Io(_)), "{error}");
    assert_eq!((mode(&site.volume), mode(&shut)), (0o750, 0o555));
    assert_eq!((site.names().len(), fs::metadata(site.volume.join("a")).unwrap().ino()), (3, before));
    // One of the new names cannot be taken back: the old ones are, but for that one.
    let (mut failed, mut refused) = (false, false);
    let fails = move |step: Step| {
        failed |= step == Step::SyncNames;
        if failed && step == Step::Rename && !refused {
            refused = true;
            return Err(Errno::IO);
        }
        if step == Step::SyncNames { Err(Errno::IO) } else { Ok(()) }
    };
    let error = at_steps(fails, || site.restore(&force(), &|_| {})).unwrap().unwrap_err();
    let kept = site.volume.join("before-restore.epochlog");
    assert!(error.to_string().contains(&kept.display().to_string()), "{error}");
    assert_eq!((names_of(&kept).len(), site.names().len()), (1, 4));
}

#[test]
fn a_directory_that_must_be_opened_up_to_be_moved_is_taken_back_so() {
    let mut site = site();
    for name in ["a", "dir/b"] {
        fs::remove_file(site.source.join(name)).unwrap();
    }
    fs::remove_dir(site.source.join("dir")).unwrap();
    site.manifest = digest_dir(&site.source, &Limits::default()).unwrap();
    site.restore(&RestoreOptions::default(), &|_| {}).unwrap();
    // As for a user who is not root: what is closed changes its parent only when it is opened up.
    let (volume, mut failed, mut asked) = (site.volume.clone(), false, 0);
    let hook = move |step: Step| {
        if step == Step::SyncNames {
            failed = true;
            return Err(Errno::IO);
        }
        if !failed || step != Step::Rename {
            return Ok(());
        }
        asked += 1;
        let is_closed = fs::metadata(volume.join("shut")).is_ok_and(|there| there.mode() & 0o200 == 0);
        if is_closed && asked == 1 { Err(Errno::ACCESS) } else { Ok(()) }
    };
    let error = at_steps(hook, || site.restore(&force(), &|_| {})).unwrap().unwrap_err();
    assert!(matches!(error, RestoreError::Io(_)), "{error}");
    assert_eq!((site.names(), mode(&site.volume.join("shut"))), (vec!["shut".to_owned()], 0o555));
    assert!(site.is_restored(&site.volume));
}
