//! Uploads, and what is let go when.

use super::*;
use crate::api::index::{IndexDone, IndexRefusal};
use tenfour_types::limits::PART_BYTES_MIN;

fn open(replica: &mut Replica, sequence: u64, name: &str) -> UploadId {
    replica.run(id(1, sequence), create_command(name)).unwrap();
    UploadId(id(1, sequence))
}

#[test]
fn a_replaced_version_is_readable_until_every_live_lease_has_read_past_it() {
    let mut replica = Replica::new();
    replica.apply(&put_envelope(id(1, 1), "k", 25 * MIB, etag(1))).unwrap();
    replica.apply(&put_envelope(id(1, 2), "k", 7, etag(2))).unwrap();
    let replaced_at = replica.index;
    assert_eq!(replica.readable("k", id(1, 1)), Some(25 * MIB));
    assert_eq!(replica.readable("other", id(1, 1)), None);
    replica.watermark(1, 0, replaced_at).unwrap();
    replica.watermark(2, 0, replaced_at - 1).unwrap();
    assert_eq!(replica.readable("k", id(1, 1)), Some(25 * MIB), "a read of lease 2 may still be running");
    replica.watermark(2, 0, replaced_at).unwrap();
    assert_eq!(replica.readable("k", id(1, 1)), None);
    assert_eq!(replica.live().len(), 1);
    assert_eq!((replica.rows(Space::Past), replica.rows(Space::Released)), (0, 0));

    // A lease that ended holds nothing back, and one that begins now has not read what was replaced before.
    replica.run(id(1, 3), delete_command("k")).unwrap();
    replica.watermark(1, 0, replica.index).unwrap();
    assert_eq!(replica.readable("k", id(1, 2)), Some(7));
    replica.fence(Fence::LeaseGranted(LeaseId(3)));
    replica.fence(Fence::LeaseEnded(LeaseId(2)));
    assert_eq!(replica.readable("k", id(1, 2)), None);
    assert_eq!(replica.live(), []);
}

#[test]
fn a_watermark_cannot_run_ahead_of_the_log() {
    let mut replica = Replica::new();
    replica.watermark(1, 0, u64::MAX).unwrap();
    replica.watermark(2, 0, u64::MAX).unwrap();
    replica.apply(&put_envelope(id(1, 1), "k", 7, etag(1))).unwrap();
    replica.apply(&put_envelope(id(1, 2), "k", 7, etag(1))).unwrap();
    assert_eq!(replica.readable("k", id(1, 1)), Some(7));
}

#[test]
fn letting_go_is_bounded_per_command_and_keeps_up_without_watermarks() {
    let mut replica = Replica::new();
    let huge = 4000 * 10 * MIB;
    replica.apply(&put_envelope(id(1, 1), "huge", huge, etag(1))).unwrap();
    replica.run(id(1, 2), delete_command("huge")).unwrap();
    let index = replica.index;
    replica.watermark(1, 0, index).unwrap();
    replica.watermark(2, 0, index).unwrap();
    assert_eq!(replica.readable("huge", id(1, 1)), None, "half of it is gone");
    let left = replica.rows(Space::Stripes);
    assert_eq!(left, 4000 - 256, "one round");
    replica.watermark(1, 0, index).unwrap();
    assert_eq!(replica.rows(Space::Stripes), left - 256);
    replica.settle();
    assert_eq!((replica.live().len(), replica.rows(Space::Past)), (0, 0));

    // Readers keep pace, but publish nothing for long: the queue does not outgrow what they hold back.
    for sequence in 3..2003 {
        replica.apply(&put_envelope(id(1, sequence), "k", 5, etag(1))).unwrap();
        if sequence == 1000 {
            let index = replica.index;
            replica.watermark(1, 0, index).unwrap();
            replica.watermark(2, 0, index).unwrap();
        }
    }
    assert!(replica.rows(Space::Released) <= 1003, "{}", replica.rows(Space::Released));
}

