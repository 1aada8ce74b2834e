//! Where an object's bytes lie: in which stripe, in which shard of it, and where that shard is in the stripe's buffer.
//!
//! Pure arithmetic; it owns no memory. A stripe's data shard `i` holds the object bytes `i * shard_bytes ..` in order, the end
//! is padded with zeros, so a range of an object touches the fewest shards that it can.
//!
//! Invariant: every range handed out lies inside the object, the shard or the buffer it is about.

use std::ops::Range;

use tenfour_types::limits::{
    CRC_BLOCK_BYTES, DATA_SHARDS, PARITY_SHARDS, RECORD_ALIGN_BYTES, SHARD_ALIGN_BYTES, SHARD_BYTES_MAX,
    STRIPE_DATA_BYTES_MAX, TOTAL_SHARDS,
};
use tenfour_types::record::{HEADER_BYTES_MAX, header_bytes, record_bytes};

/// Room before each payload for the shard's record header, bytes; the header ends where the payload begins.
pub const HEADROOM_BYTES: usize = 1024;

/// Distance by which neighbouring shards' places differ modulo 4 KiB, bytes: 14 shards then fall on 14 different parts of a
/// page, else the streams of the encoder evict each other from the first-level cache.
pub(crate) const STAGGER_BYTES: usize = 256;

const _: () = assert!(HEADER_BYTES_MAX <= HEADROOM_BYTES);
const _: () = assert!(HEADROOM_BYTES.is_multiple_of(SHARD_ALIGN_BYTES));
const _: () = assert!(TOTAL_SHARDS * STAGGER_BYTES <= RECORD_ALIGN_BYTES);

/// The shape of one stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StripeGeometry {
    /// Object bytes in the stripe, 1 to `STRIPE_DATA_BYTES_MAX`.
    pub data_bytes: usize,
    /// Payload of each of the 14 shards: a tenth of it, rounded up ([`tenfour_types::shard_bytes`]).
    pub shard_bytes: usize,
}

impl StripeGeometry {
    /// The stripe that holds `data_bytes` object bytes; `None` for none and for more than `STRIPE_DATA_BYTES_MAX`.
    #[must_use]
    pub fn new(data_bytes: usize) -> Option<Self> {
        if data_bytes == 0 || data_bytes > STRIPE_DATA_BYTES_MAX {
            return None;
        }
        Some(Self { data_bytes, shard_bytes: tenfour_types::shard_bytes(data_bytes) })
    }

    /// The object bytes of data shard `shard`, as a range of the stripe's data; empty for a shard that is all padding.
    #[must_use]
    pub const fn shard_data(&self, shard: usize) -> Range<usize> {
        let start = shard.saturating_mul(self.shard_bytes);
        let end = start.saturating_add(self.shard_bytes);
        let last = self.data_bytes;
        (if start < last { start } else { last })..(if end < last { end } else { last })
    }

    /// The parts of data shards that hold a range of the stripe's data, in order, none of them empty. What of `range` is
    /// beyond the stripe's end is left out.
    pub fn touched(&self, range: Range<usize>) -> impl Iterator<Item = ShardRange> + use<> {
        let geometry = *self;
        let end = range.end.min(self.data_bytes);
        let start = range.start.min(end);
        let first = start / self.shard_bytes;
        let shards = if start == end { 0..0 } else { first..end.div_ceil(self.shard_bytes) };
        shards.map(move |shard| {
            let data = geometry.shard_data(shard);
            let within = start.max(data.start) - data.start..end.min(data.end) - data.start;
            ShardRange { shard, within }
        })
    }

    /// The places of the stripe's shards in its buffer.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        layout(self.shard_bytes)
    }

    /// Writes the zeros after the last object byte into the data shards of a stripe's buffer.
    pub fn zero_padding(&self, buffer: &mut [u8]) -> Result<(), WrongBuffer> {
        let layout = self.layout();
        layout.check(buffer)?;
        for shard in 0..DATA_SHARDS {
            let payload = layout.payload_offset[shard];
            buffer[payload + self.shard_data(shard).len()..payload + self.shard_bytes].fill(0);
        }
        Ok(())
    }
}

/// A part of one data shard's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRange {
    /// Which data shard, 0 to 9.
    pub shard: usize,
    /// Which bytes of its payload.
    pub within: Range<usize>,
}

/// One stripe's share of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StripeSpan {
    /// The object byte it begins with.
    pub object_offset: u64,
    /// Its shape.
    pub geometry: StripeGeometry,
}

