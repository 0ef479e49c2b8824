//! A bad network between clients and the server: a UDP proxy on loopback that loses, doubles and delays packets, and falls
//! silent for one connection, for a while or for good.
//!
//! ```text
//! client ──► front ──► flow (one socket for each client's address) ──► server
//!        ◄──────────────┘                                          ◄──
//! ```
//! A connection of a client has a port of its own, so a flow is a connection. One that is cut for good dies at both ends when
//! their idle time is over, and neither knows what the other one had got by then; the client's next one is another flow.
//! Nothing is bounded by the peer: flows end [`FLOW_IDLE`] after their last packet, late packets are at most [`LATE_MAX`].

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream_check::seeded::Seeded;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::failure::Failure;

/// Longer than any idle time in a run: nothing that could still be answered is forgotten.
const FLOW_IDLE: Duration = Duration::from_secs(10);
/// What has been silent for so long is no target: its connection is gone, or was never used.
const ACTIVE: Duration = Duration::from_millis(500);
const LATE_MAX: usize = 256;
const LATE_MS_MAX: u64 = 30;
/// As large as a UDP datagram can be.
const PACKET_BYTES_MAX: usize = 1 << 16;
const STALL_MS: std::ops::RangeInclusive<u64> = 50..=700;
const DEAF_AFTER_MS: std::ops::RangeInclusive<u64> = 0..=200;

/// What becomes of single packets, in a thousand.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
}

impl Weather {
    /// Now and then one does not.
    pub const ROUGH: Self = Self { lost: 3, doubled: 5, late: 5 };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    Lost,
    Doubled,
    Late(Duration),
}

impl Fate {
    fn choose(weather: Weather, seeded: &mut Seeded) -> Self {
        let at = seeded.of(0..=999);
        let Weather { lost, doubled, late } = weather;
        match at {
            at if at < lost => Self::Lost,
            at if at < lost + doubled => Self::Doubled,
            at if at < lost + doubled + late => Self::Late(Duration::from_millis(seeded.of(1..=LATE_MS_MAX))),
            _ => Self::Arrives,
        }
    }
}

/// What it did so far.
#[derive(Debug, Default)]
struct Counters {
    cuts: AtomicU64,
    stalls: AtomicU64,
    spoilt: AtomicU64,
    silenced: AtomicU64,
}

/// What it did: connections cut for good, stalls, single packets lost, doubled or delayed, packets that silence swallowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Damage {
    pub cuts: u64,
    pub stalls: u64,
    pub spoilt: u64,
    pub silenced: u64,
}

/// A proxy at work; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    front: UdpSocket,
    server: SocketAddr,
    weather: Weather,
    seeded: Mutex<Seeded>,
    flows: Mutex<BTreeMap<SocketAddr, Arc<Flow>>>,
    late: Arc<Semaphore>,
    counters: Counters,
}

#[derive(Debug)]
struct Flow {
    upstream: UdpSocket,
    client: SocketAddr,
    state: Mutex<FlowState>,
}

#[derive(Debug, Clone, Copy)]
struct FlowState {
    last: Instant,
    silence: Silence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    None,
    Until(Instant),
    /// Nothing comes from the server any more; what goes to it still does until then.
    ForGood(Instant),
}

