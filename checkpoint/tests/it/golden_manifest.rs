//! The bytes of manifests, for ever. When one of these fails, the format has
//! changed: that needs a new version, not a new expectation.

use checkpoint::digest::{Digest, content};
use checkpoint::manifest::{decode_file, encode_file, root_of};
use checkpoint::plan::{encode, plan_digest};
use checkpoint::{EntryKind, Envelope, Manifest, ManifestEntry, Position, RelPath};

fn manifest() -> Manifest {
    let entry = |path: &[u8], kind, mode, data: &[u8], target: &[u8]| ManifestEntry {
        path: RelPath::parse(path).unwrap(),
        kind,
        mode,
        size: data.len() as u64,
        digest: if kind == EntryKind::File { content(data) } else { Digest::NONE },
        target: target.to_vec(),
    };
    Manifest {
        entries: vec![
            entry(b"", EntryKind::Directory, 0o755, b"", b""),
            entry(b"a", EntryKind::Directory, 0o500, b"", b""),
            entry(b"a-\xff", EntryKind::Symlink, 0o777, b"", b"../x"),
            entry(b"a/empty", EntryKind::File, 0o400, b"", b""),
            entry(b"a/f", EntryKind::File, 0o644, b"content", b""),
        ],
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_tree_has_these_bytes() {
    let manifest = manifest();
    let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    let f = content(b"content").to_string();
    let expected = [
        &hex(b"epochlog tree 1\n"),
        "05000000",
        "64ed010000",
        "644001010061",
        "6cff010300612dff04002e2e2f78",
        &format!("66000107{}{}{empty}", format_args!("00{}", hex(b"a/empty")), "0000000000000000"),
        &format!("66a4010300{}0700000000000000{f}", hex(b"a/f")),
    ]
    .concat();
    assert_eq!(hex(&manifest.encode()), expected);
    assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    assert_eq!(manifest.root().to_string(), GOLDEN_ROOT);
    let plan: Vec<_> = manifest.entries.iter().map(ManifestEntry::plan_entry).collect();
    assert_eq!(plan_digest(&plan).to_string(), GOLDEN_PLAN);
    let page = ["64ed010000", "644001010061", "6cff010300612dff04002e2e2f78"].concat();
    let files = [("66000107", "a/empty", "0000000000000000"), ("66a40103", "a/f", "0700000000000000")];
    let files = files.map(|(head, path, size)| format!("{head}00{}{size}", hex(path.as_bytes()))).concat();
    assert_eq!(hex(&encode(&plan)), page + &files);
    let digests: Vec<_> = manifest.entries.iter().map(|entry| entry.digest).collect();
    assert_eq!(root_of(&plan, &digests).to_string(), GOLDEN_ROOT);
}

#[test]
fn the_envelope_has_these_bytes() {
    let envelope = Envelope {
        job: "job-1".parse().unwrap(),
        epoch: 42,
        attempt: 1000,
        position: Position { term: 3, node: 2, index: 1017 },
        root: manifest().root(),
        labels: vec![("step".into(), "9".into())],
        depends_on: vec!["other@7".into()],
        base: Some(41),
        sealed_log_ms: 123_456,
    };
    let body = [
        "05006a6f622d31",
        "2a00000000000000",
        "e803000000000000",
        "0300000000000000",
        "0200000000000000",
        "f903000000000000",
        "40e2010000000000",
        GOLDEN_ROOT,
        "01",
        "2900000000000000",
        "01000000",
        "04007374657001003901000000",
        "07006f746865724037",
    ]
    .concat();
    let len = (body.len() as u32 / 2).to_le_bytes();
    let bytes = envelope.encode();
    assert_eq!(hex(&bytes[..bytes.len() - 16]), format!("{}01000000{}{body}", hex(b"EPOCHLOG"), hex(&len)));
    let file = encode_file(&envelope, &manifest().encode());
    assert_eq!(decode_file(&file).unwrap(), (envelope, manifest()));
    // One turned bit anywhere is seen.
    for bit in 0..file.len() * 8 {
        let mut bad = file.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_file(&bad).is_err(), "bit {bit}");
    }
    for len in 0..file.len() {
        assert!(decode_file(&file[..len]).is_err());
    }
}

const GOLDEN_ROOT: &str = "e774a7221161e4101d3c35a3c2f824726d15eadeb9ef6361ac91c13f737f4511";
const GOLDEN_PLAN: &str = "4436248e6c7c2c427d3f584ade693589c1767ffbdd58dc754f98e1b9120cb5c6";
