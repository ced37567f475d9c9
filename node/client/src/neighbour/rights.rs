//! Who is at the other end of a socket, as the kernel says.
//!
//! **Rule.** A node reads for a caller only what the caller could read himself. The same user is not enough for that: a file
//! may be open to a group that the node's service is in and its user's programs are not. So the caller must be in all of the
//! node's groups. What a user namespace does not know has one number, whoever it is; that number is nobody's.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{getegid, geteuid, getgroups};

/// What stands for the users and groups that a namespace does not know, unless the system says otherwise.
const OVERFLOW: u32 = 65_534;

fn overflow(what: &str) -> u32 {
    let set = std::fs::read_to_string(format!("/proc/sys/kernel/overflow{what}"));
    set.ok().and_then(|set| set.trim().parse().ok()).unwrap_or(OVERFLOW)
}

/// Whether the other end is of our own user.
pub(super) fn is_ours(stream: &UnixStream) -> io::Result<bool> {
    let theirs = socket_peercred(stream)?.uid.as_raw();
    Ok(is_same(theirs, geteuid().as_raw(), overflow("uid")))
}

fn is_same(theirs: u32, ours: u32, overflow: u32) -> bool {
    theirs == ours && ours != overflow
}

/// Whether the other end was in all of our groups when it connected.
pub(super) fn has_our_groups(stream: &UnixStream) -> io::Result<bool> {
    let mut theirs = groups_of(stream)?;
    theirs.push(socket_peercred(stream)?.gid.as_raw());
    let mut ours: Vec<u32> = getgroups()?.into_iter().map(|group| group.as_raw()).collect();
    ours.push(getegid().as_raw());
    Ok(has_all(&theirs, &ours, overflow("gid")))
}

fn has_all(theirs: &[u32], ours: &[u32], overflow: u32) -> bool {
    ours.iter().all(|group| is_same(*group, *group, overflow) && theirs.contains(group))
}

/// The further groups of the other end.
#[expect(unsafe_code, reason = "there is no safe wrapper of this option")]
fn groups_of(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(&groups[..])).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open, the buffer is ours and has so many bytes, and any bytes are numbers.
        let failed = unsafe {
            let to = groups.as_mut_ptr().cast();
            libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, to, &raw mut bytes)
        } == -1;
        let count = bytes as usize / size_of::<u32>();
        if !failed {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // It says how many there are.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_or_group_that_stands_for_any_is_nobodys() {
        assert!(is_same(1000, 1000, OVERFLOW) && !is_same(0, 1000, OVERFLOW));
        assert!(!is_same(OVERFLOW, OVERFLOW, OVERFLOW));
        assert!(has_all(&[4, 7, 9], &[9, 4], OVERFLOW));
        assert!(!has_all(&[4, 7], &[4, 9], OVERFLOW), "the service is in a group that its caller is not in");
        assert!(!has_all(&[4, OVERFLOW], &[4, OVERFLOW], OVERFLOW));
    }

    #[test]
    fn the_kernel_tells_the_groups_of_the_other_end() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut ours: Vec<u32> = getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
        let mut told = groups_of(&one).unwrap();
        ours.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, ours);
    }
}
