//! A network of byte streams with delays, cut when a process dies or when the schedule says so. Links between hosts are cut in
//! one direction each: what is sent over such a link waits, as TCP sends it again until the link works.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_env::{Accepted, Listener, Stream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::executor::{Host, Owner, Sim};

/// Bytes on the way in one direction before a writer has to wait (a socket buffer).
const BUFFER_MAX: usize = 256 * 1024;
/// Delay of one write, at least and at most.
const DELAY_NS: (u64, u64) = (15_000, 1_500_000);
/// A connection over a cut link is given up after this.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// Connections waiting to be accepted on one address.
const BACKLOG_MAX: usize = 128;

/// All listeners and connections of a world.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    listeners: BTreeMap<String, Arc<Mutex<Door>>>,
    links: BTreeMap<u64, Link>,
    next_port: u16,
    /// Directions in which nothing gets through; with a port, nothing of connections to it.
    cut: BTreeSet<(Host, Host, Option<u16>)>,
    /// Hosts without power.
    dark: BTreeSet<Host>,
    /// Who waits for a link to work again.
    stalled: Vec<Waker>,
}

impl Inner {
    fn is_cut(&self, from: Host, to: Host, port: u16) -> bool {
        let cut = [None, Some(port)].iter().any(|port| self.cut.contains(&(from, to, *port)));
        cut || self.dark.contains(&from) || self.dark.contains(&to)
    }
}

struct Door {
    owner: Owner,
    waiting: VecDeque<Accepted>,
    waker: Option<Waker>,
}

struct Link {
    ends: [Owner; 2],
    pipes: [Arc<Mutex<Pipe>>; 2],
}

#[derive(Default)]
struct Pipe {
    chunks: VecDeque<(u64, Bytes)>,
    queued: usize,
    last_arrival_ns: u64,
    /// The writer is gone: what is queued still arrives, then the end.
    ended: bool,
    /// The connection was reset: both sides fail at once.
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake_all(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Network {
    pub(crate) fn listen(&self, sim: &Sim, owner: Owner, address: String) -> io::Result<Box<dyn Listener>> {
        let mut inner = self.0.lock();
        let address = match address.strip_suffix(":0") {
            Some(host) => {
                inner.next_port += 1;
                format!("{host}:{}", 30_000 + inner.next_port)
            }
            None => address,
        };
        if let Some(door) = inner.listeners.get(&address)
            && !sim.is_dead(door.lock().owner)
        {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, address));
        }
        let door = Arc::new(Mutex::new(Door { owner, waiting: VecDeque::new(), waker: None }));
        inner.listeners.insert(address.clone(), Arc::clone(&door));
        Ok(Box::new(SimListener { network: self.clone(), address, door }))
    }

