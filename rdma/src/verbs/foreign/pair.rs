//! A queue pair of the device that is brought up by hand: INIT, ready to receive, ready to send, and the error state.
//!
//! Its numbers are what the public clients use (`max_rd_atomic` 1 each way: they allow no more). Both ends take the active MTU of their
//! ports for the path's, as those clients do. Tries are finite, since Soft-RoCE takes 7 for infinity.
//!
//! Invariant: the queue pair is destroyed once, when nobody posts to it (`RwLock`), and before its queue and its domain.

use super::super::cm::{NOT_READY_RETRIES, RETRIES, ack_timeout};
use super::super::ffi::{CompletionQueue, ProtectionDomain, check};
use super::super::queue_pair::{Request, enter_error, post};
use super::port::{Gid, Port};
use crate::foreign::{Admits, PairAddress};
use parking_lot::RwLock;
use rdma_sys::{
    ibv_access_flags as access, ibv_create_qp, ibv_destroy_qp, ibv_gid, ibv_modify_qp, ibv_post_recv, ibv_qp,
    ibv_qp_attr, ibv_qp_attr_mask as mask, ibv_qp_init_attr, ibv_qp_state as state, ibv_qp_type, ibv_recv_wr,
};
use std::io;
use std::mem::zeroed;
use std::ptr::{NonNull, null_mut};

/// Operations that are outstanding at most.
pub(super) const SENDS: u32 = 16;
/// Receives that are outstanding at most.
pub(super) const RECEIVES: u32 = 4;
/// After a receiver that is not ready, the other end waits 0.64 ms.
const NOT_READY_TIMER: u8 = 12;
const HOPS: u8 = 64;

struct Handle(NonNull<ibv_qp>);

// SAFETY: libibverbs may be called from every thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// The queue pair, until it is destroyed.
pub(super) struct HandmadePair {
    handle: RwLock<Option<Handle>>,
    number: u32,
}

