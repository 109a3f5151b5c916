//! What monitoring asks for: whether the bridge can work, and its figures in the text format of
//! Prometheus. No names of accounts, machines or threads are in them.

use std::{fmt::Write, sync::Arc, time::Instant};

use crate::serve::{http::Counters, hub::Hub, store::Store};

/// The kind of a figure.
const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// Where the figures come from.
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
        let streams = self.hub.counts();
        let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
            write!(text, "# HELP obto_bridge_{name} {help}\n# TYPE obto_bridge_{name} {kind}\n")
                .and_then(|()| {
                    values.iter().try_for_each(|(labels, value)| {
                        writeln!(text, "obto_bridge_{name}{labels} {value}")
                    })
                })
                .expect("writing to a string works");
        };
        let uptime = self.started.elapsed().as_secs();
        metric("build_info", GAUGE, "The program's version.", &[(version, 1)]);
        metric("uptime_seconds", GAUGE, "Time since the start.", &[("", uptime)]);
        metric("connections", GAUGE, "Open connections.", &[("", self.http.open())]);
        let refused = self.http.refused();
        metric("connections_refused_total", COUNTER, "Connections over a limit.", &[("", refused)]);
        let failed = self.http.handshakes_failed();
        metric("tls_handshakes_failed_total", COUNTER, "Failed handshakes.", &[("", failed)]);
        let [c1, c2, c3, c4, c5] = self.http.answers();
        let classes = [
            ("{class=\"1xx\"}", c1),
            ("{class=\"2xx\"}", c2),
            ("{class=\"3xx\"}", c3),
            ("{class=\"4xx\"}", c4),
            ("{class=\"5xx\"}", c5),
        ];
        metric("responses_total", COUNTER, "Answers by class of their status.", &classes);
        let kinds =
            [("{kind=\"daemon\"}", streams.daemons), ("{kind=\"browser\"}", streams.browsers)];
        metric("streams", GAUGE, "Open event streams.", &kinds);
        let dropped = streams.dropped;
        metric("streams_dropped_total", COUNTER, "Streams that lagged.", &[("", dropped)]);
        metric("machines", GAUGE, "Machines that are connected.", &[("", streams.machines)]);
        let published = streams.published;
        metric("events_published_total", COUNTER, "Numbered events.", &[("", published)]);
        let stored = self.store.stored();
        metric("messages_stored_total", COUNTER, "Messages since the start.", &[("", stored)]);
        let bytes = self.store.bytes();
        metric("database_bytes", GAUGE, "The database with its log.", &[("", bytes)]);
        text
    }
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
        let hub = Arc::new(Hub::new(Duration::from_secs(1), 1));
        let metrics = Metrics::new(Arc::default(), Arc::clone(&hub), Arc::new(store));
        metrics.ready().unwrap();
        hub.stop();
        assert_eq!(metrics.ready().unwrap_err(), "the bridge is stopping");
    }
}
