//! The embedded bridge: the server half of the protocol in one process and one SQLite file, for
//! `obto-bridge serve`, for `obto-bridge local`, and as the double of the hosted bridge in tests.
//! It does not know the daemon; the two talk over loopback HTTP like strangers.

pub mod api;
pub mod card;
pub mod http;
pub mod image;
pub mod markdown;
pub mod page;
pub mod password;
pub mod presence;
pub mod store;
pub mod stream;
pub mod wire;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};

use api::Api;
use store::{
    Retention, Store,
    accounts::{AccountId, NewAccount, Token},
};
use stream::Hub;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 takes a free one; see [`Server::addr`].
    pub listen: SocketAddr,
    /// Allows an address that other machines can reach. There is no TLS here: put a proxy in front.
    pub public: bool,
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
    pub retention: Retention,
    pub limits: http::Limits,
    /// Rounds of PBKDF2 for new passwords.
    pub password_rounds: u32,
}

impl Options {
    /// The defaults, for a server on loopback.
    pub fn new(listen: SocketAddr, data: PathBuf) -> Options {
        Options {
            listen,
            public: false,
            data,
            allow_register: false,
            hosts: Vec::new(),
            body_bytes: 8 * 1024 * 1024,
            attachment_bytes: 1024 * 1024 * 1024,
            heartbeat: Duration::from_secs(15),
            retention: Retention::default(),
            limits: http::Limits::default(),
            password_rounds: 300_000,
        }
    }
}

/// A running bridge. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    // Drop order matters: connections end before the store is closed and its directory unlocked.
    http: http::Server,
    hub: Arc<Hub>,
    store: Arc<Store>,
}

impl Server {
    /// # Errors
    /// The address is not loopback and not wanted public, or can't be had; the data directory is
    /// open to others, in use, or of a newer version.
    pub fn start(options: Options) -> Result<Server> {
        let listen = options.listen;
        if !listen.ip().is_loopback() && !options.public {
            bail!(
                "{listen} can be reached from other machines; listen on 127.0.0.1, or ask for it \
                 with --public and put a proxy with TLS in front"
            );
        }
        let hub = Arc::new(Hub::new(options.heartbeat));
        let publisher = Arc::clone(&hub);
        let publish = Box::new(move |event: &_| publisher.publish(event));
        let store = Arc::new(Store::open(&options.data, options.retention, publish)?);
        let limits = options.limits.clone();
        let api = Arc::new(Api::new(Arc::clone(&store), Arc::clone(&hub), options));
        let http = http::Server::start(listen, api, limits)
            .with_context(|| format!("listening on {listen}"))?;
        log::info!(addr:% = http.addr(); "the bridge listens");
        Ok(Server { http, hub, store })
    }

    pub fn addr(&self) -> SocketAddr {
        self.http.addr()
    }

    /// Makes an account that has a token and no password.
    ///
    /// # Errors
    /// The name is taken.
    pub fn create_account(&self, name: &str) -> Result<(AccountId, Token)> {
        self.store
            .create_account(NewAccount { username: name, email: None, password: None })?
            .with_context(|| format!("the account name {name:?} is taken"))
    }

    /// Ends all streams and connections, within about a second, and closes the store.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.hub.stop();
        self.http.stop();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
    }
}