/// An object's bytes cut into stripes: full ones of `STRIPE_DATA_BYTES_MAX`, then the shorter rest. None for an empty object.
pub fn stripes(object_bytes: u64) -> impl Iterator<Item = StripeSpan> {
    let full_bytes = STRIPE_DATA_BYTES_MAX as u64;
    (0..object_bytes.div_ceil(full_bytes)).filter_map(move |number| {
        let object_offset = number * full_bytes;
        let data_bytes = (object_bytes - object_offset).min(full_bytes);
        let geometry = StripeGeometry::new(usize::try_from(data_bytes).ok()?)?;
        Some(StripeSpan { object_offset, geometry })
    })
}

/// The smallest run of whole CRC blocks of a payload that covers `range`; the payload's last block may be short.
#[must_use]
pub fn whole_blocks(range: Range<usize>, shard_bytes: usize) -> Range<usize> {
    let end = range.end.min(shard_bytes);
    let start = range.start.min(end);
    let first = start - start % CRC_BLOCK_BYTES;
    let last =
        if start == end { first } else { end.div_ceil(CRC_BLOCK_BYTES).saturating_mul(CRC_BLOCK_BYTES) };
    first..last.min(shard_bytes)
}

/// Where the 14 shards of a stripe lie in one contiguous buffer.
///
/// ```text
///   region 0                                                      region 1
///   | unused | header | payload 0 | zeros to 4096 | stagger       | unused | header | payload 1 | ...
///   '- headroom 1024 -'
///            '------------- record ---------------'
/// ```
///
/// A record is what a node stores ([`tenfour_types::record`]). In a buffer that begins on a multiple of 64, every payload does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layout {
    /// Where each shard's payload begins, bytes from the buffer's start.
    pub payload_offset: [usize; TOTAL_SHARDS],
    /// Payload of each shard, bytes.
    pub shard_bytes: usize,
    /// Header, payload and padding of each shard, bytes: a multiple of `RECORD_ALIGN_BYTES`.
    pub record_bytes: usize,
    /// From one shard's region to the next's, bytes.
    pub stride_bytes: usize,
    /// Length of the whole buffer, bytes.
    pub total_bytes: usize,
}

/// The largest layout's length: what a buffer that fits every stripe needs, bytes.
pub const LAYOUT_BYTES_MAX: usize = layout(SHARD_BYTES_MAX).total_bytes;

/// The layout for shards of `shard_bytes` (up to `SHARD_BYTES_MAX`; longer ones are cut to it).
#[must_use]
pub const fn layout(shard_bytes: usize) -> Layout {
    let shard_bytes = if shard_bytes < SHARD_BYTES_MAX { shard_bytes } else { SHARD_BYTES_MAX };
    let record_bytes = record_bytes(shard_bytes);
    let region_bytes = HEADROOM_BYTES - header_bytes(shard_bytes) + record_bytes;
    let stride_bytes = region_bytes.next_multiple_of(RECORD_ALIGN_BYTES) + STAGGER_BYTES;
    let mut payload_offset = [0; TOTAL_SHARDS];
    let mut shard = 0;
    while shard < TOTAL_SHARDS {
        payload_offset[shard] = shard * stride_bytes + HEADROOM_BYTES;
        shard += 1;
    }
    Layout {
        payload_offset,
        shard_bytes,
        record_bytes,
        stride_bytes,
        total_bytes: TOTAL_SHARDS * stride_bytes,
    }
}

impl Layout {
    /// Where the payload begins within its record.
    #[must_use]
    pub const fn header_bytes(&self) -> usize {
        header_bytes(self.shard_bytes)
    }

    /// The payload of a shard, as a range of the buffer; `None` when there is no such shard.
    #[must_use]
    pub fn payload(&self, shard: usize) -> Option<Range<usize>> {
        let start = *self.payload_offset.get(shard)?;
        Some(start..start + self.shard_bytes)
    }

    /// The whole record of a shard (header, payload, padding), as a range of the buffer; `None` when there is no such shard.
    #[must_use]
    pub fn record(&self, shard: usize) -> Option<Range<usize>> {
        let start = *self.payload_offset.get(shard)? - self.header_bytes();
        Some(start..start + self.record_bytes)
    }

