//! A queue pair of the device, and work requests as plain values until the moment that they are posted.
//!
//! Invariant: the queue pair is destroyed once, when nobody posts to it (`RwLock`), and before its id and its queues.

use super::cm::Id;
use super::completion::Room;
use super::device::{Device, RECEIVE_SLOTS};
use super::ffi::check;
use super::window::Opening;
use parking_lot::RwLock;
use rdma_sys::{
    bind_mw_t, ibv_modify_qp, ibv_mw_bind_info, ibv_post_recv, ibv_post_send, ibv_qp, ibv_qp_attr,
    ibv_qp_attr_mask, ibv_qp_init_attr, ibv_qp_state, ibv_qp_type, ibv_query_qp, ibv_recv_wr, ibv_send_flags,
    ibv_send_wr, ibv_sge, ibv_wr_opcode, rdma_create_qp, rdma_destroy_qp, rdma_t,
};
use std::io;
use std::mem::zeroed;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// Work requests of operations that may be outstanding.
pub(super) const DATA_REQUESTS: usize = 160;
/// Work requests beside: windows that are opened, credits, the last word.
pub(super) const CONTROL_REQUESTS: usize = 64;
/// Completions that one connection can have outstanding.
pub(super) const COMPLETIONS: u32 = (DATA_REQUESTS + CONTROL_REQUESTS + RECEIVE_SLOTS) as u32;
/// SENDs up to this length, head included, need no memory until they have left.
pub(super) const INLINE_BYTES: usize = 64;

/// A work request.
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) signalled: bool,
    pub(super) work: Posting,
}

pub(super) enum Posting {
    Write { local: Local, address: u64, key: u32, immediate: Option<u32> },
    Read { local: Local, address: u64, key: u32 },
    Send { local: Local },
    SendInline { bytes: [u8; INLINE_BYTES], length: usize },
    Open(Arc<Opening>),
}

/// Registered memory of this end.
#[derive(Clone, Copy)]
pub(super) struct Local {
    pub(super) address: u64,
    pub(super) bytes: u32,
    pub(super) key: u32,
}

impl Request {
    /// Bytes that the posting thread moves itself where the device is software.
    pub(super) fn bytes(&self) -> usize {
        match &self.work {
            Posting::Write { local, .. } | Posting::Send { local } => local.bytes as usize,
            Posting::Read { .. } | Posting::SendInline { .. } | Posting::Open(_) => 0,
        }
    }
}

struct Handle {
    id: NonNull<rdma_sys::rdma_cm_id>,
    pair: NonNull<ibv_qp>,
}

// SAFETY: libibverbs and librdmacm may be called from every thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// The queue pair of an id, until it is destroyed.
pub(super) struct DeviceQueuePair(RwLock<Option<Handle>>);

impl DeviceQueuePair {
    /// Made for a connection of this id. The id must be destroyed later than it.
    pub(super) fn create(device: &Device, id: &Id, room: &Room) -> io::Result<Self> {
        // SAFETY: a plain structure of numbers and pointers; zero is a valid value of each.
        let mut wanted = unsafe { zeroed::<ibv_qp_init_attr>() };
        wanted.send_cq = room.queue.queue.as_ptr();
        wanted.recv_cq = wanted.send_cq;
        wanted.cap.max_send_wr = (DATA_REQUESTS + CONTROL_REQUESTS) as u32;
        wanted.cap.max_recv_wr = RECEIVE_SLOTS as u32;
        wanted.cap.max_send_sge = 1;
        wanted.cap.max_recv_sge = 1;
        wanted.cap.max_inline_data = INLINE_BYTES as u32;
        wanted.qp_type = ibv_qp_type::IBV_QPT_RC;
        // SAFETY: a live id, a domain and queues of its device.
        check(unsafe { rdma_create_qp(id.as_ptr(), device.domain.as_ptr(), &raw mut wanted) })?;
        // SAFETY: the call has set the id's queue pair.
        let pair = NonNull::new(unsafe { (*id.as_ptr()).qp }).ok_or(io::ErrorKind::OutOfMemory)?;
        let id = NonNull::new(id.as_ptr()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self(RwLock::new(Some(Handle { id, pair }))))
    }

    /// Posts requests in order. The error tells how many were posted.
    pub(super) fn post(&self, requests: &[Request]) -> Result<(), usize> {
        let handle = self.0.read();
        let Some(handle) = handle.as_ref() else { return Err(0) };
        // SAFETY: a live queue pair; the memory is owned by the pending operations and the connection's slots until their completions.
        unsafe { post(handle.pair, requests) }
    }

    /// Posts a receive into a slot.
    pub(super) fn post_receive(&self, id: u64, slot: Local) -> io::Result<()> {
        let handle = self.0.read();
        let handle = handle.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let mut piece = ibv_sge { addr: slot.address, length: slot.bytes, lkey: slot.key };
        let mut request = ibv_recv_wr { wr_id: id, next: null_mut(), sg_list: &raw mut piece, num_sge: 1 };
        let mut bad = null_mut();
        // SAFETY: a live queue pair; the slot is the device's until the receive completes.
        check(unsafe { ibv_post_recv(handle.pair.as_ptr(), &raw mut request, &raw mut bad) })
    }

    /// Whether the device has it in the error state.
    pub(super) fn is_in_error(&self) -> bool {
        let handle = self.0.read();
        let Some(handle) = handle.as_ref() else { return true };
        // SAFETY: plain structures of numbers, for the library to fill in.
        let (mut state, mut made) = unsafe { (zeroed::<ibv_qp_attr>(), zeroed::<ibv_qp_init_attr>()) };
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0 as i32;
        // SAFETY: a live queue pair and structures of the right types.
        let asked = unsafe { ibv_query_qp(handle.pair.as_ptr(), &raw mut state, mask, &raw mut made) };
        asked != 0 || state.qp_state == ibv_qp_state::IBV_QPS_ERR
    }

