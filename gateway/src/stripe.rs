//! A stripe on its way: filled in the order of the object's bytes, encoded in place, addressed to 14 targets, shared.
//!
//! Each step takes the one before by value, so that no byte can change after it was summed. The only copy of a byte is the one
//! into the stripe's memory, which is the source's. Every shard has memory of its own, since each is held until its own node has
//! taken it: a node that hangs holds a fourteenth of the stripes that it hangs on.

use std::array;
use std::ops::Range;
use tenfour_erasure::geometry::StripeGeometry;
use tenfour_erasure::{BlockSums, Codec, CodecError, crc64, crc64_combine, crc64_of_blocks};
use tenfour_rdma::{Buffer, Frozen};
use tenfour_types::limits::{CRC_BLOCK_BYTES, DATA_SHARDS, PARITY_SHARDS, TOTAL_SHARDS};
use tenfour_types::record::{ShardHeader, header_bytes, shard_digest};
use tenfour_types::{Digest, Epoch, ShardIndex, StripeId, TargetId};

/// By so much neighbouring shards' places differ modulo 4 KiB, bytes: the encoder's 14 streams would else evict each other from the
/// first-level cache.
const STAGGER_BYTES: usize = 256;
/// Shorter shards fit the cache anyway, and a record of one page stays in one.
const STAGGERED_FROM_BYTES: usize = 32 << 10;

/// Where a shard's record begins in its buffer.
fn record_start(geometry: StripeGeometry, shard: usize) -> usize {
    if geometry.shard_bytes < STAGGERED_FROM_BYTES { 0 } else { shard * STAGGER_BYTES }
}

/// The memory that a stripe takes: one buffer for each shard.
pub(crate) fn memory_of(geometry: StripeGeometry) -> [usize; TOTAL_SHARDS] {
    let record_bytes = header_bytes(geometry.shard_bytes) + geometry.shard_bytes;
    array::from_fn(|shard| record_start(geometry, shard) + record_bytes)
}

/// Memory that takes the stripe's bytes.
pub(crate) struct Filling {
    shards: [Buffer; TOTAL_SHARDS],
    geometry: StripeGeometry,
    filled: usize,
}

/// All 14 shards, without their headers.
pub(crate) struct Encoded {
    shards: [Buffer; TOTAL_SHARDS],
    geometry: StripeGeometry,
    sums: Box<[BlockSums; TOTAL_SHARDS]>,
    id: StripeId,
    digests: [Digest; TOTAL_SHARDS],
}

/// All 14 records as they are sent, each with the header of its first target. Immutable.
pub(crate) struct Addressed {
    records: [Option<Frozen>; TOTAL_SHARDS],
    geometry: StripeGeometry,
    sums: Box<[BlockSums; TOTAL_SHARDS]>,
    id: StripeId,
    epoch: Epoch,
    pub(crate) digests: [Digest; TOTAL_SHARDS],
}

/// A stripe cannot be made of its memory: a bug, since that is leased for it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StripeError {
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("a shard does not fit its memory")]
    Memory,
}

impl Filling {
    /// The buffers are of the lengths that [`memory_of`] says; `None` when they are too few.
    pub(crate) fn new(buffers: Vec<Buffer>, geometry: StripeGeometry) -> Option<Self> {
        Some(Self { shards: buffers.try_into().ok()?, geometry, filled: 0 })
    }

    /// The place of the next bytes: the rest of one data shard. Empty when the stripe is full.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let shard = self.filled / self.geometry.shard_bytes;
        let data = self.geometry.shard_data(shard);
        let done = self.filled.saturating_sub(data.start);
        match self.shards.get_mut(shard).filter(|_| shard < DATA_SHARDS) {
            Some(buffer) => {
                payload(self.geometry, shard, buffer).get_mut(done..data.len()).unwrap_or_default()
            }
            None => &mut [],
        }
    }

    /// So many bytes were put into the space.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.geometry.data_bytes);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.geometry.data_bytes
    }

    /// Pads, and fills the parity shards and all checksums in one pass.
    pub(crate) fn encode(self, id: StripeId, codec: &dyn Codec) -> Result<Encoded, StripeError> {
        let Self { mut shards, geometry, .. } = self;
        let mut sums = Box::new([const { BlockSums::new() }; TOTAL_SHARDS]);
        let mut payloads =
            shards.iter_mut().enumerate().map(|(shard, buffer)| payload(geometry, shard, buffer));
        let mut data: [&[u8]; DATA_SHARDS] = [&[]; DATA_SHARDS];
        for (shard, (place, payload)) in data.iter_mut().zip(payloads.by_ref()).enumerate() {
            payload.get_mut(geometry.shard_data(shard).len()..).unwrap_or_default().fill(0);
            *place = payload;
        }
        let mut parity: [&mut [u8]; PARITY_SHARDS] = array::from_fn(|_| payloads.next().unwrap_or_default());
        codec.encode(&data, &mut parity, Some(&mut sums))?;
        drop(payloads);
        let mut digests = [Digest([0; _]); TOTAL_SHARDS];
        for (index, (digest, sums)) in ShardIndex::all().zip(digests.iter_mut().zip(sums.iter())) {
            *digest = shard_digest(id, index, geometry.shard_bytes as u32, sums);
        }
        Ok(Encoded { shards, geometry, sums, id, digests })
    }
}

