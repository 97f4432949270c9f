//! A loopback proxy that can do to connections what networks do: slow down, cut, lose answers,
//! fall silent.
//!
//! It knows TCP and turns: what comes back after a client has sent something is one reply. That
//! is enough for HTTP/1.1, where a client waits for a reply before it sends again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

/// What the proxy does to what passes through it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conditions {
    /// Whether anything passes.
    pub link: Link,
    /// How long every reply is held back.
    pub delay: Duration,
    /// The share of replies that never arrive, 0 to 1. The endpoint has done what it was asked,
    /// and the connection stays open.
    pub swallowed: f64,
    /// The share of replies in whose place the connection is reset, 0 to 1. The endpoint has
    /// done what it was asked.
    pub cut: f64,
}

/// Whether anything passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Everything does.
    #[default]
    Up,
    /// Nothing does, in either direction, and nobody is told. What clients send meanwhile is on
    /// its way, and arrives once the link is up again, however long ago they gave up.
    Dark,
    /// All connections are reset, old ones and new ones.
    Down,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that are open now.
    pub open: usize,
    /// Connections that were accepted.
    pub accepted: usize,
    /// Connections that were reset.
    pub reset: usize,
    /// Replies that arrived.
    pub replies: usize,
    /// Replies that were swallowed.
    pub swallowed: usize,
}

/// A proxy between clients and one endpoint. Its tasks and connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// The task that accepts, and owns all connections. The first to be dropped.
    _acceptor: JoinSet<()>,
    address: SocketAddr,
    conditions: watch::Sender<Conditions>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoint: String,
    open: AtomicUsize,
    accepted: AtomicUsize,
    reset: AtomicUsize,
    replies: AtomicUsize,
    swallowed: AtomicUsize,
    chance: Mutex<fastrand::Rng>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface, and forwards to `endpoint` ("host:port",
    /// or a URL of one). `seed` decides which replies are swallowed or cut, where not all are.
    ///
    /// # Errors
    /// If there is no port to be had.
    pub async fn start(endpoint: &str, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (conditions, watched) = watch::channel(Conditions::default());
        let place = endpoint.strip_prefix("http://").unwrap_or(endpoint);
        let shared = Arc::new(Shared {
            endpoint: place.trim_end_matches('/').to_owned(),
            open: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            reset: AtomicUsize::new(0),
            replies: AtomicUsize::new(0),
            swallowed: AtomicUsize::new(0),
            chance: Mutex::new(fastrand::Rng::with_seed(seed)),
        });
        let mut acceptor = JoinSet::new();
        acceptor.spawn(accept(listener, shared.clone(), watched));
        Ok(Self {
            _acceptor: acceptor,
            address,
            conditions,
            shared,
        })
    }

    /// Where clients go.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it is like this, for old connections and new ones.
    pub fn set(&self, conditions: Conditions) {
        self.conditions.send_replace(conditions);
    }

    /// From now on the link is like this, and nothing else is the matter.
    pub fn set_link(&self, link: Link) {
        self.set(Conditions {
            link,
            ..Conditions::default()
        });
    }

    /// From now on everything passes.
    pub fn heal(&self) {
        self.set(Conditions::default());
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        Counts {
            open: of(&self.shared.open),
            accepted: of(&self.shared.accepted),
            reset: of(&self.shared.reset),
            replies: of(&self.shared.replies),
            swallowed: of(&self.shared.swallowed),
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, watched: watch::Receiver<Conditions>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(connection(client, shared.clone(), watched.clone()));
                }
                // Out of descriptors, or the client is gone again: others may fare better.
                Err(_) => time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// How a connection came to its end.
enum End {
    Closed,
    Reset,
}

async fn connection(
    mut client: TcpStream,
    shared: Arc<Shared>,
    watched: watch::Receiver<Conditions>,
) {
    let _open = Open::new(&shared);
    let mut down = watched.clone();
    let end = tokio::select! {
        _ = down.wait_for(|now| now.link == Link::Down) => End::Reset,
        end = forward(&mut client, &shared, watched) => end.unwrap_or(End::Closed),
    };
    if matches!(end, End::Reset) && client.set_zero_linger().is_ok() {
        shared.reset.fetch_add(1, Ordering::Relaxed);
    }
}

async fn forward(
    client: &mut TcpStream,
    shared: &Shared,
    watched: watch::Receiver<Conditions>,
) -> io::Result<End> {
    let mut gate = Gate(watched);
    gate.open().await;
    let mut endpoint = TcpStream::connect(&shared.endpoint).await?;
    // Small segments at once, as without a proxy.
    endpoint.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_endpoint, to_endpoint) = endpoint.split();
    let asked = AtomicBool::new(false);
    let requests = requests(from_client, to_endpoint, gate.clone(), &asked);
    let replies = replies(from_endpoint, to_client, gate, &asked, shared);
    tokio::pin!(requests, replies);
    tokio::select! {
        // The last replies are still to come.
        sent = &mut requests => match sent {
            Ok(()) => replies.await,
            Err(error) => Err(error),
        },
        end = &mut replies => end,
    }
}

async fn requests(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut gate: Gate,
    asked: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        gate.open().await;
        if length == 0 {
            return to.shutdown().await;
        }
        asked.store(true, Ordering::Relaxed);
        to.write_all(&buffer[..length]).await?;
    }
}

