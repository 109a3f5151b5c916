//! Headers of the user's own, for what stands in front of the bridge: Cloudflare Access and the like.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
};

use ureq::{
    Body, Error, SendBody,
    http::{HeaderName, HeaderValue, Request, Response},
    middleware::{Middleware, MiddlewareNext},
};

use super::trouble::Trouble;
use crate::config::{ConfigError, Header, HeaderSource};

/// The longest value, in bytes. Servers take about as much for all headers together.
const MAX_VALUE: u64 = 8 * 1024;

/// Names with their values, or where these are read from for each request.
#[derive(Clone, Default)]
pub struct Headers(Arc<[(HeaderName, Source)]>);

#[derive(Clone)]
enum Source {
    Value(HeaderValue),
    File(PathBuf),
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Headers {
    /// # Errors
    /// When a name or a value is none of a header: says whose, not what it is.
    pub fn new(headers: &[Header]) -> Result<Headers, ConfigError> {
        let headers = headers.iter().map(|header| {
            let name = HeaderName::from_bytes(header.name.as_bytes())
                .map_err(|_| ConfigError(format!("{:?} is no name of a header", header.name)))?;
            let source = match &header.source {
                HeaderSource::Value(value) => Source::Value(value_of(&name, value.reveal())?),
                HeaderSource::File(path) => Source::File(path.clone()),
            };
            Ok((name, source))
        });
        Ok(Headers(headers.collect::<Result<Vec<_>, ConfigError>>()?.into()))
    }

    /// Reads what is in files.
    ///
    /// # Errors
    /// When one can't be read, or holds no value.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.0.iter().try_for_each(|(name, source)| source.value(name).map(drop))
    }
}

impl Source {
    fn value(&self, name: &HeaderName) -> Result<HeaderValue, ConfigError> {
        let path = match self {
            Source::Value(value) => return Ok(value.clone()),
            Source::File(path) => path,
        };
        let read = || -> io::Result<String> {
            let mut text = String::new();
            File::open(path)?.take(MAX_VALUE).read_to_string(&mut text)?;
            Ok(text)
        };
        let text = read().map_err(|error| {
            let path = path.display();
            ConfigError(format!("the file {path} of the header {name} can't be read: {error}"))
        })?;
        value_of(name, text.trim())
    }
}

fn value_of(name: &HeaderName, text: &str) -> Result<HeaderValue, ConfigError> {
    let value = HeaderValue::from_str(text).ok().filter(|value| !value.is_empty());
    let mut value = value
        .ok_or_else(|| ConfigError(format!("the header {name} has no value that can be sent")))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Middleware for Headers {
    fn handle(
        &self,
        mut request: Request<SendBody<'_>>,
        next: MiddlewareNext<'_>,
    ) -> Result<Response<Body>, Error> {
        for (name, source) in self.0.iter() {
            let value = source.value(name).map_err(|error| Trouble(error.to_string()))?;
            request.headers_mut().insert(name.clone(), value);
        }
        next.handle(request)
    }
}
