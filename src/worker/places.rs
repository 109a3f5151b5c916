//! A limit on turns in progress: real engines take hundreds of megabytes each.

use std::convert::Infallible;

use crossbeam_channel::{Receiver, Sender, bounded, select_biased};

/// A fixed number of places, handed out one by one.
#[derive(Clone, Debug)]
pub struct Places {
    free: Receiver<()>,
    back: Sender<()>,
}

/// One place; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    back: Sender<()>,
}

impl Places {
    pub fn new(count: usize) -> Places {
        let (back, free) = bounded(count);
        for _ in 0..count {
            back.send(()).expect("the channel has room for all places");
        }
        Places { free, back }
    }

    /// Waits for a place. None when one of the channels was closed first.
    pub fn take(&self, drain: &Receiver<Infallible>, stop: &Receiver<Infallible>) -> Option<Place> {
        select_biased! {
            recv(stop) -> _ => None,
            recv(drain) -> _ => None,
            recv(self.free) -> token => token.ok().map(|()| Place { back: self.back.clone() }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.back.try_send(()).ok(); // There is room: this place was taken from it.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_dropped_and_a_stop_ends_the_wait() {
        let (drain_now, drain) = bounded(0);
        let (_stop_now, stop) = bounded(0);
        let places = Places::new(1);
        let place = places.take(&drain, &stop).unwrap();
        assert!(places.free.is_empty());
        drop(place);
        let _place = places.take(&drain, &stop).unwrap();
        drop(drain_now);
        assert!(places.take(&drain, &stop).is_none());
    }
}
