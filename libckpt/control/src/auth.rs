//! Proof of membership and authenticated frames, without any I/O.
//!
//! Both sides know the job's [`Secret`]. The connecting side sends a hello (who it is, a nonce), the
//! listening side answers with its nonce and a proof, the connecting side proves in turn; then each
//! direction has its own key. A proof is BLAKE3, keyed with the secret, over a label and the
//! *transcript*: the whole hello and the listener's nonce. A frame's tag is BLAKE3, keyed with the
//! direction's key, over a counter and the payload, so that a frame can be neither forged, replayed,
//! reordered, left out nor reflected. Nothing is encrypted: no secret of the user travels here.
//!
//! ```text
//! connecting                                              listening
//!   hello:     prefix, role, rank, incarnation, job, nonce  ->
//!                                          <-  challenge: prefix, 0, nonce, proof("listener")
//!                                          <-  or a refusal: prefix, 1, reason
//!   proof:     proof("connector")                           ->
//!   frames                                                  <->  frames
//! ```
//! Every message is preceded by its length (4 bytes, little-endian), bounded by [`MAX_HANDSHAKE`]
//! until both sides have proven themselves.

use serde::{Deserialize, Serialize};

use crate::protocol::VERSION;
use crate::{ControlError, Secret};

/// Longest message before authentication.
pub(crate) const MAX_HANDSHAKE: usize = 1024;
/// Bytes of a frame's length field.
pub(crate) const LENGTH: usize = 4;
/// Bytes of a frame's tag.
pub(crate) const TAG: usize = 32;

const MAGIC: [u8; 8] = *b"mana-ctl";
const PREFIX: usize = MAGIC.len() + 2;
const MAX_JOB: usize = 512;

/// What the connecting side claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// A rank of the job.
    Rank(u32),
    /// A tool of the job's owner.
    Tool,
}

/// First message of the connecting side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub role: Role,
    pub job: String,
    pub incarnation: u32,
    pub nonce: [u8; 32],
}

impl Hello {
    pub fn encode(&self) -> Result<Vec<u8>, ControlError> {
        let mut bytes = prefix().to_vec();
        let body = postcard::to_stdvec(self).map_err(|e| broken("this program", e))?;
        bytes.extend_from_slice(&body);
        if self.job.len() > MAX_JOB || bytes.len() > MAX_HANDSHAKE {
            return Err(broken("this program", "the job's identity is too long"));
        }
        Ok(bytes)
    }

    pub fn decode(bytes: &[u8], peer: &str) -> Result<Self, ControlError> {
        let body = check_prefix(bytes, peer)?;
        let hello: Self = exactly(body, peer)?;
        if hello.job.len() > MAX_JOB {
            return Err(broken(peer, "the job's identity is too long"));
        }
        Ok(hello)
    }
}

/// Answer of the listening side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Challenge {
    Prove { nonce: [u8; 32], proof: [u8; 32] },
    Refused { reason: String },
}

impl Challenge {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = prefix().to_vec();
        // Serialising plain data into memory cannot fail; an empty body is refused by the other side.
        bytes.extend_from_slice(&postcard::to_stdvec(self).unwrap_or_default());
        bytes.truncate(MAX_HANDSHAKE);
        bytes
    }

    pub fn decode(bytes: &[u8], peer: &str) -> Result<Self, ControlError> {
        exactly(check_prefix(bytes, peer)?, peer)
    }
}

/// The two proofs and keys that belong to one hello and one challenge.
pub(crate) struct Transcript {
    listener_proof: blake3::Hash,
    connector_proof: blake3::Hash,
    to_listener: [u8; 32],
    to_connector: [u8; 32],
}

impl Transcript {
    pub fn new(secret: &Secret, hello: &[u8], nonce: &[u8; 32]) -> Self {
        let keyed = |label: &str| {
            let mut hasher = blake3::Hasher::new_keyed(secret.as_bytes());
            for part in [label.as_bytes(), hello, nonce] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            hasher.finalize()
        };
        Self {
            listener_proof: keyed("mana control 1: listener"),
            connector_proof: keyed("mana control 1: connector"),
            to_listener: *keyed("mana control 1: key to listener").as_bytes(),
            to_connector: *keyed("mana control 1: key to connector").as_bytes(),
        }
    }

    pub fn listener_proof(&self) -> [u8; 32] {
        *self.listener_proof.as_bytes()
    }

    pub fn connector_proof(&self) -> [u8; 32] {
        *self.connector_proof.as_bytes()
    }

    /// Comparison of hashes takes the same time wherever they differ.
    pub fn is_listener(&self, proof: [u8; 32]) -> bool {
        self.listener_proof == blake3::Hash::from_bytes(proof)
    }

    pub fn is_connector(&self, proof: [u8; 32]) -> bool {
        self.connector_proof == blake3::Hash::from_bytes(proof)
    }

    pub fn into_listener(self) -> Session {
        Session::new(self.to_connector, self.to_listener)
    }

    pub fn into_connector(self) -> Session {
        Session::new(self.to_listener, self.to_connector)
    }
}

/// The keys and counters of an authenticated connection.
pub(crate) struct Session {
    send_key: [u8; 32],
    receive_key: [u8; 32],
    sent: u64,
    received: u64,
}

impl Session {
    fn new(send_key: [u8; 32], receive_key: [u8; 32]) -> Self {
        Self {
            send_key,
            receive_key,
            sent: 0,
            received: 0,
        }
    }

