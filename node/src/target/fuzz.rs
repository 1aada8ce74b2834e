//! What must hold of any bytes on a disk or in a staging slot: the fuzz targets of this crate, which plain tests replay over
//! `fuzz/corpus`.
//!
//! Each function takes any bytes, panics where a promise is broken, and returns whether they were what it decodes. Where a checksum
//! would keep everything out, the bytes are also tried with good ones: nobody outside should be able to make them, but a bug of ours
//! can.

use super::index::{Noted, Row, decode_position, encode_position};
use super::record::{TOMBSTONES_MAX, Verified, read_tombstones, write_tombstones};
use super::scan::{Entry, Found, Scan};
use super::segment::{FIRST_RECORD, SegmentHeader, file_name, number_of};
use super::superblock::Superblock;
use crate::disk::{BLOCK_BYTES, Disk, FaultyDisk};
use std::path::Path;
use tenfour_erasure::crc64;
use tenfour_types::limits::CRC_BLOCK_BYTES;
use tenfour_types::record::{STAMP_BYTES, ShardHeader, TABLE_OFFSET, header_bytes, shard_digest};

/// The life of the segment that is scanned: what a stamp must name.
const LIFE: u64 = 0x1122_3344_5566_7788;
/// Bytes of each block of a scanned segment that the input gives; the others are zero, so that an input holds many blocks.
const GIVEN_BYTES: usize = 192;
const BLOCKS_MAX: usize = 64;

/// One copy of a superblock, as it is and with a good checksum.
pub fn superblock(bytes: &[u8]) -> bool {
    let read = |bytes: &[u8]| {
        Superblock::from_bytes(bytes).ok().flatten().is_some_and(|read| {
            assert_eq!(Superblock::from_bytes(&read.to_bytes()).ok().flatten(), Some(read));
            true
        })
    };
    read(&sealed(bytes, &[0])) | read(bytes)
}

/// One copy of a segment's header, and the name of its file.
pub fn segment(bytes: &[u8]) -> bool {
    let read = |bytes: &[u8]| {
        SegmentHeader::from_bytes(bytes).is_some_and(|read| {
            assert_eq!(SegmentHeader::from_bytes(&read.to_bytes()), Some(read));
            true
        })
    };
    let name = std::str::from_utf8(bytes).ok().and_then(number_of);
    assert!(name.is_none_or(|number| file_name(number).as_bytes() == bytes), "a segment has one name");
    read(&sealed(bytes, &[0])) | read(bytes) | name.is_some()
}

/// Rows of the index.
pub fn index(bytes: &[u8]) -> bool {
    let row = Row::from_bytes(bytes);
    assert!(row.is_none_or(|row| Row::from_bytes(&row.to_bytes()) == Some(row)));
    let position = decode_position(bytes);
    assert!(
        position.is_none_or(|(life, at)| decode_position(&encode_position(life, &at)) == Some((life, at)))
    );
    let noted = Noted::from_bytes(5, bytes);
    assert!(
        noted.as_ref().is_none_or(|noted| Noted::from_bytes(5, &noted.to_bytes()).as_ref() == Some(noted))
    );
    row.is_some() | position.is_some() | noted.is_some()
}

/// What arrives in a staging slot: a record, verified before anything else is done with it.
pub fn record(bytes: &[u8]) -> bool {
    let verified = |bytes: &[u8]| {
        let known = ShardHeader::read(bytes, crc64).ok();
        if let Some(header) = known {
            header_survives(&header, bytes);
        }
        match Verified::verify(bytes.to_vec(), bytes.len()) {
            Ok(record) => {
                assert_eq!(Some(*record.header()), known);
                let whole = record.header().record_bytes();
                let (start, bytes) = (STAMP_BYTES, record.into_memory());
                assert!(Verified::verify(bytes.clone(), whole).is_ok(), "what was verified verifies again");
                bytes.len() > start
            }
            Err((memory, _)) => {
                assert_eq!(memory, bytes, "what is refused is left as it is");
                false
            }
        }
    };
    verified(&with_good_checksums(bytes, Trust::Payload)) | verified(bytes)
}

fn header_survives(header: &ShardHeader, bytes: &[u8]) {
    let Ok(sums) = header.read_table(bytes) else { return };
    let mut again = vec![0; header_bytes(header.payload_bytes as usize)];
    assert!(header.write(&sums, crc64, &mut again));
    assert_eq!(ShardHeader::read(&again, crc64).as_ref(), Ok(header));
    assert_eq!(header.read_table(&again), Ok(sums));
}