async fn replies(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut gate: Gate,
    asked: &AtomicBool,
    shared: &Shared,
) -> io::Result<End> {
    let mut buffer = vec![0; 64 * 1024];
    let mut swallowing = false;
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            gate.open().await;
            to.shutdown().await?;
            return Ok(End::Closed);
        }
        let conditions = gate.open().await;
        if asked.swap(false, Ordering::Relaxed) {
            let (swallowed, cut) = shared.draw(&conditions);
            if cut {
                return Ok(End::Reset);
            }
            swallowing = swallowed;
            let counter = if swallowed {
                &shared.swallowed
            } else {
                time::sleep(conditions.delay).await;
                gate.open().await;
                &shared.replies
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if !swallowing {
            to.write_all(&buffer[..length]).await?;
        }
    }
}

impl Shared {
    /// Whether the next reply is swallowed, and whether it is cut.
    fn draw(&self, conditions: &Conditions) -> (bool, bool) {
        let mut chance = self.chance.lock().expect("nobody panics with it");
        let drawn = chance.f64();
        let swallowed = drawn < conditions.swallowed;
        (
            swallowed,
            !swallowed && drawn < conditions.swallowed + conditions.cut,
        )
    }
}

/// Lets pass what arrives, unless it is dark.
#[derive(Clone)]
struct Gate(watch::Receiver<Conditions>);

impl Gate {
    async fn open(&mut self) -> Conditions {
        let open = self.0.wait_for(|now| now.link != Link::Dark).await;
        match open.map(|now| *now) {
            Ok(now) => now,
            // The proxy is gone, and with it soon this task.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Counts a connection for as long as it lives.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        shared.open.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    /// Answers "ping" with "pong", and counts the pings.
    struct Echo {
        address: String,
        pings: Arc<AtomicUsize>,
        _acceptor: JoinSet<()>,
    }

    impl Echo {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound").to_string();
            let pings = Arc::new(AtomicUsize::new(0));
            let counted = pings.clone();
            let mut acceptor = JoinSet::new();
            acceptor.spawn(async move {
                let mut clients = JoinSet::new();
                while let Ok((mut client, _)) = listener.accept().await {
                    let pings = counted.clone();
                    clients.spawn(async move {
                        let mut ping = [0; 4];
                        while client.read_exact(&mut ping).await.is_ok() {
                            pings.fetch_add(1, Ordering::Relaxed);
                            if client.write_all(b"pong").await.is_err() {
                                return;
                            }
                        }
                    });
                }
            });
            Self {
                address,
                pings,
                _acceptor: acceptor,
            }
        }

        fn pings(&self) -> usize {
            self.pings.load(Ordering::Relaxed)
        }
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address).await;
        stream.expect("it listens")
    }

    /// None if there is no answer soon.
    async fn ping(stream: &mut TcpStream) -> Option<io::Result<()>> {
        let mut pong = [0; 4];
        let exchange = async {
            stream.write_all(b"ping").await?;
            stream.read_exact(&mut pong).await
        };
        let answer = time::timeout(SOON, exchange).await.ok()?;
        Some(answer.map(|_| assert_eq!(&pong, b"pong")))
    }

    async fn pong(stream: &mut TcpStream) -> bool {
        matches!(ping(stream).await, Some(Ok(())))
    }

    async fn is_reset(stream: &mut TcpStream) -> bool {
        let answer = ping(stream).await.expect("an answer of some sort");
        answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
    }

