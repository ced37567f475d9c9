//! A node on this machine that the same user runs: it is handed a directory that the caller has opened, and tells where an
//! epoch lies. Both over a socket that only this machine has, never over the network.
//!
//! **Guarantees.** Both ends ask the kernel for the other's user, and go on only when it is their own; the node goes on only
//! with who is in all of its groups, too (`neighbour/rights`): what this node could read for its caller, the caller could
//! read as well. So nobody gets at a file through a
//! node that is closed to him, and nobody who takes the socket's name first is handed anything. A directory goes as an
//! open descriptor: which one it is does not hang on a name that somebody may change, nor on who sees which mounts.
//!
//! The socket is a name of the network namespace, not of the file system: it goes with its process, needs no folder that
//! both may write to, and is found by the port that the node is known by. Its caller then names a ticket in a call
//! at that port. Where the port is another machine's, that node knows no such ticket, and the client streams. A ticket is for
//! one commit: whoever names it in another gets nothing by it.
//!
//! ```text
//!  client                                   node
//!    HAND ticket (16) commit id (16),
//!         one descriptor                ->
//!                                       <-  1, or the end
//!    FIND epoch (8) root (32) job       ->
//!                                       <-  dev (8) inode (8) path, or the end
//! ```
//! Numbers are little-endian, and each message is one write.

mod rights;

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use checkpoint::CommitId;
use rustix::cmsg_space;
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use self::rights::{has_our_groups, is_ours};

/// Bytes of a ticket.
const TICKET_BYTES: usize = 16;
/// The longest message: a name of a job, or a path.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// Descriptors that a message can bring; one is right, and more are closed.
const DESCRIPTORS_MAX: usize = 4;
/// The other side is on this machine, and has nothing to read for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections that wait for their turn.
const WAITING_MAX: i32 = 32;

const HAND: u8 = 1;
const FIND: u8 = 2;

/// What names a directory that was handed over, in a call over the network. It is good once.
pub type Ticket = [u8; TICKET_BYTES];

/// What a client asks for.
#[derive(Debug)]
pub enum Asked {
    /// To keep the directory for whoever names the ticket in this commit.
    Hand {
        /// What it goes by.
        ticket: Ticket,
        /// The commit that it is for.
        commit: CommitId,
        /// The directory.
        dir: OwnedFd,
    },
    /// Where the epoch with this root lies.
    Find {
        /// Its job.
        job: String,
        /// Its number.
        epoch: u64,
        /// Its root, 32 bytes.
        root: Vec<u8>,
    },
}

/// The answer to what is asked.
#[derive(Debug)]
pub enum Answer {
    /// It is kept.
    Kept,
    /// There.
    Lies(PathBuf),
    /// No; the connection ends.
    No,
}

fn address(port: u16) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new_abstract_name(format!("epochlog/{port}").as_bytes())?)
}

fn port_of(endpoint: &str) -> Option<u16> {
    endpoint.trim_end_matches('/').rsplit_once(':')?.1.parse().ok()
}

fn other_user() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the other side is another user's")
}

fn fewer_groups() -> io::Error {
    let why = "the other side is not in all groups of this process, which may read what it may not";
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

fn odd(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The socket of the node that clients know by `port`.
///
/// # Errors
/// Another process has it, or there are no such sockets.
pub fn listen(port: u16) -> io::Result<UnixListener> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &address(port)?)?;
    rustix::net::listen(&socket, WAITING_MAX)?;
    Ok(UnixListener::from(socket))
}