/// A segment, of whose blocks the bytes give the beginnings: as they are, and with good checksums.
pub fn scan(bytes: &[u8]) -> bool {
    let blocks = |trust: Option<Trust>| {
        let mut file = vec![0; FIRST_RECORD as usize];
        for given in bytes.chunks(GIVEN_BYTES).take(BLOCKS_MAX) {
            let mut block = given.to_vec();
            block.resize(BLOCK_BYTES, 0);
            file.extend(trust.map_or(block.clone(), |trust| with_good_checksums(&block, trust)));
        }
        file
    };
    let found = [None, Some(Trust::Table), Some(Trust::Payload)].map(|trust| {
        let file = blocks(trust);
        let whole = scanned(&file, true);
        // Without looking at payloads, what is torn counts as a record.
        assert!(scanned(&file, false).iter().all(|found| !matches!(found.entry, Entry::Torn(_))));
        whole.len()
    });
    found != [0; 3]
}

/// What a scan finds in a segment that holds these bytes; checks that it makes sense.
fn scanned(file: &[u8], verify_payloads: bool) -> Vec<Found> {
    let disk = FaultyDisk::new(Path::new("/nowhere"));
    let Ok(handle) = disk.create("segment") else { return Vec::new() };
    disk.damage("segment", |bytes| bytes.extend_from_slice(file));
    let (segment_bytes, file_bytes) = (file.len() as u32 - 1, file.len() as u64);
    let header = SegmentHeader { life: LIFE, order: 1, floor: 3, target_life: 9, segment_bytes, number: 5 };
    let Ok(mut engine) = disk.engine() else { return Vec::new() };
    let mut scan = Scan::new(&mut engine, &handle, file_bytes, header, 0, verify_payloads);
    let mut all: Vec<Found> = Vec::new();
    let (mut end, mut above) = (FIRST_RECORD, None);
    while let Some(found) = scan.next_record() {
        assert!(found.offset >= end && found.offset % BLOCK_BYTES as u32 == 0, "records overlap");
        let is_torn = matches!(found.entry, Entry::Torn(_));
        end = found.offset + if is_torn { BLOCK_BYTES as u32 } else { found.record_bytes };
        assert!(end <= segment_bytes, "a record beyond the end");
        assert!(found.sequence >= 3 && above.is_none_or(|above| found.sequence > above));
        above = if is_torn { above } else { Some(found.sequence) };
        check_entry(&found, file, verify_payloads);
        all.push(found);
    }
    all
}

fn check_entry(found: &Found, file: &[u8], verify_payloads: bool) {
    let start = found.offset as usize;
    let record = file.get(start..start + found.record_bytes as usize).unwrap_or_default();
    match &found.entry {
        Entry::Tombstones(entries) => {
            assert!(entries.len() <= TOMBSTONES_MAX);
            assert_eq!(read_tombstones(&write_tombstones(entries)).as_ref(), Some(entries));
        }
        Entry::Shard(shard) => {
            assert_eq!(shard.record_bytes(), record.len());
            let is_whole = Verified::verify(record.to_vec(), record.len()).is_ok();
            assert!(is_whole || !verify_payloads, "a torn record was taken for a whole one");
        }
        Entry::Torn(_) => assert!(Verified::verify(record.to_vec(), record.len()).is_err()),
    }
}

/// The CRC-64s at the end of the 64-byte blocks that begin there.
fn sealed(bytes: &[u8], blocks: &[usize]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for start in blocks {
        let Some(block) = bytes.get_mut(*start..start + 64) else { continue };
        let (body, crc) = block.split_at_mut(56);
        crc.copy_from_slice(&crc64(body).to_le_bytes());
    }
    bytes
}

/// What the digest of a record is made anew from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Table,
    Payload,
}

