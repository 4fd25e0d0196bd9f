//! An answer that fills up from several places.

use std::sync::Arc;

use millstream_protocol::{Completer, Receipt, Response};
use parking_lot::Mutex;

/// An answer that fills up from several places and leaves when the last of them has settled.
pub(crate) struct Gather<R>(Mutex<Option<Inner<R>>>);

struct Inner<R> {
    response: R,
    /// Places that have not settled, and one more while the request is being admitted.
    missing: usize,
    completer: Completer,
}

impl<R: Into<Response>> Gather<R> {
    /// An answer with `places` to settle; call [`Gather::all_admitted`] once each of them is on its way.
    pub(crate) fn new(response: R, places: usize) -> (Arc<Self>, Receipt) {
        let (completer, receipt) = Receipt::pending();
        let inner = Inner { response, missing: places + 1, completer };
        (Arc::new(Self(Mutex::new(Some(inner)))), receipt)
    }

    /// One place is known: `fill` puts it in.
    pub(crate) fn settle(&self, fill: impl FnOnce(&mut R)) {
        let mut held = self.0.lock();
        let Some(inner) = held.as_mut() else { return };
        fill(&mut inner.response);
        inner.missing -= 1;
        if inner.missing > 0 {
            return;
        }
        let done = held.take();
        drop(held);
        if let Some(Inner { response, completer, .. }) = done {
            completer.complete(Ok(response.into()));
        }
    }

    /// Every place is on its way.
    pub(crate) fn all_admitted(&self) {
        self.settle(|_| {});
    }
}