#[test]
fn parts_become_the_object_in_one_step() {
    let mut replica = Replica::new();
    let upload = open(&mut replica, 1, "k");
    let part = |number, sequence, bytes| (number, id(1, sequence), bytes);
    for (sequence, number, bytes) in
        [(2, 1, 12 * MIB), (3, 2, PART_BYTES_MIN), (4, 7, 3), (5, 9, 8), (6, 1, 15 * MIB)]
    {
        replica.run(id(1, sequence), part_command(id(1, sequence), "k", upload, number, bytes)).unwrap();
    }
    let refusals: [(Vec<_>, IndexRefusal); 5] = [
        (vec![part(2, 3, PART_BYTES_MIN), part(1, 6, 15 * MIB)], IndexRefusal::InvalidPartOrder),
        (vec![part(1, 2, 12 * MIB)], IndexRefusal::InvalidPart(1)),
        (vec![part(3, 2, 12 * MIB)], IndexRefusal::InvalidPart(3)),
        (vec![part(7, 4, 3), part(9, 5, 8)], IndexRefusal::PartTooSmall(7)),
        (vec![part(7, 4, 4)], IndexRefusal::InvalidPart(7)),
    ];
    for (at, (parts, refusal)) in refusals.into_iter().enumerate() {
        let id = id(1, 10 + at as u64);
        assert_eq!(replica.run(id, complete_command(id, "k", upload, &parts)), Err(refusal));
    }
    assert_eq!(replica.object("k"), None);
    let parts = [part(1, 6, 15 * MIB), part(2, 3, PART_BYTES_MIN), part(7, 4, 3)];
    let tag = ETag { parts: Some(3), ..etag(20) };
    let completed = Ok(IndexDone::Completed { version: id(1, 20), etag: tag });
    assert_eq!(replica.run(id(1, 20), complete_command(id(1, 20), "k", upload, &parts)), completed);
    assert_eq!(replica.object("k"), Some((id(1, 20), 20 * MIB + 3)));
    // Again, under another id and from another gateway: the first reply, nothing new.
    assert_eq!(replica.run(id(2, 1), complete_command(id(2, 1), "k", upload, &parts)), completed);
    assert_eq!(
        replica.run(id(1, 21), part_command(id(1, 21), "k", upload, 1, 5)),
        Err(IndexRefusal::NoSuchUpload)
    );
    let abort = IndexCommand::AbortUpload { bucket: BUCKET, key: key("k"), upload };
    assert_eq!(replica.run(id(1, 22), abort), Err(IndexRefusal::NoSuchUpload));
    // The part that was sent again and the one that was not named are let go; the rest lives.
    replica.settle();
    let live: u64 = replica.live().iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    assert_eq!((live, replica.rows(Space::Parts)), (20 * MIB + 3, 3));
    let view = replica.query(&IndexQuery::Object {
        bucket: BUCKET,
        key: key("k"),
        range: Some((15 * MIB - 1, 15 * MIB + 1)),
    });
    let IndexAnswer::Object(Some(view)) = view else { panic!("{view:?}") };
    let offsets: Vec<u64> = view.segments.iter().map(|segment| segment.object_offset).collect();
    assert_eq!((view.parts, offsets), (Some(3), vec![10 * MIB, 15 * MIB]));
    // Replaced and let go, nothing of it stays, and the upload is forgotten.
    replica.run(id(1, 23), delete_command("k")).unwrap();
    assert_eq!(replica.run(id(2, 2), complete_command(id(2, 2), "k", upload, &parts)), completed);
    replica.settle();
    assert_eq!(replica.live(), []);
    assert_eq!((replica.rows(Space::Parts), replica.rows(Space::Uploads)), (0, 0));
    let late = replica.run(id(2, 3), complete_command(id(2, 3), "k", upload, &parts));
    assert_eq!(late, Err(IndexRefusal::NoSuchUpload));
}

#[test]
fn an_aborted_upload_leaves_nothing() {
    let mut replica = Replica::new();
    let upload = open(&mut replica, 1, "k");
    for number in 1..=600 {
        let id = id(1, 1 + u64::from(number));
        replica.run(id, part_command(id, "k", upload, number, 5)).unwrap();
    }
    let IndexAnswer::IsEmpty(false) = replica.query(&IndexQuery::IsEmpty { bucket: BUCKET }) else {
        panic!()
    };
    replica.run(id(1, 700), IndexCommand::AbortUpload { bucket: BUCKET, key: key("k"), upload }).unwrap();
    let IndexAnswer::IsEmpty(true) = replica.query(&IndexQuery::IsEmpty { bucket: BUCKET }) else { panic!() };
    let late = part_command(id(1, 701), "k", upload, 1, 5);
    assert_eq!(replica.run(id(1, 701), late), Err(IndexRefusal::NoSuchUpload));
    replica.settle();
    assert_eq!((replica.live().len(), replica.rows(Space::Parts)), (0, 0));
}