impl Proxy {
    /// A proxy to the server at that address, which may come and go.
    pub async fn start(server: SocketAddr, weather: Weather, seeded: Seeded) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::run(format!("the proxy has no UDP socket: {error}"));
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = front.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            front,
            server,
            weather,
            seeded: Mutex::new(seeded),
            flows: Mutex::default(),
            late: Arc::new(Semaphore::new(LATE_MAX)),
            counters: Counters::default(),
        });
        let task = tokio::spawn(forward(Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, task })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Falls silent for one connection that is in use, for good or for a while. `false`: there is none.
    pub fn disturb(&self, seeded: &mut Seeded) -> bool {
        match seeded.percent(50) {
            true => self.cut(seeded),
            false => {
                let stall = Duration::from_millis(seeded.of(STALL_MS));
                self.silence(seeded, Silence::Until(Instant::now() + stall), &self.shared.counters.stalls)
            }
        }
    }

    /// Falls silent for one connection that is in use, for good: first for what the server says, and a moment later for what
    /// it is told, so that it stores what nobody gets an answer for. `false`: there is none.
    pub fn cut(&self, seeded: &mut Seeded) -> bool {
        let deaf_from = Instant::now() + Duration::from_millis(seeded.of(DEAF_AFTER_MS));
        self.silence(seeded, Silence::ForGood(deaf_from), &self.shared.counters.cuts)
    }

    fn silence(&self, seeded: &mut Seeded, silence: Silence, counter: &AtomicU64) -> bool {
        let flows = lock(&self.shared.flows);
        let is_target = |flow: &&Arc<Flow>| {
            let state = lock(&flow.state);
            state.last.elapsed() < ACTIVE && !matches!(state.silence, Silence::ForGood(_))
        };
        let active: Vec<&Arc<Flow>> = flows.values().filter(is_target).collect();
        if active.is_empty() {
            return false;
        }
        let flow = active[seeded.index(active.len())];
        lock(&flow.state).silence = silence;
        counter.fetch_add(1, Ordering::Relaxed);
        true
    }

    pub fn damage(&self) -> Damage {
        let Counters { cuts, stalls, spoilt, silenced } = &self.shared.counters;
        let [cuts, stalls, spoilt, silenced] = [cuts, stalls, spoilt, silenced].map(|n| n.load(Ordering::Relaxed));
        Damage { cuts, stalls, spoilt, silenced }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        // Each flow's task holds the flow and the shared state: nothing comes any more for either.
        for flow in std::mem::take(&mut *lock(&self.shared.flows)).into_values() {
            lock(&flow.state).silence = Silence::ForGood(Instant::now());
        }
    }
}

/// From clients to the server.
async fn forward(shared: Arc<Shared>) {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        // A closed port of some client is told here; it is none of the others' business.
        let Ok((length, client)) = shared.front.recv_from(&mut packet).await else { continue };
        let known = lock(&shared.flows).get(&client).cloned();
        let flow = match known {
            Some(flow) => flow,
            None => match shared.open(client).await {
                Ok(flow) => flow,
                // Without a socket the packet is lost, as it may be anywhere.
                Err(_) => continue,
            },
        };
        shared.pass(&flow, &packet[..length], Direction::ToServer).await;
    }
}

