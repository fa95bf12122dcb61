//! An HTTP request, ready to be sent as often as it takes.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderValue};
use http::{Method, Request, Uri};
use hyper::body::Incoming;

use super::search::{Destination, Errand, Found};
use crate::body::{Recording, RequestBody};
use crate::core::Core;
use crate::errors::{Cause, Failure};
use crate::headers;
use crate::node::{Answer, Exchange, Setback, Terms, serve};
use crate::select::Target;

pub(super) struct Journey {
    pub to: Destination,
    pub method: Method,
    /// Path and query only.
    pub uri: Uri,
    pub headers: HeaderMap,
    /// `None`: the request has no body.
    pub body: Option<Recording<Incoming>>,
    /// The protocol to switch to.
    pub upgrade: Option<HeaderValue>,
}

impl Journey {
    pub async fn run(&self, core: &Arc<Core>) -> Found<Answer> {
        let mut found = self.to.search(core, self).await;
        if let Some(body) = &self.body {
            if found.result.is_err() && body.stalled() {
                found.result = Err(Failure::body_stalled());
            }
            if body.overflowed() {
                core.edge.counters.replay_overflows.one();
            }
            body.release();
        }
        found
    }

    fn request_for(&self, target: &Target) -> Option<Request<RequestBody>> {
        let body = match &self.body {
            None => RequestBody::Empty,
            Some(recording) => RequestBody::Replay(recording.play()?),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(protocol) = &self.upgrade {
            headers::set_upgrade(request.headers_mut(), protocol.clone());
        }
        if let Some(preferred) = self.to.steering.preferred_instance()
            && preferred != target.machine.id
        {
            headers::preferred_unavailable(request.headers_mut(), preferred);
        }
        Some(request)
    }
}

impl Errand for Journey {
    type Answer = Answer;

    async fn attempt(&self, core: &Arc<Core>, target: &Target, terms: Terms) -> Result<Answer, Setback> {
        // The search asks `is_whole` before every attempt but the first, which always has it all.
        let request = self.request_for(target).ok_or(Setback::perhaps(Cause::Broken))?;
        if target.local {
            let upgrade = self.upgrade.is_some();
            let (row, service) = (&target.machine, target.service);
            return serve(&Exchange { core, row, service, terms }, upgrade, request).await;
        }
        core.peers.send(core, target, self.to.port, terms, self.upgrade.as_ref(), request).await
    }

    fn may_be_repeated(&self) -> bool {
        self.method.is_idempotent()
    }

    fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(Recording::is_whole)
    }
}
