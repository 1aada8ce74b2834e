//! The other end of `tenfour bench fabric`: answers immediates by immediates, messages by messages, and grants what it is asked for.
//!
//! ```text
//! both, once     address (8), bytes (4), key (8) of what the other may WRITE to; the peer adds what it may READ
//! ping           [0, anything …]            answered by the same
//! quiet          [1, anything …]            not answered
//! ask for memory [2, bytes (4)]             answered by address, bytes and key; the WRITE with immediate that follows by "done"
//! ```

use super::{SIZE_MAX, open};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use std::time::Duration;
use tenfour_rdma::{
    ClusterKey, ConnectOptions, Connection, Domain, Endpoint, Frozen, Grant, Received, Remote,
};

/// The variable in which the peer is told the key of the two.
pub(super) const KEY_VARIABLE: &str = "TENFOUR_BENCH_KEY";
/// Longer than any measurement.
pub(super) const GRANT_EXPIRES: Duration = Duration::from_secs(24 * 3600);
pub(super) const PING: u8 = 0;
pub(super) const QUIET: u8 = 1;
pub(super) const ASK: u8 = 2;
/// Bytes of an encoded remote range.
pub(super) const REMOTE_BYTES: usize = 20;

/// Options of the hidden command `bench fabric-peer`.
#[derive(clap::Args, Clone, Debug)]
pub struct PeerArguments {
    /// Where to connect.
    #[arg(long)]
    at: String,
    /// Poll so long before sleeping.
    #[arg(long)]
    spin_us: u64,
    /// Run on this core.
    #[arg(long)]
    cpu: Option<usize>,
}

/// Connects, and answers until the other end closes.
pub async fn run(arguments: PeerArguments) -> Result<()> {
    tokio::spawn(serve(arguments)).await?
}

async fn serve(arguments: PeerArguments) -> Result<()> {
    arguments.cpu.map(super::cores::bind).transpose()?;
    let at: Endpoint = arguments.at.parse()?;
    let key = std::env::var(KEY_VARIABLE).with_context(|| format!("{KEY_VARIABLE} is not set"))?;
    let domain = open(at.provider(), Duration::from_micros(arguments.spin_us), ClusterKey::from_hex(&key)?)?;
    let connection = domain.connect(&at, ConnectOptions::default()).await?;
    let written = region(&domain).await?;
    let length = written.len();
    let written = connection.grant_write(written, 0..length, GRANT_EXPIRES)?;
    let source = region(&domain).await?.freeze();
    let read = connection.grant_read(source.clone(), 0..source.len(), GRANT_EXPIRES)?;
    connection.send([encode(written.remote()), encode(read.remote())].concat().into()).await?;
    let Received::Message(theirs) = connection.recv().await? else { bail!("an immediate before the set-up") };
    let to = decode(&theirs).context("a malformed set-up")?;
    let mut peer = Peer { domain, connection, source, to, granted: None };
    while let Ok(received) = peer.connection.recv().await {
        peer.answer(received).await?;
    }
    Ok(())
}

struct Peer {
    domain: Domain,
    connection: Connection,
    source: Frozen,
    /// What we may write to.
    to: Remote,
    /// What was asked for and is to be filled.
    granted: Option<Grant>,
}

impl Peer {
    async fn answer(&mut self, received: Received) -> Result<()> {
        match received {
            Received::Immediate { value, bytes } => match self.granted.take() {
                Some(grant) => {
                    drop(grant.seal().await);
                    drop(self.connection.post_send(Bytes::from_static(b"done")).await?);
                }
                None => {
                    let page = self.source.slice(0..bytes as usize).context("an immediate out of bounds")?;
                    drop(self.connection.post_write(page, self.to, Some(value)).await?);
                }
            },
            Received::Message(message) => match message.split_first() {
                Some((&PING, _)) => drop(self.connection.post_send(message).await?),
                Some((&QUIET, _)) => {}
                Some((&ASK, bytes)) => {
                    let bytes = u32::from_le_bytes(bytes.try_into().context("a malformed request")?) as usize;
                    let buffer = self.domain.pool().lease(bytes).await?;
                    let grant = self.connection.grant_write(buffer, 0..bytes, GRANT_EXPIRES)?;
                    let remote = encode(grant.remote());
                    self.granted = Some(grant);
                    drop(self.connection.post_send(remote.into()).await?);
                }
                _ => bail!("an unknown message"),
            },
        }
        Ok(())
    }
}

/// Memory for the largest operation, resident.
pub(super) async fn region(domain: &Domain) -> Result<tenfour_rdma::Buffer> {
    let mut buffer = domain.pool().lease(SIZE_MAX as usize).await?;
    buffer.fill(0x5a);
    Ok(buffer)
}

pub(super) fn encode(remote: Remote) -> Vec<u8> {
    [&remote.address.to_le_bytes()[..], &remote.bytes.to_le_bytes(), &remote.key.to_le_bytes()].concat()
}

pub(super) fn decode(bytes: &[u8]) -> Option<Remote> {
    let (address, rest) = bytes.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let key = rest.first_chunk()?;
    Some(Remote {
        address: u64::from_le_bytes(*address),
        bytes: u32::from_le_bytes(*length),
        key: u64::from_le_bytes(*key),
    })
}