/// A record whose stamp, header, digest and tombstones, and table if that is not trusted, carry the checksums of what is there.
fn with_good_checksums(bytes: &[u8], trust: Trust) -> Vec<u8> {
    let mut record = sealed(bytes, &[0, STAMP_BYTES]);
    if record.get(64..72) == Some(b"10-4gone") {
        let count = record.get(74..76).map_or(0, |count| usize::from(count[0]) | usize::from(count[1]) << 8);
        let crc = record.get(TABLE_OFFSET..TABLE_OFFSET + count * 56).map(crc64);
        if let (Some(crc), Some(place)) = (crc, record.get_mut(88..96)) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
    } else if let Ok(header) = ShardHeader::read(&record, crc64) {
        let (payload_bytes, start) =
            (header.payload_bytes as usize, header_bytes(header.payload_bytes as usize));
        let payload = record.get(start..start + payload_bytes).filter(|_| trust == Trust::Payload);
        let sums = payload.map(tenfour_erasure::block_sums);
        let sums = sums.iter().flat_map(|sums| sums.iter()).flat_map(|sum| sum.to_le_bytes());
        record.iter_mut().skip(TABLE_OFFSET).zip(sums).for_each(|(place, byte)| *place = byte);
        let blocks = payload_bytes.div_ceil(CRC_BLOCK_BYTES);
        let table = record.get(TABLE_OFFSET..TABLE_OFFSET + 8 * blocks).unwrap_or_default();
        let sums: Vec<u64> = table.as_chunks::<8>().0.iter().map(|sum| u64::from_le_bytes(*sum)).collect();
        let digest = shard_digest(header.stripe, header.index, header.payload_bytes, &sums);
        record.iter_mut().skip(STAMP_BYTES + 40).zip(digest.0).for_each(|(place, byte)| *place = byte);
    }
    sealed(&record, &[STAMP_BYTES])
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::super::index::{Live, Position};
    use super::super::record::{ShardKey, Tombstone};
    use super::replay::replay;
    use super::*;
    use tenfour_types::limits::SHARD_BYTES_MIN;
    use tenfour_types::record::Stamp;
    use tenfour_types::{
        ClusterId, Digest, Epoch, LeaseId, MetaGroupId, NodeId, ShardIndex, StripeId, TargetId,
    };

    fn stripe() -> StripeId {
        StripeId { meta_group: MetaGroupId(3), lease: LeaseId(70_000), counter: 9 }
    }

    /// A record of the smallest shard, whose payload repeats one byte.
    fn shard(index: usize, payload: u8, sequence: u64) -> Vec<u8> {
        let bytes = vec![payload; SHARD_BYTES_MIN];
        let sums = tenfour_erasure::block_sums(&bytes);
        let (index, payload_bytes) = (ShardIndex::new(index).unwrap(), SHARD_BYTES_MIN as u32);
        let digest = shard_digest(stripe(), index, payload_bytes, &sums);
        let header = ShardHeader {
            stripe: stripe(),
            index,
            payload_bytes,
            epoch: Epoch(8),
            target: TargetId(7),
            digest,
        };
        let mut record = vec![0; header_bytes(SHARD_BYTES_MIN)];
        assert!(header.write(&sums, crc64, &mut record));
        record.extend(bytes);
        stamped(record, sequence)
    }

    fn stamped(mut record: Vec<u8>, sequence: u64) -> Vec<u8> {
        let stamp = Stamp { segment: LIFE, sequence, record_bytes: record.len() as u32 };
        assert!(stamp.write(crc64, &mut record));
        record
    }

    fn tombstones(count: u64, sequence: u64) -> Vec<u8> {
        let index = ShardIndex::new(13).unwrap();
        let key = ShardKey { stripe: stripe(), index, digest: Digest([5; 16]) };
        let entries: Vec<_> =
            (0..count).map(|number| Tombstone { key, life: number, sequence: number }).collect();
        stamped(write_tombstones(&entries).to_vec(), sequence)
    }

    #[test]
    fn superblocks_survive() {
        let superblock_of = |target| Superblock {
            cluster: ClusterId([9; 16]),
            target: TargetId(target),
            node: NodeId(3),
            life: 0xfeed,
            segment_bytes: 64 << 20,
        };
        let seeds = [
            ("one", superblock_of(7).to_bytes().to_vec()),
            ("two", superblock_of(1 << 31).to_bytes().to_vec()),
        ];
        replay("node_superblock", superblock, &seeds);
    }

    #[test]
    fn segments_survive() {
        let header = SegmentHeader {
            life: LIFE,
            order: 4,
            floor: 1 << 20,
            target_life: 9,
            segment_bytes: 64 << 20,
            number: 5,
        };
        let seeds = [("header", header.to_bytes().to_vec()), ("name", file_name(42).into_bytes())];
        replay("node_segment", segment, &seeds);
    }

    #[test]
    fn index_rows_survive() {
        let row = Row { segment: 5, offset: 8192, payload_bytes: 3904, sequence: 77 };
        let position = Position { order: 4, offset: 8192, next_sequence: 78 };
        let live = Live { order: 4, records: 5, bytes: 6 };
        let seeds = [
            ("row", row.to_bytes()),
            ("position", encode_position(9, &position)),
            ("noted", Noted { segment: 5, live, buries_in: vec![LIFE, 3] }.to_bytes()),
        ];
        replay("node_index", index, &seeds);
    }

    #[test]
    fn only_whole_records_are_verified() {
        let seeds = [("first", shard(0, 0, 3)), ("last", shard(13, 7, u64::MAX))];
        replay("node_record", record, &seeds);
        assert!(!record(&tombstones(2, 3)), "a tombstone is no shard");
    }

    #[test]
    fn segments_are_scanned_without_overlap() {
        let given = |blocks: &[Vec<u8>]| -> Vec<u8> {
            blocks.iter().flat_map(|block| block.get(..GIVEN_BYTES).unwrap()).copied().collect()
        };
        // One block more than what is to be found: the last one lies beyond the segment's end.
        let (nothing, last) = (vec![0; BLOCK_BYTES], shard(1, 0, 90));
        let two = [shard(0, 0, 3), shard(13, 0, 4), last.clone()];
        let mixed =
            [shard(0, 0, 3), nothing, tombstones(1, 5), shard(2, 9, 6), shard(3, 0, 5), shard(4, 0, 7), last];
        let seeds = [
            ("two", given(&two)),
            ("mixed", given(&mixed)),
            ("tombstones", given(&[tombstones(0, 9), two[0].clone()])),
        ];
        replay("node_scan", scan, &seeds);
    }
}
