//! The slots of a session: memory that a client may write one small request to, each time it was granted.
//!
//! A slot goes round: granted → written by the client → sealed → read by the request → granted anew, under a new key, with the answer.

use super::memory::Lender;
use parking_lot::Mutex;
use std::time::Duration;
use tenfour_rdma::{Buffer, Connection, Grant, Open, Sealed};
use tenfour_types::native::{SESSION_MS_MAX, SLOT_BYTES, SLOTS_MAX, Slot};

/// Beyond the session's own end.
const EXPIRES: Duration = Duration::from_millis(SESSION_MS_MAX + 3_600_000);

pub(super) struct Slots {
    connection: Connection,
    grants: Mutex<Vec<Option<Grant<Open>>>>,
}

impl Slots {
    /// As many as there is plenty of memory for; perhaps none.
    pub(super) fn grant(connection: Connection, lender: &Lender) -> (Self, Vec<Slot>) {
        let this = Self { connection, grants: Mutex::default() };
        let mut told = Vec::new();
        for index in 0..SLOTS_MAX {
            let Some(mut buffer) = lender.try_slot(SLOT_BYTES) else { break };
            // What others left here is nobody's to guess; later rounds hold what this client wrote itself.
            buffer.fill(0);
            this.grants.lock().push(None);
            told.extend(this.grant_again(index as u16, buffer));
        }
        (this, told)
    }

    /// What was written to a slot, now that nobody can change it; `None` when it was not granted.
    pub(super) async fn seal(&self, index: u32) -> Option<Sealed> {
        let grant = self.grants.lock().get_mut(usize::try_from(index).ok()?)?.take()?;
        Some(grant.seal().await)
    }

    /// Grants a slot anew; `None` when the connection is broken.
    pub(super) fn grant_again(&self, index: u16, buffer: Buffer) -> Option<Slot> {
        let grant = self.connection.grant_write(buffer, 0..SLOT_BYTES, EXPIRES).ok()?;
        let slot = Slot { index, remote: grant.remote() };
        *self.grants.lock().get_mut(usize::from(index))? = Some(grant);
        Some(slot)
    }
}