/// Connects to the node that is known by the port of `endpoint`. Waits for nobody: a full queue is an error.
fn connect(endpoint: &str) -> io::Result<UnixStream> {
    let port = port_of(endpoint).ok_or_else(|| odd("the endpoint has no port"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address(port)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    patient(&stream)?;
    if is_ours(&stream)? { Ok(stream) } else { Err(other_user()) }
}

fn patient(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Opens `dir` and hands it to the node of `endpoint`, if that runs here and is ours; the ticket is for one call there, of
/// this commit.
///
/// # Errors
/// There is no such node here, or it is another user's; or `dir` cannot be opened. Then the directory is streamed.
pub fn hand_over(endpoint: &str, dir: &Path, commit: CommitId) -> io::Result<Ticket> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let ticket: Ticket = rand::random();
    hand(endpoint, dir.as_fd(), commit, &ticket)?;
    Ok(ticket)
}

/// Hands an open directory to the node of `endpoint` for this commit, under a ticket that nobody else has.
///
/// # Errors
/// As [`hand_over`].
pub fn hand(endpoint: &str, dir: BorrowedFd<'_>, commit: CommitId, ticket: &Ticket) -> io::Result<()> {
    let mut stream = connect(endpoint)?;
    let mut message = vec![HAND];
    message.extend_from_slice(ticket);
    message.extend_from_slice(commit.as_bytes());
    let descriptors = [dir];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(odd("no room for a descriptor"));
    }
    let sent = rustix::net::sendmsg(&stream, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
    if sent != message.len() {
        return Err(odd("the message did not go in one piece"));
    }
    stream.read_exact(&mut [0])
}

/// Where the node of `endpoint` has published an epoch, if it runs here and is ours, and this process sees the very same
/// directory there.
///
/// # Errors
/// There is no such node here, it is another user's, has not published the epoch, or sees other mounts.
pub fn find(endpoint: &str, job: &str, epoch: u64, root: &[u8]) -> io::Result<PathBuf> {
    let mut stream = connect(endpoint)?;
    let mut message = vec![FIND];
    message.extend_from_slice(&epoch.to_le_bytes());
    message.extend_from_slice(root);
    message.extend_from_slice(job.as_bytes());
    stream.write_all(&message)?;
    let mut answer = Vec::new();
    stream.take(MESSAGE_BYTES_MAX as u64).read_to_end(&mut answer)?;
    let (dev, rest) = answer.split_first_chunk().ok_or_else(|| odd("it is not there"))?;
    let (inode, path) = rest.split_first_chunk().ok_or_else(|| odd("it is not there"))?;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
    let meta = std::fs::symlink_metadata(&path)?;
    let told = (u64::from_le_bytes(*dev), u64::from_le_bytes(*inode));
    if !meta.is_dir() || (meta.dev(), meta.ino()) != told {
        return Err(odd("this process sees another directory there"));
    }
    Ok(path)
}

/// The node's side: hears one who has connected, and answers.
///
/// # Errors
/// It is another user, or lacks a group of this process, or what it says makes no sense.
pub fn serve(mut stream: UnixStream, answer: impl FnOnce(Asked) -> Answer) -> io::Result<()> {
    if !is_ours(&stream)? {
        return Err(other_user());
    }
    if !has_our_groups(&stream)? {
        return Err(fewer_groups());
    }
    patient(&stream)?;
    let asked = hear(&stream)?;
    match answer(asked) {
        Answer::Kept => stream.write_all(&[1]),
        Answer::Lies(path) => {
            let meta = std::fs::symlink_metadata(&path)?;
            let mut told = meta.dev().to_le_bytes().to_vec();
            told.extend_from_slice(&meta.ino().to_le_bytes());
            told.extend_from_slice(path.as_os_str().as_bytes());
            stream.write_all(&told)
        }
        Answer::No => Ok(()),
    }
}

fn hear(stream: &UnixStream) -> io::Result<Asked> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // What does not fit is closed by the kernel, and what is too much by us.
    let received = rustix::net::recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(brought) = message {
            descriptors.extend(brought);
        }
    }
    let (kind, rest) = bytes[..received.bytes].split_first().ok_or_else(|| odd("nothing was said"))?;
    match *kind {
        HAND => {
            let (ticket, commit) = rest.split_first_chunk().ok_or_else(|| odd("a ticket has 16 bytes"))?;
            let commit = commit.try_into().map_err(|_| odd("a commit id has 16 bytes"))?;
            match <[OwnedFd; 1]>::try_from(descriptors) {
                Ok([dir]) => Ok(Asked::Hand {
                    ticket: *ticket,
                    commit: CommitId::from_bytes(commit),
                    dir: a_directory(dir)?,
                }),
                Err(_) => Err(odd("one directory is handed over at a time")),
            }
        }
        FIND => {
            let (epoch, rest) = rest.split_first_chunk().ok_or_else(|| odd("an epoch has 8 bytes"))?;
            let (root, job) = rest.split_first_chunk::<32>().ok_or_else(|| odd("a root has 32 bytes"))?;
            let job = String::from_utf8(job.to_vec()).map_err(|_| odd("the job's name is no text"))?;
            Ok(Asked::Find { job, epoch: u64::from_le_bytes(*epoch), root: root.to_vec() })
        }
        _ => Err(odd("nothing that we know was asked")),
    }
}

