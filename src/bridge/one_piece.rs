//! The head of a request and its body in one piece. ureq hands them over one after the other, which
//! made two writes of each post, two packets, and over TLS two records. Heads that go to a proxy get
//! their full address here.

use std::mem;

use ureq::{
    Error,
    unversioned::transport::{Buffers, NextTimeout, Transport},
};

/// For a proxy that is asked for pages instead of a way: what the head of each request gets.
#[derive(Debug)]
pub(super) struct Forwarding {
    /// Goes in front of the path: `http://bridge:80`.
    pub(super) origin: String,
    /// The value of `Proxy-Authorization`.
    pub(super) credentials: Option<String>,
}

impl Forwarding {
    /// Changes the beginning of a head: `GET /path HTTP/1.1`.
    fn apply(&self, head: &mut Vec<u8>) {
        let Some(path) = head.iter().position(|byte| *byte == b' ').map(|at| at + 1) else {
            return;
        };
        let Some(line) = head.iter().position(|byte| *byte == b'\n').map(|at| at + 1) else {
            return;
        };
        if let Some(credentials) = &self.credentials {
            let field = format!("Proxy-Authorization: {credentials}\r\n");
            head.splice(line..line, field.into_bytes());
        }
        head.splice(path..path, self.origin.bytes());
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
    forwarding: Option<Forwarding>,
}

impl<T: Transport> Joining<T> {
    pub(super) fn new(inner: T, forwarding: Option<Forwarding>) -> Joining<T> {
        Joining { inner, first: Vec::new(), is_first: true, forwarding }
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
            if let Some(forwarding) = &self.forwarding {
                forwarding.apply(&mut self.first);
            }
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
        let mut connection = Joining::new(inner, None);
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

    #[test]
    fn a_head_for_a_proxy_has_the_full_address() {
        let origin = "http://bridge:80".to_owned();
        let credentials = Some("Basic eDp5".to_owned());
        let forwarding = Forwarding { origin, credentials };
        let mut head = b"GET /api/x?y=1 HTTP/1.1\r\nhost: bridge\r\n\r\n".to_vec();
        forwarding.apply(&mut head);
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "GET http://bridge:80/api/x?y=1 HTTP/1.1\r\nProxy-Authorization: Basic eDp5\r\nhost: bridge\r\n\r\n"
        );
    }
}
