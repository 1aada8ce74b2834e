//! Single rules, each by a short story.

use super::*;
use crate::api::index::{IndexDone, IndexRefusal, SlotMove};
use tenfour_types::{Override, ShardIndex, TargetId};

#[test]
fn a_commit_delivered_twice_with_another_put_in_between_happens_once() {
    let mut replica = Replica::new();
    let first = put_envelope(id(1, 1), "k", 100, etag(1));
    assert_eq!(replica.apply(&first), Ok(IndexDone::Done));
    assert_eq!(replica.apply(&put_envelope(id(2, 1), "k", 200, etag(2))), Ok(IndexDone::Done));
    let before = replica.table.clone();
    assert_eq!(replica.apply(&first), Ok(IndexDone::Done), "its first reply");
    assert_eq!(replica.object("k"), Some((id(2, 1), 200)), "and the second PUT stays");
    assert_eq!(replica.table, before, "nothing changed at all");
}

#[test]
fn a_repeated_command_gets_its_first_reply_even_when_it_would_now_go_the_other_way() {
    let mut replica = Replica::new();
    let absent = put_command(id(1, 1), "k", 5, etag(1), Precondition::Absent);
    assert_eq!(replica.run(id(1, 1), absent.clone()), Ok(IndexDone::Done));
    assert_eq!(replica.run(id(1, 1), absent), Ok(IndexDone::Done));
    let refused = put_command(id(1, 2), "k", 5, etag(1), Precondition::Absent);
    assert_eq!(replica.run(id(1, 2), refused.clone()), Err(IndexRefusal::PreconditionFailed));
    assert_eq!(replica.run(id(1, 3), delete_command("k")), Ok(IndexDone::Deleted { existed: true }));
    assert_eq!(replica.run(id(1, 2), refused), Err(IndexRefusal::PreconditionFailed), "recorded");
    assert_eq!(replica.object("k"), None);
    assert_eq!(replica.run(id(1, 4), delete_command("k")), Ok(IndexDone::Deleted { existed: false }));
}

#[test]
fn a_late_duplicate_does_not_slip_in_when_a_closed_bucket_opens_again() {
    let mut replica = Replica::new();
    replica.fence(Fence::BucketClosed(BUCKET));
    let put = put_envelope(id(1, 1), "k", 5, etag(1));
    assert_eq!(replica.apply(&put), Err(IndexRefusal::BucketClosed));
    replica.fence(Fence::BucketReopened(BUCKET));
    assert_eq!(replica.apply(&put), Err(IndexRefusal::BucketClosed), "its sender was told so");
    assert_eq!(replica.apply(&put_envelope(id(1, 2), "k", 5, etag(1))), Ok(IndexDone::Done));
    replica.fence(Fence::BucketRemoved(BUCKET));
    assert_eq!(replica.apply(&put_envelope(id(1, 3), "k", 5, etag(1))), Err(IndexRefusal::BucketClosed));
}

#[test]
fn a_command_authorised_by_an_old_version_is_refused_without_a_record() {
    let mut replica = Replica::new();
    replica.fence(Fence::Config(ConfigVersion(3)));
    let mut put = put_envelope(id(1, 1), "k", 5, etag(1));
    put.config = ConfigVersion(2);
    let stale = Err(IndexRefusal::StaleConfig { current: ConfigVersion(3) });
    let before = replica.table.clone();
    assert_eq!(replica.apply(&put), stale);
    assert_eq!(replica.table, before);
    put.config = ConfigVersion(3);
    assert_eq!(replica.apply(&put), Ok(IndexDone::Done));
}

#[test]
fn what_a_dead_lease_sent_before_is_answered_by_what_became_of_it_and_nothing_new_happens() {
    let mut replica = Replica::new();
    let done = put_envelope(id(1, 1), "k", 5, etag(1));
    assert_eq!(replica.apply(&done), Ok(IndexDone::Done));
    replica.fence(Fence::LeaseEnded(LeaseId(1)));
    assert_eq!(replica.apply(&done), Ok(IndexDone::Done));
    assert_eq!(replica.apply(&put_envelope(id(1, 2), "k", 5, etag(1))), Err(IndexRefusal::LeaseEnded));
    assert_eq!(replica.watermark(1, 9, 9), Err(IndexRefusal::LeaseEnded));
    assert_eq!(replica.apply(&put_envelope(id(77, 1), "k", 5, etag(1))), Err(IndexRefusal::LeaseEnded));
    // 64 dead leases later its replies are gone, and so is its row: refused still.
    for lease in 100..164 {
        replica.fence(Fence::LeaseGranted(LeaseId(lease)));
        replica.fence(Fence::LeaseEnded(LeaseId(lease)));
    }
    replica.settle();
    assert_eq!(replica.apply(&done), Err(IndexRefusal::LeaseEnded));
}

