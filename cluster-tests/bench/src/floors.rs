//! What the disk and the machine can do at best, and what rsync does.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use cluster_tests::scratch::remove_tree;
use rustix::fs::{Mode, OFlags};

/// Alignment and unit of direct writes, in bytes.
const ALIGN_BYTES: usize = 4096;
const WRITE_BYTES: usize = 4 << 20;

/// Lets earlier writes reach the disk, so that nobody pays for another.
pub fn quiet() {
    rustix::fs::sync();
}

/// Sum of the lengths of the files below a folder.
pub fn bytes_of(dir: &Path) -> u64 {
    files(dir, dir).iter().map(|file| fs::metadata(dir.join(file)).map_or(0, |meta| meta.len())).sum()
}

/// Relative paths of all files below `dir`.
fn files(root: &Path, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(root, &path));
        } else if let Ok(relative) = path.strip_prefix(root) {
            found.push(relative.to_owned());
        }
    }
    found.sort();
    found
}

/// Content in memory at an aligned address, padded to whole pages.
struct Aligned {
    buffer: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn read(path: &Path) -> Aligned {
        let content = fs::read(path).expect("our own source can be read");
        let len = content.len();
        let mut buffer = vec![0; len.next_multiple_of(ALIGN_BYTES) + ALIGN_BYTES];
        let start = buffer.as_ptr().align_offset(ALIGN_BYTES);
        buffer[start..start + len].copy_from_slice(&content);
        Aligned { buffer, start, len }
    }

    fn pages(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len.next_multiple_of(ALIGN_BYTES)]
    }
}

/// Seconds to write the files of `source`, from memory, once to each of `copies`
/// folders by parallel writers, with an fdatasync of each file.
pub fn write(source: &Path, scratch: &Path, copies: usize, direct: bool) -> f64 {
    let names = files(source, source);
    let contents: Vec<Aligned> = names.iter().map(|name| Aligned::read(&source.join(name))).collect();
    let targets: Vec<PathBuf> = (0..copies).map(|copy| scratch.join(format!("copy-{copy}"))).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for target in &targets {
            let (names, contents) = (&names, &contents);
            scope.spawn(move || {
                fs::create_dir(target).expect("the scratch folder can be written");
                for (name, content) in names.iter().zip(contents) {
                    let path = target.join(name.as_os_str().to_string_lossy().replace('/', "-"));
                    write_one(&path, content, direct);
                }
            });
        }
    });
    let took = begun.elapsed().as_secs_f64();
    targets.iter().for_each(|target| remove_tree(target).expect("our own folder goes"));
    took
}

fn write_one(path: &Path, content: &Aligned, direct: bool) {
    let flags = OFlags::CREATE | OFlags::RDWR | if direct { OFlags::DIRECT } else { OFlags::empty() };
    let mode = Mode::from_raw_mode(0o600);
    let file = rustix::fs::open(path, flags, mode)
        // A file system without O_DIRECT has the buffered floor for both.
        .or_else(|_| rustix::fs::open(path, OFlags::CREATE | OFlags::RDWR, mode))
        .map(File::from)
        .expect("the scratch folder can be written");
    for (number, part) in content.pages().chunks(WRITE_BYTES).enumerate() {
        file.write_all_at(part, (number * WRITE_BYTES) as u64).expect("the disk takes it");
    }
    file.set_len(content.len as u64).and_then(|()| file.sync_data()).expect("the disk takes it");
}

/// Whether rsync is installed.
pub fn rsync_is_there() -> bool {
    Command::new("rsync")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Seconds of `rsync -a --fsync --whole-file` to two peers in parallel; on one
/// machine a peer is a folder.
pub fn rsync(source: &Path, scratch: &Path) -> f64 {
    let targets = ["peer-1", "peer-2"].map(|name| scratch.join(name));
    let begun = Instant::now();
    let children: Vec<_> = targets
        .iter()
        .map(|target| {
            let mut command = Command::new("rsync");
            command.args(["-a", "--fsync", "--whole-file"]).arg(format!("{}/", source.display())).arg(target);
            command.stdin(Stdio::null()).spawn().expect("rsync can be started")
        })
        .collect();
    for mut child in children {
        assert!(child.wait().is_ok_and(|status| status.success()), "rsync failed");
    }
    let took = begun.elapsed().as_secs_f64();
    targets.iter().for_each(|target| remove_tree(target).expect("our own folder goes"));
    took
}
