//! What the service manager hears of this node: `Type=notify` of systemd. One datagram each, to the socket that the
//! environment names as `NOTIFY_SOCKET`; who was started by nobody of the kind says nothing.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// News for the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News<'a> {
    /// It is at work, and not ready yet.
    Status(&'a str),
    /// It serves.
    Ready(&'a str),
    /// It has begun to stop.
    Stopping(&'a str),
}

/// Tells it. A manager that does not listen is no reason to stop.
pub fn tell(news: &News<'_>) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, news) {
        tracing::warn!(?socket, %error, "the service manager is not told");
    }
}

fn send(socket: &OsStr, news: &News<'_>) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let (state, words) = match news {
        News::Status(words) => ("", words),
        News::Ready(words) => ("READY=1\n", words),
        News::Stopping(words) => ("STOPPING=1\n", words),
    };
    // A line each: what is in the words is no further state.
    let message = format!("{state}STATUS={}", words.replace('\n', " "));
    let sender = UnixDatagram::unbound()?;
    // Who does not read them waits for nothing of ours.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut room = [0; 200];
        let len = socket.recv(&mut room).unwrap();
        String::from_utf8(room[..len].to_vec()).unwrap()
    }

    #[test]
    fn sockets_have_paths_or_abstract_names_and_words_are_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let named = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), &News::Ready("it serves")).unwrap();
        assert_eq!(heard(&named), "READY=1\nSTATUS=it serves");
        send(path.as_os_str(), &News::Status("a\nREADY=1")).unwrap();
        assert_eq!(heard(&named), "STATUS=a READY=1");

        let name = format!("epochlog-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let named = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), &News::Stopping("it stops")).unwrap();
        assert_eq!(heard(&named), "STOPPING=1\nSTATUS=it stops");

        assert!(send(OsStr::new("/nobody/listens"), &News::Ready("")).is_err());
    }
}