#[test]
fn below_the_watermark_replies_are_forgotten_and_commands_and_stripes_refused() {
    let mut replica = Replica::new();
    for sequence in 1..=10 {
        replica.apply(&put_envelope(id(1, sequence), "k", 5, etag(1))).unwrap();
    }
    assert_eq!(replica.rows(Space::Replies), 10);
    replica.watermark(1, 8, 0).unwrap();
    assert_eq!(replica.rows(Space::Replies), 3);
    assert_eq!(replica.apply(&put_envelope(id(1, 7), "k", 5, etag(1))), Err(IndexRefusal::BelowWatermark));
    assert_eq!(replica.apply(&put_envelope(id(1, 8), "k", 5, etag(1))), Ok(IndexDone::Done), "still known");
    let mut late = put_envelope(id(1, 11), "k", 5, etag(1));
    if let IndexCommand::PutObject { manifest, stripes, .. } = &mut late.command {
        let (row, extent) = stripe(id(1, 7), 5, 5);
        (*stripes, manifest.body) = (vec![row], Body::Extents(vec![extent]));
    }
    assert!(matches!(replica.apply(&late), Err(IndexRefusal::Malformed(_))), "a stripe that was given up");
    // A smaller watermark changes nothing.
    let before = replica.table.clone();
    replica.watermark(1, 3, 0).unwrap();
    assert_eq!(replica.table, before);
}

#[test]
fn preconditions() {
    let mut replica = Replica::new();
    let mut sequence = 0;
    let mut put = |replica: &mut Replica, precondition| {
        sequence += 1;
        replica.run(id(1, sequence), put_command(id(1, sequence), "k", 5, etag(1), precondition))
    };
    for precondition in [Precondition::Present, Precondition::Match(vec![etag(1)])] {
        assert_eq!(put(&mut replica, precondition), Err(IndexRefusal::NoSuchKey));
    }
    assert_eq!(put(&mut replica, Precondition::Version(id(1, 1))), Err(IndexRefusal::PreconditionFailed));
    assert_eq!(put(&mut replica, Precondition::Absent), Ok(IndexDone::Done));
    let (version, _) = replica.object("k").unwrap();
    for (precondition, holds) in [
        (Precondition::Absent, false),
        (Precondition::Match(vec![etag(2)]), false),
        (Precondition::Version(id(1, 1)), false),
        (Precondition::Version(version), true),
        (Precondition::Match(vec![etag(2), etag(1)]), true),
        (Precondition::Present, true),
        (Precondition::None, true),
    ] {
        let expected = if holds { Ok(IndexDone::Done) } else { Err(IndexRefusal::PreconditionFailed) };
        assert_eq!(put(&mut replica, precondition.clone()), expected, "{precondition:?}");
    }
}

#[test]
fn a_key_of_another_group_is_refused_once_the_slots_are_known() {
    let mut replica = Replica::new();
    replica.apply(&put_envelope(id(1, 1), "a", 5, etag(1))).unwrap();
    replica.fence(Fence::Slots((0..1024).map(|slot| MetaGroupId(slot % 2 + 1)).collect()));
    let outcomes: Vec<bool> = (2..40)
        .map(|sequence| {
            let name = format!("key-{sequence}");
            let ours = tenfour_types::key_slot(BUCKET, &name).is_multiple_of(2);
            let reply = replica.apply(&put_envelope(id(1, sequence), &name, 5, etag(1)));
            assert_eq!(reply.is_ok(), ours, "{name}");
            ours
        })
        .collect();
    assert!(outcomes.contains(&true) && outcomes.contains(&false));
}

#[test]
fn commands_that_contradict_themselves_are_refused() {
    type Spoil = fn(&mut Manifest, &mut Vec<StripeRow>);
    let spoils: [(&str, Spoil); 9] = [
        ("another version", |manifest, _| manifest.version = id(9, 9)),
        ("another size", |manifest, _| manifest.size += 1),
        ("no stripe", |_, stripes| stripes.clear()),
        ("a stripe twice", |_, stripes| stripes.extend_from_within(..)),
        ("a stripe of another group", |_, stripes| stripes[0].id.meta_group = MetaGroupId(2)),
        ("a stripe of another lease", |_, stripes| stripes[0].id.lease = LeaseId(2)),
        ("an unused stripe", |_, stripes| stripes.push(stripe(id(1, 50), 0, 5).0)),
        ("an extent beyond its stripe", |_, stripes| stripes[0].data_bytes -= 1),
        ("parts of nothing", |manifest, _| {
            manifest.body = Body::Parts { upload: UploadId(id(1, 1)), parts: Vec::new() };
        }),
    ];
    let mut replica = Replica::new();
    for (sequence, (what, spoil)) in spoils.into_iter().enumerate() {
        let id = id(1, sequence as u64 + 1);
        let mut command = put_command(id, "k", 5, etag(1), Precondition::None);
        if let IndexCommand::PutObject { manifest, stripes, .. } = &mut command {
            spoil(manifest, stripes);
        }
        assert!(matches!(replica.run(id, command), Err(IndexRefusal::Malformed(_))), "{what}");
    }
    assert_eq!((replica.rows(Space::Stripes), replica.rows(Space::Objects)), (0, 0));
}

