//! The embedded bridge: the server half of the protocol in one process and one SQLite file, for
//! `obto-bridge serve`, for `obto-bridge local`, and as the double of the hosted bridge in tests.
//! It does not know the daemon; the two talk over loopback HTTP like strangers.

pub mod api;
pub mod backup;
pub mod card;
pub mod clock;
pub mod http;
pub mod hub;
pub mod image;
mod jobs;
mod live;
pub mod markdown;
pub mod metrics;
pub mod page;
pub mod password;
pub mod presence;
pub mod store;
pub mod stream;
pub mod visit;
mod waker;
pub mod wire;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use api::Api;
use clock::Clock;
use http::tls::Tls;
use hub::Hub;
use jobs::Job;
use live::Streams;
use metrics::Metrics;
use store::{
    Retention, Store,
    accounts::{NewAccount, Secret},
    sessions::Lifetime,
};

/// No lock here is held while what it guards is half changed, so a panic spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 takes a free one; see [`Server::addr`].
    pub listen: SocketAddr,
    /// Allows an address that other machines can reach without TLS. [`Server::start`] sets it if
    /// there is TLS.
    pub public: bool,
    /// None: plain HTTP.
    pub tls: Option<http::tls::Files>,
    /// A proxy on this machine hands requests on: what it says of a client's address and scheme
    /// (`X-Forwarded-For`, `X-Forwarded-Proto`) is true, as long as it comes from loopback.
    pub behind_proxy: bool,
    /// Made with mode 0700. One server at a time.
    pub data: PathBuf,
    /// Opens `POST /api/bridge/register` to everyone.
    pub allow_register: bool,
    /// Names besides IP addresses and `localhost` under which browsers may call, so that a foreign
    /// page can't reach us through a name of its own (DNS rebinding). With `public` and no names
    /// every name is good.
    pub hosts: Vec<String>,
    /// The most bytes of a request body.
    pub body_bytes: usize,
    /// The most bytes of pictures that an account may keep.
    pub attachment_bytes: u64,
    /// A comment on every stream that was silent so long.
    pub heartbeat: Duration,
    /// The most event streams of one account.
    pub account_streams: usize,
    pub retention: Retention,
    pub limits: http::Limits,
    /// Of new passwords' hashes.
    pub password_cost: password::Cost,
    /// Of browsers' sessions.
    pub lifetime: Lifetime,
    /// Tells when sessions and one-time links are over, and how long guessing has to wait.
    pub clock: Clock,
}

impl Options {
    /// The defaults, for a server on loopback.
    pub fn new(listen: SocketAddr, data: PathBuf) -> Options {
        Options {
            listen,
            public: false,
            tls: None,
            behind_proxy: false,
            data,
            allow_register: false,
            hosts: Vec::new(),
            body_bytes: 8 * 1024 * 1024,
            attachment_bytes: 1024 * 1024 * 1024,
            heartbeat: Duration::from_secs(15),
            account_streams: 256,
            retention: Retention::default(),
            limits: http::Limits::default(),
            password_cost: password::Cost::default(),
            lifetime: Lifetime::default(),
            clock: Clock::default(),
        }
    }
}

/// A running bridge. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    // Drop order matters: connections end before the store is closed and its directory unlocked.
    http: http::HttpServer,
    _streams: Streams,
    _reaper: Job,
    hub: Arc<Hub>,
    _retention_job: Option<Job>,
    _indexer: Job,
    store: Arc<Store>,
    clock: Clock,
}

impl Server {
    /// # Errors
    /// The address is not loopback and neither secured nor wanted public, or can't be had; the
    /// certificate or its key can't be used; the data directory is open to others, in use, or of a
    /// newer version.
    pub fn start(mut options: Options) -> Result<Server> {
        let listen = options.listen;
        if !listen.ip().is_loopback() && !options.public && options.tls.is_none() {
            bail!(
                "{listen} can be reached from other machines; listen on 127.0.0.1, give a \
                 certificate with --tls-cert and --tls-key, or ask for it with --public and put a \
                 proxy with TLS in front"
            );
        }
        if !listen.ip().is_loopback() && options.tls.is_none() && !options.behind_proxy {
            log::warn!(
                "there is no TLS: whoever is on the way can read tokens and conversations, unless \
                 a proxy with TLS is in front"
            );
        }
        let tls = options.tls.clone().map(Tls::load).transpose()?;
        options.public |= tls.is_some();
        let mut limits = options.limits.clone();
        if options.behind_proxy {
            // All connections are the proxy's.
            limits.per_address = limits.connections;
        }
        let hub = Hub::new(options.heartbeat, options.account_streams);
        let hub = Arc::new(hub.context("starting the hub")?);
        let publisher = Arc::clone(&hub);
        let publish = Box::new(move |event| publisher.publish(event));
        let store = Arc::new(Store::open(&options.data, options.retention, publish)?);
        for names in store.clashing_names()? {
            log::warn!(
                "the accounts {names:?} have one name but for case and blanks: each is signed in to by \
                 its exact name alone. Remove those that are not needed: obto-bridge serve user remove"
            );
        }
        let counters = Arc::default();
        let metrics = Metrics::new(Arc::clone(&counters), Arc::clone(&hub), Arc::clone(&store));
        let job = options.retention.messages.map(|_| Job::retention(Arc::clone(&store)));
        let job = job.transpose().context("starting the retention job")?;
        let indexer = Job::indexer(Arc::clone(&store)).context("starting the indexer")?;
        let clock = options.clock.clone();
        let reaper = Job::reaper(Arc::clone(&store), Arc::clone(&hub), clock.clone())
            .context("starting the session reaper")?;
        let streams = Streams::start(&hub, &store, limits.write).context("starting the streams")?;
        let api = Arc::new(Api::new(Arc::clone(&store), Arc::clone(&hub), metrics, options));
        let setup = http::Setup { addr: listen, limits, tls, counters };
        let http = http::HttpServer::start(setup, api)
            .with_context(|| format!("listening on {listen}"))?;
        log::info!(addr:% = http.addr(); "the bridge listens");
        Ok(Server {
            http,
            _streams: streams,
            _reaper: reaper,
            hub,
            _retention_job: job,
            _indexer: indexer,
            store,
            clock,
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.http.addr()
    }

    /// Makes an account that has a token and no password. The public name of it, and the token.
    ///
    /// # Errors
    /// The name is taken.
    pub fn create_account(&self, name: &str) -> Result<(String, Secret)> {
        self.store
            .create_account(NewAccount { username: name, email: None, password: None })?
            .with_context(|| format!("the account name {name:?} is taken"))
    }

    pub fn has_account(&self, name: &str) -> Result<bool> {
        self.store.has_user(name)
    }

    pub fn takes_token(&self, token: &str) -> Result<bool> {
        Ok(self.store.authenticate(token)?.is_some())
    }

    /// The code of a one-time link for an account that nobody can sign in to yet. None: somebody can,
    /// or there is no such account.
    pub fn welcome(&self, name: &str) -> Result<Option<Secret>> {
        if self.store.login(name)?.is_some() {
            return Ok(None);
        }
        self.store.welcome(name, self.clock.now())
    }

    /// Ends all streams and connections, within about a second, and closes the store.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.hub.stop();
    }
}