    async fn eventually(what: impl Fn() -> bool) -> bool {
        for _ in 0..100 {
            if what() {
                return true;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    #[tokio::test]
    async fn what_passes_is_counted() {
        let echo = Echo::start().await;
        let proxy = Proxy::start(&echo.address, 1).await.expect("a port");
        let mut streams = [connect(&proxy).await, connect(&proxy).await];
        for stream in &mut streams {
            assert!(pong(stream).await && pong(stream).await);
        }
        let counts = Counts {
            open: 2,
            accepted: 2,
            replies: 4,
            ..Counts::default()
        };
        assert_eq!(proxy.counts(), counts);
        drop(streams);
        assert!(eventually(|| proxy.counts().open == 0).await);
    }

    #[tokio::test]
    async fn replies_are_delayed_one_by_one() {
        let echo = Echo::start().await;
        let proxy = Proxy::start(&echo.address, 1).await.expect("a port");
        let mut stream = connect(&proxy).await;
        let delay = Duration::from_millis(50);
        proxy.set(Conditions {
            delay,
            ..Conditions::default()
        });
        let begun = Instant::now();
        assert!(pong(&mut stream).await && pong(&mut stream).await);
        assert!(begun.elapsed() >= delay * 2, "{:?}", begun.elapsed());
        proxy.heal();
        let begun = Instant::now();
        assert!(pong(&mut stream).await);
        assert!(begun.elapsed() < delay, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_swallowed_reply_never_comes_and_the_endpoint_has_been_asked() {
        let echo = Echo::start().await;
        let proxy = Proxy::start(&echo.address, 1).await.expect("a port");
        let mut stream = connect(&proxy).await;
        proxy.set(Conditions {
            swallowed: 1.0,
            ..Conditions::default()
        });
        assert!(ping(&mut stream).await.is_none());
        assert_eq!((echo.pings(), proxy.counts().swallowed), (1, 1));
        proxy.heal();
        let late = time::timeout(SOON, stream.read_u8()).await;
        assert!(late.is_err(), "{late:?}");
        assert!(pong(&mut stream).await, "the next one comes");
    }

    #[tokio::test]
    async fn some_replies_are_swallowed_and_some_cut() {
        let echo = Echo::start().await;
        let proxy = Proxy::start(&echo.address, 1).await.expect("a port");
        proxy.set(Conditions {
            swallowed: 0.1,
            cut: 0.3,
            ..Conditions::default()
        });
        let (mut lost, mut reset) = (0, 0);
        for _ in 0..100 {
            match ping(&mut connect(&proxy).await).await {
                None => lost += 1,
                Some(Err(_)) => reset += 1,
                Some(Ok(())) => {}
            }
        }
        let counts = proxy.counts();
        assert_eq!((counts.swallowed, counts.reset), (lost, reset));
        assert!((3..=20).contains(&lost), "{lost} of 100 swallowed");
        assert!((15..=45).contains(&reset), "{reset} of 100 cut");
        assert_eq!(echo.pings(), 100);
    }

    #[tokio::test]
    async fn a_link_that_is_down_resets_old_connections_and_new_ones() {
        let echo = Echo::start().await;
        let proxy = Proxy::start(&echo.address, 1).await.expect("a port");
        let mut old = connect(&proxy).await;
        assert!(pong(&mut old).await);
        proxy.set_link(Link::Down);
        assert!(eventually(|| proxy.counts().open == 0).await);
        assert!(is_reset(&mut old).await);
        // It may be reset before the client has noticed that it was connected.
        if let Ok(mut new) = TcpStream::connect(proxy.address).await {
            assert!(!pong(&mut new).await);
        }
        assert!(eventually(|| proxy.counts().reset == 2).await);
        assert_eq!(echo.pings(), 1);
        proxy.heal();
        assert!(pong(&mut connect(&proxy).await).await);
    }

    #[tokio::test]
    async fn in_the_dark_nothing_moves_and_then_all_of_it_does() {
        let echo = Echo::start().await;
        let proxy = Proxy::start(&echo.address, 1).await.expect("a port");
        let mut old = connect(&proxy).await;
        assert!(pong(&mut old).await);
        proxy.set_link(Link::Dark);
        let mut new = connect(&proxy).await;
        assert!(ping(&mut old).await.is_none() && ping(&mut new).await.is_none());
        let mut gone = connect(&proxy).await;
        assert!(ping(&mut gone).await.is_none());
        drop(gone);
        assert_eq!(echo.pings(), 1);
        proxy.heal();
        for stream in [&mut old, &mut new] {
            let mut pong = [0; 4];
            let late = time::timeout(SOON, stream.read_exact(&mut pong)).await;
            assert!(late.is_ok_and(|read| read.is_ok()));
        }
        // What the one who gave up had sent arrives as well, and it is closed.
        assert!(eventually(|| echo.pings() == 4).await, "{}", echo.pings());
        assert!(eventually(|| proxy.counts().open == 2).await);
    }

    #[tokio::test]
    async fn dropping_it_ends_its_tasks_and_connections() {
        let echo = Echo::start().await;
        let before = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        let proxy = Proxy::start(&echo.address, 1).await.expect("a port");
        let mut stream = connect(&proxy).await;
        assert!(pong(&mut stream).await);
        proxy.set_link(Link::Dark);
        let address = proxy.address;
        drop(proxy);
        assert!(!pong(&mut stream).await);
        let alive = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        assert!(eventually(|| alive() <= before).await, "{}", alive());
        assert!(TcpStream::connect(address).await.is_err());
    }
}