#[test]
fn objects_may_share_a_stripe_and_it_lives_as_long_as_any_of_them() {
    let mut replica = Replica::new();
    let (row, extent) = stripe(id(1, 1), 0, 30);
    for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
        let id = id(1, at as u64 + 1);
        let extent = Extent { offset: at as u32 * 10, bytes: 10, ..extent };
        let manifest = manifest(id, 10, etag(1), Body::Extents(vec![extent]));
        let (key, stripes) = (key(name), vec![row.clone()]);
        let put = IndexCommand::PutObject {
            bucket: BUCKET,
            key,
            precondition: Precondition::None,
            manifest,
            stripes,
        };
        assert_eq!(replica.run(id, put), Ok(IndexDone::Done));
    }
    assert_eq!(replica.live(), [(row.id, 30)]);
    for (at, (name, left)) in
        [("b", vec![(row.id, 20)]), ("a", vec![(row.id, 10)]), ("c", Vec::new())].into_iter().enumerate()
    {
        replica.run(id(1, at as u64 + 10), delete_command(name)).unwrap();
        replica.settle();
        assert_eq!(replica.live(), left);
    }
}

#[test]
fn a_shard_written_by_an_older_map_becomes_an_override_where_its_slot_has_moved() {
    let mut replica = Replica::new();
    let at = |index| ShardIndex::new(index).unwrap();
    let slot = |group, index, from, to| SlotMove {
        group: GroupId(group),
        index: at(index),
        from: TargetId(from),
        to: TargetId(to),
    };
    let moved = |replica: &mut Replica, epoch, moves| {
        replica.fence(Fence::Moves { epoch: Epoch(epoch), moves });
        replica.fence(Fence::Epoch(Epoch(epoch)));
    };
    moved(&mut replica, 2, vec![slot(0, 3, 30, 31), slot(1, 3, 5, 6)]);
    moved(&mut replica, 5, vec![slot(0, 3, 31, 32), slot(0, 4, 40, 41), slot(0, 9, 90, 91)]);
    moved(&mut replica, 6, vec![slot(0, 4, 41, 40), slot(2, 1, 1, 2)]);
    let mut overrides = |sequence, epoch, own: Vec<Override>| {
        let id = id(1, sequence);
        let mut command = put_command(id, "k", 5, etag(1), Precondition::None);
        if let IndexCommand::PutObject { stripes, .. } = &mut command {
            (stripes[0].epoch, stripes[0].overrides) = (Epoch(epoch), own);
        }
        replica.run(id, command).unwrap();
        let row = StripeId { meta_group: GROUP, lease: LeaseId(1), counter: sequence * 1000 };
        let row: StripeRow =
            crate::state::rows::get(&replica.table, Space::Stripes, &row.to_bytes()).unwrap().unwrap();
        row.overrides.iter().map(|entry| (entry.index.get(), entry.target.0)).collect::<Vec<_>>()
    };
    assert_eq!(overrides(1, 1, Vec::new()), [(3, 30), (9, 90)], "slot 4 came back home");
    assert_eq!(overrides(2, 2, Vec::new()), [(3, 31), (9, 90)]);
    assert_eq!(overrides(3, 5, Vec::new()), [(4, 41)]);
    assert_eq!(overrides(4, 6, Vec::new()), []);
    assert_eq!(overrides(5, 9, Vec::new()), [], "a newer map than this group knows");
    let own = vec![
        Override { index: at(3), target: TargetId(77) },
        Override { index: at(13), target: TargetId(78) },
    ];
    assert_eq!(overrides(6, 1, own), [(3, 77), (9, 90), (13, 78)], "its own overrides stay");
    // Far too old: refused, and not recorded.
    for epoch in 10..10 + 256 {
        moved(&mut replica, epoch, vec![slot(7, 0, 1, 2)]);
    }
    let mut command = put_command(id(1, 7), "k", 5, etag(1), Precondition::None);
    if let IndexCommand::PutObject { stripes, .. } = &mut command {
        stripes[0].epoch = Epoch(5);
    }
    let before = replica.table.clone();
    assert_eq!(replica.run(id(1, 7), command), Err(IndexRefusal::StaleEpoch { oldest: Epoch(6) }));
    assert_eq!(replica.table, before);
}

#[test]
fn a_fence_that_was_committed_changes_nothing_and_none_may_be_left_out() {
    let mut replica = Replica::new();
    let before = replica.table.clone();
    let fence = |number, fence| IndexCommand::Fence { number, fence };
    let again = replica.run(id(0, 0), fence(1, Fence::BucketRemoved(BUCKET)));
    assert_eq!((again, &replica.table), (Ok(IndexDone::Done), &before));
    let ahead = replica.run(id(0, 0), fence(4, Fence::BucketRemoved(BUCKET)));
    assert!(matches!(ahead, Err(IndexRefusal::Malformed(_))));
    assert_eq!(replica.table, before);
    assert_eq!(crate::state::fenced_number(&replica.table).unwrap(), 2);
}