impl HandmadePair {
    /// In the state INIT: receives can be posted.
    pub(super) fn create(
        domain: &ProtectionDomain,
        queue: &CompletionQueue,
        port: &Port,
        admits: Admits,
    ) -> io::Result<Self> {
        // SAFETY: a plain structure of numbers and pointers; zero is a valid value of each.
        let mut wanted = unsafe { zeroed::<ibv_qp_init_attr>() };
        wanted.send_cq = queue.as_ptr();
        wanted.recv_cq = queue.as_ptr();
        wanted.cap.max_send_wr = SENDS;
        wanted.cap.max_recv_wr = RECEIVES;
        wanted.cap.max_send_sge = 1;
        wanted.cap.max_recv_sge = 1;
        wanted.qp_type = ibv_qp_type::IBV_QPT_RC;
        // SAFETY: a live domain and a live queue of its device.
        let pair = unsafe { ibv_create_qp(domain.as_ptr(), &raw mut wanted) };
        let pair = NonNull::new(pair).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: a live queue pair, whose number never changes.
        let number = unsafe { (*pair.as_ptr()).qp_num };
        let this = Self { handle: RwLock::new(Some(Handle(pair))), number };
        // SAFETY: a plain structure of numbers; zero is a valid value of each.
        let mut wanted = unsafe { zeroed::<ibv_qp_attr>() };
        wanted.qp_state = state::IBV_QPS_INIT;
        wanted.port_num = port.number;
        wanted.qp_access_flags = match admits {
            Admits::Nothing => 0,
            Admits::WritesOnly => access::IBV_ACCESS_REMOTE_WRITE.0,
            Admits::Everything => access::IBV_ACCESS_REMOTE_WRITE.0 | access::IBV_ACCESS_REMOTE_READ.0,
        };
        let fields =
            mask::IBV_QP_STATE | mask::IBV_QP_PKEY_INDEX | mask::IBV_QP_PORT | mask::IBV_QP_ACCESS_FLAGS;
        this.modify(&mut wanted, fields)?;
        Ok(this)
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Ready to receive from, and to send to, one other end. May wait for the network to say where that is.
    pub(super) fn connect(&self, port: &Port, gid: Gid, psn: u32, peer: &PairAddress) -> io::Result<()> {
        // SAFETY: a plain structure of numbers; zero is a valid value of each.
        let mut wanted = unsafe { zeroed::<ibv_qp_attr>() };
        wanted.qp_state = state::IBV_QPS_RTR;
        wanted.path_mtu = port.mtu;
        wanted.dest_qp_num = peer.number;
        wanted.rq_psn = peer.psn;
        wanted.max_dest_rd_atomic = 1;
        wanted.min_rnr_timer = NOT_READY_TIMER;
        wanted.ah_attr.is_global = 1;
        wanted.ah_attr.port_num = port.number;
        wanted.ah_attr.dlid = peer.lid;
        wanted.ah_attr.grh.dgid = ibv_gid { raw: if peer.gid == [0; 16] { gid.bytes } else { peer.gid } };
        wanted.ah_attr.grh.sgid_index = gid.index;
        wanted.ah_attr.grh.hop_limit = HOPS;
        let fields = mask::IBV_QP_STATE
            | mask::IBV_QP_AV
            | mask::IBV_QP_PATH_MTU
            | mask::IBV_QP_DEST_QPN
            | mask::IBV_QP_RQ_PSN
            | mask::IBV_QP_MAX_DEST_RD_ATOMIC
            | mask::IBV_QP_MIN_RNR_TIMER;
        self.modify(&mut wanted, fields)?;
        // SAFETY: as above.
        let mut wanted = unsafe { zeroed::<ibv_qp_attr>() };
        wanted.qp_state = state::IBV_QPS_RTS;
        wanted.sq_psn = psn;
        wanted.timeout = ack_timeout();
        wanted.retry_cnt = RETRIES;
        wanted.rnr_retry = NOT_READY_RETRIES;
        wanted.max_rd_atomic = 1;
        let fields = mask::IBV_QP_STATE
            | mask::IBV_QP_SQ_PSN
            | mask::IBV_QP_TIMEOUT
            | mask::IBV_QP_RETRY_CNT
            | mask::IBV_QP_RNR_RETRY
            | mask::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(&mut wanted, fields)
    }

    fn modify(&self, wanted: &mut ibv_qp_attr, fields: mask) -> io::Result<()> {
        let handle = self.handle.read();
        let handle = handle.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        // SAFETY: a live queue pair and a structure of the right type.
        check(unsafe { ibv_modify_qp(handle.0.as_ptr(), wanted, fields.0 as i32) })
    }

    /// Posts one request. What it names stays the pending operation's until its completion.
    pub(super) fn post(&self, request: Request) -> io::Result<()> {
        let handle = self.handle.read();
        let handle = handle.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        // SAFETY: a live queue pair; the memory is owned by the pending operation until its completion, or until the queue pair is
        // destroyed.
        let posted = unsafe { post(handle.0, &[request]) };
        posted.map_err(|_| io::ErrorKind::ConnectionReset.into())
    }

    /// Posts a receive for immediate data, without memory.
    pub(super) fn post_receive(&self, id: u64) -> io::Result<()> {
        let handle = self.handle.read();
        let handle = handle.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let mut request = ibv_recv_wr { wr_id: id, next: null_mut(), sg_list: null_mut(), num_sge: 0 };
        let mut bad = null_mut();
        // SAFETY: a live queue pair and a well-formed request.
        check(unsafe { ibv_post_recv(handle.0.as_ptr(), &raw mut request, &raw mut bad) })
    }

    /// When it returns true, nothing is moved for it any more, in either direction. A second time does nothing.
    pub(super) fn destroy(&self) -> bool {
        if let Some(handle) = self.handle.read().as_ref() {
            // SAFETY: a live queue pair. What is being posted ends sooner in the error state.
            unsafe { enter_error(handle.0) };
        }
        // Held until it is done: who comes second must not return before.
        let mut place = self.handle.write();
        let Some(handle) = place.take() else { return true };
        // SAFETY: a live queue pair, destroyed only here.
        let destroyed = check(unsafe { ibv_destroy_qp(handle.0.as_ptr()) });
        destroyed.inspect_err(|error| tracing::error!(%error, "cannot destroy a queue pair")).is_ok()
    }
}

impl Drop for HandmadePair {
    fn drop(&mut self) {
        self.destroy();
    }
}
