//! One stripe: the shards of it that belong here are found, copied, or computed from ten others, and stored.
//!
//! Invariant: a shard is called done when the target has read a whole good copy of it, or its group commit has made one durable.
//! A good copy is never written over, and what does not match the digest in the stripe's row is never stored.

use super::duty::Wanted;
use super::pace::Pace;
use super::peer::FetchError;
use super::peers::Peers;
use super::progress::Counters;
use crate::target::{Fetched, ShardKey, StoreOutcome, Target, Verified, Wanted as Range, fetch_buffer_bytes};
use futures::future::join_all;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tenfour_erasure::{Codec, block_sums, crc64, verify_blocks};
use tenfour_placement::ClusterMap;
use tenfour_rdma::{Buffer, Pool};
use tenfour_types::limits::{DATA_SHARDS, TOTAL_SHARDS};
use tenfour_types::record::{ShardHeader, header_bytes, record_bytes, shard_digest};
use tenfour_types::shard_service::{ShardError, ShardRef, ShardTable};
use tenfour_types::{Scaled, ShardIndex, StripeRow, TargetId};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Memory comes within this: whoever needs it has reserved it.
const MEMORY_DEADLINE: Duration = Duration::from_secs(10);

/// What all stripes of a round share.
pub(super) struct Tools {
    pub(super) map: Arc<ClusterMap>,
    pub(super) targets: HashMap<TargetId, Arc<Target<Buffer>>>,
    pub(super) peers: Peers,
    pub(super) pool: Pool,
    pub(super) pace: Pace,
    pub(super) codec: Arc<dyn Codec>,
    pub(super) counters: Arc<Counters>,
}

/// A stripe and what is wanted of it.
pub(super) struct Job {
    pub(super) row: StripeRow,
    pub(super) wanted: Vec<Wanted>,
}

/// What became of it.
pub(super) struct Done {
    pub(super) row: StripeRow,
    /// Those that are where they belong now.
    pub(super) there: Vec<Wanted>,
    pub(super) failed: Vec<Wanted>,
}

impl Job {
    /// Memory that it takes at most, bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let shard = self.row.shard_bytes();
        let page = |bytes: usize| bytes.next_multiple_of(4096);
        DATA_SHARDS * page(fetch_buffer_bytes(shard)) + self.wanted.len() * page(record_bytes(shard))
    }

    pub(super) async fn run(self, tools: &Tools) -> Done {
        let Self { row, wanted } = self;
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        for each in wanted {
            let place = if tools.holds(&row, each).await { &mut there } else { &mut missing };
            place.push(each);
        }
        let mut failed = Vec::new();
        let mut lost = Vec::new();
        for each in missing {
            match tools.copy(&row, each).await {
                Some(record) => tools.store(each, record, &mut there, &mut failed).await,
                None => lost.push(each),
            }
        }
        if !lost.is_empty() {
            match tools.compute(&row, &lost).await {
                Ok(records) => {
                    for (each, record) in lost.into_iter().zip(records) {
                        tools.store(each, record, &mut there, &mut failed).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(stripe = %row.id, %error, shards = ?lost, "a stripe cannot be repaired yet");
                    failed.extend(lost);
                }
            }
        }
        tools.counters.found(there.len());
        Done { row, there, failed }
    }
}

/// A shard's payload: somewhere in a buffer.
struct Piece {
    index: ShardIndex,
    memory: Buffer,
    range: std::ops::Range<usize>,
}

impl Tools {
    /// Whether the target has a good copy already.
    async fn holds(&self, row: &StripeRow, wanted: Wanted) -> bool {
        let Some(target) = self.targets.get(&wanted.target) else { return false };
        let key = ShardKey { stripe: row.id, index: wanted.index, digest: row.digests[wanted.index.get()] };
        let (answer, answered) = oneshot::channel();
        target.verify(
            key,
            Box::new(move |result| {
                let _ = answer.send(result);
            }),
        );
        matches!(answered.await, Ok(Ok(())))
    }

