//! What monitoring asks for: whether the bridge can work, and its figures in the text format of
//! Prometheus. No names of accounts, machines or threads are in them.

use std::{
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::serve::{http::Counters, hub::Hub, store::Store};

#[derive(Debug)]
pub struct Metrics {
    started: Instant,
    http: Arc<Counters>,
    hub: Arc<Hub>,
    store: Arc<Store>,
}

impl Metrics {
    pub fn new(http: Arc<Counters>, hub: Arc<Hub>, store: Arc<Store>) -> Metrics {
        Metrics { started: Instant::now(), http, hub, store }
    }

    /// # Errors
    /// Why requests should go elsewhere, for a person.
    pub fn ready(&self) -> Result<(), String> {
        if self.hub.is_stopped() {
            return Err("the bridge is stopping".to_owned());
        }
        // What exactly is wrong is for the log; it may name files.
        self.store.check_writable().map_err(|error| {
            log::error!("the bridge is not ready: {error:#}");
            "the store can't be written; see the server's log".to_owned()
        })
    }

    pub fn text(&self) -> String {
        let Metrics { started, http, hub, store } = self;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
        let classes = (1..).zip(&http.answers);
        let classes =
            classes.map(|(it, answers)| (format!("{{class=\"{it}xx\"}}"), count(answers)));
        let streams = hub.counts();
        let kinds =
            [("{kind=\"daemon\"}", streams.daemons), ("{kind=\"browser\"}", streams.browsers)];
        [
            figures("build_info", "gauge", "The program's version.", [(version, 1)]),
            gauge("uptime_seconds", "Time since the start.", started.elapsed().as_secs()),
            gauge("connections", "Open connections.", count(&http.open)),
            counter("connections_refused_total", "Connections over a limit.", count(&http.refused)),
            counter("tls_handshakes_failed_total", "Failed handshakes.", count(&http.failed)),
            figures("responses_total", "counter", "Answers by class of their status.", classes),
            figures("streams", "gauge", "Open event streams.", kinds),
            counter("streams_dropped_total", "Streams that lagged.", count(&hub.dropped)),
            gauge("machines", "Machines that are connected.", streams.machines),
            counter("events_published_total", "Numbered events.", count(&hub.published)),
            counter("messages_stored_total", "Messages since the start.", count(&store.stored)),
            gauge("database_bytes", "The database with its log.", store.bytes()),
            gauge("search_index_bytes", "The index for searches.", store.index_bytes()),
        ]
        .concat()
    }
}

fn gauge(name: &str, help: &str, value: impl Display) -> String {
    figures(name, "gauge", help, [("", value)])
}

fn counter(name: &str, help: &str, value: u64) -> String {
    figures(name, "counter", help, [("", value)])
}

/// The figures of one name, each with its labels.
fn figures<L: Display, V: Display>(
    name: &str,
    kind: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, V)>,
) -> String {
    let head = format!("# HELP obto_bridge_{name} {help}\n# TYPE obto_bridge_{name} {kind}\n");
    let line = |(labels, value)| format!("obto_bridge_{name}{labels} {value}\n");
    head + &values.into_iter().map(line).collect::<String>()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::serve::store::Retention;

    #[test]
    fn a_bridge_that_stops_is_not_ready() {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        let store = Store::open(&data, Retention::default(), Box::new(|_| ())).unwrap();
        let hub = Arc::new(Hub::new(Duration::from_secs(1), 1).unwrap());
        let metrics = Metrics::new(Arc::default(), Arc::clone(&hub), Arc::new(store));
        metrics.ready().unwrap();
        hub.stop();
        assert_eq!(metrics.ready().unwrap_err(), "the bridge is stopping");
    }
}
