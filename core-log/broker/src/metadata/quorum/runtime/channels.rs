//! tokio's channels and mutex, which need no runtime, under the names that openraft asks for.

use openraft::async_runtime::{
    self as rt, MpscReceiver, MpscSender, MpscWeakSender, SendError, TryRecvError,
};
use tokio::sync::{mpsc, oneshot};

/// Bounded channels.
pub(in super::super) struct Mpsc;

/// See [`mpsc::Sender`].
pub(in super::super) struct Sender<T>(mpsc::Sender<T>);

/// See [`mpsc::WeakSender`].
pub(in super::super) struct WeakSender<T>(mpsc::WeakSender<T>);

/// See [`mpsc::Receiver`].
pub(in super::super) struct Receiver<T>(mpsc::Receiver<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl rt::Mpsc for Mpsc {
    type Sender<T: Send> = Sender<T>;
    type Receiver<T: Send> = Receiver<T>;
    type WeakSender<T: Send> = WeakSender<T>;

    fn channel<T: Send>(buffer: usize) -> (Sender<T>, Receiver<T>) {
        let (send, receive) = mpsc::channel(buffer);
        (Sender(send), Receiver(receive))
    }
}

impl<T: Send> MpscSender<Mpsc, T> for Sender<T> {
    async fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.0.send(message).await.map_err(|refused| SendError(refused.0))
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.downgrade())
    }
}

impl<T: Send> MpscReceiver<T> for Receiver<T> {
    async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
            mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }
}

impl<T: Send> MpscWeakSender<Mpsc, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        self.0.upgrade().map(Sender)
    }
}

/// Channels for one value.
pub(in super::super) struct Oneshot;

/// See [`oneshot::Sender`].
pub(in super::super) struct OneshotSender<T>(oneshot::Sender<T>);

impl rt::Oneshot for Oneshot {
    type Sender<T: Send> = OneshotSender<T>;
    type Receiver<T: Send> = oneshot::Receiver<T>;
    type ReceiverError = oneshot::error::RecvError;

    fn channel<T: Send>() -> (OneshotSender<T>, oneshot::Receiver<T>) {
        let (send, receive) = oneshot::channel();
        (OneshotSender(send), receive)
    }
}

impl<T: Send> rt::OneshotSender<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

/// See [`tokio::sync::Mutex`].
pub(in super::super) struct Mutex<T>(tokio::sync::Mutex<T>);

impl<T: Send + 'static> rt::Mutex<T> for Mutex<T> {
    type Guard<'a> = tokio::sync::MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        Self(tokio::sync::Mutex::new(value))
    }

    async fn lock(&self) -> Self::Guard<'_> {
        self.0.lock().await
    }
}