/// From the server to one client, until both have been silent for long.
async fn back(shared: Arc<Shared>, flow: Arc<Flow>) {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        match tokio::time::timeout(FLOW_IDLE, flow.upstream.recv(&mut packet)).await {
            Ok(Ok(length)) => shared.pass(&flow, &packet[..length], Direction::ToClient).await,
            // The server is not there: said for a packet of ours.
            Ok(Err(_)) => {}
            Err(_) => {
                if lock(&flow.state).last.elapsed() >= FLOW_IDLE {
                    lock(&shared.flows).remove(&flow.client);
                    return;
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Shared {
    async fn open(self: &Arc<Self>, client: SocketAddr) -> io::Result<Arc<Flow>> {
        let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        upstream.connect(self.server).await?;
        let state = Mutex::new(FlowState { last: Instant::now(), silence: Silence::None });
        let flow = Arc::new(Flow { upstream, client, state });
        lock(&self.flows).insert(client, Arc::clone(&flow));
        tokio::spawn(back(Arc::clone(self), Arc::clone(&flow)));
        Ok(flow)
    }

    async fn pass(self: &Arc<Self>, flow: &Arc<Flow>, packet: &[u8], direction: Direction) {
        if flow.is_silent(direction) {
            self.counters.silenced.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let fate = Fate::choose(self.weather, &mut lock(&self.seeded));
        if fate != Fate::Arrives {
            self.counters.spoilt.fetch_add(1, Ordering::Relaxed);
        }
        match fate {
            Fate::Arrives => self.send(flow, packet, direction).await,
            Fate::Lost => {}
            Fate::Doubled => {
                self.send(flow, packet, direction).await;
                self.send(flow, packet, direction).await;
            }
            Fate::Late(by) => {
                // Where there are too many already, it is lost.
                let Ok(permit) = Arc::clone(&self.late).try_acquire_owned() else { return };
                let (shared, flow, packet) = (Arc::clone(self), Arc::clone(flow), packet.to_vec());
                tokio::spawn(async move {
                    tokio::time::sleep(by).await;
                    shared.send(&flow, &packet, direction).await;
                    drop(permit);
                });
            }
        }
    }

    /// What cannot be sent is lost.
    async fn send(&self, flow: &Flow, packet: &[u8], direction: Direction) {
        let _ = match direction {
            Direction::ToServer => flow.upstream.send(packet).await,
            Direction::ToClient => self.front.send_to(packet, flow.client).await,
        };
    }
}

impl Flow {
    /// Whether a packet of now is swallowed.
    fn is_silent(&self, direction: Direction) -> bool {
        let mut state = lock(&self.state);
        match state.silence {
            Silence::ForGood(deaf_from) if direction == Direction::ToClient || Instant::now() >= deaf_from => {
                return true;
            }
            Silence::ForGood(_) => {}
            Silence::Until(end) if Instant::now() < end => return true,
            Silence::Until(_) => state.silence = Silence::None,
            Silence::None => {}
        }
        state.last = Instant::now();
        false
    }
}

/// A task that panicked holds nothing back: what it left is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets arrive, once, in order.
    const FAIR: Weather = Weather { lost: 0, doubled: 0, late: 0 };

    /// A proxy to a server that answers every packet with the same bytes.
    async fn echo() -> Proxy {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let address = server.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut packet = [0; 64];
            while let Ok((length, from)) = server.recv_from(&mut packet).await {
                server.send_to(&packet[..length], from).await.expect("sent");
            }
        });
        Proxy::start(address, FAIR, Seeded::new(1)).await.expect("it starts")
    }

    async fn client_of(address: SocketAddr) -> UdpSocket {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        client.connect(address).await.expect("connected");
        client
    }

    async fn hears(client: &UdpSocket, text: &[u8]) -> bool {
        client.send(text).await.expect("sent");
        let mut packet = [0; 64];
        let answer = tokio::time::timeout(Duration::from_millis(200), client.recv(&mut packet)).await;
        answer.is_ok_and(|length| &packet[..length.expect("received")] == text)
    }

    #[tokio::test]
    async fn packets_pass_both_ways_until_the_connection_is_cut_and_another_one_passes_then() {
        let proxy = echo().await;
        let client = client_of(proxy.address()).await;
        assert!(hears(&client, b"one").await);
        let mut seeded = Seeded::new(1);
        assert!(proxy.cut(&mut seeded));
        assert!(!hears(&client, b"three").await && proxy.damage().silenced > 0);
        assert!(!proxy.disturb(&mut seeded), "what is cut is no target");
        assert!(hears(&client_of(proxy.address()).await, b"four").await);
    }

    #[test]
    fn packets_fare_as_the_weather_says() {
        let mut seeded = Seeded::new(1);
        let fates: Vec<Fate> = (0..100_000).map(|_| Fate::choose(Weather::ROUGH, &mut seeded)).collect();
        let count = |test: fn(&Fate) -> bool| fates.iter().filter(|fate| test(fate)).count();
        assert!((200..400).contains(&count(|fate| *fate == Fate::Lost)));
        assert!((400..600).contains(&count(|fate| *fate == Fate::Doubled)));
        assert!((400..600).contains(&count(|fate| matches!(fate, Fate::Late(_)))));
        assert!((0..1_000).all(|_| Fate::choose(FAIR, &mut seeded) == Fate::Arrives));
    }
}