    /// The shard's record, copied from where an override or the slot's earlier targets have it.
    async fn copy(&self, row: &StripeRow, wanted: Wanted) -> Option<Verified<Buffer>> {
        let start = header_bytes(row.shard_bytes());
        let elsewhere = self.map.holders(row, wanted.index).filter(|holder| *holder != wanted.target);
        for holder in elsewhere.collect::<Vec<_>>() {
            let memory = self.lease(record_bytes(row.shard_bytes())).await.ok()?;
            let fetched = self.fetch(row, wanted.index, holder, memory, start).await;
            if let Ok(Piece { memory, .. }) = fetched {
                return address(&self.map, row, wanted, memory);
            }
        }
        None
    }

    /// The shards' records, computed from ten others.
    async fn compute(&self, row: &StripeRow, lost: &[Wanted]) -> Result<Vec<Verified<Buffer>>, FetchError> {
        let pieces = self.gather(row, lost).await?;
        let mut records = Vec::with_capacity(lost.len());
        for _ in lost {
            records.push(self.lease(record_bytes(row.shard_bytes())).await?);
        }
        let (map, codec, row, lost) =
            (Arc::clone(&self.map), Arc::clone(&self.codec), row.clone(), lost.to_vec());
        let computed = tokio::task::spawn_blocking(move || {
            let range = header_bytes(row.shard_bytes())..header_bytes(row.shard_bytes()) + row.shard_bytes();
            let mut present: [Option<&[u8]>; TOTAL_SHARDS] = [None; TOTAL_SHARDS];
            for piece in &pieces {
                present[piece.index.get()] = piece.memory.get(piece.range.clone());
            }
            let places = lost.iter().zip(&mut records);
            let mut places: Vec<(usize, &mut [u8])> = places
                .filter_map(|(wanted, record)| Some((wanted.index.get(), record.get_mut(range.clone())?)))
                .collect();
            codec.reconstruct(&present, &mut places).map_err(|error| {
                tracing::error!(stripe = %row.id, %error, "a stripe could not be reconstructed");
                FetchError::Wrong
            })?;
            let addressed =
                lost.iter().zip(records).map(|(wanted, record)| address(&map, &row, *wanted, record));
            addressed.collect::<Option<Vec<_>>>().ok_or(FetchError::Wrong)
        });
        computed.await.map_err(|_| FetchError::Wrong)?
    }

    /// Ten shards, whichever can be had. Which ten are asked first differs from stripe to stripe, so that all nodes share the reading.
    async fn gather(&self, row: &StripeRow, lost: &[Wanted]) -> Result<Vec<Piece>, FetchError> {
        let first = row.id.counter as usize;
        let mut left = (0..TOTAL_SHARDS)
            .filter_map(|step| ShardIndex::new((first.wrapping_add(step)) % TOTAL_SHARDS))
            .filter(|index| !lost.iter().any(|wanted| wanted.index == *index));
        let (mut pieces, mut last) = (Vec::with_capacity(DATA_SHARDS), FetchError::Lost);
        while pieces.len() < DATA_SHARDS {
            let asked: Vec<ShardIndex> = left.by_ref().take(DATA_SHARDS - pieces.len()).collect();
            if asked.is_empty() {
                return Err(last);
            }
            for fetched in join_all(asked.into_iter().map(|index| self.any(row, index))).await {
                match fetched {
                    Ok(piece) => pieces.push(piece),
                    Err(error) => last = error,
                }
            }
        }
        Ok(pieces)
    }