/// What was brought, when it is a directory that its owner may list: a descriptor that only names something proves nothing.
fn a_directory(dir: OwnedFd) -> io::Result<OwnedFd> {
    if rustix::fs::fcntl_getfl(&dir)?.contains(OFlags::PATH) {
        return Err(odd("the descriptor only names a directory, it is not open for reading"));
    }
    let mode = rustix::fs::fstat(&dir)?.st_mode;
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::Directory => Ok(dir),
        other => Err(odd(&format!("the descriptor is no directory but {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::*;

    /// A port that no other test has; nobody listens on it.
    fn port() -> u16 {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let id = u16::try_from(std::process::id() % 50_000).unwrap();
        10_000 + (id + NEXT.fetch_add(1, Ordering::Relaxed)) % 50_000
    }

    /// Answers one caller as told; gives what was asked.
    fn one(port: u16, answer: Answer) -> std::thread::JoinHandle<io::Result<Option<Asked>>> {
        let listener = listen(port).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut heard = None;
            serve(stream, |asked| {
                heard = Some(asked);
                answer
            })?;
            Ok(heard)
        })
    }

    #[test]
    fn a_directory_is_handed_over_open() {
        let dir = tempfile::tempdir().unwrap();
        let port = port();
        let node = one(port, Answer::Kept);
        let of = CommitId::from_bytes([3; 16]);
        let known_by = hand_over(&format!("http://127.0.0.1:{port}"), dir.path(), of).unwrap();
        let Some(Asked::Hand { ticket, commit, dir: fd }) = node.join().unwrap().unwrap() else {
            panic!("nothing was handed")
        };
        assert_eq!((ticket, commit), (known_by, of));
        let (had, has) = (std::fs::metadata(dir.path()).unwrap(), rustix::fs::fstat(&fd).unwrap());
        assert_eq!((had.dev(), had.ino()), (has.st_dev, has.st_ino));
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        // The socket went with its listener.
        assert!(hand_over(&format!("127.0.0.1:{port}"), dir.path(), of).is_err());
    }

    #[test]
    fn an_epoch_is_found_where_the_node_says_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let port = port();
        let endpoint = format!("host:{port}");
        let node = one(port, Answer::Lies(dir.path().to_owned()));
        assert_eq!(find(&endpoint, "job", 7, &[9; 32]).unwrap(), dir.path());
        let asked = node.join().unwrap().unwrap();
        assert!(
            matches!(&asked, Some(Asked::Find { job, epoch: 7, root }) if job == "job" && root[..] == [9; 32]),
            "{asked:?}"
        );
        let node = one(port, Answer::No);
        assert!(find(&endpoint, "job", 7, &[9; 32]).is_err());
        node.join().unwrap().unwrap();
    }

    /// Sends a message with these descriptors; says how the node took it.
    fn said(message: &[u8], descriptors: &[OwnedFd]) -> String {
        let port = port();
        let node = one(port, Answer::Kept);
        let stream = connect(&format!("x:{port}")).unwrap();
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        rustix::net::sendmsg(&stream, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL).unwrap();
        match node.join().unwrap() {
            Ok(asked) => format!("taken: {asked:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_no_open_directory_is_refused_with_words() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        let open = |path: &Path, flags: OFlags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let hand = [&[HAND][..], &[7; 16], &[8; 16]].concat();
        let named = open(dir.path(), OFlags::PATH);
        assert!(said(&hand, &[named]).contains("only names"));
        assert!(said(&hand, &[open(&file, OFlags::RDONLY)]).contains("no directory"));
        assert!(said(&hand, &[open(&file, OFlags::WRONLY)]).contains("no directory"));
        let (fifo, _other) = std::io::pipe().unwrap();
        assert!(said(&hand, &[OwnedFd::from(fifo)]).contains("no directory"));
        assert!(said(&hand, &[]).contains("one directory"));
        let many = |count| (0..count).map(|_| open(dir.path(), OFlags::RDONLY)).collect::<Vec<_>>();
        assert!(said(&hand, &many(2)).contains("one directory"));
        assert!(said(&hand, &many(12)).contains("one directory"));
        assert!(said(&hand[..9], &many(1)).contains("a ticket has 16 bytes"));
        assert!(said(&hand[..17], &many(1)).contains("a commit id has 16 bytes"), "as older clients do");
        assert!(said(&[9], &[]).contains("nothing that we know"));
        assert!(said(&[FIND, 1], &[]).contains("8 bytes"));
        assert!(said(&hand, &many(1)).starts_with("taken"));
    }

    #[test]
    fn an_endpoint_is_known_by_its_port() {
        assert_eq!(port_of("http://10.0.0.1:7411/"), Some(7411));
        assert_eq!(port_of("[::1]:80"), Some(80));
        assert_eq!(port_of("host"), None);
    }
}