    /// From here on nothing begins; what is outstanding is flushed.
    pub(super) fn fail(&self) {
        let handle = self.0.read();
        let Some(handle) = handle.as_ref() else { return };
        // SAFETY: a live queue pair.
        unsafe { enter_error(handle.pair) }
    }

    /// When it returns, the device touches nothing for it any more. A second time does nothing.
    pub(super) fn destroy(&self) {
        if let Some(handle) = self.0.write().take() {
            // SAFETY: the id lives, and its queue pair is destroyed only here.
            unsafe { rdma_destroy_qp(handle.id.as_ptr()) }
        }
    }
}

/// Posts requests in order. The error tells how many were posted.
///
/// # Safety
/// The queue pair lives, and so does the memory that the requests name, until they have completed or it is destroyed.
pub(super) unsafe fn post(pair: NonNull<ibv_qp>, requests: &[Request]) -> Result<(), usize> {
    let mut pieces: Vec<ibv_sge> = requests.iter().map(piece).collect();
    let mut chain: Vec<ibv_send_wr> = Vec::with_capacity(requests.len());
    for (request, piece) in requests.iter().zip(&mut pieces) {
        // SAFETY: the opening's window and region live until the request is settled (`window`).
        chain.push(unsafe { encode(request, piece) });
    }
    let first = chain.as_mut_ptr();
    for i in 1..chain.len() {
        // SAFETY: both are inside the vector, which does not grow any more.
        unsafe { (*first.add(i - 1)).next = first.add(i) };
    }
    let mut bad = null_mut();
    // SAFETY: a live queue pair and a well-formed chain, of memory that the caller vouches for.
    let code = unsafe { ibv_post_send(pair.as_ptr(), first, &raw mut bad) };
    if code == 0 {
        return Ok(());
    }
    tracing::warn!(error = %io::Error::from_raw_os_error(code), "the device refused a work request");
    // SAFETY: `bad` points into the chain when a post has failed.
    Err(if bad.is_null() { 0 } else { unsafe { bad.offset_from(first) }.max(0) as usize })
}

/// From here on nothing begins; what is outstanding is flushed.
///
/// # Safety
/// The queue pair lives.
pub(super) unsafe fn enter_error(pair: NonNull<ibv_qp>) {
    // SAFETY: a plain structure of numbers.
    let mut state = unsafe { zeroed::<ibv_qp_attr>() };
    state.qp_state = ibv_qp_state::IBV_QPS_ERR;
    let mask = ibv_qp_attr_mask::IBV_QP_STATE.0 as i32;
    // SAFETY: a live queue pair and a structure of the right type.
    if let Err(error) = check(unsafe { ibv_modify_qp(pair.as_ptr(), &raw mut state, mask) }) {
        tracing::debug!(%error, "cannot move a queue pair to its error state");
    }
}

fn piece(request: &Request) -> ibv_sge {
    match &request.work {
        Posting::Write { local, .. } | Posting::Read { local, .. } | Posting::Send { local } => {
            ibv_sge { addr: local.address, length: local.bytes, lkey: local.key }
        }
        Posting::SendInline { bytes, length } => {
            ibv_sge { addr: bytes.as_ptr() as u64, length: *length as u32, lkey: 0 }
        }
        Posting::Open(_) => ibv_sge { addr: 0, length: 0, lkey: 0 },
    }
}

/// # Safety
/// What an opening names is alive.
unsafe fn encode(request: &Request, piece: &mut ibv_sge) -> ibv_send_wr {
    // SAFETY: a plain structure of numbers, pointers and unions of them; zero is a valid value of each.
    let mut encoded = unsafe { zeroed::<ibv_send_wr>() };
    encoded.wr_id = request.id;
    let mut flags = ibv_send_flags(0);
    if request.signalled {
        flags |= ibv_send_flags::IBV_SEND_SIGNALED;
    }
    if piece.length > 0 {
        encoded.sg_list = piece;
        encoded.num_sge = 1;
    }
    match &request.work {
        Posting::Write { address, key, immediate, .. } => {
            encoded.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE;
            if let Some(value) = immediate {
                encoded.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM;
                encoded.imm_data_invalidated_rkey_union.imm_data = value.to_be();
            }
            encoded.wr.rdma = rdma_t { remote_addr: *address, rkey: *key };
        }
        Posting::Read { address, key, .. } => {
            encoded.opcode = ibv_wr_opcode::IBV_WR_RDMA_READ;
            encoded.wr.rdma = rdma_t { remote_addr: *address, rkey: *key };
        }
        Posting::Send { .. } => encoded.opcode = ibv_wr_opcode::IBV_WR_SEND,
        Posting::SendInline { .. } => {
            encoded.opcode = ibv_wr_opcode::IBV_WR_SEND;
            flags |= ibv_send_flags::IBV_SEND_INLINE;
        }
        Posting::Open(opening) => {
            encoded.opcode = ibv_wr_opcode::IBV_WR_BIND_MW;
            encoded.bind_mw_tso_union.bind_mw = bind_mw_t {
                mw: opening.window_pointer(),
                rkey: opening.key,
                bind_info: ibv_mw_bind_info {
                    mr: opening.region_pointer(),
                    addr: opening.address,
                    length: u64::from(opening.bytes),
                    mw_access_flags: opening.access(),
                },
            };
        }
    }
    encoded.send_flags = flags.0;
    encoded
}
