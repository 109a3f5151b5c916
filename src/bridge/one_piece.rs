//! The head of a request and its body in one piece. ureq hands them over one after the other, which
//! made two writes of each post, two packets, and over TLS two records.

use std::mem;

use ureq::{
    Error,
    unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport},
};

/// The last link of the chain that makes a connection.
#[derive(Debug)]
pub(super) struct OnePiece;

impl<In: Transport> Connector<In> for OnePiece {
    type Out = Joining<In>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Joining<In>>, Error> {
        Ok(chained.map(Joining::new))
    }
}

/// A connection that keeps the first part of a request until the next one comes or the answer is
/// waited for.
#[derive(Debug)]
pub(super) struct Joining<T> {
    inner: T,
    /// What is kept.
    first: Vec<u8>,
    /// What is sent next is the first of a request.
    is_first: bool,
}

impl<T: Transport> Joining<T> {
    fn new(inner: T) -> Joining<T> {
        Joining { inner, first: Vec::new(), is_first: true }
    }

    fn send(&mut self, mut bytes: &[u8], timeout: NextTimeout) -> Result<(), Error> {
        while !bytes.is_empty() {
            let output = self.inner.buffers().output();
            let (part, rest) = bytes.split_at(bytes.len().min(output.len()));
            output[..part.len()].copy_from_slice(part);
            self.inner.transmit_output(part.len(), timeout)?;
            bytes = rest;
        }
        Ok(())
    }
}

impl<T: Transport> Transport for Joining<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let output = self.inner.buffers().output();
        if mem::take(&mut self.is_first) {
            self.first.extend_from_slice(&output[..amount]);
            return Ok(());
        }
        let first = mem::take(&mut self.first);
        let whole = first.len() + amount;
        if whole <= output.len() {
            output.copy_within(..amount, first.len());
            output[..first.len()].copy_from_slice(&first);
            return self.inner.transmit_output(whole, timeout);
        }
        let second = output[..amount].to_vec();
        self.send(&first, timeout)?;
        self.send(&second, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        // A request without a body.
        let first = mem::take(&mut self.first);
        self.send(&first, timeout)?;
        self.is_first = true;
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use ureq::unversioned::transport::LazyBuffers;

    use super::*;

    const ROOM: usize = 10;

    /// Notes what is sent.
    #[derive(Debug)]
    struct Sent(LazyBuffers, Vec<String>);

    impl Transport for Sent {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.0
        }

        fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
            let sent = self.0.output()[..amount].to_vec();
            self.1.push(String::from_utf8(sent).unwrap());
            Ok(())
        }

        fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
            self.1.push("await".to_owned());
            Ok(true)
        }

        fn is_open(&mut self) -> bool {
            true
        }
    }

    /// What is sent of requests, each in so many parts.
    #[track_caller]
    fn check(requests: &[&[&str]], expected: &[&str]) {
        let inner = Sent(LazyBuffers::new(ROOM, ROOM), Vec::new());
        let mut connection = Joining::new(inner);
        let timeout = NextTimeout::default();
        for parts in requests {
            for part in *parts {
                connection.buffers().output()[..part.len()].copy_from_slice(part.as_bytes());
                connection.transmit_output(part.len(), timeout).unwrap();
            }
            connection.await_input(timeout).unwrap();
            // The answer comes in two parts.
            connection.await_input(timeout).unwrap();
        }
        connection.inner.1.retain(|it| it != "await");
        assert_eq!(connection.inner.1, expected);
    }

    #[test]
    fn a_head_and_its_body_are_sent_together() {
        check(&[&["head", "body"]], &["headbody"]);
        check(&[&["head", "body"], &["head2", "body2"]], &["headbody", "head2body2"]);
        check(&[&["head"], &["head", "body"]], &["head", "headbody"]);
        check(&[&["head", "body", "more"]], &["headbody", "more"]);
        check(&[&["head", "0123456789"]], &["head", "0123456789"]);
    }
}