    pub(crate) async fn connect(
        self,
        sim: Sim,
        owner: Owner,
        address: String,
    ) -> io::Result<Box<dyn Stream>> {
        let refused =
            |text: &str| io::Error::new(io::ErrorKind::ConnectionRefused, format!("{address}: {text}"));
        let env = sim.env_of(owner);
        env.sleep(delay(&sim)).await;
        let (name, port) = address.rsplit_once(':').unwrap_or((&address, ""));
        let (here, there, port) = (sim.host_of(owner), host_of(name), port.parse().unwrap_or_default());
        if env.timeout(CONNECT_MAX, self.until_linked(here, there, port)).await.is_err() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address}: nothing comes back")));
        }
        let door = self.0.lock().listeners.get(&address).cloned().ok_or_else(|| refused("nobody listens"))?;
        let far_owner = door.lock().owner;
        if sim.is_dead(far_owner) || sim.is_dead(owner) {
            return Err(refused("the process is gone"));
        }
        let id = sim.fresh_id();
        let pipes = [Arc::new(Mutex::new(Pipe::default())), Arc::new(Mutex::new(Pipe::default()))];
        let end = |read: usize, write: usize| SimStream {
            sim: sim.clone(),
            network: self.clone(),
            id,
            here: if read == 0 { here } else { there },
            there: if read == 0 { there } else { here },
            port,
            read: Arc::clone(&pipes[read]),
            write: Arc::clone(&pipes[write]),
        };
        let (near, far) = (end(0, 1), end(1, 0));
        let mut door = door.lock();
        if door.waiting.len() >= BACKLOG_MAX {
            return Err(refused("the backlog is full"));
        }
        self.0.lock().links.insert(id, Link { ends: [owner, far_owner], pipes: pipes.clone() });
        sim.note("connect", id);
        door.waiting.push_back(Accepted { stream: Box::new(far), peer: format!("process-{}:{id}", owner.0) });
        if let Some(waker) = door.waker.take() {
            waker.wake();
        }
        Ok(Box::new(near))
    }

    pub(crate) fn cut(&self, from: Host, to: Host, port: Option<u16>) {
        self.0.lock().cut.insert((from, to, port));
    }

    pub(crate) fn mend(&self) {
        let mut inner = self.0.lock();
        inner.cut.clear();
        wake(inner);
    }

    pub(crate) fn darken(&self, host: Host) {
        self.0.lock().dark.insert(host);
    }

    pub(crate) fn light(&self, host: Host) {
        let mut inner = self.0.lock();
        inner.dark.remove(&host);
        wake(inner);
    }

    /// Waits until a connection can be made, which takes both directions.
    async fn until_linked(&self, here: Host, there: Host, port: u16) {
        futures::future::poll_fn(|cx| {
            let mut inner = self.0.lock();
            if inner.is_cut(here, there, port) || inner.is_cut(there, here, port) {
                inner.stalled.push(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Whether nothing gets through; who asks is woken when it may again.
    fn stalls(&self, from: Host, to: Host, port: u16, cx: &Context<'_>) -> bool {
        let mut inner = self.0.lock();
        let is_cut = inner.is_cut(from, to, port);
        if is_cut {
            inner.stalled.push(cx.waker().clone());
        }
        is_cut
    }

    /// Resets every connection of a process.
    pub(crate) fn cut_owner(&self, sim: &Sim, owner: Owner) {
        let (links, doors) = {
            let mut inner = self.0.lock();
            let ids: Vec<u64> = inner
                .links
                .iter()
                .filter(|(_, link)| link.ends.contains(&owner))
                .map(|(id, _)| *id)
                .collect();
            let links: Vec<Link> = ids.iter().filter_map(|id| inner.links.remove(id)).collect();
            let names: Vec<String> = inner
                .listeners
                .iter()
                .filter(|(_, door)| door.lock().owner == owner)
                .map(|(name, _)| name.clone())
                .collect();
            let doors: Vec<_> = names.iter().filter_map(|name| inner.listeners.remove(name)).collect();
            (links, doors)
        };
        for link in links {
            reset(sim, &link);
        }
        for door in doors {
            let waiting = std::mem::take(&mut door.lock().waiting);
            drop(waiting);
        }
    }

    /// Resets one connection, chosen by the seed.
    pub(crate) fn cut_random(&self, sim: &Sim) -> bool {
        let count = self.0.lock().links.len() as u64;
        if count == 0 {
            return false;
        }
        let at = sim.below(count) as usize;
        let link = {
            let mut inner = self.0.lock();
            let id = inner.links.keys().nth(at).copied();
            id.and_then(|id| inner.links.remove(&id).map(|link| (id, link)))
        };
        let Some((id, link)) = link else { return false };
        sim.note("cut", id);
        reset(sim, &link);
        true
    }
}

fn wake(mut inner: parking_lot::MutexGuard<'_, Inner>) {
    let stalled = std::mem::take(&mut inner.stalled);
    drop(inner);
    stalled.into_iter().for_each(Waker::wake);
}

/// The host that a name stands for: `host-N` is N, every other name is where nobody was put anywhere.
fn host_of(name: &str) -> Host {
    name.strip_prefix("host-").and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn reset(_sim: &Sim, link: &Link) {
    for pipe in &link.pipes {
        let mut pipe = pipe.lock();
        pipe.reset = true;
        pipe.chunks.clear();
        pipe.wake_all();
    }
}

fn delay(sim: &Sim) -> Duration {
    Duration::from_nanos(DELAY_NS.0 + sim.below(DELAY_NS.1 - DELAY_NS.0))
}

struct SimListener {
    network: Network,
    address: String,
    door: Arc<Mutex<Door>>,
}

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        futures::future::poll_fn(|cx| {
            let mut door = self.door.lock();
            match door.waiting.pop_front() {
                Some(accepted) => Poll::Ready(Ok(accepted)),
                None => {
                    door.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .boxed()
    }

    fn local_addr(&self) -> String {
        self.address.clone()
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let removed = {
            let mut inner = self.network.0.lock();
            match inner.listeners.get(&self.address) {
                Some(door) if Arc::ptr_eq(door, &self.door) => inner.listeners.remove(&self.address),
                _ => None,
            }
        };
        drop(removed);
    }
}

struct SimStream {
    sim: Sim,
    network: Network,
    id: u64,
    here: Host,
    there: Host,
    /// That the connection was made to.
    port: u16,
    read: Arc<Mutex<Pipe>>,
    write: Arc<Mutex<Pipe>>,
}

fn was_reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the simulated connection was cut")
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let now_ns = self.sim.now_ns();
        if self.network.stalls(self.there, self.here, self.port, cx) {
            return Poll::Pending;
        }
        let mut pipe = self.read.lock();
        if pipe.reset {
            return Poll::Ready(Err(was_reset()));
        }
        let ended = pipe.ended;
        match pipe.chunks.front_mut() {
            Some((arrives_ns, _)) if *arrives_ns > now_ns => {
                let at_ns = *arrives_ns;
                pipe.reader = Some(cx.waker().clone());
                drop(pipe);
                self.sim.wake_at(at_ns, cx.waker().clone());
                Poll::Pending
            }
            Some((_, bytes)) => {
                let n = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..n]);
                bytes.advance(n);
                let used_up = bytes.is_empty();
                if used_up {
                    pipe.chunks.pop_front();
                }
                pipe.queued -= n;
                if let Some(waker) = pipe.writer.take() {
                    waker.wake();
                }
                Poll::Ready(Ok(()))
            }
            None if ended => Poll::Ready(Ok(())),
            None => {
                pipe.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let arrival_ns = self.sim.now_ns() + delay(&self.sim).as_nanos() as u64;
        let is_cut = self.network.0.lock().is_cut(self.here, self.there, self.port);
        let mut pipe = self.write.lock();
        if is_cut && pipe.reset {
            return Poll::Ready(Ok(bytes.len())); // nothing has told this side yet
        }
        if pipe.reset || pipe.ended {
            return Poll::Ready(Err(was_reset()));
        }
        let room = BUFFER_MAX.saturating_sub(pipe.queued);
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = room.min(bytes.len());
        let arrives_ns = arrival_ns.max(pipe.last_arrival_ns);
        pipe.last_arrival_ns = arrives_ns;
        pipe.queued += n;
        pipe.chunks.push_back((arrives_ns, Bytes::copy_from_slice(&bytes[..n])));
        let reader = pipe.reader.take();
        drop(pipe);
        if let Some(waker) = reader {
            self.sim.wake_at(arrives_ns, waker);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.write.lock();
        pipe.ended = true;
        pipe.wake_all();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let link = self.network.0.lock().links.remove(&self.id);
        let mut write = self.write.lock();
        write.ended = true;
        write.wake_all();
        drop(write);
        let mut read = self.read.lock();
        read.reset = true; // nobody reads any more: the far writer gets an error
        read.wake_all();
        drop(read);
        drop(link);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn bytes_arrive_whole_in_order_and_late_and_a_cut_ends_both_sides() {
        let sim = Sim::new(11, false);
        let (_, server) = sim.process();
        let (_, client) = sim.process();
        let world = sim.clone();
        sim.run(Duration::from_secs(60), async move {
            let mut listener = server.listen("node:9092").await.unwrap();
            assert!(server.listen("node:9092").await.is_err());
            let mut near = client.connect("node:9092").await.unwrap();
            let mut far = listener.accept().await.unwrap().stream;
            let sent: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
            let expected = sent.clone();
            let group = client.group();
            group.spawn("writer", async move {
                near.write_all(&sent).await.unwrap();
                let mut end = [0; 1];
                assert!(near.read(&mut end).await.is_err());
            });
            let mut heard = vec![0; expected.len()];
            far.read_exact(&mut heard).await.unwrap();
            assert!(heard == expected);
            assert!(world.drop_connection());
            assert!(far.read(&mut [0; 1]).await.is_err());
            assert!(world.elapsed() > Duration::ZERO);
            assert!(client.connect("nobody:1").await.is_err());
        })
        .unwrap();
    }

    #[test]
    fn a_cut_link_holds_up_one_direction_and_delivers_when_it_is_mended() {
        let sim = Sim::new(12, false);
        let ((one, here), (two, there)) = (sim.process(), sim.process());
        sim.place(one, 1);
        sim.place(two, 2);
        let world = sim.clone();
        sim.run(Duration::from_secs(60), async move {
            let mut listener = there.listen("host-2:9092").await.unwrap();
            let mut near = here.connect("host-2:9092").await.unwrap();
            let mut far = listener.accept().await.unwrap().stream;
            world.cut(1, 2);
            near.write_all(b"there").await.unwrap();
            far.write_all(b"back").await.unwrap();
            let (mut heard, second) = ([0; 5], Duration::from_secs(1));
            near.read_exact(&mut heard[..4]).await.unwrap();
            assert_eq!(&heard[..4], b"back", "the other direction works");
            assert!(there.timeout(second, far.read_exact(&mut heard)).await.is_err());
            assert!(here.timeout(second, here.connect("host-2:9092")).await.is_err());
            drop(near);
            assert!(there.timeout(second, far.read_exact(&mut heard)).await.is_err(), "nobody tells it");
            world.mend();
            far.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"there");
            assert!(here.connect("host-2:9092").await.is_ok());
        })
        .unwrap();
    }
}