#[test]
fn a_completed_object_that_is_half_let_go_is_gone_for_readers() {
    let mut replica = Replica::new();
    let upload = open(&mut replica, 1, "k");
    let parts: Vec<_> =
        (1..=400).map(|number| (number, id(1, 1 + u64::from(number)), PART_BYTES_MIN)).collect();
    for &(number, id, bytes) in &parts {
        replica.run(id, part_command(id, "k", upload, number, bytes)).unwrap();
    }
    replica.run(id(1, 500), complete_command(id(1, 500), "k", upload, &parts)).unwrap();
    replica.run(id(1, 501), delete_command("k")).unwrap();
    // A page of segments, not all: as much as one answer holds.
    assert_eq!(replica.readable("k", id(1, 500)), Some(256 * PART_BYTES_MIN));
    let index = replica.index;
    replica.watermark(1, 0, index).unwrap();
    replica.watermark(2, 0, index).unwrap();
    assert!((1..400).contains(&replica.rows(Space::Parts)), "{}", replica.rows(Space::Parts));
    assert_eq!(replica.readable("k", id(1, 500)), None);
    replica.settle();
    assert_eq!((replica.live().len(), replica.rows(Space::Parts), replica.rows(Space::Uploads)), (0, 0, 0));
}

#[test]
fn uploads_and_parts_are_listed_in_pages() {
    let mut replica = Replica::new();
    let names = ["a", "a", "a/1", "b", "a\0x"];
    let uploads: Vec<UploadId> =
        (1..).zip(names).map(|(sequence, name)| open(&mut replica, sequence, name)).collect();
    let page = |prefix: &str, after: Option<(&str, Option<UploadId>)>, most| {
        let after = after.map(|(key, upload)| (key.to_owned(), upload));
        let query = IndexQuery::Uploads { bucket: BUCKET, prefix: prefix.into(), after, most };
        let IndexAnswer::Uploads(found) = replica.query(&query) else { panic!() };
        found.into_iter().map(|view| (view.key, view.upload)).collect::<Vec<_>>()
    };
    let at = |which: usize| (names[which].to_owned(), uploads[which]);
    assert_eq!(page("", None, 100), [at(0), at(1), at(4), at(2), at(3)]);
    assert_eq!(page("", None, 2), [at(0), at(1)]);
    assert_eq!(page("a", Some(("a", Some(uploads[0]))), 2), [at(1), at(4)]);
    assert_eq!(page("a", Some(("a", None)), 9), [at(4), at(2)]);
    assert_eq!(page("b", Some(("a", None)), 9), [at(3)]);
    assert_eq!(page("", Some(("b", None)), 9), []);

    for number in 1..=5 {
        let id = id(1, 10 + u64::from(number));
        replica.run(id, part_command(id, "b", uploads[3], number, 5)).unwrap();
    }
    let parts = |after, most| {
        let query = IndexQuery::Parts { bucket: BUCKET, key: key("b"), upload: uploads[3], after, most };
        let IndexAnswer::Parts(Some(view)) = replica.query(&query) else { panic!() };
        (view.parts.iter().map(|part| part.number).collect::<Vec<_>>(), view.more)
    };
    assert_eq!(parts(0, 2), (vec![1, 2], true));
    assert_eq!(parts(2, 3), (vec![3, 4, 5], false));
    assert_eq!(parts(9, 3), (vec![], false));
    let other = IndexQuery::Parts { bucket: BUCKET, key: key("a"), upload: uploads[3], after: 0, most: 1 };
    assert_eq!(replica.query(&other), IndexAnswer::Parts(None));
}

#[test]
fn the_segments_of_a_large_object_come_in_pages() {
    let mut replica = Replica::new();
    let size = 600 * 10 * MIB - 5;
    replica.apply(&put_envelope(id(1, 1), "k", size, etag(1))).unwrap();
    let (mut at, mut pages) = (0, 0);
    while at < size {
        let query =
            IndexQuery::Segments { bucket: BUCKET, key: key("k"), version: id(1, 1), range: (at, size) };
        let IndexAnswer::Segments(Some(segments)) = replica.query(&query) else { panic!() };
        assert_eq!(segments[0].object_offset, at);
        let last = segments.last().unwrap();
        at = last.object_offset + u64::from(last.extent.bytes);
        pages += 1;
    }
    assert_eq!((at, pages), (size, 3));
}