    /// Appends the whole frame of `payload` to `out`.
    pub fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ControlError> {
        let length = u32::try_from(payload.len()).map_err(|e| broken("this program", e))?;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(tag(&self.send_key, self.sent, payload).as_bytes());
        self.sent += 1;
        Ok(())
    }

    /// Checks the tag of the next frame received.
    pub fn open(
        &mut self,
        payload: &[u8],
        found: [u8; TAG],
        peer: &str,
    ) -> Result<(), ControlError> {
        if tag(&self.receive_key, self.received, payload) != blake3::Hash::from_bytes(found) {
            return Err(ControlError::Refused {
                peer: peer.to_owned(),
                reason: format!("wrong tag on frame {}", self.received),
            });
        }
        self.received += 1;
        Ok(())
    }
}

fn tag(key: &[u8; 32], counter: u64, payload: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&counter.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn prefix() -> [u8; PREFIX] {
    let mut bytes = [0; PREFIX];
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[MAGIC.len()..].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

fn check_prefix<'a>(bytes: &'a [u8], peer: &str) -> Result<&'a [u8], ControlError> {
    let Some((head, body)) = bytes.split_at_checked(PREFIX) else {
        return Err(broken(peer, "too short for this protocol"));
    };
    let (magic, version) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(broken(peer, "not this protocol"));
    }
    let found = u16::from_le_bytes([version[0], version[1]]);
    if found != VERSION {
        return Err(ControlError::Version {
            peer: peer.to_owned(),
            expected: VERSION,
            found,
        });
    }
    Ok(body)
}

/// Decodes a message that must fill `bytes` exactly.
pub(crate) fn exactly<T: for<'a> Deserialize<'a>>(
    bytes: &[u8],
    peer: &str,
) -> Result<T, ControlError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(broken(peer, format!("{} bytes too many", rest.len()))),
        Err(e) => Err(broken(peer, e)),
    }
}

fn broken(peer: &str, reason: impl std::fmt::Display) -> ControlError {
    ControlError::Broken {
        peer: peer.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            role: Role::Rank(3),
            job: "4711".into(),
            incarnation: 1,
            nonce: [1; 32],
        }
    }

    fn transcript(secret: u8, hello: &Hello, nonce: u8) -> Transcript {
        let bytes = hello.encode().expect("encode");
        Transcript::new(&Secret::from_bytes([secret; 32]), &bytes, &[nonce; 32])
    }

    #[test]
    fn proofs_depend_on_everything() {
        let base = transcript(9, &hello(), 2);
        assert!(base.is_listener(transcript(9, &hello(), 2).listener_proof()));
        let others = [
            transcript(8, &hello(), 2),
            transcript(9, &hello(), 3),
            transcript(
                9,
                &Hello {
                    role: Role::Rank(4),
                    ..hello()
                },
                2,
            ),
            transcript(
                9,
                &Hello {
                    role: Role::Tool,
                    ..hello()
                },
                2,
            ),
            transcript(
                9,
                &Hello {
                    job: "4712".into(),
                    ..hello()
                },
                2,
            ),
            transcript(
                9,
                &Hello {
                    incarnation: 2,
                    ..hello()
                },
                2,
            ),
            transcript(
                9,
                &Hello {
                    nonce: [2; 32],
                    ..hello()
                },
                2,
            ),
        ];
        for other in others {
            assert!(!base.is_listener(other.listener_proof()));
            assert!(!base.is_connector(other.connector_proof()));
        }
        assert!(!base.is_connector(base.listener_proof()), "no reflection");
    }

    #[test]
    fn frames_are_ordered_and_unforgeable() {
        let mut listener = transcript(9, &hello(), 2).into_listener();
        let mut connector = transcript(9, &hello(), 2).into_connector();
        let mut wire = Vec::new();
        for payload in [&b"one"[..], b"two"] {
            connector.seal(payload, &mut wire).expect("seal");
        }
        let frame = |k: usize| {
            let one = LENGTH + 3 + TAG;
            let bytes = &wire[k * one..(k + 1) * one];
            let tag: [u8; TAG] = bytes[LENGTH + 3..].try_into().expect("tag");
            (bytes[LENGTH..LENGTH + 3].to_vec(), tag)
        };
        let (one, one_tag) = frame(0);
        let (two, two_tag) = frame(1);
        assert!(
            listener.open(&two, two_tag, "peer").is_err(),
            "out of order"
        );
        assert!(listener.open(&two, one_tag, "peer").is_err(), "changed");
        listener.open(&one, one_tag, "peer").expect("first");
        assert!(listener.open(&one, one_tag, "peer").is_err(), "replayed");
        listener.open(&two, two_tag, "peer").expect("second");
        assert!(connector.open(&one, one_tag, "peer").is_err(), "reflected");
    }

    #[test]
    fn other_versions_are_named() {
        let mut bytes = hello().encode().expect("encode");
        assert_eq!(Hello::decode(&bytes, "peer").expect("decode"), hello());
        bytes[MAGIC.len()] ^= 0xff;
        assert!(matches!(
            Hello::decode(&bytes, "peer"),
            Err(ControlError::Version { .. })
        ));
        bytes[0] ^= 1;
        assert!(matches!(
            Hello::decode(&bytes, "peer"),
            Err(ControlError::Broken { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..MAX_HANDSHAKE)) {
            let _ = Hello::decode(&bytes, "peer");
            let _ = Challenge::decode(&bytes, "peer");
            let mut after_prefix = prefix().to_vec();
            after_prefix.extend(bytes);
            let _ = Hello::decode(&after_prefix, "peer");
            let _ = Challenge::decode(&after_prefix, "peer");
        }
    }
}
