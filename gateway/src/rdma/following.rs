//! What a client says about a request that runs: which chunks it has written, further parts, room for further entries of a listing.

use tenfour_types::limits::PARTS_MAX;
use tenfour_types::native::{
    CHUNKS_OPEN_MAX, How, LIST_WINDOW_MAX, NamedPart, Operation, PARTS_PER_MESSAGE_MAX,
};
use tokio::sync::mpsc;

/// What follows a request.
pub(super) enum Following {
    Written(u32),
    Parts(Vec<NamedPart>),
    Entries(u32),
}

/// Where what follows a request is queued.
pub(super) type Follower = (Follows, mpsc::Sender<Following>);

/// What can follow a request, for as long as it runs.
#[derive(Clone, Copy)]
pub(super) enum Follows {
    Written,
    Parts,
    Entries,
}

impl Follows {
    pub(super) fn of(operation: &Operation) -> Option<Self> {
        match operation {
            Operation::Put { content, .. } | Operation::UploadPart { content, .. } => {
                (content.how == How::Push).then_some(Self::Written)
            }
            Operation::List { .. } => Some(Self::Entries),
            Operation::CompleteUpload { .. } => Some(Self::Parts),
            _ => None,
        }
    }

    pub(super) fn fits(self, following: &Following) -> bool {
        match (self, following) {
            (Self::Written, Following::Written(_)) | (Self::Entries, Following::Entries(_)) => true,
            (Self::Parts, Following::Parts(parts)) => parts.len() <= PARTS_PER_MESSAGE_MAX,
            _ => false,
        }
    }

    /// How many an honest client has on their way at once.
    pub(super) fn queued_max(self) -> usize {
        match self {
            Self::Written => CHUNKS_OPEN_MAX,
            Self::Parts => (PARTS_MAX as usize).div_ceil(PARTS_PER_MESSAGE_MAX),
            Self::Entries => LIST_WINDOW_MAX as usize,
        }
    }
}
