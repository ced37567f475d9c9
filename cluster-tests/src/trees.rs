//! The special tree: everything a checkpoint directory may legally hold, in one
//! directory. Sizes are scalable, kinds are not: the short form has every kind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use crate::scratch::set_mode;
use crate::seed::Rng;

/// How large the scalable kinds are.
#[derive(Debug, Clone, Copy)]
pub struct Special {
    /// Length of the sparse file; it holds three islands of 4 KiB.
    pub sparse_bytes: u64,
    /// Number of files of 1-8 KiB with contents of their own.
    pub small_files: u32,
    /// Number of small files with one content.
    pub equal_files: u32,
    /// Components of the deep path.
    pub depth: u32,
}

impl Special {
    /// As the project promises it.
    pub fn full() -> Special {
        Special { sparse_bytes: 3 << 30, small_files: 20_000, equal_files: 70_000, depth: 200 }
    }

    /// Every kind, small enough for each run of the tests.
    pub fn short() -> Special {
        Special { sparse_bytes: 3 << 30, small_files: 500, equal_files: 1_500, depth: 200 }
    }

    /// Makes the tree at `at`, which must not exist.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn make(&self, at: &Path, rng: &mut Rng) {
        let make = || -> io::Result<()> {
            fs::create_dir(at)?;
            names_and_links(at)?;
            self.sparse(&at.join("sparse"), rng)?;
            self.many(at, rng)?;
            self.deep(at)?;
            modes(&at.join("modes"))?;
            several_chunks(&at.join("several-chunks"), rng)?;
            read_only_directory(&at.join("read-only"))?;
            set_mode(at, 0o751)
        };
        let mut make = make;
        make().unwrap_or_else(|error| panic!("special tree {}: {error}", at.display()));
    }

    fn sparse(&self, at: &Path, rng: &mut Rng) -> io::Result<()> {
        let file = File::create(at)?;
        file.set_len(self.sparse_bytes)?;
        let mut island = [0; 4096];
        for offset in [0, self.sparse_bytes / 2 + 12_345, self.sparse_bytes - 4096] {
            rng.fill(&mut island);
            file.write_all_at(&island, offset)?;
        }
        Ok(())
    }

    fn many(&self, at: &Path, rng: &mut Rng) -> io::Result<()> {
        let mut buffer = [0; 8192];
        for number in 0..self.small_files {
            let folder = at.join(format!("small/{:03}", number / 500));
            if number % 500 == 0 {
                fs::create_dir_all(&folder)?;
            }
            let len = usize::try_from(rng.range(1024, 8193)).unwrap_or(1024);
            rng.fill(&mut buffer[..len]);
            fs::write(folder.join(format!("{number:06}")), &buffer[..len])?;
        }
        let content = [b'='; 777];
        for number in 0..self.equal_files {
            let folder = at.join(format!("equal/{:03}", number / 1000));
            if number % 1000 == 0 {
                fs::create_dir_all(&folder)?;
            }
            fs::write(folder.join(format!("{number:06}")), content)?;
        }
        Ok(())
    }

    fn deep(&self, at: &Path) -> io::Result<()> {
        let mut path = at.join("deep");
        for level in 1..self.depth - 1 {
            path.push(format!("level-{level}"));
        }
        fs::create_dir_all(&path)?;
        fs::write(path.join("bottom"), b"here it ends")
    }
}

fn names_and_links(at: &Path) -> io::Result<()> {
    fs::create_dir_all(at.join("empty/nested/empty"))?;
    File::create(at.join("empty-file"))?;
    fs::write(at.join(".hidden"), b"dotted")?;
    fs::create_dir(at.join("names"))?;
    let names: [&[u8]; 6] =
        [b"caf\xe9 \xff\xfe", b"two\nlines", b" spaces ", b"-rf", b"*?[x]\\", "\u{202e}\u{1f9ed}".as_bytes()];
    for name in names {
        fs::write(at.join("names").join(OsStr::from_bytes(name)), name)?;
    }
    fs::write(at.join("names").join("n".repeat(255)), b"longest")?;
    fs::create_dir(at.join("names").join(OsStr::from_bytes(b"dir-\xc3\x28")))?;
    fs::create_dir(at.join("links"))?;
    let links: [(&str, &[u8]); 6] = [
        ("to-file", b"../empty-file"),
        ("to-directory", b"../names"),
        ("dangling", b"no/such/thing"),
        ("outside", b"/etc/passwd"),
        ("loop", b"loop"),
        ("raw-bytes", b"\xff\xfe"),
    ];
    for (name, target) in links {
        symlink(OsStr::from_bytes(target), at.join("links").join(name))?;
    }
    Ok(())
}

/// Every mode that its owner can read, on contents that are shared by many and on one's own.
fn modes(at: &Path) -> io::Result<()> {
    fs::create_dir(at)?;
    for mode in 0o400..=0o777u32 {
        let path = at.join(format!("{mode:04o}"));
        let content =
            if mode % 2 == 0 { "the same for every second".to_owned() } else { format!("only {mode:o}") };
        fs::write(&path, content)?;
        set_mode(&path, mode)?;
    }
    Ok(())
}

/// A file of more than three chunks of 1 MiB, with an odd tail and zeros in the middle.
fn several_chunks(at: &Path, rng: &mut Rng) -> io::Result<()> {
    let mut content = vec![0; (3 << 20) + 12_345];
    rng.fill(&mut content);
    content[(1 << 20) - 7..(2 << 20) + 7].fill(0);
    fs::write(at, content)
}

fn read_only_directory(at: &Path) -> io::Result<()> {
    fs::create_dir_all(at.join("inner"))?;
    fs::write(at.join("file"), b"inside")?;
    fs::write(at.join("inner/file"), b"deeper inside")?;
    set_mode(&at.join("file"), 0o400)?;
    set_mode(&at.join("inner"), 0o500)?;
    set_mode(at, 0o500)
}

/// Gives a tree to another user, links themselves included.
///
/// # Errors
/// As `lchown` does.
pub fn give_to(path: &Path, user: u32, group: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(user), Some(group))?;
    if fs::symlink_metadata(path)?.is_dir() {
        let entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        entries.iter().try_for_each(|entry| give_to(entry, user, group))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::walk;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_short_tree_has_every_kind_and_is_made_again_from_its_seed() {
        let scratch = Scratch::new("special");
        let special = Special { small_files: 20, equal_files: 30, ..Special::short() };
        for name in ["one", "two"] {
            special.make(&scratch.join(name), &mut Rng::new(5, "special"));
        }
        let tally = walk::compare(&scratch.join("one"), &scratch.join("two")).unwrap();
        assert_eq!(tally.symlinks, 6);
        assert!(tally.files > 20 + 30 + 256, "{tally:?}");
        assert!(tally.directories > 200, "{tally:?}");
        assert!(
            fs::metadata(scratch.join("one/sparse")).unwrap().blocks() * 512 < 1 << 20,
            "the sparse file is sparse"
        );
    }
}