/// Where a shard's part of the object lies in its buffer.
fn object_place(geometry: StripeGeometry, shard: usize) -> Range<usize> {
    let start = record_start(geometry, shard) + header_bytes(geometry.shard_bytes);
    start..start + geometry.shard_data(shard).len()
}

/// A shard's payload, in its memory.
fn payload(geometry: StripeGeometry, shard: usize, buffer: &mut Buffer) -> &mut [u8] {
    let start = record_start(geometry, shard) + header_bytes(geometry.shard_bytes);
    buffer.get_mut(start..start + geometry.shard_bytes).unwrap_or_default()
}

impl Encoded {
    /// The object's bytes, in order.
    pub(crate) fn object_bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.shards.iter().enumerate().take(DATA_SHARDS).map(|(shard, buffer)| {
            let place = object_place(self.geometry, shard);
            buffer.get(place).unwrap_or_default()
        })
    }

    /// The CRC-64/NVME of each block of the data shards, padding included, in the order of the object's bytes.
    pub(crate) fn data_sums(&self) -> impl Iterator<Item = u64> {
        self.sums.iter().take(DATA_SHARDS).flat_map(|sums| sums.iter().copied())
    }

    /// The CRC-64/NVME of what came before and the object's bytes here, from those of the blocks. Only of a block that is padded are
    /// the bytes looked at.
    pub(crate) fn object_crc64(&self, before: u64) -> u64 {
        self.object_bytes().zip(self.sums.iter()).fold(before, |whole, (bytes, sums)| {
            let is_padded = bytes.len() < self.geometry.shard_bytes;
            let summed = if is_padded { bytes.len() - bytes.len() % CRC_BLOCK_BYTES } else { bytes.len() };
            let sums = sums.get(..summed.div_ceil(CRC_BLOCK_BYTES)).unwrap_or_default();
            let (summed_bytes, rest) = bytes.split_at(summed);
            let summed = crc64_of_blocks(sums, summed).unwrap_or_else(|| crc64(summed_bytes));
            let shard = crc64_combine(summed, crc64(rest), rest.len() as u64);
            crc64_combine(whole, shard, bytes.len() as u64)
        })
    }

    /// Writes the headers, for these targets by this epoch of the map.
    pub(crate) fn address(
        self,
        targets: &[TargetId; TOTAL_SHARDS],
        epoch: Epoch,
    ) -> Result<Addressed, StripeError> {
        let Self { shards, geometry, sums, id, digests } = self;
        let header_bytes = header_bytes(geometry.shard_bytes);
        let mut records = [const { None }; TOTAL_SHARDS];
        let parts = ShardIndex::all().zip(shards).zip(targets).zip(sums.iter()).zip(&mut records);
        for ((((index, mut buffer), target), sums), record) in parts {
            let start = record_start(geometry, index.get());
            let header = header_of(id, geometry, &digests, epoch, index, *target);
            let place = buffer.get_mut(start..start + header_bytes).ok_or(StripeError::Memory)?;
            if !header.write(sums, crc64, place) {
                return Err(StripeError::Memory);
            }
            *record = buffer.freeze().slice(start..start + header_bytes + geometry.shard_bytes);
        }
        Ok(Addressed { records, geometry, sums, id, epoch, digests })
    }
}

