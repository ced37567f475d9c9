//! Directories to commit.

/// A directory with a bit of everything.
pub fn directory(big_bytes: usize) -> tempfile::TempDir {
    directory_of(big_bytes, 0)
}

/// Bytes that no other `number` has.
pub fn noise(bytes: usize, number: u8) -> Vec<u8> {
    let seed = u32::from(number).wrapping_mul(0x9e37_79b9);
    (0..bytes as u32 / 4).flat_map(|n| (n ^ seed).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// A directory with a bit of everything, whose big file no other `number` has: half of it in files of 4 MiB.
pub fn directory_of(big_bytes: usize, number: u8) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let big = noise(big_bytes, number);
    std::fs::write(dir.path().join("big"), &big[..big.len() / 2]).unwrap();
    for (at, part) in big[big.len() / 2..].chunks(4 << 20).enumerate() {
        std::fs::write(dir.path().join(format!("part{at}")), part).unwrap();
    }
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/small"), b"small").unwrap();
    std::fs::write(dir.path().join("sub/own"), format!("own {number}")).unwrap();
    std::fs::write(dir.path().join("empty"), b"").unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
    dir
}
