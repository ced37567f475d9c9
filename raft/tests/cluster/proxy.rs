//! What lies between a node and those who call it: connections can be held up and refused, and what is said
//! can be changed on its way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to connections, those that are there and those that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// All goes through.
    Open,
    /// All goes through, so many bytes a second in each direction of each connection.
    Thin(u32),
    /// Nothing moves, and nobody is told.
    Held,
    /// They are closed.
    Refused,
}

/// Bytes, and as many that take their place.
#[derive(Default)]
struct Swap(Mutex<Option<(Vec<u8>, Vec<u8>)>>);

impl Swap {
    fn change(&self, bytes: &mut [u8]) {
        let swap = self.0.lock().unwrap();
        let Some((of, by)) = &*swap else { return };
        for at in 0..(bytes.len() + 1).saturating_sub(of.len()) {
            if bytes[at..].starts_with(of) {
                bytes[at..at + of.len()].copy_from_slice(by);
            }
        }
    }
}

/// In front of one node, at an address of its own.
pub struct Proxy {
    pub address: String,
    way: Arc<watch::Sender<Way>>,
    swap: Arc<Swap>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// In front of whoever listens at `to`.
    pub async fn start(to: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let swap = Arc::new(Swap::default());
        let (ways, swaps) = (way.clone(), swap.clone());
        let task = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(carry(from, to.clone(), ways.subscribe(), swaps.clone()));
            }
        });
        Proxy { address, way, swap, task }
    }

    /// From now on.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// From now on, whoever says `of` to that node is heard to say `by`. It is found where it comes in one
    /// piece, as a small message does.
    pub fn swap(&self, of: &[u8], by: &[u8]) {
        assert_eq!(of.len(), by.len());
        *self.swap.0.lock().unwrap() = Some((of.to_vec(), by.to_vec()));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(from: TcpStream, to: String, mut ways: watch::Receiver<Way>, swap: Arc<Swap>) {
    // Somebody may come while nothing moves.
    if ways.wait_for(|way| *way != Way::Held).await.map_or(true, |way| *way == Way::Refused) {
        return;
    }
    let Ok(onward) = TcpStream::connect(to).await else { return };
    drop((from.set_nodelay(true), onward.set_nodelay(true)));
    let (mut from_read, mut from_write) = from.into_split();
    let (mut on_read, mut on_write) = onward.into_split();
    let (mut there, mut back) = (ways.clone(), ways.clone());
    tokio::select! {
        () = copy(&mut from_read, &mut on_write, &mut there, |bytes| swap.change(bytes)) => {}
        () = copy(&mut on_read, &mut from_write, &mut back, |_| {}) => {}
        _ = ways.wait_for(|way| *way == Way::Refused) => {}
    }
}

async fn copy(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    ways: &mut watch::Receiver<Way>,
    change: impl Fn(&mut [u8]),
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 64 << 10];
    loop {
        let goes = |way: &Way| matches!(way, Way::Open | Way::Thin(_));
        if ways.wait_for(goes).await.is_err() {
            return;
        }
        let Ok(len) = from.read(&mut buffer).await else { return };
        let way = match ways.wait_for(goes).await {
            Ok(way) if len > 0 => *way,
            _ => return,
        };
        if let Way::Thin(rate) = way {
            let took = Duration::from_secs(1) * u32::try_from(len).unwrap() / rate;
            // A link that opens meanwhile is open at once.
            drop(tokio::time::timeout(took, ways.wait_for(|now| *now != way)).await);
        }
        change(&mut buffer[..len]);
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