impl Addressed {
    pub(crate) fn id(&self) -> StripeId {
        self.id
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn data_bytes(&self) -> u32 {
        self.geometry.data_bytes as u32
    }

    /// What is sent of a shard, bytes.
    pub(crate) fn record_bytes(&self) -> usize {
        header_bytes(self.geometry.shard_bytes) + self.geometry.shard_bytes
    }

    /// What is sent of a shard: header, block table and payload.
    pub(crate) fn record(&self, index: ShardIndex) -> Option<Frozen> {
        self.records.get(index.get())?.clone()
    }

    /// The object's bytes, in order, for who reads them later.
    pub(crate) fn object_pieces(&self) -> impl Iterator<Item = Frozen> {
        let header_bytes = header_bytes(self.geometry.shard_bytes);
        self.records.iter().enumerate().take(DATA_SHARDS).filter_map(move |(shard, record)| {
            let bytes = self.geometry.shard_data(shard).len();
            record.as_ref().filter(|_| bytes > 0)?.slice(header_bytes..header_bytes + bytes)
        })
    }

    /// Writes the same record for another target to `place`; its length, or `None` when it does not fit.
    pub(crate) fn copy_for(&self, index: ShardIndex, target: TargetId, place: &mut [u8]) -> Option<usize> {
        let record = self.record(index)?;
        place.get_mut(..record.len())?.copy_from_slice(&record);
        let header = header_of(self.id, self.geometry, &self.digests, self.epoch, index, target);
        let place = place.get_mut(..header_bytes(self.geometry.shard_bytes))?;
        header.write(self.sums.get(index.get())?, crc64, place).then_some(record.len())
    }
}

fn header_of(
    stripe: StripeId,
    geometry: StripeGeometry,
    digests: &[Digest; TOTAL_SHARDS],
    epoch: Epoch,
    index: ShardIndex,
    target: TargetId,
) -> ShardHeader {
    let digest = digests[index.get()];
    ShardHeader { stripe, index, payload_bytes: geometry.shard_bytes as u32, epoch, target, digest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenfour_rdma::{ClusterKey, Domain, DomainConfig, Provider};
    use tenfour_types::{LeaseId, MetaGroupId};

    const ID: StripeId = StripeId { meta_group: MetaGroupId(1), lease: LeaseId(2), counter: 3 };

    /// A stripe of counted bytes, encoded for targets 0 to 13.
    fn stripe(data_bytes: usize) -> Addressed {
        let config = DomainConfig::new(Provider::Shm, "stripe-test", ClusterKey::generate(), 16 << 20);
        let domain = Domain::open(config).unwrap();
        let geometry = StripeGeometry::new(data_bytes).unwrap();
        let lease = |bytes: &usize| {
            let mut buffer = domain.pool().try_lease(*bytes).unwrap();
            buffer.fill(0xa5);
            buffer
        };
        let mut filling = Filling::new(memory_of(geometry).iter().map(lease).collect(), geometry).unwrap();
        let mut next = 0usize;
        while !filling.is_full() {
            let space = filling.space();
            let bytes = space.len().min(1777);
            for byte in &mut space[..bytes] {
                *byte = next as u8;
                next += 1;
            }
            filling.advance(bytes);
        }
        assert!(filling.space().is_empty());
        assert_eq!(next, data_bytes);
        let encoded = filling.encode(ID, &*tenfour_erasure::best()).unwrap();
        let whole: Vec<u8> = encoded.object_bytes().flatten().copied().collect();
        assert!(whole.iter().enumerate().all(|(at, byte)| *byte == at as u8) && whole.len() == data_bytes);
        assert_eq!(encoded.object_crc64(crc64(b"before")), crc64(&[b"before", &whole[..]].concat()));
        encoded.address(&std::array::from_fn(|index| TargetId(index as u32)), Epoch(9)).unwrap()
    }

    #[test]
    fn every_record_is_what_a_node_expects_and_the_data_shards_are_the_object() {
        for data_bytes in [1, 3904, 3905, 39_040, 400_000, 10 << 20] {
            let stripe = stripe(data_bytes);
            let pieces: Vec<u8> = stripe.object_pieces().flat_map(|piece| piece.to_vec()).collect();
            assert!(
                pieces.iter().enumerate().all(|(at, byte)| *byte == at as u8) && pieces.len() == data_bytes
            );
            let mut object = Vec::new();
            for index in ShardIndex::all() {
                let record = stripe.record(index).unwrap();
                let header = ShardHeader::read(&record, crc64).unwrap();
                assert_eq!(
                    (header.index, header.target, header.stripe),
                    (index, TargetId(index.get() as u32), ID)
                );
                let sums = header.read_table(&record).unwrap();
                let payload = &record[header_bytes(header.payload_bytes as usize)..];
                assert_eq!(payload.len(), header.payload_bytes as usize);
                tenfour_erasure::verify_blocks(payload, 0, &sums).unwrap();
                if index.is_data() {
                    object.extend_from_slice(payload);
                }
            }
            assert!(object.iter().take(data_bytes).enumerate().all(|(at, byte)| *byte == at as u8));
            assert!(object[data_bytes..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_copy_differs_in_its_target_alone() {
        let stripe = stripe(50_000);
        let index = ShardIndex::new(11).unwrap();
        let mut place = vec![0xee; 1 << 20];
        assert_eq!(stripe.copy_for(index, TargetId(77), &mut place[..100]), None);
        let bytes = stripe.copy_for(index, TargetId(77), &mut place).unwrap();
        let copy = &place[..bytes];
        let (was, is) = (
            ShardHeader::read(&stripe.record(index).unwrap(), crc64).unwrap(),
            ShardHeader::read(copy, crc64).unwrap(),
        );
        assert_eq!(is, ShardHeader { target: TargetId(77), ..was });
        assert_eq!(copy[128..], stripe.record(index).unwrap()[128..]);
    }
}
