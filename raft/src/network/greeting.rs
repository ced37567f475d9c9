//! The greeting: what is said on a connection between peers before anything else. After it, both sides have proved that
//! they know the secret of the cluster, and the listener knows which node calls.
//!
//! ```text
//!   listener ─▶ caller    "epochlg1", nonce L (32)
//!   caller ─▶ listener    nonce C (32), length (2), header, proof of (caller, L, C, header)
//!   listener ─▶ caller    verdict (1), length (2), words, proof of (listener, L, C, header, verdict, words)
//! ```
//!
//! The header is a [`PeerHeader`] with group, name of the cluster, `from` and `to`. Numbers are big-endian.
//!
//! **Guarantees**, argued in `docs/decisions/peers.md`. A greeting that was recorded proves nothing on another connection:
//! each side proves a nonce that the other has just made. A node's own proof that is sent back to it is none: caller and
//! listener prove different texts, a node hears nobody of its own id, and nobody who meant to call another one.
//!
//! **Never**: says who this node is, or why it refuses, to somebody who has not proved the secret. What a caller sends
//! before the listener has proved itself holds no uuid and no incarnation.

use std::io;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::identity::Known;
use crate::proto::PeerHeader;
use crate::secret::Proof;

/// The first bytes of a connection; the last one is the version of the greeting.
const OPENING: [u8; 8] = *b"epochlg1";
/// Bytes of a nonce.
const NONCE_BYTES: usize = 32;
/// The longest header, and the longest words of a refusal, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 10;
/// The longest words of a refusal, in characters of at most four bytes.
const WORDS_CHARS_MAX: usize = TEXT_BYTES_MAX / 4;

/// Who proves.
const CALLER: &[u8; 8] = b"caller  ";
const LISTENER: &[u8; 8] = b"listener";

/// A verdict.
const HEARD: u8 = 1;
const REFUSED: u8 = 0;

/// How a greeting ended for the listener, if not well.
#[derive(Debug, thiserror::Error)]
pub enum Unheard {
    /// The connection broke, or brought no greeting.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came proves another secret, or none.
    #[error("who called has not proved the secret of the cluster")]
    Unproven,
    /// It knows the secret, and is refused.
    #[error("{why}")]
    Refused {
        /// The node that it says it is.
        node: u64,
        /// Why.
        why: String,
    },
}

/// What both sides have said, which the proofs are over.
#[derive(Debug, Clone)]
struct Said {
    listener: [u8; NONCE_BYTES],
    caller: [u8; NONCE_BYTES],
    header: Vec<u8>,
}

impl Said {
    /// Parts of fixed length, and texts behind their lengths: two different greetings never give the same bytes.
    fn bytes(&self, who: &[u8; 8], verdict: Option<(u8, &[u8])>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 * NONCE_BYTES + self.header.len());
        bytes.extend_from_slice(who);
        bytes.extend_from_slice(&self.listener);
        bytes.extend_from_slice(&self.caller);
        put_text(&mut bytes, &self.header);
        if let Some((verdict, words)) = verdict {
            bytes.push(verdict);
            put_text(&mut bytes, words);
        }
        bytes
    }
}

/// A text of at most [`TEXT_BYTES_MAX`] behind its length.
fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    let len = u16::try_from(text.len()).expect("texts of a greeting are short");
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(text);
}

async fn take<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn take_text(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let len = usize::from(u16::from_be_bytes(take(stream).await?));
    if len > TEXT_BYTES_MAX {
        return Err(invalid("a greeting with a text that is too long"));
    }
    let mut text = vec![0; len];
    stream.read_exact(&mut text).await?;
    Ok(text)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn denied(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.into())
}

/// The caller's side: greets whoever listens there as node `to`.
///
/// # Errors
/// It is no peer, it does not know the secret, it does not take ours, or it refuses this node.
pub async fn knock(
    known: &Known,
    to: u64,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    let closed = |why: &'static str| {
        move |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => denied(why),
            _ => error,
        }
    };
    let no_greeting =
        "it closed the connection before it said anything: is that the address for peers (--listen-peers)?";
    let opening: [u8; OPENING.len()] = take(stream).await.map_err(closed(no_greeting))?;
    if opening != OPENING {
        return Err(denied(
            "who answers there is no peer of this version: is that the address for peers (--listen-peers), not the one for clients?",
        ));
    }
    let header = known.introduction(to).encode_to_vec();
    if header.len() > TEXT_BYTES_MAX {
        return Err(denied("the name of the cluster is too long for a greeting: give it a shorter one"));
    }
    let said = Said { listener: take(stream).await?, caller: rand::random(), header };
    let mut bytes = said.caller.to_vec();
    put_text(&mut bytes, &said.header);
    bytes.extend_from_slice(known.secret().prove(&said.bytes(CALLER, None)).bytes());
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    let not_taken = "it does not take this node's proof: is cluster.secret_file the same on both nodes?";
    let [verdict]: [u8; 1] = take(stream).await.map_err(closed(not_taken))?;
    let words = take_text(stream).await?;
    let proof = Proof::of(take(stream).await?);
    if proof != known.secret().prove(&said.bytes(LISTENER, Some((verdict, &words)))) {
        return Err(denied(
            "who answers there does not know the secret of this cluster: nothing was told to it",
        ));
    }
    match verdict {
        HEARD => Ok(()),
        _ => Err(denied(String::from_utf8_lossy(&words))),
    }
}

