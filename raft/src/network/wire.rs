//! What the kernel knows of a connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The state of one TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wire {
    /// Bytes of ours that the other side's kernel has acknowledged since the connection was made.
    pub acked_bytes: u64,
    /// Segments that were sent and not acknowledged. None while the other side's window is closed.
    pub unacked_segments: u32,
    /// The smoothed round trip.
    pub round_trip: Duration,
}

/// Offsets in the kernel's `struct tcp_info`, which only ever grows at its end.
const UNACKED_AT: usize = 24;
const RTT_US_AT: usize = 68;
const BYTES_ACKED_AT: usize = 120;

/// Asks the kernel.
///
/// # Errors
/// Not a TCP socket, or a kernel (before 4.1) that does not count acknowledged bytes.
#[cfg(target_os = "linux")]
pub fn wire(socket: &impl AsFd) -> io::Result<Wire> {
    let mut info = [0u8; 256];
    let mut len = info.len() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    #[expect(
        unsafe_code,
        reason = "this socket option has no safe wrapper; the kernel writes at most `len` bytes"
    )]
    let failed = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len)
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < BYTES_ACKED_AT + 8 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel does not count acknowledged bytes",
        ));
    }
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let mut acked = [0; 8];
    acked.copy_from_slice(&info[BYTES_ACKED_AT..BYTES_ACKED_AT + 8]);
    Ok(Wire {
        acked_bytes: u64::from_ne_bytes(acked),
        unacked_segments: word(UNACKED_AT),
        round_trip: Duration::from_micros(word(RTT_US_AT).into()),
    })
}

/// Elsewhere nobody is asked: connections are kept until their calls give up.
#[cfg(not(target_os = "linux"))]
pub fn wire(_: &impl AsFd) -> io::Result<Wire> {
    Err(io::ErrorKind::Unsupported.into())
}