    /// A shard from any of its holders.
    async fn any(&self, row: &StripeRow, index: ShardIndex) -> Result<Piece, FetchError> {
        let mut last = FetchError::Lost;
        for holder in self.map.holders(row, index).collect::<Vec<_>>() {
            let memory = self.lease(fetch_buffer_bytes(row.shard_bytes())).await?;
            match self.fetch(row, index, holder, memory, 0).await {
                Ok(piece) => return Ok(piece),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A shard's payload from one holder, verified against the row's digest; a remote one comes to `start` of the memory.
    async fn fetch(
        &self,
        row: &StripeRow,
        index: ShardIndex,
        holder: TargetId,
        memory: Buffer,
        start: usize,
    ) -> Result<Piece, FetchError> {
        let bytes = row.shard_bytes();
        let digest = row.digests[index.get()];
        if let Some(target) = self.targets.get(&holder).filter(|_| start == 0) {
            let key = ShardKey { stripe: row.id, index, digest };
            return self
                .fetch_here(target, Range { key, offset: 0, bytes: bytes as u32 }, index, memory)
                .await;
        }
        let node = self.map.node_of(holder).ok_or(FetchError::Lost)?;
        let link = self.peers.get(node, &self.map).await.ok_or(FetchError::Lost)?;
        let peer = link.get().and_then(Option::as_ref).ok_or(FetchError::Lost)?;
        self.pace.take(bytes).await;
        let shard = ShardRef { stripe: row.id, index, target: holder, digest };
        let range = start..start + bytes;
        let (memory, table) = peer.fetch(shard, memory, range.clone()).await?;
        self.counters.read(bytes);
        let payload = memory.get(range.clone()).ok_or(FetchError::Wrong)?;
        if is_the_shard(row, index, &table) && verify_blocks(payload, 0, &table.block_sums).is_ok() {
            Ok(Piece { index, memory, range })
        } else {
            Err(FetchError::Wrong)
        }
    }

    /// The same from a target of this node.
    async fn fetch_here(
        &self,
        target: &Target<Buffer>,
        wanted: Range,
        index: ShardIndex,
        memory: Buffer,
    ) -> Result<Piece, FetchError> {
        let (answer, answered) = oneshot::channel();
        let pass_on = move |result: Result<Fetched<Buffer>, (Buffer, ShardError)>| {
            drop(answer.send(result.map_err(|(_, error)| error)));
        };
        target.fetch(wanted, memory, Box::new(pass_on));
        let Fetched { memory, range, .. } = answered.await.map_err(|_| FetchError::Lost)??;
        Ok(Piece { index, memory, range })
    }

    async fn store(
        &self,
        wanted: Wanted,
        record: Verified<Buffer>,
        there: &mut Vec<Wanted>,
        failed: &mut Vec<Wanted>,
    ) {
        let bytes = record.header().payload_bytes as usize;
        let (answer, answered) = oneshot::channel();
        let pass_on = move |outcome: StoreOutcome<Buffer>| {
            let _ = answer.send(outcome.result.map(drop));
        };
        let Some(target) = self.targets.get(&wanted.target) else { return failed.push(wanted) };
        target.store(record, Box::new(pass_on));
        match answered.await {
            Ok(Ok(())) => {
                self.counters.rebuilt(bytes);
                there.push(wanted);
            }
            Ok(Err(error)) => {
                tracing::warn!(target_id = %wanted.target, %error, "a repaired shard is not stored");
                failed.push(wanted);
            }
            Err(_) => failed.push(wanted),
        }
    }

    async fn lease(&self, bytes: usize) -> Result<Buffer, FetchError> {
        let leased = timeout(MEMORY_DEADLINE.scaled(), self.pool.lease(bytes)).await;
        leased.ok().and_then(Result::ok).ok_or(FetchError::Memory)
    }
}

fn is_the_shard(row: &StripeRow, index: ShardIndex, table: &ShardTable) -> bool {
    table.payload_bytes as usize == row.shard_bytes()
        && shard_digest(row.id, index, table.payload_bytes, &table.block_sums) == row.digests[index.get()]
}

/// Makes the payload that lies behind the room for a header a record for its home; `None` when it is not the shard of the row.
fn address(
    map: &ClusterMap,
    row: &StripeRow,
    wanted: Wanted,
    mut memory: Buffer,
) -> Option<Verified<Buffer>> {
    let (start, bytes) = (header_bytes(row.shard_bytes()), row.shard_bytes());
    let sums = block_sums(memory.get(start..start + bytes)?);
    let table = ShardTable { payload_bytes: bytes as u32, block_sums: sums.to_vec() };
    if !is_the_shard(row, wanted.index, &table) {
        tracing::error!(stripe = %row.id, index = %wanted.index, "what was computed is not the shard: it is not stored");
        return None;
    }
    let header = ShardHeader {
        stripe: row.id,
        index: wanted.index,
        payload_bytes: table.payload_bytes,
        epoch: map.epoch,
        target: wanted.target,
        digest: row.digests[wanted.index.get()],
    };
    if !header.write(&table.block_sums, crc64, memory.get_mut(..start)?) {
        return None;
    }
    Verified::verify(memory, start + bytes).ok()
}