/// The listener's side: greets whoever has connected, and says which node it is.
///
/// # Errors
/// [`Unheard`]; only who has proved the secret was told why.
pub async fn answer(
    known: &Known,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<u64, Unheard> {
    let listener: [u8; NONCE_BYTES] = rand::random();
    stream.write_all(&[&OPENING[..], &listener[..]].concat()).await?;
    stream.flush().await?;
    let said = Said { listener, caller: take(stream).await?, header: take_text(stream).await? };
    let proof = Proof::of(take(stream).await?);
    // Nothing that came is looked at before this.
    if proof != known.secret().prove(&said.bytes(CALLER, None)) {
        return Err(Unheard::Unproven);
    }
    let header = PeerHeader::decode(&said.header[..]).map_err(|_| invalid("a greeting without a header"))?;
    let judged = known.greet(&header);
    let (verdict, words) = match &judged {
        Ok(_) => (HEARD, String::new()),
        Err(why) => (REFUSED, why.chars().take(WORDS_CHARS_MAX).collect()),
    };
    let mut bytes = vec![verdict];
    put_text(&mut bytes, words.as_bytes());
    let proof = known.secret().prove(&said.bytes(LISTENER, Some((verdict, words.as_bytes()))));
    bytes.extend_from_slice(proof.bytes());
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    judged.map_err(|why| Unheard::Refused { node: header.from, why })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::config::ReplicaConfig;
    use crate::secret::Secret;

    const TEXT: &str = "a secret of tests, which everybody may know";

    fn known(node: u64, text: &str) -> Arc<Known> {
        let secret = Secret::of(text).unwrap();
        Known::new(&ReplicaConfig { secret, ..ReplicaConfig::new(node, [node as u8; 16], "c", vec![]) })
    }

    /// How a greeting ends on both sides.
    async fn greeting(caller: &Known, to: u64, listener: &Known) -> (io::Result<()>, Result<u64, Unheard>) {
        let (mut here, mut there) = duplex(4096);
        let listening = async {
            let answered = answer(listener, &mut there).await;
            // As a listener does: whoever is not heard is hung up on.
            drop(there);
            answered
        };
        tokio::join!(knock(caller, to, &mut here), listening)
    }

    /// What somebody says who calls `to`, whose listener has made the nonce `listener`.
    async fn said_to(listener: [u8; NONCE_BYTES], caller: &Arc<Known>, to: u64) -> (Vec<u8>, DuplexStream) {
        let (mut here, mut there) = duplex(4096);
        let caller = caller.clone();
        tokio::spawn(async move { knock(&caller, to, &mut here).await });
        there.write_all(&[&OPENING[..], &listener[..]].concat()).await.unwrap();
        let nonce: [u8; NONCE_BYTES] = take(&mut there).await.unwrap();
        let header = take_text(&mut there).await.unwrap();
        let proof: [u8; Proof::BYTES] = take(&mut there).await.unwrap();
        let mut bytes = nonce.to_vec();
        put_text(&mut bytes, &header);
        bytes.extend_from_slice(&proof);
        (bytes, there)
    }

    /// How `node` ends a greeting with somebody who answers its nonce with what `say` makes of it; and all that it said.
    async fn heard_by(
        node: &Known,
        say: impl AsyncFnOnce([u8; NONCE_BYTES]) -> Vec<u8>,
    ) -> (Result<u64, Unheard>, Vec<u8>) {
        let (mut here, mut there) = duplex(4096);
        let listening = async {
            let answered = answer(node, &mut there).await;
            drop(there);
            answered
        };
        let speaking = async {
            let opening: [u8; OPENING.len()] = take(&mut here).await.unwrap();
            assert_eq!(opening, OPENING);
            let nonce = take(&mut here).await.unwrap();
            here.write_all(&say(nonce).await).await.unwrap();
            here.shutdown().await.unwrap();
            let mut rest = Vec::new();
            here.read_to_end(&mut rest).await.unwrap();
            rest
        };
        tokio::join!(listening, speaking)
    }

    #[tokio::test]
    async fn who_knows_the_secret_is_heard_under_its_id() {
        let (knocked, answered) = greeting(&known(1, TEXT), 2, &known(2, TEXT)).await;
        knocked.unwrap();
        assert_eq!(answered.unwrap(), 1);
    }

    #[tokio::test]
    async fn another_secret_proves_nothing_and_is_told_nothing() {
        let other = known(1, &TEXT.replace('a', "b"));
        let (knocked, answered) = greeting(&other, 2, &known(2, TEXT)).await;
        let why = knocked.unwrap_err().to_string();
        assert!(why.contains("cluster.secret_file"), "{why}");
        assert!(matches!(answered, Err(Unheard::Unproven)));
        let (said, _there) = said_to([7; NONCE_BYTES], &other, 2).await;
        let (answered, told) = heard_by(&known(2, TEXT), async |_| said).await;
        assert!(matches!(answered, Err(Unheard::Unproven)) && told.is_empty(), "{told:?}");
    }

    #[tokio::test]
    async fn a_listener_that_does_not_know_the_secret_is_found_out() {
        // It has seen how node 2 answered once.
        let (one, two) = (known(1, TEXT), known(2, TEXT));
        let (said, _there) = said_to([7; NONCE_BYTES], &one, 2).await;
        let (_, told) = heard_by(&two, async |nonce| said_to(nonce, &one, 2).await.0).await;
        assert_eq!(told.len(), 3 + Proof::BYTES);
        for answer in [
            told,
            [&[HEARD, 0, 0][..], &[1; Proof::BYTES]].concat(),
            [&[HEARD, 0, 0][..], &said[said.len() - 32..]].concat(),
        ] {
            let (mut here, mut there) = duplex(4096);
            let faking = async {
                there.write_all(&[&OPENING[..], &[9; NONCE_BYTES]].concat()).await.unwrap();
                there.write_all(&answer).await.unwrap();
                there
            };
            let (knocked, _there) = tokio::join!(knock(&one, 2, &mut here), faking);
            assert!(knocked.is_err(), "a made-up answer of {} bytes was taken", answer.len());
        }
    }

    #[tokio::test]
    async fn a_proof_of_another_connection_proves_nothing() {
        let (one, two) = (known(1, TEXT), known(2, TEXT));
        let mut recorded = Vec::new();
        let (first, _) = heard_by(&two, async |nonce| {
            recorded = said_to(nonce, &one, 2).await.0;
            recorded.clone()
        })
        .await;
        assert_eq!(first.unwrap(), 1, "it was good once");
        let (again, told) = heard_by(&two, async |_| recorded).await;
        assert!(matches!(again, Err(Unheard::Unproven)) && told.is_empty(), "{told:?}");
    }

    #[tokio::test]
    async fn a_nodes_own_proof_sent_back_to_it_or_on_to_another_is_not_heard() {
        let (one, two, three) = (known(1, TEXT), known(2, TEXT), known(3, TEXT));
        // Somebody sits at the address of node 2, takes what node 1 says to it, and gives that to somebody else.
        let (back, _) = heard_by(&one, async |nonce| said_to(nonce, &one, 2).await.0).await;
        assert!(matches!(&back, Err(Unheard::Refused { why, .. }) if why.contains("node 1")), "{back:?}");
        let (on, _) = heard_by(&three, async |nonce| said_to(nonce, &one, 2).await.0).await;
        assert!(matches!(&on, Err(Unheard::Refused { why, .. }) if why.contains("not node 2")), "{on:?}");
        // Nor does the answer of a listener prove a caller.
        let (said, _there) = said_to([7; NONCE_BYTES], &one, 2).await;
        let head = said[..said.len() - Proof::BYTES].to_vec();
        let (answered, _) = heard_by(&two, async |listener| {
            let caller = head[..NONCE_BYTES].try_into().unwrap();
            let said = Said { listener, caller, header: head[NONCE_BYTES + 2..].to_vec() };
            let as_listener = one.secret().prove(&said.bytes(LISTENER, Some((HEARD, b""))));
            [&head[..], as_listener.bytes()].concat()
        })
        .await;
        assert!(matches!(answered, Err(Unheard::Unproven)), "{answered:?}");
    }

    #[tokio::test]
    async fn what_is_no_greeting_ends_it() {
        for bytes in [vec![], vec![0; 33], vec![0xff; 400], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".repeat(20)] {
            let (answered, told) = heard_by(&known(2, TEXT), async |_| bytes).await;
            assert!(matches!(answered, Err(Unheard::Io(_))) && told.is_empty(), "{answered:?} {told:?}");
        }
        let (mut here, mut there) = duplex(4096);
        there.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let why = knock(&known(1, TEXT), 2, &mut here).await.unwrap_err().to_string();
        assert!(why.contains("--listen-peers"), "{why}");
    }
}