    /// The payloads of all 14 shards, to read.
    pub fn payloads<'a>(&self, buffer: &'a [u8]) -> Result<[&'a [u8]; TOTAL_SHARDS], WrongBuffer> {
        self.check(buffer)?;
        Ok(self.payload_offset.map(|start| &buffer[start..start + self.shard_bytes]))
    }

    /// The payloads of all 14 shards, to write: data shards 0 to 9, then parity.
    pub fn payloads_mut<'a>(
        &self,
        buffer: &'a mut [u8],
    ) -> Result<[&'a mut [u8]; TOTAL_SHARDS], WrongBuffer> {
        self.parts_mut(buffer, HEADROOM_BYTES, self.shard_bytes)
    }

    /// The records of all 14 shards, to write their headers and padding.
    pub fn records_mut<'a>(&self, buffer: &'a mut [u8]) -> Result<[&'a mut [u8]; TOTAL_SHARDS], WrongBuffer> {
        self.parts_mut(buffer, HEADROOM_BYTES - self.header_bytes(), self.record_bytes)
    }

    /// The data payloads to read and the parity payloads to write: what [`Codec::encode`](crate::Codec::encode) takes.
    pub fn split<'a>(&self, buffer: &'a mut [u8]) -> Result<DataAndParity<'a>, WrongBuffer> {
        let [d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, p0, p1, p2, p3] = self.payloads_mut(buffer)?;
        Ok(DataAndParity { data: [d0, d1, d2, d3, d4, d5, d6, d7, d8, d9], parity: [p0, p1, p2, p3] })
    }

    /// The same part of each of the 14 regions.
    fn parts_mut<'a>(
        &self,
        buffer: &'a mut [u8],
        offset: usize,
        bytes: usize,
    ) -> Result<[&'a mut [u8]; TOTAL_SHARDS], WrongBuffer> {
        self.check(buffer)?;
        let mut regions = buffer.chunks_exact_mut(self.stride_bytes);
        Ok(std::array::from_fn(|_| {
            let region = regions.next().unwrap_or_default();
            region.get_mut(offset..offset + bytes).unwrap_or_default()
        }))
    }

    fn check(&self, buffer: &[u8]) -> Result<(), WrongBuffer> {
        if buffer.len() < self.total_bytes {
            return Err(WrongBuffer { needed_bytes: self.total_bytes, found_bytes: buffer.len() });
        }
        Ok(())
    }
}

/// A stripe's buffer taken apart for the encoder.
#[derive(Debug)]
pub struct DataAndParity<'a> {
    /// Payloads of shards 0 to 9.
    pub data: [&'a [u8]; DATA_SHARDS],
    /// Payloads of shards 10 to 13.
    pub parity: [&'a mut [u8]; PARITY_SHARDS],
}

/// A buffer too short for the stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stripe's buffer has {found_bytes} bytes, it needs {needed_bytes}")]
pub struct WrongBuffer {
    /// Bytes that the layout needs.
    pub needed_bytes: usize,
    /// Bytes that were given.
    pub found_bytes: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_edges_of_a_stripe() {
        assert_eq!(StripeGeometry::new(0), None);
        assert_eq!(StripeGeometry::new(STRIPE_DATA_BYTES_MAX + 1), None);
        let full = StripeGeometry::new(STRIPE_DATA_BYTES_MAX).unwrap();
        assert_eq!(full.shard_bytes, SHARD_BYTES_MAX);
        assert_eq!(full.touched(0..usize::MAX).count(), DATA_SHARDS);
        assert_eq!(full.touched(5..5).count(), 0);
        let one = StripeGeometry::new(1).unwrap();
        let touched: Vec<_> = one.touched(0..usize::MAX).collect();
        assert_eq!(touched, [ShardRange { shard: 0, within: 0..1 }]);
        assert_eq!(one.shard_data(usize::MAX), 1..1);
        assert_eq!(stripes(0).count(), 0);
        assert!(whole_blocks(usize::MAX..usize::MAX, 640).is_empty());
    }

    #[test]
    fn a_short_buffer_is_refused() {
        let layout = layout(4096);
        let mut buffer = vec![0; layout.total_bytes - 1];
        let short = WrongBuffer { needed_bytes: layout.total_bytes, found_bytes: layout.total_bytes - 1 };
        assert_eq!(layout.payloads(&buffer).unwrap_err(), short);
        assert_eq!(layout.split(&mut buffer).unwrap_err(), short);
        assert_eq!(layout.records_mut(&mut buffer).unwrap_err(), short);
        assert_eq!((layout.payload(14), layout.record(14)), (None, None));
    }

    proptest! {
        #[test]
        fn a_range_is_the_bytes_of_its_parts(
            data_bytes in prop_oneof![1..2000_usize, 1..200_000_usize],
            ends in any::<[prop::sample::Index; 2]>(),
        ) {
            let geometry = StripeGeometry::new(data_bytes).unwrap();
            prop_assert!(geometry.shard_bytes * DATA_SHARDS >= data_bytes);
            prop_assert!(geometry.shard_bytes.is_multiple_of(SHARD_ALIGN_BYTES));
            let [x, y] = ends.map(|end| end.index(data_bytes + 1));
            let range = x.min(y)..x.max(y);
            let mut next = range.start;
            for part in geometry.touched(range.clone()) {
                prop_assert!(!part.within.is_empty() && part.within.end <= geometry.shard_bytes);
                prop_assert_eq!(part.shard * geometry.shard_bytes + part.within.start, next);
                next += part.within.len();
            }
            prop_assert_eq!(next, range.end);
            let shards: usize = (0..DATA_SHARDS).map(|shard| geometry.shard_data(shard).len()).sum();
            prop_assert_eq!(shards, data_bytes);
        }

        #[test]
        fn stripes_follow_one_another(object_bytes in 0..200_000_000_u64) {
            let mut next = 0;
            for span in stripes(object_bytes) {
                prop_assert_eq!(span.object_offset, next);
                next += span.geometry.data_bytes as u64;
                prop_assert!(span.geometry.data_bytes == STRIPE_DATA_BYTES_MAX || next == object_bytes);
            }
            prop_assert_eq!(next, object_bytes);
        }

        #[test]
        fn whole_blocks_cover_the_range(lines in 1..1000_usize, ends in any::<[prop::sample::Index; 2]>()) {
            let shard_bytes = lines * 64;
            let [x, y] = ends.map(|end| end.index(shard_bytes + 1));
            let range = x.min(y)..x.max(y);
            let blocks = whole_blocks(range.clone(), shard_bytes);
            prop_assert!(blocks.start <= range.start && range.end <= blocks.end || range.is_empty());
            prop_assert!(blocks.start.is_multiple_of(CRC_BLOCK_BYTES) || blocks.is_empty());
            prop_assert!(blocks.end.is_multiple_of(CRC_BLOCK_BYTES) || blocks.end == shard_bytes || blocks.is_empty());
            prop_assert!(blocks.len() < range.len() + 2 * CRC_BLOCK_BYTES);
        }

        #[test]
        fn regions_are_apart_aligned_and_staggered(lines in 1..=SHARD_BYTES_MAX / 64) {
            let layout = layout(lines * 64);
            let mut end_of_last = 0;
            for shard in 0..TOTAL_SHARDS {
                let (record, payload) = (layout.record(shard).unwrap(), layout.payload(shard).unwrap());
                prop_assert!(record.start >= end_of_last);
                prop_assert_eq!(payload.start - record.start, header_bytes(lines * 64));
                prop_assert!(payload.end <= record.end && record.len() == record_bytes(lines * 64));
                prop_assert!(payload.start.is_multiple_of(64));
                end_of_last = record.end;
            }
            prop_assert!(end_of_last <= layout.total_bytes && layout.total_bytes <= LAYOUT_BYTES_MAX);
            let mut places = layout.payload_offset.map(|offset| offset % 4096 / STAGGER_BYTES);
            places.sort_unstable();
            prop_assert!(places.windows(2).all(|pair| pair[0] != pair[1]));
        }

        #[test]
        fn the_parts_of_a_buffer_are_its_ranges(data_bytes in 1..300_000_usize) {
            let geometry = StripeGeometry::new(data_bytes).unwrap();
            let layout = geometry.layout();
            let mut buffer = vec![0xee; layout.total_bytes + 7];
            geometry.zero_padding(&mut buffer).unwrap();
            let zeros = buffer.iter().filter(|byte| **byte == 0).count();
            prop_assert_eq!(zeros, geometry.shard_bytes * DATA_SHARDS - data_bytes);
            for (shard, record) in layout.records_mut(&mut buffer).unwrap().into_iter().enumerate() {
                prop_assert_eq!(record.len(), layout.record_bytes);
                record[0] = shard as u8;
            }
            for (shard, payload) in layout.payloads_mut(&mut buffer).unwrap().into_iter().enumerate() {
                payload.fill(100 + shard as u8);
            }
            let split = layout.split(&mut buffer).unwrap();
            prop_assert!(split.data[9].iter().all(|byte| *byte == 109) && split.parity[0].iter().all(|byte| *byte == 110));
            for shard in 0..TOTAL_SHARDS {
                prop_assert_eq!(buffer[layout.record(shard).unwrap().start], shard as u8);
                let payload = &buffer[layout.payload(shard).unwrap()];
                prop_assert_eq!(payload, layout.payloads(&buffer).unwrap()[shard]);
                prop_assert!(payload.len() == geometry.shard_bytes && payload.iter().all(|byte| *byte == 100 + shard as u8));
            }
        }
    }
}
